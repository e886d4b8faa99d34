"""Time the library against naive implementations of the same operators, and against bilinear.

    python tools/benchmark/run.py                                    # primitives, on the CPU
    python tools/benchmark/run.py --suite latency --out results      # Figure 8: every upsampler
    python tools/benchmark/run.py --suite all --device cuda --out results
    python tools/benchmark/plot.py results                           # draws the suite latency

Suites:
    ratios    the primitives at a stage of a feature pyramid, 60x60 -> 120x120
    latency   these and every upsampler at 256x120x120 -> 240x240, as Figure 8 of the DySample paper
    all       both

The implementations of an operation run in turn in one process, after their results have been
compared: an operation whose results disagree is left out, and the exit status is 1. Ratios are
worth quoting from an idle machine; the load average is in every row. --out writes results.csv after
each case, so what an interrupted run has measured is kept.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import report
import torch
from measure import Case, DisagreementError, copy_bandwidth, measure
from operations import EMBEDDING, FIGURE_8, FORMATS, PRIMITIVES, STAGE, UPSAMPLERS, Place, Shape

from mmdysample.engine.errors import ArgumentParser, UserError, doing, run_tool
from mmdysample.ops.backend import get_backend

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SUITES = {"ratios": PRIMITIVES, "latency": (*PRIMITIVES, *UPSAMPLERS)}
REPEATS = {"cpu": 10, "cuda": 50}
MOST_THREADS = 1024
OUT_FILE = "results.csv"


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    summary, _, details = __doc__.partition("\n\n")
    parser = ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [operation.name for operation in SUITES["latency"]]
    parser.add_argument(
        "operations", nargs="*", metavar="OPERATION", help=f"{', '.join(names)} (all)"
    )
    parser.add_argument("--suite", choices=(*SUITES, "all"), default="ratios", help="(ratios)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(cpu)")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="float32; on a GPU all")
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS, default=["contiguous"], help="memory formats"
    )
    parser.add_argument(
        "--repeats", type=positive, help="timed runs of each: 10 on a CPU, 50 on a GPU"
    )
    parser.add_argument("--threads", type=threads, help="of PyTorch; default: its own choice")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"write {OUT_FILE} there")
    args = parser.parse_args(arguments)
    unknown = [name for name in args.operations if name not in names]
    if unknown:
        parser.error(f"unknown operation {unknown[0]!r}; accepted are {', '.join(names)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no CUDA GPU here")
    try:
        get_backend()
    except ValueError as error:
        parser.error(str(error))
    args.repeats = args.repeats or REPEATS[args.device]
    args.dtypes = args.dtypes or (list(DTYPES) if args.device == "cuda" else ["float32"])
    return args


def positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {text!r}")
    return value


def threads(text: str) -> int:
    """`positive`, and few enough for PyTorch, which crashes where it cannot start them."""
    value = positive(text)
    if value > MOST_THREADS:
        raise argparse.ArgumentTypeError(f"must be an integer <= {MOST_THREADS}, got {text!r}")
    return value


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    chosen = cases(args)
    if args.out:
        report.prepare_directory(args.out, OUT_FILE)
    if args.threads:
        torch.set_num_threads(args.threads)
    bandwidth = copy_bandwidth(args.device)
    rows: list[report.Row] = []
    refused: set[str] = set()
    start = time.monotonic()
    for number, case in enumerate(chosen, start=1):
        name = case.operation.name
        if name in refused:
            continue
        passed = time.monotonic() - start
        show_progress(f"{number}/{len(chosen)} {name} {case.shape}, {passed:.0f} s so far")
        try:
            with doing(f"measuring {name} at {case.shape}"):
                rows += report.describe(case, *measure(case, args.repeats), bandwidth)
        except DisagreementError as error:
            show_progress("")
            print(f"no ratios: {error}", file=sys.stderr)
            refused.add(name)
            rows = [row for row in rows if row["operation"] != name]
        if args.out and rows:
            report.write(args.out / OUT_FILE, rows)
    show_progress("")
    if rows:
        print(report.place_line(rows[0]))
        print(f"copying moves {rows[0]['copy_gb_per_s']} GB/s\n")
        print(report.table(rows))
    elif args.out:
        (args.out / OUT_FILE).unlink(missing_ok=True)  # of what was refused later
    return 1 if refused else 0


def cases(args: argparse.Namespace) -> list[Case]:
    """What to measure, in its order."""
    chosen = []
    for suite in SUITES if args.suite == "all" else (args.suite,):
        for operation in SUITES[suite]:
            if args.operations and operation.name not in args.operations:
                continue
            for dtype in args.dtypes:
                for memory_format in args.formats:
                    place = Place(args.device, DTYPES[dtype], memory_format)
                    for backward in (False, True):
                        shape = shape_of(suite, operation.name)
                        chosen.append(Case(suite, operation, shape, backward, place))
    if not chosen:
        there = ", ".join(operation.name for operation in SUITES[args.suite])
        raise UserError(
            f"the suite {args.suite!r} has none of these operations, only {there}; "
            "--suite latency has them all"
        )
    return chosen


def shape_of(suite: str, operation: str) -> Shape:
    """Similarities are taken in an embedding."""
    shape = STAGE if suite == "ratios" else FIGURE_8
    return shape._replace(channels=EMBEDDING) if operation == "local_similarity" else shape


def show_progress(text: str) -> None:
    """Rewrites a line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run_tool(main))
