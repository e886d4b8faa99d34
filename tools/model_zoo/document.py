"""The tables as Markdown and CSV: each row as a paper prints it, and below it what ours come to."""

from __future__ import annotations

import csv
import io
import os
import textwrap
from pathlib import Path
from typing import NamedTuple

from mmdysample.engine.errors import UserError

from .configs import ROOT, model_configs
from .metafiles import parts_of
from .runs import Run, result_of
from .tables import FURTHER, TABLES, Row, Table

DOCUMENT = ROOT / "docs" / "model_zoo.md"
MARKER = "<!-- Below this line `python tools/results.py --record` writes. -->"
CSV_COLUMNS = (
    *("table", "model", "upsampler", "config", "result"),
    *("metric", "value", "delta", "spread", "runs"),
)


class Cell(NamedTuple):
    """A value as it is shown, its difference to the baseline's and its standard deviation."""

    value: str = ""
    delta: str = ""
    spread: str = ""
    runs: int = 0


class Line(NamedTuple):
    """A line of a table: what a paper prints of a row, or what our runs come to."""

    row: Row
    result: str  # "paper", "README" or "ours"
    cells: list[Cell]


def sections(runs: list[Run]) -> list[tuple[Table, list[Line]]]:
    """Each table and its lines: the papers' tables, then the configs that are in none of them."""
    tables = [(table, table.rows()) for table in TABLES]
    published = {row.config for _, rows in tables for row in rows}
    for directory, metrics in FURTHER.items():
        note = "No paper prints results of these."
        if directory == "shapes":
            note += " Of the drawn [Shapes data set](shapes.md)."
        title = f"Further configs: {directory}"
        table = Table("", title, "", metrics, has_baseline=False, note=note)
        rows = [
            _further_row(name, table)
            for name, path in model_configs().items()
            if path.parent.name == directory and name not in published
        ]
        if rows:
            tables.append((table, rows))
    return [(table, lines_of(table, rows, runs)) for table, rows in tables]


def _further_row(config: str, table: Table) -> Row:
    architecture, upsampler, _ = parts_of(config)
    return Row(config, " ".join(architecture), upsampler, values=("",) * len(table.metrics))


def lines_of(table: Table, rows: list[Row], runs: list[Run]) -> list[Line]:
    """Of each row of a table the paper's line and, where there are runs, ours; at least one."""
    lines = []
    baselines: dict[str, Row] = {}
    for row in rows:
        baseline = baselines.setdefault(row.model, row) if table.has_baseline else row
        printed = bool(row.params or any(row.values))
        if printed:
            values = zip(row.values, baseline.values, strict=True)
            cells = [Cell(a, "" if row is baseline else _difference(a, b)) for a, b in values]
            lines.append(Line(row, table.printed_in, cells))
        cells = [
            _our_cell(row, baseline, table, column, runs) for column in range(len(table.metrics))
        ]
        if not printed or any(cell.value for cell in cells):
            lines.append(Line(row, "ours", cells))
    return lines


def _our_cell(row: Row, baseline: Row, table: Table, column: int, runs: list[Run]) -> Cell:
    metric = table.metrics[column]
    result = result_of(row.config, metric, runs)
    if result is None:
        return Cell()
    decimals = len(row.values[column].partition(".")[2]) or metric.decimals  # as the paper
    value = f"{result.mean:.{decimals}f}"
    spread = "" if result.spread is None else f"{result.spread:.{decimals}f}"
    other = None if row is baseline else result_of(baseline.config, metric, runs)
    # Of the means as they are shown, so that a reader who subtracts gets the same.
    delta = "" if other is None else _difference(value, f"{other.mean:.{decimals}f}")
    return Cell(value, delta, spread, result.runs)


def _difference(value: str, baseline: str) -> str:
    if not value or not baseline:
        return ""
    decimals = len(value.partition(".")[2])
    return f"{float(value) - float(baseline):+.{decimals}f}"


def markdown(runs: list[Run], directory: Path) -> str:
    """All tables; ``directory`` is where the text will be, for the links to configs."""
    return "\n".join(_markdown_table(table, lines, directory) for table, lines in sections(runs))


def _markdown_table(table: Table, lines: list[Line], directory: Path) -> str:
    configs = model_configs()
    varied = "setting" if table.name and not table.has_baseline else "upsampler"
    headings = [
        f"{metric.heading} ↓" if metric.lower_is_better else metric.heading
        for metric in table.metrics
    ]
    heads = ["model", varied, "", *headings, "params", "runs"]
    out = [heads, ["---"] * len(heads)]
    previous = None
    for row, result, cells in lines:
        link = os.path.relpath(configs[row.config], directory)
        names = ["", ""] if row is previous else [row.model, f"[{row.upsampler}]({link})"]
        previous = row
        values = [
            cell.value
            + (f" ± {cell.spread}" if cell.spread else "")
            + (f" ({cell.delta})" if cell.delta else "")
            for cell in cells
        ]
        params = "" if result == "ours" else row.params
        count = max(cell.runs for cell in cells)
        out.append([*names, result, *values, params, str(count or "")])
    title = f"## {table.title}{f' ({table.source})' if table.source else ''}\n\n"
    note = f"{textwrap.fill(table.note, 100)}\n\n" if table.note else ""
    return title + note + "\n".join("| " + " | ".join(cells) + " |" for cells in out) + "\n"


def comma_separated(runs: list[Run]) -> str:
    """All tables as CSV, one line per value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for table, lines in sections(runs):
        for row, result, cells in lines:
            about = (table.source or table.title, row.model, row.upsampler, row.config, result)
            for metric, cell in zip(table.metrics, cells, strict=True):
                if cell.value:
                    values = (cell.value, cell.delta, cell.spread, cell.runs or "")
                    writer.writerow([*about, metric.heading, *values])
    return text.getvalue()


def whole_document(runs: list[Run]) -> str:
    """The document with the tables of today below what was written by hand.

    Raises:
        UserError: there is no marker between the two.
    """
    by_hand, marker, _ = DOCUMENT.read_text(encoding="utf-8").partition(MARKER)
    if not marker:
        raise UserError(f"{DOCUMENT} has no line {MARKER}")
    return f"{by_hand}{MARKER}\n\n{markdown(runs, DOCUMENT.parent)}"
