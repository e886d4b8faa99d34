"""Draw what run.py measured: latencies, memory and growth.

    python tools/benchmark/plot.py RESULTS        # a folder that run.py --out wrote

writes latency.png (as Figure 8 of the DySample paper) if the suite 'latency' is among the results
and growth.png if the suite 'sweeps' is.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    import matplotlib
except ModuleNotFoundError:
    sys.exit("matplotlib is not installed: pip install matplotlib")

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLORS = {"ours": "#0b6e99", "torch": "#7fb7cc", "naive": "#d95f0e", "bilinear": "#8c8c8c"}
LABELS = {
    "ours": "mmdysample",
    "torch": "mmdysample without its GPU kernels",
    "naive": "plain formulation",
    "bilinear": "bilinear",
}
SWEEPS = {
    "size": "pixels of the result",
    "channels": "channels",
    "scale_factor": "pixels of the result, by scale factor",
    "batch": "batch size",
}
FIXED = ("nearest", "bilinear")
COLUMNS = {
    *("suite", "sweep", "operation", "way", "batch", "channels", "height", "width"),
    *("scale_factor", "direction", "dtype", "memory_format", "p50_ms", "extra_mib", "device"),
    *("weights", "gflops"),
}
Row = dict[str, str]


def main(arguments: list[str] | None = None) -> int:
    summary, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="folder with the results.csv of run.py")
    folder = parser.parse_args(arguments).results
    path = folder / "results.csv"
    if not path.is_file():
        parser.error(f"{path} does not exist: run.py --out {folder} writes it")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except UnicodeDecodeError:
        parser.error(f"{path} is not a text file of run.py")
    if not rows or not rows[0].keys() >= COLUMNS:
        parser.error(f"{path} has no measurements of run.py")
    # one layout, the first
    rows = [row for row in rows if row["memory_format"] == rows[0]["memory_format"]]
    drawn = []
    for suite, name, draw in (
        ("latency", "latency.png", draw_latency),
        ("sweeps", "growth.png", draw_growth),
    ):
        chosen = [row for row in rows if row["suite"] == suite and row["dtype"] == "float32"]
        if chosen:
            draw(chosen, folder / name)
            drawn.append(name)
    if not drawn:
        parser.error(f"{path} has neither the suite 'latency' nor 'sweeps' in float32 to draw")
    print("\n".join(str(folder / name) for name in drawn))
    return 0


def draw_latency(rows: Sequence[Row], path: Path) -> None:
    """Bars of each upsampler's time forward, forward and backward, and of its extra memory."""
    panels = [
        ("forward", "p50_ms", "forward, ms"),
        ("forward+backward", "p50_ms", "forward and backward, ms"),
        ("forward+backward", "extra_mib", "memory beside inputs and results, MiB"),
    ]
    forward = [r for r in rows if r["direction"] == "forward" and r["way"] == "ours"]
    names = [
        r["operation"]
        for r in sorted(forward, key=lambda r: float(r["p50_ms"]))
        if r["weights"] != "0" or r["gflops"] != "" or r["operation"] in FIXED
    ]
    rows = [r for r in rows if r["operation"] in names]
    ways = [way for way in COLORS if way != "bilinear" and any(r["way"] == way for r in rows)]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(15, 0.36 * len(names) + 2), sharey=True, layout="constrained"
    )
    height = 0.8 / len(ways)
    for axis, (direction, column, title) in zip(axes, panels, strict=True):
        found = {(r["operation"], r["way"]): r for r in rows if r["direction"] == direction}
        values = [float(r[column]) for r in found.values()]
        least = min((value for value in values if value > 0), default=0.1)
        for i, way in enumerate(ways):
            for y, name in enumerate(names):
                if (name, way) in found:
                    value = max(float(found[name, way][column]), least / 2)
                    place = y + (i - (len(ways) - 1) / 2) * height
                    bar = axis.barh(place, value, height, color=COLORS[way])
                    measured = float(found[name, way][column])
                    axis.bar_label(bar, [short(measured)], padding=2, fontsize=7)
        bilinear = [float(r[column]) for key, r in found.items() if key[1] == "bilinear"]
        if bilinear and column == "p50_ms" and "bilinear" not in names:
            middle = sorted(bilinear)[len(bilinear) // 2]
            axis.axvline(middle, color=COLORS["bilinear"], linestyle="--", linewidth=1.5)
        axis.set(
            xscale="log",
            title=title,
            xlim=(decade_below(least), 2 * max(values)),
            yticks=range(len(names)),
            yticklabels=names,
        )
        axis.grid(axis="x", which="both", alpha=0.25)
        axis.set_axisbelow(True)
    axes[0].invert_yaxis()
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLORS[way]) for way in ways]
    labels = [LABELS[way] for way in ways]
    if "bilinear" not in names:
        handles.append(plt.Line2D([], [], color=COLORS["bilinear"], linestyle="--"))
        labels.append("bilinear interpolation")
    row = rows[0]
    size = f"{row['batch']}x{row['channels']}x{row['height']}x{row['width']}"
    figure.suptitle(f"Upsampling {size} by {row['scale_factor']} on {row['device']}, float32")
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def decade_below(value: float) -> float:
    """Where an axis of bars starts."""
    return 10 ** math.floor(math.log10(value / 1.5))


def draw_growth(rows: Sequence[Row], path: Path) -> None:
    """A panel for each sweep: time over extent, both logarithmic, a line for each operation."""
    sweeps = [sweep for sweep in SWEEPS if any(row["sweep"] == sweep for row in rows)]
    figure, axes = plt.subplots(
        1, len(sweeps), figsize=(4.2 * len(sweeps), 5.5), squeeze=False, layout="constrained"
    )
    names = list(dict.fromkeys(row["operation"] for row in rows))
    colors = dict(zip(names, plt.get_cmap("tab20")(range(len(names))), strict=False))
    styles = ["-", "--", ":"]
    for axis, sweep in zip(axes[0], sweeps, strict=True):
        for index, name in enumerate(names):
            points = [
                (extent(row), float(row["p50_ms"]))
                for row in rows
                if (row["sweep"], row["operation"], row["way"]) == (sweep, name, "ours")
                and row["direction"] == "forward"
            ]
            if points:
                style = styles[index // 20 % len(styles)]
                axis.plot(
                    *zip(*sorted(points), strict=True),
                    style,
                    marker=".",
                    color=colors.get(name),
                    label=name,
                )
        axis.set(xscale="log", yscale="log", xlabel=SWEEPS[sweep])
        extents = sorted({extent(row) for row in rows if row["sweep"] == sweep})
        axis.set_xticks(extents, [f"{value:,.0f}" for value in extents])
        axis.set_xticks([], minor=True)
        axis.grid(which="both", alpha=0.25)
    axes[0][0].set_ylabel("forward, ms")
    figure.suptitle(f"How time grows, float32 on {rows[0]['device']}")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def extent(row: Row) -> float:
    if row["sweep"] in ("size", "scale_factor"):
        return float(int(row["height"]) * int(row["width"]) * int(row["scale_factor"]) ** 2)
    return float(row[row["sweep"]])


if __name__ == "__main__":
    sys.exit(main())
