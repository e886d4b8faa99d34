"""tools/benchmark: reports what it measured, and refuses when results disagree."""

from __future__ import annotations

import csv
import functools
import importlib
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from mmdysample import build_upsampler, list_upsamplers
from mmdysample.engine.errors import UserError
from mmdysample.ops.backend import get_backend
from tests.utils import assert_close

ROOT = Path(__file__).parents[2]
DIRECTORY = ROOT / "tools" / "benchmark"
SEGFORMER = f"{ROOT}/configs/segformer/segformer_mit-b1_{{}}_8xb2-160k_ade20k-512x512.py"
PRIMITIVES = ("point_sample", "reassemble", "local_similarity")
MODULES = ("operations", "measure", "report", "run", "plot", "training_steps", "redirected_calls")


class Benchmark:
    """The tool's modules, which import each other as scripts do what lies beside them."""

    def __getitem__(self, name: str):
        return importlib.import_module(name)

    def run(self, *arguments: object) -> int:
        return self["run"].main(list(map(str, arguments)))


@pytest.fixture
def benchmark(monkeypatch):
    """With shapes that take milliseconds."""
    monkeypatch.syspath_prepend(DIRECTORY)
    modules = Benchmark()
    small = modules["operations"].Shape(2, 64, 6, 5)
    for name in ("STAGE", "FIGURE_8"):
        monkeypatch.setattr(modules["run"], name, small)
    monkeypatch.setitem(modules["measure"].COPIED_BYTES, "cpu", 2**16)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # maps this small gain nothing from more
    yield modules
    torch.set_num_threads(threads)
    for name in MODULES:
        sys.modules.pop(name, None)


def read(directory: Path) -> list[dict[str, str]]:
    with (directory / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_reports_ratios(benchmark, tmp_path, capsys):
    assert benchmark.run("--repeats", 3, "--out", tmp_path) == 0
    rows = read(tmp_path)
    assert [(row["operation"], row["direction"], row["implementation"]) for row in rows] == [
        (operation, direction, implementation)
        for operation in ("point_sample", "reassemble", "local_similarity")
        for direction in ("forward", "forward+backward")
        for implementation in ("ours", "naive")
    ]
    printed = capsys.readouterr().out
    for ours, naive in zip(rows[::2], rows[1::2], strict=True):
        for row in (ours, naive):
            p20, p50, p80 = (float(row[f"p{p}_ms"]) for p in (20, 50, 80))
            assert 0 < p20 <= p50 <= p80
            assert row["torch"] == torch.__version__ and row["device"]
            assert int(row["threads"]) >= 1
        ratio = float(naive["p50_ms"]) / float(ours["p50_ms"])
        assert float(naive["times_ours"]) == pytest.approx(ratio, rel=0.02, abs=0.001)
        assert f"{float(naive['times_ours']):.2f}x" in printed
    # Reassembly at 2x64x6x5: x, 25 kernels of 12x10 and the result, four bytes each.
    x, kernel, out = 2 * 64 * 30, 2 * 25 * 120, 2 * 64 * 120
    for row, elements in ((rows[4], x + kernel + out), (rows[6], 3 * (x + kernel) + 2 * out)):
        assert float(row["least_mib"]) == pytest.approx(4 * elements / 2**20, abs=6e-4)
        rate = 4 * elements / (float(row["p50_ms"]) / 1000) / 1e9
        assert float(row["gb_per_s"]) == pytest.approx(rate, abs=0.06, rel=0.01)
        share = rate / float(row["copy_gb_per_s"])
        assert float(row["share_of_copy"]) == pytest.approx(share, abs=0.02, rel=0.2)


@pytest.mark.slow
def test_latency_has_every_upsampler_and_is_drawn(benchmark, tmp_path):
    pytest.importorskip(
        "matplotlib", reason="needs matplotlib: bash tools/setup_env.sh installs it"
    )
    assert benchmark.run("--suite", "latency", "--repeats", 1, "--out", tmp_path) == 0
    rows = read(tmp_path)
    operations = benchmark["operations"]
    presets = operations.read_presets()
    assert {row["operation"] for row in rows} == {*presets, *PRIMITIVES}
    assert {preset["type"] for preset in presets.values()} == set(list_upsamplers())
    measured = {(row["operation"], row["implementation"]) for row in rows}
    for name in ("dysample", "dysample-s-plus", "carafe", "fade", "sapa-b", "a2u"):
        assert {(name, "ours"), (name, "naive"), (name, "bilinear")} <= measured
    assert ("deconv", "naive") not in measured and ("nearest", "bilinear") not in measured
    # what Table 4 of the paper counts, for one stage
    dysample = next(
        r for r in rows if (r["operation"], r["implementation"]) == ("dysample", "ours")
    )
    upsampler = build_upsampler(dict(type="DySample"), 64, 2)
    assert int(dysample["weights"]) == 2 * 4 * 4 * 64
    flops = 2 * sum(upsampler.flops(6, 5).values())
    assert float(dysample["gflops"]) == pytest.approx(flops / 1e9, abs=5e-5)

    plot = benchmark["plot"]
    assert set(plot.sorted_upsamplers(rows)) == set(presets)
    assert plot.main([str(tmp_path)]) is None
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")


def test_dtypes_and_memory_formats(benchmark, tmp_path):
    """A result of similarities is float32, also of half precision: 25 of four bytes a pixel."""
    dtypes, formats = ("float32", "float16", "bfloat16"), ("contiguous", "channels_last")
    arguments = ("local_similarity", "dysample", "--suite", "latency", "--repeats", 1)
    arguments += ("--dtypes", *dtypes, "--formats", *formats)
    assert benchmark.run(*arguments, "--out", tmp_path) == 0
    ours = [row for row in read(tmp_path) if row["implementation"] == "ours"]
    assert len(ours) == 2 * 3 * 2 * 2  # operations, dtypes, formats, directions
    assert {(row["dtype"], row["memory_format"]) for row in ours} == {
        (dtype, memory_format) for dtype in dtypes for memory_format in formats
    }
    assert benchmark["operations"].EMBEDDING == 32
    query, key, out = 2 * 32 * 120, 2 * 32 * 30, 2 * 25 * 120
    least = {row["dtype"]: row["least_mib"] for row in ours[::2] if row["weights"] == "0"}
    assert float(least["float16"]) == pytest.approx(
        (2 * query + 2 * key + 4 * out) / 2**20, abs=6e-4
    )


def test_offsets_are_float32_in_any_precision(benchmark):
    operations = benchmark["operations"]
    place = operations.Place("cpu", torch.bfloat16)
    work = operations.make_point_sample(operations.Shape(1, 8, 3, 4), place)
    assert [x.dtype for x in work.inputs] == [torch.bfloat16, torch.float32]


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
        lambda ours, x, kernel: ours(x, kernel.detach()),
    ],
    ids=["result", "nan", "first gradient", "second gradient", "no gradient"],
)
def test_refuses_when_results_disagree(benchmark, monkeypatch, tmp_path, capsys, spoilt):
    """The one operation: others are reported."""
    operations = benchmark["operations"]
    ours = operations.reassemble

    def spoil(x, kernel, *settings):
        return spoilt(lambda x, kernel: ours(x, kernel, *settings), x, kernel)

    monkeypatch.setattr(operations, "reassemble", spoil)
    arguments = ("--repeats", 1, "--out")
    assert benchmark.run("reassemble", *arguments, tmp_path / "one") == 1
    out, err = capsys.readouterr()
    # a wrong gradient is found after the forward pass alone was measured, and nothing is printed
    assert out == ""
    assert "no ratios: reassemble" in err and "naive" in err
    assert os.listdir(tmp_path / "one") == []
    assert benchmark.run("reassemble", "point_sample", *arguments, tmp_path / "two") == 1
    assert {row["operation"] for row in read(tmp_path / "two")} == {"point_sample"}


def test_naive_upsamplers_use_no_primitive_of_the_library(benchmark, monkeypatch):
    """They would compare the library with itself."""
    operations = benchmark["operations"]
    place = operations.Place("cpu", torch.float32)
    made = {operation.name: operation for operation in operations.UPSAMPLERS}
    for name in ("carafe", "fade", "sapa-b", "a2u", "dysample"):
        work = made[name].build(operations.Shape(2, 64, 6, 5), place)
        module = sys.modules[f"mmdysample.upsamplers.{name.split('-')[0]}"]
        primitives = [each for each in PRIMITIVES if hasattr(module, each)]
        assert primitives
        with monkeypatch.context() as patch:
            for primitive in primitives:
                patch.setattr(module, primitive, pytest.fail)
            assert work.implementations["naive"]().shape == (2, 64, 12, 10)


@pytest.mark.parametrize(
    "settings",
    [
        dict(initial_position="nearest"),
        dict(scope_factor=0.1),
        dict(dyscope=True, scope_factor=2.0, style="pl"),
    ],
    ids=str,
)
def test_the_naive_dysample_has_the_settings_of_ours(benchmark, settings):
    operations = benchmark["operations"]
    place = operations.Place("cpu", torch.float32)
    cfg = dict(type="DySample", **settings)
    work = operations.make_upsampler(cfg, operations.Shape(1, 16, 4, 3), place)
    assert_close(work.implementations["ours"](), work.implementations["naive"]())


def test_an_upsampler_that_does_not_say_what_it_costs_is_measured(benchmark, monkeypatch):
    operations = benchmark["operations"]
    monkeypatch.delattr("mmdysample.upsamplers.CARAFE.flops")
    place, shape = operations.Place("cpu", torch.float32), operations.Shape(2, 64, 6, 5)
    assert operations.make_upsampler(dict(type="CARAFE"), shape, place).flops is None


def test_memory_is_the_peak_less_the_results(benchmark):
    """Two buffers of 4000 bytes at a time, then one; the result has 2000."""

    def run():
        first = torch.ones(1000)
        second = first + 1
        del first
        return [second[:500].clone()]

    assert 6000 <= benchmark["measure"].peak_bytes(run, "cpu") < 6100


def test_percentiles(benchmark):
    measurement = benchmark["measure"].Measurement(0, [float(i) for i in range(101)])
    assert [measurement.percentile(p) for p in (20, 50, 80)] == [20, 50, 80]


def test_the_backward_pass_without_kernels_has_none_either(benchmark):
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
    run = benchmark["measure"].without_kernels(
        lambda: [torch.autograd.grad(Watched.apply(x).sum(), x)[0]]
    )
    run()
    assert seen == ["torch", "torch"]
    assert get_backend() == "auto"


def test_an_interrupted_run_keeps_what_it_measured(benchmark, monkeypatch, tmp_path):
    run, calls = benchmark["run"], []
    measure = run.measure

    def interrupted(case, repeats):
        calls.append(case)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(case, repeats)

    monkeypatch.setattr(run, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        benchmark.run("--repeats", 1, "--out", tmp_path)
    assert len(read(tmp_path)) == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["resemble"], "unknown operation 'resemble'; accepted are point_sample, reassemble,"),
        (["--repeats", "0"], "must be an integer >= 1, got '0'"),
        (["--threads", "100000"], "must be an integer <= 1024, got '100000'"),
        (["--suite", "figure8"], "invalid choice: 'figure8'"),
        (["dysample"], "'ratios' has none of these operations, only point_sample, "),
        (["--out", "/proc/nowhere"], "--out /proc/nowhere cannot be made"),
        (["--out", __file__], "cannot be made: file exists"),
        (["--out", "earlier"], "has results.csv already"),
    ],
)
def test_wrong_arguments(benchmark, monkeypatch, capsys, tmp_path, arguments, says):
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier/results.csv").write_text("kept")
    monkeypatch.chdir(tmp_path)
    with pytest.raises((SystemExit, UserError)) as stopped:
        benchmark.run(*arguments)
    assert says in capsys.readouterr().err + str(stopped.value)
    assert (tmp_path / "earlier/results.csv").read_text() == "kept"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "results.csv does not exist: run.py --out"),
        (b"a,b\n1,2\n", "has no measurements of run.py"),
        (b"\xff\xfe\x00", "is not a CSV file of run.py"),
        ((ROOT / "docs/benchmarks/cpu-amd-epyc/ratios.csv").read_bytes(), "not have the suite"),
    ],
)
def test_what_cannot_be_drawn(benchmark, tmp_path, content, says):
    pytest.importorskip(
        "matplotlib", reason="needs matplotlib: bash tools/setup_env.sh installs it"
    )
    if content is not None:
        (tmp_path / "results.csv").write_bytes(content)
    with pytest.raises(UserError, match=says):
        benchmark["plot"].main([str(tmp_path)])
    assert not (tmp_path / "latency.png").exists()


@pytest.mark.slow
def test_training_steps_are_compared_with_bilinear(benchmark, tmp_path, capsys):
    pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")
    training = benchmark["training_steps"]
    configs = [SEGFORMER.format(slug) for slug in ("bilinear", "fade")]
    training.main([*configs, "--crop", "64", "--repeats", "2", "--out", str(tmp_path)])
    with (tmp_path / "training.csv").open(newline="") as file:
        bilinear, fade = csv.DictReader(file)
    assert (bilinear["times_bilinear"], bilinear["memory_times_bilinear"]) == ("1.000", "1.000")
    assert fade["upsampler"] == "FADE" and int(fade["added_weights"]) == 6 * 47_424
    ratio = float(fade["p50_ms"]) / float(bilinear["p50_ms"])
    assert float(fade["times_bilinear"]) == pytest.approx(ratio, abs=2e-3)
    assert float(fade["peak_mib"]) > 0 and "of bilinear" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--crop", "100"], "--crop must be a multiple of 32, got 100"),
        (["--batch-size", "0"], "must be an integer >= 1, got '0'"),
        (["nowhere.py"], "nowhere.py does not exist"),
        ([str(ROOT / "configs/shapes/faster-rcnn_r18_fpn_nearest_shapes.py")], "of a segmentor"),
        ([SEGFORMER.format("fade"), "--out", "."], "has training.csv already"),
    ],
)
def test_wrong_arguments_of_training_steps(
    benchmark, monkeypatch, capsys, tmp_path, arguments, says
):
    (tmp_path / "training.csv").write_text("kept")
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")
    with pytest.raises((SystemExit, UserError)) as stopped:
        benchmark["training_steps"].main(arguments)
    assert says in capsys.readouterr().err + str(stopped.value)


CALLS = {"one-call": 1, "top-down": 3, "segformer-head": 3, "whole-network": 2, "module": 1}


@pytest.mark.parametrize(
    ("mode", "models"),
    [
        ("eager", list(CALLS)),
        pytest.param("compiled", ["one-call"], marks=pytest.mark.slow),
    ],
)
def test_redirected_calls_are_compared_with_plain_ones(
    benchmark, monkeypatch, tmp_path, capsys, mode, models
):
    redirected = benchmark["redirected_calls"]
    small = {name: subject._replace(image=64) for name, subject in redirected.SUBJECTS.items()}
    monkeypatch.setattr(redirected, "SUBJECTS", small)
    # without the C++ compiler, whose code the tests of the upsamplers run
    compiled = Mock(side_effect=functools.partial(torch.compile, backend="eager"))
    monkeypatch.setattr(torch, "compile", compiled)
    redirected.main([*models, "--repeats", "2", "--modes", mode, "--out", str(tmp_path)])
    with (tmp_path / "redirected_calls.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], int(row["calls"])) for row in rows] == [(m, CALLS[m]) for m in models]
    for row in rows:
        plain, swapped = float(row["plain_p50_us"]), float(row["swapped_p50_us"])
        added = (swapped - plain) / int(row["calls"])  # of two pairs the medians are the means
        assert float(row["added_us_per_call"]) == pytest.approx(added, abs=0.2)
        assert float(row["ratio_p20"]) <= float(row["ratio_p50"]) <= float(row["ratio_p80"])
        assert row["mode"] == mode and plain > 0
    assert "added, us" in capsys.readouterr().out
    assert compiled.call_count == (2 * len(models) if mode == "compiled" else 0)


def test_ratios_of_redirected_calls_are_those_of_pairs(benchmark, monkeypatch):
    redirected = benchmark["redirected_calls"]
    taken = dict(plain=[1.0, 2.0, 4.0], swapped=[2.0, 2.0, 12.0])
    monkeypatch.setattr(redirected, "alternate", lambda *arguments: taken)
    row = redirected.measure("one-call", "eager", "cpu", 3)
    assert (row["plain_p50_us"], row["swapped_p50_us"]) == ("2000000.0", "2000000.0")
    assert row["ratio_p50"] == "2.000", "of 2, 1 and 3"
    assert row["added_us_per_call"] == "1000000.0", "of 1, 0 and 8 s"


def test_redirected_calls_must_compute_what_plain_ones_do(benchmark, monkeypatch):
    redirected = benchmark["redirected_calls"]
    subject = redirected.SUBJECTS["one-call"]._replace(upsampler="Bilinear")
    monkeypatch.setitem(redirected.SUBJECTS, "one-call", subject)
    with pytest.raises(benchmark["measure"].DisagreementError, match="one-call: the swapped model"):
        redirected.measure("one-call", "eager", "cpu", 1)


def test_redirected_calls_alternate(benchmark, monkeypatch):
    """Who begins changes, so that neither always finds the caches of the other."""
    order = []
    runs = {name: (lambda name=name: order.append(name)) for name in ("plain", "swapped")}

    def seconds(run, device):
        before = len(order)
        run()
        return 0.002 * (len(order) - before)

    redirected = benchmark["redirected_calls"]
    monkeypatch.setattr(redirected, "seconds", seconds)
    monkeypatch.setattr(redirected, "LEAST_SECONDS", 0.003)
    taken = redirected.alternate(runs, 3, "cpu")
    turns = ["plain", "swapped", "swapped", "plain", "plain", "swapped"]
    assert order[5:] == [name for name in turns for _ in range(2)], "5 to see how long one takes"
    assert taken == dict(plain=[0.002] * 3, swapped=[0.002] * 3)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fpn"], "unknown model 'fpn'; accepted are one-call, top-down, segformer-head,"),
        (["--repeats", "0"], "must be an integer >= 1, got '0'"),
        (["--out", "."], "has redirected_calls.csv already"),
    ],
)
def test_wrong_arguments_of_redirected_calls(
    benchmark, monkeypatch, capsys, tmp_path, arguments, says
):
    (tmp_path / "redirected_calls.csv").write_text("kept")
    monkeypatch.chdir(tmp_path)
    with pytest.raises((SystemExit, UserError)) as stopped:
        benchmark["redirected_calls"].main(arguments)
    assert says in capsys.readouterr().err + str(stopped.value)


def test_it_runs_from_a_checkout_as_a_script(tmp_path):
    """With torch alone, on a machine where nothing is installed."""
    without_openmmlab = "import sys; sys.modules.update(mmengine=None, mmcv=None, cv2=None)\n"
    (tmp_path / "sitecustomize.py").write_text(without_openmmlab)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    result = subprocess.run(
        [sys.executable, DIRECTORY / "run.py", "--help"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "sapa-b" in result.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="would run for minutes where there is a GPU")
def test_the_gpu_command_says_what_it_needs(tmp_path):
    def call(*arguments: object) -> str:
        environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}
        result = subprocess.run(
            ["bash", DIRECTORY / "gpu.sh", *arguments], capture_output=True, text=True,
            env=environment,
        )  # fmt: skip
        assert result.returncode == 2
        return result.stderr

    assert "usage: bash tools/benchmark/gpu.sh DIR" in call()
    assert "sees no CUDA GPU" in call(tmp_path / "new")
    (tmp_path / "results.csv").write_text("kept")
    assert "has results.csv already" in call(tmp_path)
    assert os.listdir(tmp_path) == ["results.csv"]
