"""Tables of our results beside the papers', from the logs of runs.

    python tools/results.py work_dirs                # all tables, as Markdown
    python tools/results.py work_dirs --csv all.csv  # a line each value
    python tools/results.py work_dirs --record       # keep the runs, write docs and metafiles anew

reads every run that tools/train.py and tools/test.py left in WORK_DIR or below, beside those that
were recorded before. A run counts if it is of a config of this project, with its settings, and was
evaluated at its end; what is left out is said. Of several runs of a config the mean and the
standard deviation are shown. A difference in brackets is to the baseline: ours to ours, the
paper's to the paper's.
"""

from __future__ import annotations

import argparse
import csv
import sys
import warnings
from pathlib import Path

from model_zoo import document, metafiles, results
from model_zoo.configs import ROOT, Entry, derive, model_configs, read_entries
from model_zoo.logs import Run, read_runs

from mmdysample.engine.atomic import check_writable, write_text
from mmdysample.engine.errors import ArgumentParser, UserError, run_tool


def parse_args() -> argparse.Namespace:
    summary, _, details = __doc__.partition("\n\n")
    parser = ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work_dirs", nargs="*", type=Path, metavar="WORK_DIR")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the Markdown here")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the tables as CSV here")
    parser.add_argument(
        "--pick",
        choices=results.PICKS,
        help="which evaluation of a run is shown; by default the one that the paper reports: the "
        "best for SegFormer, the last for the others",
    )
    parser.add_argument(
        "--record", action="store_true", help="keep the runs in tools/model_zoo/runs.csv; --write"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="write docs/model_zoo.md, configs/*/metafile.yml and model-index.yml anew",
    )
    parser.add_argument(
        "--check", action="store_true", help="say which of these are not what --write would write"
    )
    args = parser.parse_args()
    if args.record and not args.work_dirs:
        parser.error("--record needs a WORK_DIR whose runs to keep")
    if args.pick and (args.record or args.write or args.check):
        parser.error(
            "--pick is for tables on the screen, --out and --csv: the document has its own"
        )
    if args.out and args.csv and args.out.resolve() == args.csv.resolve():
        parser.error(
            f"--out and --csv are the same file, {args.out}: one would overwrite the other"
        )
    if args.check and (args.record or args.write):
        parser.error("--check writes nothing: leave out --record and --write")
    return args


def main() -> None:
    args = parse_args()
    warnings.simplefilter("ignore")  # mmseg and mmengine warn of what only their makers can change
    for option, path in (("--out", args.out), ("--csv", args.csv)):
        if path:
            check_writable(path, option)
    paths = model_configs()
    runs = read_recorded(paths)
    new = [run for folder in args.work_dirs for run in read_work_dir(folder, paths)]
    runs = results.merge(runs, new)
    if args.record or args.write or args.check:
        texts = documents(runs, paths)
        if args.record:
            results.write(runs)
            print(f"recorded {len(new)} runs in {results.RUNS.relative_to(ROOT)}", file=sys.stderr)
        keep_up_to_date(texts, only_check=args.check)
    entries = read_entries()
    if args.csv:
        write_text(args.csv, document.comma_separated(runs, entries, args.pick))
    if args.out:
        folder = args.out.absolute().parent
        write_text(args.out, document.markdown(runs, entries, args.pick, folder))
    elif not (args.csv or args.record or args.write or args.check):
        print(document.markdown(runs, entries, args.pick, Path.cwd()))


def documents(runs: list[Run], paths: dict[str, Path]) -> dict[Path, str]:
    """The files that are derived from configs and runs, and what is to be in them."""
    if not document.DOCUMENT.exists():
        raise UserError(f"{document.DOCUMENT} is missing: this works in a checkout alone")
    try:
        above = document.written_by_hand(document.DOCUMENT)
    except ValueError as error:
        raise UserError(str(error)) from error
    entries: dict[str, Entry] = {}
    for done, (name, path) in enumerate(paths.items(), start=1):
        if sys.stderr.isatty():
            print(f"\r\033[K[{done}/{len(paths)}] {name}", end="", file=sys.stderr)
        entries[name] = derive(path)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    tables = document.whole_document(above, runs, entries)
    return {document.DOCUMENT: tables, **metafiles.texts(runs, entries)}


def keep_up_to_date(texts: dict[Path, str], *, only_check: bool) -> None:
    """Write the files that are not what they are to be, or say which these are."""
    outdated = [path for path, text in texts.items() if not holds(path, text)]
    if only_check and outdated:
        names = ", ".join(str(path.relative_to(ROOT)) for path in outdated)
        raise UserError(f"not up to date: {names}; python tools/results.py --write writes them")
    for path in outdated:
        write_text(path, texts[path])
        print(f"wrote {path.relative_to(ROOT)}", file=sys.stderr)


def read_recorded(paths: dict[str, Path]) -> list[Run]:
    try:
        return results.read(configs=paths)
    except (ValueError, csv.Error) as error:
        raise UserError(f"{results.RUNS} cannot be read: {error}") from error


def read_work_dir(folder: Path, paths: dict[str, Path]) -> list[Run]:
    """The runs at or below a folder; what is left out is said on standard error.

    Raises:
        UserError: there is none that could be shown.
    """
    if not folder.is_dir():
        raise UserError(f"work dir {folder} {'is a file' if folder.exists() else 'does not exist'}")
    runs, starts = read_runs(folder, paths, lambda text: print(f"note: {text}", file=sys.stderr))
    if not starts:
        raise UserError(f"{folder} holds no run of tools/train.py or tools/test.py")
    if not runs:
        raise UserError(f"none of the {starts} starts of tools in {folder} is a run to show")
    return runs


def holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_bytes() == text.encode()


if __name__ == "__main__":
    sys.exit(run_tool(main))
