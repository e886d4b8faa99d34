"""Measurements as tables and CSV files: each row with what it was measured on."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from measure import Case, Measurement, least_bytes
from operations import Work

import mmdysample
from mmdysample.atomic import replacing
from mmdysample.errors import UserError

PERCENTILES = (20, 50, 80)
Row = dict[str, str]


def describe(
    case: Case, work: Work, measured: dict[str, Measurement], bandwidth: float
) -> list[Row]:
    """A row for each implementation: what, how fast, how much memory, and where."""
    ours = measured["ours"]
    least = least_bytes(work, case.backward)
    here = where(case.place.device)
    rows = []
    for implementation, measurement in measured.items():
        middle = measurement.percentile(50)
        row = dict(
            suite=case.suite,
            operation=case.operation.name,
            implementation=implementation,
            **{name: str(value) for name, value in case.shape._asdict().items()},
            direction="forward+backward" if case.backward else "forward",
            dtype=str(case.place.dtype).removeprefix("torch."),
            memory_format=case.place.memory_format,
            **milliseconds(measurement),
            times_ours=f"{middle / ours.percentile(50):.3f}",
            extra_mib=f"{measurement.peak_bytes / 2**20:.3f}",
            least_mib=f"{least / 2**20:.3f}",
            gb_per_s=f"{least / middle / 1e9:.1f}",
            share_of_copy=f"{least / middle / bandwidth:.3f}",
            copy_gb_per_s=f"{bandwidth / 1e9:.1f}",
            gflops="" if work.flops is None else f"{case.shape.batch * work.flops / 1e9:.4f}",
            weights=str(work.weights),
        )
        if implementation == "bilinear":  # reads and writes less, and has no weights
            row |= dict(least_mib="", gb_per_s="", share_of_copy="", gflops="", weights="")
        rows.append(row | here)
    return rows


def milliseconds(measurement: Measurement) -> Row:
    return {f"p{p}_ms": f"{1000 * measurement.percentile(p):.4f}" for p in PERCENTILES}


def where(device: str) -> Row:
    """Device, its state and versions."""
    if device == "cpu":
        name, load = processor(), f"{os.getloadavg()[0]:.1f}"
    else:
        name, load = torch.cuda.get_device_name(), ""
    return dict(
        device=name,
        threads=str(torch.get_num_threads()),
        load_average=load,
        torch=torch.__version__,
        cuda=torch.version.cuda or "",
        mmdysample=mmdysample.__version__,
        python=platform.python_version(),
    )


def processor() -> str:
    """The processor's model and its number of cores, as Linux names it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"


def place_line(row: Row) -> str:
    names = ("device", "threads", "load_average", "torch", "cuda", "mmdysample", "python")
    return ", ".join(f"{name} {row[name]}" for name in names if row[name])


def table(rows: Sequence[Row]) -> str:
    """A line for each case: ours, and the other implementations as multiples of it."""
    header = ["operation", "shape", "direction", "dtype", "layout", "ours ms", "naive", "torch"]
    header += ["bilinear", "extra MiB", "naive", "of copy"]
    cases: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        size = "x".join(row[name] for name in ("batch", "channels", "height", "width"))
        shape = f"{size} s{row['scale_factor']}"
        key = (row["operation"], shape, row["direction"], row["dtype"], row["memory_format"])
        cases.setdefault((row["suite"], *key), {})[row["implementation"]] = row
    lines = [header]
    for (_, *key), measured in cases.items():
        ours = measured["ours"]
        lines.append([*key, f"{float(ours['p50_ms']):.3f}"])
        for name in ("naive", "torch", "bilinear"):
            ratio = f"{float(measured[name]['times_ours']):.2f}x" if name in measured else "-"
            lines[-1].append(ratio)
        for name in ("ours", "naive"):
            memory = f"{float(measured[name]['extra_mib']):.1f}" if name in measured else "-"
            lines[-1].append(memory)
        lines[-1].append(f"{float(ours['share_of_copy']):.0%}")
    return align(lines)


def align(lines: list[list[str]]) -> str:
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, cells, widths)).rstrip() for cells in lines)


def prepare_directory(directory: Path, file: str) -> None:
    """Make a directory that ``file`` is to be written to.

    Raises:
        UserError: it cannot be made or written to, or has the file already.
    """
    if (directory / file).exists():
        raise UserError(f"--out {directory} has {file} already: choose another directory")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = os.strerror(error.errno).lower()
        raise UserError(f"--out {directory} cannot be made: {reason}") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise UserError(f"--out {directory} is not writable")


def write(path: Path, rows: Sequence[Row]) -> None:
    """The rows as a CSV file, whole or not at all."""
    with replacing(path) as draft, draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
