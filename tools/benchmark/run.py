"""Time the library's primitives against straightforward ways to compute the same.

    python tools/benchmark/run.py                      # the ratios that are quoted, on the CPU
    python tools/benchmark/run.py --all --csv out.csv  # every shape, layout and dtype

Both ways run in turn in one process. Nothing is printed for a case whose results disagree: the exit
status is 1 then. Ratios are worth quoting from an idle machine; the load average is in every row.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler, which counts memory, is chatty

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for tests.reference, the rivals
try:
    from operations import OPERATIONS, SHAPES
except ModuleNotFoundError as error:
    if error.name is None or not error.name.startswith("tests"):
        raise
    sys.exit("the rivals are in tests/reference/: run this from a checkout of the repository")

from measure import FORMATS, Case, DisagreementError, measure
from report import describe, table, write_csv

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Formatter)
    names = [operation.name for operation in OPERATIONS]
    parser.add_argument("operations", nargs="*", metavar="OPERATION", help=", ".join(names))
    parser.add_argument("--all", action="store_true", help="every shape, layout and dtype")
    parser.add_argument("--repeats", type=positive, default=20, help="timed runs of each way")
    parser.add_argument("--threads", type=positive, help="of PyTorch; default: its own choice")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every column to FILE")
    args = parser.parse_args(arguments)
    unknown = [name for name in args.operations if name not in names]
    if unknown:
        parser.error(f"unknown operation {unknown[0]!r}; accepted are {', '.join(names)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no CUDA GPU here")
    if args.csv and not (args.csv.parent.is_dir() and os.access(args.csv.parent, os.W_OK)):
        parser.error(f"--csv: cannot write to the folder {args.csv.parent}")
    if args.threads:
        torch.set_num_threads(args.threads)

    rows = []
    chosen = cases(args.operations or names, args.all, args.device)
    for number, case in enumerate(chosen, 1):
        say(f"{number}/{len(chosen)} {case.operation.name} {case.shape}")
        try:
            rows.append(describe(case, measure(case, args.repeats)))
        except DisagreementError as error:
            say("")
            print(f"no ratios: {error}", file=sys.stderr)
            return 1
    say("")
    print(table(rows))
    if args.csv:
        write_csv(args.csv, rows)
    return 0


def cases(names: list[str], everything: bool, device: str) -> list[Case]:
    formats = list(FORMATS) if everything else ["contiguous"]
    dtypes = list(DTYPES.values()) if everything else [torch.float32]
    return [
        Case(operation, shape, backward, memory_format, dtype, device)
        for operation in OPERATIONS
        if operation.name in names
        for shape in SHAPES[operation.name][: None if everything else 1]
        for memory_format, dtype, backward in itertools.product(formats, dtypes, (False, True))
    ]


def positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {text!r}")
    return value


def say(text: str) -> None:
    """Progress, on one line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r{text:<70}\r" if not text else f"\r{text:<70}", end="", file=sys.stderr)


class Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the commands' lines, and names defaults."""


if __name__ == "__main__":
    sys.exit(main())
