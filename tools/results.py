"""Tables of our results beside the papers', from the logs of trainings.

    python tools/results.py work_dirs                  # all tables, as Markdown
    python tools/results.py work_dirs --csv > all.csv  # one line per value
    python tools/results.py work_dirs --record         # keep the runs; write docs and metafiles

Reads every training that tools/train.py left in WORK_DIR or below, beside those that were recorded
before. One counts as a run if it is of a config of this project, with its settings, and was
evaluated at its end; what is left out is reported with the reason, and it is an error if nothing is
left. Of SegFormer the best evaluation by mIoU is shown and of the matting network the best by SAD,
as the papers' authors report them, of the others the last. Of several runs of a config the mean and
the standard deviation are shown. A difference in brackets is to the baseline: ours to ours, the
paper's to the paper's. Where an arrow points down, less is better.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from model_zoo.configs import ROOT, model_configs
from model_zoo.document import DOCUMENT, comma_separated, markdown, whole_document
from model_zoo.metafiles import metafiles
from model_zoo.runs import RUNS, merge, read_runs, write_runs
from model_zoo.work_dirs import check_directory, find_runs

from mmdysample.atomic import write_text
from mmdysample.engine.errors import ArgumentParser, run_tool
from mmdysample.errors import UserError


def parse_args() -> argparse.Namespace:
    summary, _, details = __doc__.partition("\n\n")
    parser = ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work_dirs", nargs="*", type=Path, metavar="WORK_DIR")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--csv", action="store_true", help="print the tables as CSV")
    output.add_argument(
        "--record",
        action="store_true",
        help="keep the runs in tools/model_zoo/runs.csv, and write docs/model_zoo.md, "
        "configs/*/metafile.yml and model-index.yml again; nothing is printed",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    warnings.simplefilter("ignore")  # mmseg and mmengine warn of what only their makers can change
    runs = read_runs()
    configs = model_configs()
    for directory in args.work_dirs:
        check_directory(directory)
    without: list[str] = []
    for directory in args.work_dirs:
        try:
            runs = merge(runs, find_runs(directory, configs, notice))
        except UserError as error:
            without.append(str(error))
    if without and len(without) == len(args.work_dirs):
        raise UserError("; ".join(without))
    for sentence in without:
        notice(sentence)
    if args.record:
        texts = {DOCUMENT: whole_document(runs), **metafiles(runs)}
        write_runs(runs)
        for path, text in texts.items():
            write_text(path, text)
        notice(f"{RUNS.relative_to(ROOT)} has {len(runs)} runs")
    else:
        print(comma_separated(runs) if args.csv else markdown(runs, Path.cwd()), end="")


def notice(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_tool(main))
