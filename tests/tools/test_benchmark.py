"""tools/benchmark: reports what it measured, and refuses when results disagree."""

from __future__ import annotations

import csv
import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "tools" / "benchmark"
MODULES = ("operations", "measure", "report", "run")


@pytest.fixture
def benchmark(monkeypatch):
    """The tool's main module, with shapes that take milliseconds."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    run = importlib.import_module("run")
    shape = sys.modules["operations"].Shape(2, 8, 6, 5, 3, 2)
    monkeypatch.setattr(run, "SHAPES", {name: (shape, shape) for name in run.SHAPES})
    yield run
    for name in MODULES:
        sys.modules.pop(name, None)


def spoil(benchmark, monkeypatch, spoilt) -> None:
    """Replace what the library computes for the first operation."""
    first, *others = benchmark.OPERATIONS
    monkeypatch.setattr(benchmark, "OPERATIONS", (replace(first, ours=spoilt(first.ours)), *others))


def test_reports_ratios(benchmark, tmp_path, capsys):
    file = tmp_path / "out.csv"
    assert benchmark.main(["--repeats", "3", "--csv", str(file)]) == 0
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [(row["operation"], row["direction"]) for row in rows] == [
        ("reassemble", "forward"),
        ("reassemble", "forward+backward"),
        ("local_similarity", "forward"),
        ("local_similarity", "forward+backward"),
    ]
    printed = capsys.readouterr().out
    for row in rows:
        for way in ("ours", "rival"):
            p20, p50, p80 = (float(row[f"{way}_p{p}_ms"]) for p in (20, 50, 80))
            assert 0 < float(row[f"{way}_best_ms"]) <= p20 <= p50 <= p80
        ratio = float(row["rival_p50_ms"]) / float(row["ours_p50_ms"])
        assert float(row["ratio"]) == pytest.approx(ratio, abs=0.06, rel=0.01)
        assert row["ratio"] in printed and row["torch"] == torch.__version__
        assert row["device"] and int(row["threads"]) >= 1


def test_all_covers_layouts_and_dtypes(benchmark, tmp_path):
    file = tmp_path / "out.csv"
    arguments = ["reassemble", "--all", "--repeats", "1", "--csv", str(file)]
    assert benchmark.main(arguments) == 0
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == 2 * 2 * 2 * 3  # shapes, directions, layouts, dtypes
    assert {row["dtype"] for row in rows} == {"float32", "float16", "bfloat16"}


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return 1.01 * grad


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda ours: lambda *a: 1.01 * ours(*a),
        lambda ours: lambda *a: ours(*a) * float("nan"),
        lambda ours: lambda x, *a: ours(_WrongGradient.apply(x), *a),
        lambda ours: lambda x, kernel, *a: ours(x, _WrongGradient.apply(kernel), *a),
    ],
    ids=["result", "nan", "first gradient", "second gradient"],
)
def test_refuses_when_results_disagree(benchmark, monkeypatch, tmp_path, capsys, spoilt):
    spoil(benchmark, monkeypatch, spoilt)
    file = tmp_path / "out.csv"
    assert benchmark.main(["--repeats", "1", "--csv", str(file)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and not file.exists()
    assert "no ratios: reassemble" in err and "differs from unfold's" in err


def test_memory_is_the_peak_less_the_results(benchmark):
    """Two buffers of 4000 bytes at a time, then one; the result has 40."""
    measure = sys.modules["measure"]

    def run():
        first = torch.ones(1000)
        second = first + 1
        del first
        return [second[:10].clone()]

    assert 7960 <= measure.peak_bytes(run, "cpu") < 8100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resemble"], "unknown operation 'resemble'; accepted are reassemble, local_similarity"),
        (["--repeats", "0"], "must be an integer >= 1, got '0'"),
        (["--csv", "/nowhere/out.csv"], "cannot write to the folder /nowhere"),
    ],
)
def test_bad_arguments(benchmark, capsys, arguments, words):
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(arguments)
    assert stopped.value.code == 2 and words in capsys.readouterr().err
