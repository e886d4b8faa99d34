"""Time the library against plain formulations of the same operators, and against bilinear.

    python tools/benchmark/run.py                                    # primitives, on the CPU
    python tools/benchmark/run.py --suite latency --out results      # Figure 8: every upsampler
    python tools/benchmark/run.py --suite all --device cuda --out results
    python tools/benchmark/plot.py results                           # pictures of the results

Suites:
    ratios    the primitives at a stage of a feature pyramid, 60x60 -> 120x120
    latency   every upsampler at 256x120x120 -> 240x240, as Figure 8 of the DySample paper
    sweeps    how time grows with size, channels, scale factor and batch
    all       these three

The ways of an operation run in turn in one process, after their results have been compared:
an operation whose results disagree is left out, and the exit status is 1. Ratios are
worth quoting from an idle machine; the load average is in every row. --out writes results.csv and
results.json after each case, so what an interrupted run has measured is kept.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where nothing is installed

import operations
import report
import torch
from measure import Case, DisagreementError, copy_bandwidth, measure
from operations import FIGURE_8, OPERATIONS, PRIMITIVES, STAGE, UPSAMPLERS, Place, Shape

from mmdysample.ops.backend import get_backend

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SUITES = ("ratios", "latency", "sweeps")
REPEATS = {"cpu": 10, "cuda": 50}
OUT_FILES = ("results.csv", "results.json")


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    chosen = cases(args)
    if not chosen:
        there = dict.fromkeys(name for name, _, _ in shapes(args.suite))
        print(
            f"the suite {args.suite!r} has none of these operations, only {', '.join(there)}; "
            "--suite latency has them all",
            file=sys.stderr,
        )
        return 2
    bandwidth = copy_bandwidth(args.device)
    rows: list[report.Row] = []
    refused: set[str] = set()
    start = time.monotonic()
    try:
        for number, case in enumerate(chosen):
            name = case.operation.name
            if name in refused:
                continue
            say(f"{number + 1}/{len(chosen)} {name} {case.shape}", start, number)
            try:
                rows += report.describe(case, *measure(case, args.repeats), bandwidth)
            except DisagreementError as error:
                say("", start, 0)
                print(f"no ratios: {error}", file=sys.stderr)
                refused.add(name)
                rows = [row for row in rows if row["operation"] != name]
            if args.out:
                report.write(args.out, rows)
    except torch.cuda.OutOfMemoryError as error:
        say("", start, 0)
        print(f"out of memory at {case.operation.name} {case.shape}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("", start, 0)
        kept = f"; {len(rows)} rows are in {args.out}" if args.out and rows else ""
        print(f"interrupted{kept}", file=sys.stderr)
        return 130
    say("", start, 0)
    if rows:
        show(rows)
    return 1 if refused else 0


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    summary, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "operations", nargs="*", metavar="OPERATION", help=f"{', '.join(OPERATIONS)} (all)"
    )
    parser.add_argument("--suite", choices=(*SUITES, "all"), default="ratios", help="(ratios)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(cpu)")
    parser.add_argument(
        "--dtypes", nargs="+", choices=DTYPES, help="float32; on a GPU of the first suites, all"
    )
    parser.add_argument(
        "--formats", nargs="+", choices=operations.FORMATS, default=["contiguous"], help="layouts"
    )
    parser.add_argument(
        "--repeats", type=positive, help="timed runs of each way: 10 on a CPU, 50 on a GPU"
    )
    parser.add_argument("--threads", type=positive, help="of PyTorch; default: its own choice")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write CSV and JSON there")
    args = parser.parse_args(arguments)
    unknown = [name for name in args.operations if name not in OPERATIONS]
    if unknown:
        names = ", ".join(OPERATIONS)
        parser.error(f"unknown operation {unknown[0]!r}; accepted are {names}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no CUDA GPU here")
    try:
        get_backend()
    except ValueError as error:
        parser.error(str(error))
    if args.out:
        prepare_folder(parser, args.out)
    args.repeats = args.repeats or REPEATS[args.device]
    return args


def prepare_folder(parser: argparse.ArgumentParser, folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        parser.error(f"--out {folder} is a file; it must be a folder")
    there = [name for name in OUT_FILES if (folder / name).exists()]
    if there:
        parser.error(f"--out {folder} has {there[0]} already; choose another folder or remove it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {folder} cannot be made: {os.strerror(error.errno).lower()}")
    if not os.access(folder, os.W_OK | os.X_OK):
        parser.error(f"--out: cannot write to the folder {folder}")


def cases(args: argparse.Namespace) -> list[Case]:
    """What to measure, in its order."""
    chosen = []
    for suite in SUITES if args.suite == "all" else (args.suite,):
        dtypes = args.dtypes
        if dtypes is None:
            dtypes = list(DTYPES) if args.device == "cuda" and suite != "sweeps" else ["float32"]
        for name, shape, sweep in shapes(suite):
            if args.operations and name not in args.operations:
                continue
            for dtype in dtypes:
                for layout in args.formats:
                    place = Place(args.device, DTYPES[dtype], layout)
                    chosen += [
                        Case(suite, OPERATIONS[name], shape, backward, place, sweep)
                        for backward in (False, True)
                    ]
    return chosen


def shapes(suite: str) -> list[tuple[str, Shape, str]]:
    """(operation, shape, which extent of it varies) of a suite."""
    primitives = [operation.name for operation in PRIMITIVES]
    upsamplers = [operation.name for operation in UPSAMPLERS]
    if suite == "ratios":
        return [(name, operations.at(name, STAGE), "") for name in primitives]
    if suite == "latency":
        names = [*primitives, *upsamplers]
        return [(name, operations.at(name, FIGURE_8), "") for name in names]
    return [
        (name, shape, sweep)
        for name in (*primitives, *upsamplers)
        for sweep, series in operations.sweeps(name).items()
        for shape in series
    ]


def show(rows: list[report.Row]) -> None:
    print(report.place_line(rows[0]))
    print(f"copying moves {rows[0]['copy_gb_per_s']} GB/s\n")
    print(report.table([row for row in rows if not row["sweep"]] or rows))
    growth = report.growth_table(rows)
    if growth:
        print(f"\n{growth}")


def positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {text!r}")
    return value


def say(text: str, start: float, done: int) -> None:
    """Progress, on one line of a terminal."""
    if sys.stderr.isatty():
        passed = f", {time.monotonic() - start:.0f} s so far" if done else ""
        print(f"\r\x1b[K{text}{passed}" if text else "\r\x1b[K", end="", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
