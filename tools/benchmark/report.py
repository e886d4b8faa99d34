"""Measurements as tables, CSV and JSON: each row with what it was measured on."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from measure import Case, Measurement, least_bytes
from operations import Work

import mmdysample
from mmdysample.engine.atomic import replacing

PERCENTILES = (20, 50, 80)
Row = dict[str, str]


def describe(
    case: Case, work: Work, measured: dict[str, Measurement], bandwidth: float
) -> list[Row]:
    """A row for each way: what, how fast, how much memory, and where."""
    shape, place = case.shape, case.place
    ours = measured["ours"]
    least = least_bytes(work, case.backward)
    here = where(place.device)
    rows = []
    for way, measurement in measured.items():
        middle = measurement.percentile(50)
        row = dict(
            suite=case.suite,
            sweep=case.sweep,
            operation=case.operation.name,
            way=way,
            **{name: str(value) for name, value in shape._asdict().items()},
            direction="forward+backward" if case.backward else "forward",
            dtype=str(place.dtype).removeprefix("torch."),
            memory_format=place.memory_format,
            **{f"p{p}_ms": f"{1000 * measurement.percentile(p):.4f}" for p in PERCENTILES},
            best_ms=f"{1000 * min(measurement.seconds):.4f}",
            times_ours=f"{middle / ours.percentile(50):.3f}",
            extra_mib=f"{measurement.peak_bytes / 2**20:.3f}",
            extra_times_ours=ratio(measurement.peak_bytes, ours.peak_bytes),
            least_mib=f"{least / 2**20:.3f}",
            gb_per_s=f"{least / middle / 1e9:.1f}",
            share_of_copy=f"{least / middle / bandwidth:.3f}",
            copy_gb_per_s=f"{bandwidth / 1e9:.1f}",
            gflops="" if work.flops is None else f"{shape.batch * work.flops / 1e9:.4f}",
            weights=str(work.weights),
        )
        if way == "bilinear":  # reads and writes less, and has no weights
            row |= dict(least_mib="", gb_per_s="", share_of_copy="", gflops="", weights="")
        rows.append(row | here)
    return rows


def ratio(a: float, b: float) -> str:
    return f"{a / b:.3f}" if b > 0 else ""


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


def table(rows: Sequence[Row]) -> str:
    """A line for each case: ours, and the other ways as multiples of it."""
    header = ["operation", "shape", "direction", "dtype", "layout", "ours ms", "naive", "torch"]
    header += ["bilinear", "extra MiB", "naive", "of copy"]
    lines = [header]
    for ours in (row for row in rows if row["way"] == "ours"):
        others = {row["way"]: row for row in rows if case_key(row) == case_key(ours)}
        naive = others.get("naive", {})
        times = [others.get(way, {}).get("times_ours") for way in ("naive", "torch", "bilinear")]
        size = "x".join(ours[name] for name in ("batch", "channels", "height", "width"))
        lines.append(
            [
                ours["operation"],
                f"{size} s{ours['scale_factor']}",
                ours["direction"],
                ours["dtype"],
                ours["memory_format"],
                f"{float(ours['p50_ms']):.3f}",
                *(f"{float(value):.2f}x" if value else "-" for value in times),
                f"{float(ours['extra_mib']):.1f}",
                f"{float(naive['extra_mib']):.1f}" if naive else "-",
                f"{float(ours['share_of_copy']):.0%}",
            ]
        )
    return align(lines)


def case_key(row: Row) -> tuple[str, ...]:
    """What rows of one case have in common."""
    names = ("suite", "sweep", "operation", "batch", "channels", "height", "width")
    return tuple(row[n] for n in (*names, "scale_factor", "direction", "dtype", "memory_format"))


def growth_table(rows: Sequence[Row]) -> str:
    """How time grows along each sweep: the slope of log time over log extent, and 1 is linear."""
    lines = [["operation", "sweep", "way", "direction", "dtype", "layout", "slope", "of"]]
    for key, series in sweep_series(rows).items():
        if len(series) > 1:
            _, sweep, *_ = key
            extents = "pixels" if sweep in ("size", "scale_factor") else sweep
            slope = log_slope(series)
            lines.append([*key, f"{slope:.2f}", extents])
    return align(lines) if len(lines) > 1 else ""


def sweep_series(rows: Sequence[Row]) -> dict[tuple[str, ...], list[tuple[float, float]]]:
    """(operation, sweep, way, direction, dtype, layout) -> (extent, milliseconds).

    Sizes and scales are counted in pixels of the result, so that a slope of 1 is linear everywhere.
    """
    series: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for row in rows:
        if row["sweep"]:
            extent = float(row[row["sweep"]]) if row["sweep"] in row else 0.0
            if row["sweep"] in ("size", "scale_factor"):
                s2 = int(row["scale_factor"]) ** 2
                extent = float(int(row["height"]) * int(row["width"]) * s2)
            names = ("operation", "sweep", "way", "direction", "dtype", "memory_format")
            key = tuple(row[name] for name in names)
            series.setdefault(key, []).append((extent, float(row["p50_ms"])))
    return series


def log_slope(series: Sequence[tuple[float, float]]) -> float:
    """Least squares on the logarithms."""
    x, y = zip(*((math.log(a), math.log(b)) for a, b in series), strict=True)
    return statistics.linear_regression(x, y).slope


def align(lines: list[list[str]]) -> str:
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, cells, widths)).rstrip() for cells in lines)


def place_line(row: Row) -> str:
    names = ("device", "threads", "load_average", "torch", "cuda", "mmdysample", "python")
    return ", ".join(f"{name} {row[name]}" for name in names if row[name])


def write(folder: Path, rows: Sequence[Row]) -> None:
    """results.csv and results.json, whole or not at all; none of them without rows."""
    if not rows:
        for name in ("results.csv", "results.json"):
            (folder / name).unlink(missing_ok=True)
        return
    with replacing(folder / "results.csv") as draft, draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with replacing(folder / "results.json") as draft:
        draft.write_text(json.dumps(list(rows), indent=1) + "\n")


def read(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
