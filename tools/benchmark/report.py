"""Measurements as a table for the eye and as CSV, each row with what it was measured on."""

from __future__ import annotations

import csv
import os
import platform
import statistics
from pathlib import Path

import torch
from measure import Case, Measurement

import mmdysample

PERCENTILES = (20, 50, 80)


def describe(case: Case, measured: Measurement) -> dict[str, str]:
    """A row: what, how fast, how much memory, and where."""
    row = dict(
        operation=case.operation.name,
        shape=str(case.shape),
        direction="forward+backward" if case.backward else "forward",
        memory_format=case.memory_format,
        dtype=str(case.dtype).removeprefix("torch."),
        rival=case.operation.rival_name,
        ratio=f"{measured.ratio:.1f}",
        best_ratio=f"{measured.best_ratio:.1f}",
        memory_ratio=f"{measured.memory_ratio:.4f}",
        ours_extra_mib=f"{measured.ours_bytes / 2**20:.2f}",
        rival_extra_mib=f"{measured.rival_bytes / 2**20:.2f}",
    )
    for name, times in (("ours", measured.ours), ("rival", measured.rival)):
        for percent in PERCENTILES:
            row[f"{name}_p{percent}_ms"] = f"{1000 * percentile(times, percent):.3f}"
        row[f"{name}_best_ms"] = f"{1000 * min(times):.3f}"
    return row | where(case.device)


def percentile(values: list[float], percent: int) -> float:
    """With linear interpolation between the two nearest values."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def where(device: str) -> dict[str, str]:
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
        mmdysample=mmdysample.__version__,
        python=platform.python_version(),
    )


def processor() -> str:
    """The processor's model and its number of cores, as Linux names it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"


def table(rows: list[dict[str, str]]) -> str:
    """Ratios and medians; the CSV file has all columns."""
    columns = {
        "operation": "operation",
        "shape": "shape",
        "direction": "direction",
        "memory_format": "layout",
        "dtype": "dtype",
        "ours_p50_ms": "ours p50 ms",
        "rival_p50_ms": "rival p50 ms",
        "ratio": "times faster",
        "best_ratio": "best/best",
        "memory_ratio": "extra memory",
    }
    lines = [list(columns.values()), *([row[name] for name in columns] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    aligned = ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in lines]
    place = ", ".join(f"{k} {v}" for k, v in list(rows[0].items())[-6:] if v)
    return "\n".join([place, *aligned])


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
