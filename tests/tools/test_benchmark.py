"""tools/benchmark: reports what it measured, and refuses when results disagree."""

from __future__ import annotations

import csv
import importlib
import json
import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from mmdysample import build_upsampler, list_upsamplers
from mmdysample.ops.backend import get_backend

FOLDER = Path(__file__).parents[2] / "tools" / "benchmark"
MODULES = ("operations", "measure", "report", "run")


@pytest.fixture
def benchmark(monkeypatch):
    """The tool's main module, with shapes that take milliseconds."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    run = importlib.import_module("run")
    operations, measure = sys.modules["operations"], sys.modules["measure"]
    small = operations.Shape(2, 64, 6, 5)
    for name in ("STAGE", "FIGURE_8"):
        monkeypatch.setattr(operations, name, small)
        monkeypatch.setattr(run, name, small)
    monkeypatch.setitem(measure.COPIED_BYTES, "cpu", 2**16)
    yield run
    for name in MODULES:
        sys.modules.pop(name, None)


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_reports_ratios(benchmark, tmp_path, capsys):
    assert benchmark.main(["--repeats", "3", "--out", str(tmp_path)]) == 0
    rows = read(tmp_path)
    assert [(row["operation"], row["direction"], row["way"]) for row in rows] == [
        (operation, direction, way)
        for operation in ("point_sample", "reassemble", "local_similarity")
        for direction in ("forward", "forward+backward")
        for way in ("ours", "naive")
    ]
    printed = capsys.readouterr().out
    for ours, naive in zip(rows[::2], rows[1::2], strict=True):
        for row in (ours, naive):
            p20, p50, p80 = (float(row[f"p{p}_ms"]) for p in (20, 50, 80))
            assert 0 < float(row["best_ms"]) <= p20 <= p50 <= p80
            assert row["torch"] == torch.__version__ and row["device"]
            assert int(row["threads"]) >= 1
        ratio = float(naive["p50_ms"]) / float(ours["p50_ms"])
        assert float(naive["times_ours"]) == pytest.approx(ratio, rel=0.02, abs=0.001)
        assert f"{float(naive['times_ours']):.2f}x" in printed
    assert json.loads((tmp_path / "results.json").read_text()) == rows


def test_latency_has_every_upsampler_and_primitive(benchmark, tmp_path):
    assert benchmark.main(["--suite", "latency", "--repeats", "1", "--out", str(tmp_path)]) == 0
    rows = read(tmp_path)
    operations = sys.modules["operations"]
    assert {row["operation"] for row in rows} == set(operations.OPERATIONS)
    types = {operation["type"] for operation in operations.read_presets().values()}
    assert types == set(list_upsamplers())
    ways = {(row["operation"], row["way"]) for row in rows}
    for name in ("dysample", "dysample-s-plus", "carafe", "fade", "sapa-b", "a2u"):
        assert {(name, "ours"), (name, "naive"), (name, "bilinear")} <= ways
    assert ("deconv", "naive") not in ways and ("nearest", "bilinear") not in ways
    # what Table 4 of the paper counts, for one stage
    dysample = next(row for row in rows if (row["operation"], row["way"]) == ("dysample", "ours"))
    upsampler = build_upsampler(dict(type="DySample"), 64, 2)
    assert int(dysample["weights"]) == 2 * 4 * 4 * 64
    flops = 2 * sum(upsampler.flops(6, 5).values())
    assert float(dysample["gflops"]) == pytest.approx(flops / 1e9, abs=5e-5)


def test_least_bytes_by_hand(benchmark, tmp_path):
    """Reassembly at 2x64x6x5: x, 25 kernels of 12x10 and the result, four bytes each."""
    arguments = ["reassemble", "--repeats", "2", "--out", str(tmp_path)]
    assert benchmark.main(arguments) == 0
    forward, _, backward, _ = read(tmp_path)
    x, kernel, out = 2 * 64 * 30, 2 * 25 * 120, 2 * 64 * 120
    for row, elements in ((forward, x + kernel + out), (backward, 3 * (x + kernel) + 2 * out)):
        assert float(row["least_mib"]) == pytest.approx(4 * elements / 2**20, abs=6e-4)
        rate = 4 * elements / (float(row["p50_ms"]) / 1000) / 1e9
        assert float(row["gb_per_s"]) == pytest.approx(rate, abs=0.06, rel=0.01)
        share = rate / float(row["copy_gb_per_s"])
        assert float(row["share_of_copy"]) == pytest.approx(share, abs=0.02, rel=0.2)


def test_dtypes_and_layouts(benchmark, tmp_path):
    arguments = ["reassemble", "dysample", "--suite", "latency", "--repeats", "1"]
    arguments += ["--dtypes", "float32", "float16", "bfloat16"]
    arguments += ["--formats", "contiguous", "channels_last", "--out", str(tmp_path)]
    assert benchmark.main(arguments) == 0
    ours = [row for row in read(tmp_path) if row["way"] == "ours"]
    assert len(ours) == 2 * 3 * 2 * 2  # operations, dtypes, layouts, directions
    assert {row["dtype"] for row in ours} == {"float32", "float16", "bfloat16"}


def test_sweeps_tell_how_time_grows(benchmark, monkeypatch, tmp_path, capsys):
    """With a clock that runs as the square of the channels and linearly in the batch."""
    measure = sys.modules["measure"]
    monkeypatch.setattr(sys.modules["operations"], "STAGE", benchmark.STAGE._replace(batch=1))
    clock = iter(
        channels**2 * batch / 1e6
        for channels, batch in [(c, 1) for c in (64, 128, 256, 512)]
        + [(64, b) for b in (1, 2, 4, 8)]
        for _ in ("forward", "forward+backward")
    )
    monkeypatch.setattr(
        sys.modules["operations"],
        "sweeps",
        lambda name: {
            "channels": [
                benchmark.STAGE._replace(batch=1, channels=c) for c in (64, 128, 256, 512)
            ],
            "batch": [benchmark.STAGE._replace(batch=b) for b in (1, 2, 4, 8)],
        },
    )
    monkeypatch.setattr(benchmark, "copy_bandwidth", lambda device: 1e9)
    monkeypatch.setattr(measure, "seconds", lambda run, device: next(clock))
    arguments = ["nearest", "--suite", "sweeps", "--repeats", "1", "--out", str(tmp_path)]
    assert benchmark.main(arguments) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    slopes = {
        (line[1], line[3]): line[6] for line in lines if line[:1] == ["nearest"] and len(line) == 8
    }
    assert slopes["channels", "forward"] == "2.00"
    assert slopes["batch", "forward+backward"] == "1.00"


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
        lambda ours, x, kernel: 1.01 * ours(x, kernel),
        lambda ours, x, kernel: ours(x, kernel) * float("nan"),
        lambda ours, x, kernel: ours(_WrongGradient.apply(x), kernel),
        lambda ours, x, kernel: ours(x, _WrongGradient.apply(kernel)),
    ],
    ids=["result", "nan", "first gradient", "second gradient"],
)
def test_refuses_when_results_disagree(benchmark, monkeypatch, tmp_path, capsys, spoilt):
    operations = sys.modules["operations"]
    ours = operations.reassemble

    def spoil(x, kernel, *settings):
        return spoilt(lambda x, kernel: ours(x, kernel, *settings), x, kernel)

    monkeypatch.setattr(operations, "reassemble", spoil)
    assert benchmark.main(["reassemble", "--repeats", "1", "--out", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    # a wrong gradient is found after the forward pass alone was measured, and nothing is printed
    assert out == ""
    assert "no ratios: reassemble" in err and "differs from the naive way's" in err
    assert list(tmp_path.iterdir()) == []


def test_naive_upsamplers_use_no_primitive_of_the_library(benchmark, monkeypatch):
    """Neither while they run, nor does anything of it stay."""
    operations = sys.modules["operations"]
    place = operations.Place("cpu", torch.float32)
    for name in ("carafe", "fade", "sapa-b", "a2u", "dysample"):
        work = operations.OPERATIONS[name].build(benchmark.STAGE, place)
        module = sys.modules[f"mmdysample.upsamplers.{name.split('-')[0]}"]
        with monkeypatch.context() as patch:
            before = {}
            for primitive in operations.NAIVE:
                if hasattr(module, primitive):
                    before[primitive] = partial(pytest.fail, f"{primitive} was called")
                    patch.setattr(module, primitive, before[primitive])
            assert before
            assert work.ways["naive"]().shape == (2, 64, 12, 10)
            for primitive, function in before.items():
                assert getattr(module, primitive) is function


def test_memory_is_the_peak_less_the_results(benchmark):
    """Two buffers of 4000 bytes at a time, then one; the result has 40."""
    measure = sys.modules["measure"]

    def run():
        first = torch.ones(1000)
        second = first + 1
        del first
        return [second[:10].clone()]

    assert 7960 <= measure.peak_bytes(run, "cpu") < 8100


def test_percentiles_and_slopes(benchmark):
    measurement = sys.modules["measure"].Measurement("ours", 0, [float(i) for i in range(101)])
    assert [measurement.percentile(p) for p in (20, 50, 80)] == [20, 50, 80]
    slope = sys.modules["report"].log_slope([(n, 3 * math.sqrt(n)) for n in (10, 20, 40, 80)])
    assert slope == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resemble"], "unknown operation 'resemble'; accepted are point_sample, reassemble,"),
        (["--repeats", "0"], "must be an integer >= 1, got '0'"),
        (["--out", "/proc/nowhere"], "--out /proc/nowhere cannot be made"),
        (["--out", __file__], "is a file; it must be a folder"),
        (["--suite", "figure8"], "invalid choice: 'figure8'"),
    ],
)
def test_bad_arguments(benchmark, capsys, arguments, words):
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(arguments)
    assert stopped.value.code == 2 and words in capsys.readouterr().err


def test_earlier_results_are_not_overwritten(benchmark, tmp_path, capsys):
    (tmp_path / "results.csv").write_text("kept")
    with pytest.raises(SystemExit):
        benchmark.main(["--out", str(tmp_path)])
    assert "has results.csv already" in capsys.readouterr().err
    assert (tmp_path / "results.csv").read_text() == "kept"


def test_operations_outside_the_suite(benchmark, capsys):
    assert benchmark.main(["dysample", "--suite", "ratios"]) == 2
    assert "has none of these operations, only point_sample" in capsys.readouterr().err


def test_an_interrupted_run_keeps_what_it_measured(benchmark, monkeypatch, tmp_path, capsys):
    measure, calls = benchmark.measure, []

    def interrupted(case, repeats):
        calls.append(case)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(case, repeats)

    monkeypatch.setattr(benchmark, "measure", interrupted)
    assert benchmark.main(["--repeats", "1", "--out", str(tmp_path)]) == 130
    assert f"4 rows are in {tmp_path}" in capsys.readouterr().err
    assert len(read(tmp_path)) == 4


def test_plots(benchmark, tmp_path):
    pytest.importorskip(
        "matplotlib", reason="needs matplotlib: bash tools/setup_env.sh installs it"
    )
    plot = [sys.executable, FOLDER / "plot.py", tmp_path]
    missing = subprocess.run(plot, capture_output=True, text=True)
    assert missing.returncode == 2 and "does not exist: run.py --out" in missing.stderr
    names = ["dysample", "carafe", "bilinear"]
    assert benchmark.main([*names, "--suite", "all", "--repeats", "1", "--out", str(tmp_path)]) == 0
    subprocess.run(plot, check=True, capture_output=True)
    for name in ("latency.png", "growth.png"):
        picture = (tmp_path / name).read_bytes()
        assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
    for path in tmp_path.iterdir():
        path.unlink()
    (tmp_path / "results.csv").write_text("a,b\n1,2\n")
    wrong = subprocess.run(plot, capture_output=True, text=True)
    assert wrong.returncode == 2 and "no measurements of run.py" in wrong.stderr


def test_training_compares_with_bilinear(benchmark, tmp_path, capsys):
    pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")
    training = importlib.import_module("training")
    name = "segformer/segformer_mit-b1_{}_8xb2-160k_ade20k-512x512.py"
    configs = [
        str(FOLDER.parents[1] / "configs" / name.format(slug)) for slug in ("bilinear", "fade")
    ]
    arguments = ["--crop", "64", "--repeats", "2", "--out", str(tmp_path)]
    assert training.main([*configs, *arguments]) == 0
    with (tmp_path / "training.csv").open(newline="") as file:
        bilinear, fade = csv.DictReader(file)
    assert (bilinear["times_bilinear"], bilinear["memory_times_bilinear"]) == ("1.000", "1.000")
    assert fade["upsampler"] == "FADE" and int(fade["added_weights"]) == 6 * 47_424
    ratio = float(fade["p50_ms"]) / float(bilinear["p50_ms"])
    assert float(fade["times_bilinear"]) == pytest.approx(ratio, abs=2e-3)
    assert float(fade["peak_mib"]) > 0 and "of bilinear" in capsys.readouterr().out
    for arguments, words in [
        (["--crop", "100"], "--crop must be a multiple of 32, got 100"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["nowhere.py"], "nowhere.py does not exist"),
        (["--out", str(tmp_path)], "has training.csv already"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            training.main(arguments)
        assert stopped.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="would run for minutes where there is a GPU")
def test_the_gpu_command_says_what_it_needs(tmp_path):
    script = str(FOLDER / "gpu.sh")
    usage = subprocess.run(["bash", script], capture_output=True, text=True)
    assert usage.returncode == 2 and "usage: bash tools/benchmark/gpu.sh FOLDER" in usage.stderr
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}
    result = subprocess.run(
        ["bash", script, str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 2 and "sees no CUDA GPU" in result.stderr


def test_least_bytes_of_similarities_are_those_of_their_float32_result(benchmark, tmp_path):
    """In half precision: 2x32 queries and keys of two bytes, and 25 results of four."""
    operations = sys.modules["operations"]
    arguments = ["local_similarity", "--dtypes", "float16", "--repeats", "1"]
    assert benchmark.main([*arguments, "--out", str(tmp_path)]) == 0
    forward = read(tmp_path)[0]
    query, key, out = 2 * 32 * 120, 2 * 32 * 30, 2 * 25 * 120
    assert operations.EMBEDDING == 32
    least = 2 * (query + key) + 4 * out
    assert float(forward["least_mib"]) == pytest.approx(least / 2**20, abs=6e-4)


def test_one_operation_that_is_refused_leaves_the_others(benchmark, monkeypatch, tmp_path, capsys):
    operations = sys.modules["operations"]
    monkeypatch.setattr(operations, "reassemble", lambda *a: 2 * operations.naive.reassemble(*a))
    assert benchmark.main(["--repeats", "1", "--out", str(tmp_path)]) == 1
    assert {row["operation"] for row in read(tmp_path)} == {"point_sample", "local_similarity"}
    assert "no ratios: reassemble" in capsys.readouterr().err


def test_the_way_without_kernels_has_none_in_its_backward_pass_either(benchmark):
    measure = sys.modules["measure"]
    seen = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            seen.append(get_backend())
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            seen.append(get_backend())
            return grad

    x = torch.zeros(2, requires_grad=True)
    run = measure.without_kernels(lambda: [torch.autograd.grad(Watched.apply(x).sum(), x)[0]])
    run()
    assert seen == ["torch", "torch"]
    assert get_backend() == "auto"


def test_an_upsampler_that_does_not_say_what_it_costs_is_measured(benchmark, monkeypatch):
    operations = sys.modules["operations"]
    monkeypatch.delattr("mmdysample.upsamplers.CARAFE.flops")
    place = operations.Place("cpu", torch.float32)
    work = operations.OPERATIONS["carafe"].build(benchmark.STAGE, place)
    assert work.flops is None and work.ways["ours"]().shape == (2, 64, 12, 10)
    assert operations.OPERATIONS["dysample"].build(benchmark.STAGE, place).flops > 0


def test_the_gpu_command_keeps_earlier_results(tmp_path):
    (tmp_path / "results.csv").write_text("kept")
    command = ["bash", str(FOLDER / "gpu.sh"), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and "has results.csv already" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]
