"""Which path computes, and what the Triton kernels are to torch.compile."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmdysample import DySample
from mmdysample.ops import backend, kernel_check, local_similarity, point_sample, reassemble
from mmdysample.ops.backend import get_backend, set_backend, use_backend
from tests.ops.triton_cases import CUDA, DEVICE, needs_gpu, needs_triton
from tests.ops.windows import Function
from tests.utils import assert_close

ROOT = Path(__file__).resolve().parents[2]
CASES = {
    "point_sample": (point_sample, (1, 4, 3, 5), (1, 16, 3, 5), (2, 2)),
    "reassemble": (reassemble, (1, 4, 3, 5), (1, 18, 6, 10), (3, 2, 2)),
    "local_similarity": (local_similarity, (1, 4, 6, 10), (1, 4, 3, 5), (3, 2)),
}


def make_inputs(name: str, **options) -> list[torch.Tensor]:
    return [torch.randn(shape, device=DEVICE, **options) for shape in CASES[name][1:3]]


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    environment = {"PYTHONWARNINGS": "ignore", **environment}
    kept = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_settings():
    assert get_backend() == "auto"
    with use_backend("torch"):
        with pytest.raises(RuntimeError, match="out"), use_backend("triton"):
            assert get_backend() == "triton"
            raise RuntimeError("out")
        assert get_backend() == "torch"
    assert get_backend() == "auto"
    set_backend("torch")
    assert get_backend() == "torch"
    set_backend("auto")


@pytest.mark.parametrize("value", ["cuda", "", None])
def test_unknown_backend(value):
    with pytest.raises(ValueError, match="must be one of auto, torch, triton, got"):
        set_backend(value)
    assert get_backend() == "auto"


def test_an_unknown_backend_in_the_environment(monkeypatch):
    monkeypatch.setattr(backend, "_backend", "gpu")
    message = "MMDYSAMPLE_BACKEND must be one of auto, torch, triton, got 'gpu'"
    with pytest.raises(ValueError, match=message):
        point_sample(torch.zeros(1, 4, 3, 5), torch.zeros(1, 16, 3, 5), 2, 2)


MISSING = """
import sys
import torch
from mmdysample import DySample
from mmdysample.ops import backend
print(backend.get_backend())
backend.set_backend('auto')
DySample(8)(torch.zeros(1, 8, 2, 3))
print('triton' in sys.modules)
sys.modules['triton'] = None
print(DySample(8)(torch.zeros(1, 8, 2, 3)).shape)
backend.set_backend('triton')
backend._interpreted = True
DySample(8)(torch.zeros(1, 8, 2, 3))
"""


def test_triton_is_imported_where_it_is_used_and_may_be_missing():
    result = python(MISSING, MMDYSAMPLE_BACKEND="torch")
    assert result.stdout.splitlines() == ["torch", "False", "torch.Size([1, 8, 4, 6])"]
    assert result.stderr.strip().splitlines()[-1] == (
        "RuntimeError: MMDYSAMPLE_BACKEND=triton or set_backend('triton') demands Triton for "
        "point_sample, but Triton is not installed"
    )


@pytest.fixture
def fake_triton(tmp_path, monkeypatch):
    """Puts a package of this name and text in the place of Triton."""

    def make(text: str) -> None:
        (tmp_path / "triton").mkdir()
        (tmp_path / "triton" / "__init__.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        for name in [name for name in sys.modules if name.split(".")[0] == "triton"]:
            monkeypatch.delitem(sys.modules, name)

    return make


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("2.1.0", "Triton is 2.1.0, and 3.0 is the oldest usable"),
        ("3.0.0", None),
        ("10.2+git", None),
        (None, "Triton is not installed"),  # a directory of this name,
    ],
)
def test_old_triton(version, reason, fake_triton):
    text = f"__version__ = '{version}'\n" if version else ""
    fake_triton(f'"""doc"""\n{text}')
    assert kernel_check.missing(torch.device("cpu")) == reason


def test_pytorch_computes_where_triton_cannot_be_imported(fake_triton, monkeypatch):
    """It looks for drivers and compilers at its import."""
    fake_triton("raise RuntimeError('0 active drivers ([])\\nThere should only be one.')\n")
    function, *_, settings = CASES["point_sample"]
    inputs = make_inputs("point_sample")
    with use_backend("torch"):
        expected = function(*inputs, *settings)
    monkeypatch.setattr(backend, "_reason_against", lambda pixels, maps: None)
    reason = "Triton cannot be imported (RuntimeError: 0 active drivers ([]))"
    with pytest.warns(RuntimeWarning) as caught:
        assert_close(function(*inputs, *settings), expected)
    (warning,) = caught
    assert str(warning.message) == f"{reason}; PyTorch's own operators compute it"
    with use_backend("triton"), pytest.raises(RuntimeError, match="Triton cannot be imported"):
        function(*inputs, *settings)


@pytest.mark.parametrize("name", CASES)
def test_auto_on_the_cpu_is_pytorch_and_says_so(name, caplog):
    caplog.set_level(logging.DEBUG, logger="mmdysample")
    function, *shapes, settings = CASES[name]
    function(*map(torch.zeros, shapes), *settings)
    (message,) = caplog.messages
    assert str(shapes[0]) in message
    assert message.endswith("by PyTorch: tensors are on cpu, and Triton is for CUDA")


@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_triton_says_so(name, caplog):
    caplog.set_level(logging.DEBUG, logger="mmdysample")
    inputs = make_inputs(name)
    with use_backend("auto" if CUDA else "triton"):
        CASES[name][0](*inputs, *CASES[name][3])
    assert [message.rsplit(" ", 2)[1:] for message in caplog.messages] == [["by", "Triton"]]
    caplog.clear()
    with use_backend("torch"):
        CASES[name][0](*inputs, *CASES[name][3])
    assert caplog.messages[0].endswith("by PyTorch: Triton is switched off")


def test_reasons_against(monkeypatch):
    monkeypatch.setattr(backend, "_backend", "triton")
    monkeypatch.setattr(backend, "_interpreted", True)
    x = torch.zeros(1)
    assert backend._reason_against(1, (x, x.half(), x.bfloat16(), x.double())) is None
    eight_bits = x.to(torch.float8_e5m2)
    assert backend._reason_against(1, (x, eight_bits)) == "torch.float8_e5m2 is not supported"
    assert "pixels" in backend._reason_against(2**31, (x,))
    assert "on meta" in backend._reason_against(1, (x.to("meta"),))
    monkeypatch.setattr(backend, "_interpreted", False)
    assert "on cpu" in backend._reason_against(1, (x,))


@pytest.mark.parametrize("name", CASES)
def test_transforms_are_computed_by_pytorch_and_the_log_says_so(name, caplog):
    caplog.set_level(logging.DEBUG, logger="mmdysample")
    function, *_, settings = CASES[name]
    first, second = make_inputs(name)

    def loss(first):
        return function(first, second, *settings).sum()

    torch.func.grad(loss)(first)
    assert all(" by PyTorch: " in message for message in caplog.messages)
    with use_backend("triton"), pytest.raises(RuntimeError, match="demands Triton for"):
        torch.func.grad(loss)(first)


@needs_triton
@pytest.mark.filterwarnings("ignore")  # of the exporters' own
@pytest.mark.parametrize("name", CASES)
def test_exports_have_basic_operators_only(name):
    """What is exported runs where these operators do not exist."""
    function, *_, settings = CASES[name]
    inputs = make_inputs(name)
    module = Function(function, *settings)
    expected = module(*inputs)
    with use_backend("triton"):
        traced = torch.jit.trace(module, inputs)
        assert not any(
            node.kind().startswith("mmdysample::") for node in traced.inlined_graph.nodes()
        )
        assert_close(traced(*inputs), expected)
        if hasattr(torch.compiler, "is_exporting"):  # torch >= 2.7
            program = torch.export.export(module, tuple(inputs))
            assert not any("mmdysample" in str(node.target) for node in program.graph.nodes)


@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_autocast_changes_nothing(name):
    inputs = make_inputs(name)
    function, *_, settings = CASES[name]
    with use_backend("triton"):
        expected = function(*inputs, *settings)
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            assert torch.equal(function(*inputs, *settings), expected)


# operator, its other arguments
OPERATORS = {
    "point_sample": ([(1, 4, 3, 5), (1, 16, 3, 5)], (2, 2), True),
    "point_sample_backward": (
        [(1, 4, 6, 10), (1, 4, 3, 5), (1, 16, 3, 5)],
        (2, 2, True, True),
        False,
    ),
    "window_weighted_sum": ([(1, 4, 3, 5), (1, 18, 6, 10)], (3, 2, 2, torch.float32), True),
    "window_inner_product": ([(1, 4, 6, 10), (1, 4, 3, 5)], (3, 2, 1, torch.float32), True),
    "window_scattered_sum": ([(1, 4, 6, 10), (1, 18, 6, 10)], (3, 2, 2, torch.float32), True),
}


@needs_triton
@pytest.mark.skipif(not hasattr(torch.library, "opcheck"), reason="needs torch >= 2.4: opcheck")
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_what_they_say(name, channels_last):
    """Schema, fake implementation, autograd registration, and compiled with dynamic shapes."""
    shapes, settings, differentiable = OPERATORS[name]
    inputs = [torch.randn(shape, device=DEVICE) for shape in shapes]
    if channels_last:
        inputs = [t.contiguous(memory_format=torch.channels_last) for t in inputs]
    inputs = [t.requires_grad_(differentiable) for t in inputs]
    with use_backend("triton"):
        operator = getattr(torch.ops.mmdysample, name).default
        checks = dict(test_utils="test_faketensor") if channels_last else {}
        torch.library.opcheck(operator, (*inputs, *settings), atol=1e-5, rtol=1e-5, **checks)


@needs_triton
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
@pytest.mark.parametrize("name", CASES)
def test_compiles_in_one_graph(name):
    """Forward and backward, for sizes that are not known beforehand."""
    function, *_, settings = CASES[name]
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    with use_backend("triton"):
        for columns in (5, 3):
            inputs = [t[..., : t.shape[3] // 5 * columns] for t in make_inputs(name)]
            inputs = [t.contiguous().requires_grad_() for t in inputs]
            expected = function(*inputs, *settings)
            out = compiled(*inputs, *settings)
            assert_close(out, expected)
            grads = torch.autograd.grad(expected.square().sum(), inputs)
            compiled_grads = torch.autograd.grad(out.square().sum(), inputs)
            for actual, wanted in zip(compiled_grads, grads, strict=True):
                assert_close(actual, wanted)


@needs_triton
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
def test_an_upsampler_compiles_and_follows_the_backend():
    """A graph compiled for one path is not used for the other."""
    torch._dynamo.reset()
    up = DySample(8, groups=2).to(DEVICE)
    compiled = torch.compile(up, fullgraph=True, backend="aot_eager")
    x = torch.randn(1, 8, 3, 4, device=DEVICE)
    for name in ("torch", "triton"):
        calls = []

        class Count(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                calls.append(str(function))  # noqa: B023
                return function(*args, **(kwargs or {}))

        with use_backend(name):
            assert_close(compiled(x), up(x))
            with Count():
                up(x)
        assert any("mmdysample.point_sample" in call for call in calls) == (name == "triton")


@needs_gpu
def test_cuda_graph_capture():
    """Nothing is timed while a graph is captured."""
    x, offset = make_inputs("point_sample")
    expected = point_sample(x, offset, 2, 2)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        point_sample(x, offset, 2, 2)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = point_sample(x, offset, 2, 2)
    out.zero_()
    graph.replay()
    assert_close(out, expected)
