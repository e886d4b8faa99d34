"""The model zoo: the papers' results, ours from the logs of runs, and what is written of both.

published/   the papers' tables, a file each, with the config that reproduces each row
runs.csv     evaluations of our own runs, as tools/results.py --record keeps them
tables.py    the tables, their metrics and how they are read
configs.py   the project's configs, and what their upsamplers add
dumps.py     configs as runs keep them, read as data
logs.py      runs, read from what tools/train.py and tools/test.py leave in work dirs
results.py   what runs of a config come to
document.py  the tables as Markdown and CSV
metafiles.py metafile.yml of each family and model-index.yml
"""
