"""Draw what run.py measured of every upsampler, as Figure 8 of the DySample paper.

    python tools/benchmark/run.py --suite latency --out RESULTS
    python tools/benchmark/plot.py RESULTS

writes RESULTS/latency.png: times and memory in float32, of the first memory format.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from mmdysample.engine.errors import ArgumentParser, UserError, run_tool

COLORS = {"ours": "#0b6e99", "torch": "#7fb7cc", "naive": "#d95f0e", "bilinear": "#8c8c8c"}
LABELS = {
    "ours": "mmdysample",
    "torch": "mmdysample without its GPU kernels",
    "naive": "naive implementation",
    "bilinear": "bilinear interpolation",
}
FIXED = ("nearest", "bilinear")
PANELS = (
    ("forward", "p50_ms", "forward, ms"),
    ("forward+backward", "p50_ms", "forward and backward, ms"),
    ("forward+backward", "extra_mib", "memory beside inputs and results, MiB"),
)
COLUMNS = {
    *("suite", "operation", "implementation", "batch", "channels", "height", "width"),
    *("scale_factor", "direction", "dtype", "memory_format", "p50_ms", "extra_mib", "device"),
    *("weights", "gflops"),
}
Row = dict[str, str]


def main(arguments: list[str] | None = None) -> None:
    summary, _, details = __doc__.partition("\n\n")
    parser = ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="directory with the results.csv of run.py")
    directory = parser.parse_args(arguments).results
    out = directory / "latency.png"
    draw(read(directory / "results.csv"), out)
    print(out)


def read(path: Path) -> list[Row]:
    """The rows of the suite latency; UserError if there are none."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: run.py --out {path.parent} writes it")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file of run.py: {error}") from error
    if not rows or not rows[0].keys() >= COLUMNS:
        raise UserError(f"{path} has no measurements of run.py")
    rows = [row for row in rows if row["suite"] == "latency" and row["dtype"] == "float32"]
    rows = [row for row in rows if row["memory_format"] == rows[0]["memory_format"]]
    if not rows:
        raise UserError(f"{path} does not have the suite 'latency' in float32")
    return rows


def draw(rows: Sequence[Row], path: Path) -> None:
    """Bars of each upsampler's time forward, forward and backward, and of its extra memory."""
    names = sorted_upsamplers(rows)
    rows = [row for row in rows if row["operation"] in names]
    there = {row["implementation"] for row in rows}
    drawn = [name for name in ("ours", "torch", "naive") if name in there]
    figure, axes = plt.subplots(
        1, len(PANELS), figsize=(15, 0.36 * len(names) + 2), sharey=True, layout="constrained"
    )
    for axis, (direction, column, title) in zip(axes, PANELS, strict=True):
        found = {
            (row["operation"], row["implementation"]): float(row[column])
            for row in rows
            if row["direction"] == direction
        }
        draw_bars(axis, found, names, drawn)
        bilinear = sorted(value for key, value in found.items() if key[1] == "bilinear")
        if bilinear and column == "p50_ms":
            axis.axvline(bilinear[len(bilinear) // 2], color=COLORS["bilinear"], linestyle="--")
        axis.set_title(title)
    axes[0].invert_yaxis()
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLORS[name]) for name in drawn]
    if "bilinear" in there:
        drawn.append("bilinear")
        handles.append(plt.Line2D([], [], color=COLORS["bilinear"], linestyle="--"))
    row = rows[0]
    size = f"{row['batch']}x{row['channels']}x{row['height']}x{row['width']}"
    figure.suptitle(f"Upsampling {size} by {row['scale_factor']} on {row['device']}, float32")
    labels = [LABELS[name] for name in drawn]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def sorted_upsamplers(rows: Sequence[Row]) -> list[str]:
    """From the fastest to the slowest; primitives have neither weights nor a count of FLOPs."""
    forward = [r for r in rows if (r["direction"], r["implementation"]) == ("forward", "ours")]
    return [
        row["operation"]
        for row in sorted(forward, key=lambda row: float(row["p50_ms"]))
        if row["weights"] != "0" or row["gflops"] != "" or row["operation"] in FIXED
    ]


def draw_bars(
    axis: plt.Axes, found: dict[tuple[str, str], float], names: list[str], drawn: list[str]
) -> None:
    """A group of bars for each name on a logarithmic axis, each with its value beside it."""
    least = min((value for value in found.values() if value > 0), default=0.1)
    height = 0.8 / len(drawn)
    for i, implementation in enumerate(drawn):
        for y, name in enumerate(names):
            if (name, implementation) in found:
                value = found[name, implementation]
                place = y + (i - (len(drawn) - 1) / 2) * height
                length = max(value, least / 2)  # a bar of no length has no place on the axis
                bar = axis.barh(place, length, height, color=COLORS[implementation])
                text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
                axis.bar_label(bar, [text], padding=2, fontsize=7)
    axis.set(
        xscale="log",
        xlim=(10 ** math.floor(math.log10(least / 1.5)), 2 * max(found.values())),
        yticks=range(len(names)),
        yticklabels=names,
    )
    axis.grid(axis="x", which="both", alpha=0.25)
    axis.set_axisbelow(True)


if __name__ == "__main__":
    sys.exit(run_tool(main))
