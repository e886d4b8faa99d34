"""The tables as Markdown and CSV: each row as a paper prints it, and below it what ours come to."""

from __future__ import annotations

import csv
import io
import os
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .configs import IN_MASK_HEAD, ROOT, Entry
from .logs import Run
from .results import Result, summarize, usual_pick
from .tables import BY_HEADING, MASK_HEAD_NOTE, TABLES, Row, Table

DOCUMENT = ROOT / "docs" / "model_zoo.md"
MARKER = "<!-- Below this line `python tools/results.py --write` writes. -->"


class Line(NamedTuple):
    """A line of a table: what a paper prints, or what our runs come to."""

    row: Row
    ours: bool
    params: str
    values: tuple[str, ...]
    deltas: tuple[str, ...]
    spreads: tuple[str, ...]
    runs: int


def lines_of(
    table: Table, rows: list[Row], runs: list[Run], entries: dict[str, Entry], pick: str
) -> list[Line]:
    """A table's lines: of each row the paper's, if it prints anything of it, and ours."""
    results = summarize(runs, table.metrics, pick)
    baselines: dict[str, Row] = {}
    lines = []
    for row in rows:
        base = baselines.setdefault(row.model, row) if table.has_baseline else None
        if row.params or any(row.values):
            deltas = [
                _delta(a, b) if base is not None and row is not base else ""
                for a, b in zip(row.values, base.values if base else row.values, strict=True)
            ]
            empty = ("",) * len(row.values)
            lines.append(Line(row, False, row.params, row.values, tuple(deltas), empty, 0))
        found = results.get(row.config, {})
        reference = results.get(base.config, {}) if base is not None and row is not base else {}
        values, deltas, spreads = [], [], []
        for i, metric in enumerate(table.metrics):
            decimals = _decimals(rows, i)
            result = found.get(metric.heading)
            values.append("" if result is None else f"{result.mean:.{decimals}f}")
            spreads.append(_spread(result, decimals))
            other = reference.get(metric.heading)
            # Of the means as they are shown, so that a reader who subtracts gets the same.
            deltas.append(_delta(values[-1], f"{other.mean:.{decimals}f}") if other else "")
        params = f"{entries[row.config].weights:+,}" if row.config in entries else ""
        count = max((result.runs for result in found.values()), default=0)
        lines.append(Line(row, True, params, tuple(values), tuple(deltas), tuple(spreads), count))
    return lines


def _decimals(rows: list[Row], column: int) -> int:
    """As many as the paper prints."""
    printed = [len(row.values[column].partition(".")[2]) for row in rows if row.values]
    return max(printed, default=0) or 2


def _delta(value: str, baseline: str) -> str:
    if not value or not baseline:
        return ""
    decimals = len(value.partition(".")[2])
    return f"{float(value) - float(baseline):+.{decimals}f}"


def _spread(result: Result | None, decimals: int) -> str:
    return "" if result is None or result.spread is None else f"{result.spread:.{decimals}f}"


def sections(
    runs: list[Run], entries: dict[str, Entry], pick: str | None
) -> list[tuple[Table, list[Line]]]:
    """Each table and its lines."""
    found = []
    for table in [*TABLES, *_others(entries)]:
        rows = table.rows() if table.name else _other_rows(table, entries)
        found.append((table, lines_of(table, rows, runs, entries, pick)))
    return found


def markdown(
    runs: list[Run], entries: dict[str, Entry], pick: str | None = None, folder: Path | None = None
) -> str:
    """All tables; ``folder`` is where the text will be, for the links to configs."""
    folder = folder or DOCUMENT.parent
    return "\n".join(
        _markdown_table(table, lines, entries, folder, pick)
        for table, lines in sections(runs, entries, pick)
    )


def _markdown_table(
    table: Table, lines: list[Line], entries: dict[str, Entry], folder: Path, pick: str | None
) -> str:
    source = f" ({table.source})" if table.source else ""
    text = " ".join(filter(None, [table.note, f"Ours: {_shown(table, lines, pick)}."]))
    text = f"## {table.title}{source}\n\n{textwrap.fill(text, 100)}\n"
    varied = "setting" if table.name and not table.has_baseline else "upsampler"
    heads = ["model", varied, "", *(m.heading for m in table.metrics), "params", "runs"]
    out = [heads, ["---"] * len(heads)]
    previous = None
    for line in lines:
        first = line.row != previous
        previous = line.row
        name = line.row.upsampler
        if line.row.config in entries:
            name = f"[{name}]({os.path.relpath(entries[line.row.config].path, folder)})"
        cells = [
            value + (f" ± {spread}" if spread else "") + (f" ({delta})" if delta else "")
            for value, delta, spread in zip(line.values, line.deltas, line.spreads, strict=True)
        ]
        which = "ours" if line.ours else "paper"
        runs = str(line.runs) if line.runs else ""
        names = [line.row.model, name] if first else ["", ""]
        out.append([*names, which, *cells, line.params, runs])
    return text + "\n" + "\n".join("| " + " | ".join(cells) + " |" for cells in out) + "\n"


def _shown(table: Table, lines: list[Line], pick: str | None) -> str:
    """Which evaluations of our runs a table shows."""
    if pick == "best":
        return "the best evaluation of a run by the first of these metrics that it has"
    picks = {pick or usual_pick(line.row.config) for line in lines}
    best = "the best evaluation of a run by mIoU"
    if len(picks) > 1:
        return f"of SegFormer {best}, of the others the last"
    return best if picks == {"best"} else "the last evaluation of a run"


def _others(entries: dict[str, Entry]) -> list[Table]:
    """Tables of the configs that no table of a paper has, one of each folder."""
    published = {row.config for table in TABLES for row in table.rows()}
    others = {name: entry for name, entry in entries.items() if name not in published}
    tables = []
    for folder in dict.fromkeys(entry.path.parent.name for entry in others.values()):
        own = [entry for entry in others.values() if entry.path.parent.name == folder]
        headings = dict.fromkeys(heading for entry in own for heading in entry.metrics)
        metrics = [BY_HEADING[heading] for heading in headings]
        note = "No paper prints results of these."
        if folder == "shapes":
            note += " Of the drawn [Shapes data set](shapes.md)."
        if any(entry.upsampler.endswith(IN_MASK_HEAD) for entry in own):
            note += f" {MASK_HEAD_NOTE}"
        tables.append(
            Table(
                "",
                f"Further configs: {folder}",
                "",
                tuple(metrics),
                has_baseline=False,
                note=note,
            )
        )
    return tables


def _other_rows(table: Table, entries: dict[str, Entry]) -> list[Row]:
    published = {row.config for each in TABLES for row in each.rows()}
    folder = table.title.removeprefix("Further configs: ")
    return [
        Row(name, " ".join(entry.architecture), entry.upsampler, values=("",) * len(table.metrics))
        for name, entry in entries.items()
        if entry.path.parent.name == folder and name not in published
    ]


def comma_separated(runs: list[Run], entries: dict[str, Entry], pick: str | None = None) -> str:
    """All tables as CSV, a line each value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("table", "model", "upsampler", "config", "result", "metric", "value", "delta")
    writer.writerow([*names, "spread", "runs", "evaluation"])
    for table, lines in sections(runs, entries, pick):
        for line in lines:
            row = line.row
            cells = zip(table.metrics, line.values, line.deltas, line.spreads, strict=True)
            for metric, value, delta, spread in cells:
                if not value and not line.ours:
                    continue
                about = [table.source or table.title, row.model, row.upsampler, row.config]
                chosen = pick or usual_pick(row.config)
                if line.ours:
                    about += ["ours", metric.heading, value, delta, spread, line.runs or "", chosen]
                else:
                    about += ["paper", metric.heading, value, delta, "", "", ""]
                writer.writerow(about)
    return text.getvalue()


def written_by_hand(path: Path) -> str:
    """What is above the marker of a document, with it.

    Raises:
        ValueError: there is no marker.
    """
    above, found, _ = path.read_text(encoding="utf-8").partition(MARKER)
    if not found:
        raise ValueError(f"{path} has no line {MARKER}")
    return above + MARKER


def whole_document(above: str, runs: Iterable[Run], entries: dict[str, Entry]) -> str:
    """The document with the tables of today below what was written by hand."""
    return f"{above}\n\n{markdown(list(runs), entries)}"
