"""The model zoo: the papers' results, ours from the logs of trainings, and what is written of both.

published/    the papers' tables, a file each, with the config that reproduces each row
runs.csv      results of our own trainings, as tools/results.py --record keeps them
tables.py     the tables, their metrics and how they are read
configs.py    the project's configs by name
work_dirs.py  trainings of these configs, found in work dirs and checked
runs.py       their results: kept in runs.csv, mean and standard deviation
document.py   the tables as Markdown and CSV
metafiles.py  metafile.yml of each family and model-index.yml
"""
