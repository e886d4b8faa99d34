"""What every upsampler promises, for each registered one; variants to test are in SETTINGS."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdysample import Upsampler, build_upsampler, list_upsamplers
from mmdysample.registry import get_upsampler
from tests.utils import assert_close, assert_close_on_average, fit, needs_compiler, randomize

IN_CHANNELS = 32
GUIDE_CHANNELS = 64
HEIGHT, WIDTH = 5, 7

# Settings to test beside the defaults. Of a place (in_channels, scale_factor, guide_channels) they
# hold what an upsampler cannot do otherwise.
SETTINGS: dict[str, list[dict]] = {
    "CARAFE": [dict(up_group=2)],
    "DySample": [
        dict(dyscope=True),
        dict(style="pl", groups=8),
        dict(style="pl", groups=8, dyscope=True),
    ],
    "FADE": [dict(gating=False), dict(lite=True)],
    "IndexNet": [dict(variant="m2o")],
    "SAPA": [dict(variant="i", guide_channels=IN_CHANNELS), dict(variant="g")],
}
CASES = [(name, cfg) for name in list_upsamplers() for cfg in [{}, *SETTINGS.get(name, [])]]
ANY_SIZE = [name for name in list_upsamplers() if get_upsampler(name).any_size]


def parametrize_cases(cases: list[tuple[str, dict]]) -> pytest.MarkDecorator:
    ids = ["-".join([name, *(f"{k}={v}" for k, v in cfg.items())]) for name, cfg in cases]
    return pytest.mark.parametrize(("name", "cfg"), cases, ids=ids)


every_case = parametrize_cases(CASES)
every_case_of_fixed_size = parametrize_cases([case for case in CASES if case[0] not in ANY_SIZE])
# What costs seconds is done once for each class, with windows of 3x3.
every_class = pytest.mark.parametrize("name", list_upsamplers())
SMALL = {"CARAFE": dict(up_kernel=3), "FADE": dict(kernel_size=3), "SAPA": dict(kernel_size=3)}


def build(name: str, cfg: dict | None = None, device="cpu", dtype=torch.float32) -> Upsampler:
    cfg = cfg or {}
    place = dict(in_channels=IN_CHANNELS, scale_factor=2, guide_channels=GUIDE_CHANNELS)
    place = {key: cfg.get(key, value) for key, value in place.items()}
    return build_upsampler(dict(type=name, **cfg), **place).to(device, dtype)


def make_inputs(
    up: Upsampler, *, height=HEIGHT, width=WIDTH, batch=2, size=None, device=None, dtype=None
) -> tuple[Tensor, ...]:
    """x, and a guide at the target size for guided upsamplers."""
    like = next(up.parameters(), torch.empty(()))
    options = dict(device=device or like.device, dtype=dtype or like.dtype)
    x = torch.randn(batch, up.in_channels, height, width, **options)
    if not up.guided:
        return (x,)
    size = size or (up.scale_factor * height, up.scale_factor * width)
    return x, torch.randn(batch, up.guide_channels, *size, **options)


def run(up: Upsampler, x: Tensor, guide: Tensor | None = None, size=None) -> Tensor:
    return up(x, guide, size=size)


@every_case
@pytest.mark.parametrize(("batch", "height", "width"), [(3, 4, 3), (2, 1, 6), (1, 1, 1)])
def test_shape(name, cfg, batch, height, width, device):
    up = build(name, cfg, device).eval()  # batch normalisation cannot train on one value
    inputs = make_inputs(up, batch=batch, height=height, width=width, device=device)
    s = up.scale_factor
    assert run(up, *inputs).shape == (batch, up.in_channels, s * height, s * width)


@every_case
def test_a_sample_does_not_depend_on_the_rest_of_the_batch(name, cfg, device):
    up = randomize(build(name, cfg, device)).eval()
    inputs = make_inputs(up, batch=3, device=device)
    alone = run(up, *(t[1:2] for t in inputs))
    assert_close(run(up, *inputs)[1:2], alone)


@every_case_of_fixed_size
@pytest.mark.parametrize("more", [(-1, 0), (0, 1), (1, -1)], ids=str)
def test_an_odd_target_is_the_full_result_cropped_or_repeated(name, cfg, more, device):
    up = randomize(build(name, cfg, device)).eval()
    s = up.scale_factor
    size = (s * HEIGHT + more[0], s * WIDTH + more[1])
    x, *guide = make_inputs(up, size=size, device=device)
    guide = guide[0] if guide else torch.randn(2, 3, *size, device=device)
    out = up(x, guide)
    assert out.shape == (2, up.in_channels, *size)
    if up.guided:
        full = up(x, fit(guide, s * HEIGHT, s * WIDTH))
    else:
        full = up(x)
        assert torch.equal(up(x, size=size), out)
    assert_close(out, fit(full, *size))


@every_case
@pytest.mark.parametrize("size", [(10, 14), (9, 15)], ids=str)
def test_an_empty_batch_trains(name, cfg, size, device):
    """As a batch without regions of interest gives."""
    up = randomize(build(name, cfg, device))
    before = copy.deepcopy(up.state_dict())
    inputs = make_inputs(up, batch=0, size=size, device=device)
    inputs = [t.requires_grad_() for t in inputs]
    out = run(up, *inputs, size=size)
    assert out.shape == (0, up.in_channels, *size) and out.dtype == inputs[0].dtype
    out.sum().backward()
    for value in inputs:
        assert value.grad.shape == value.shape
    for key, parameter in up.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), key
    for key, value in up.state_dict().items():
        counts = key.endswith("num_batches_tracked")  # PyTorch counts the batch, empty as it is
        assert counts or torch.equal(value, before[key]), f"{key} is as it was"


@every_class
def test_the_place_is_checked(name):
    """Before anything is computed from it."""
    for key in ("in_channels", "scale_factor", "guide_channels"):
        with pytest.raises(ValueError, match=f"{key} must be an integer >= 1, got 0"):
            get_upsampler(name)(**dict(in_channels=IN_CHANNELS) | {key: 0})
        with pytest.raises(TypeError, match=f"{key} must be an integer >= 1, got '2'"):
            get_upsampler(name)(**dict(in_channels=IN_CHANNELS) | {key: "2"})


@every_class
def test_integers_of_numpy_are_integers(name):
    np = pytest.importorskip("numpy", reason="needs NumPy: pip install numpy")
    place = dict(in_channels=IN_CHANNELS, scale_factor=2, guide_channels=GUIDE_CHANNELS)
    up = get_upsampler(name)(**{key: np.int64(value) for key, value in place.items()})
    assert all(type(getattr(up, key)) is int for key in place)
    inputs = make_inputs(up, size=(10, 13))
    assert run(up, *inputs, size=(np.int64(10), np.int64(13))).shape[2:] == (10, 13)


OTHER_AUTHORS_NAMES = [
    ("DySample", "scale", "scale_factor"),
    ("DySample", "channels", "in_channels"),
    ("PixelShuffle", "upscale_factor", "scale_factor"),
    ("CARAFE", "channels", "in_channels"),
    ("CARAFE", "kernel_size", "up_kernel"),
    ("CARAFE", "encode_kernel_size", "encoder_kernel"),
    ("CARAFE", "groups", "up_group"),
    ("SAPA", "up_kernel_size", "kernel_size"),
    ("SAPA", "dim", "embedding_dim"),
    ("FADE", "up_kernel_size", "kernel_size"),
]


@pytest.mark.parametrize(("name", "theirs", "ours"), OTHER_AUTHORS_NAMES)
def test_other_authors_argument_names_are_answered_with_ours(name, theirs, ours):
    message = rf"^{name} has no argument '{theirs}' .*did you mean '{ours}'\?"
    with pytest.raises(TypeError, match=message):
        get_upsampler(name)(**dict(in_channels=IN_CHANNELS) | {theirs: 2})


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_close_to_float32(name, cfg, dtype, device):
    half = randomize(build(name, cfg, device)).to(dtype).eval()
    # the same rounded weights and inputs
    full = copy.deepcopy(half).float()
    inputs = make_inputs(half, device=device, dtype=dtype)
    out = run(half, *inputs)
    assert out.dtype == dtype
    assert_close_on_average(out, run(full, *(t.float() for t in inputs)))


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast(name, cfg, dtype, device):
    up = randomize(build(name, cfg, device)).eval()
    inputs = make_inputs(up, device=device)
    expected = run(up, *inputs)
    leaves = [t.to(dtype).requires_grad_() for t in inputs]
    with torch.autocast(device, dtype=torch.bfloat16):
        out = run(up, *leaves)
    assert out.dtype == dtype
    assert_close_on_average(out, expected, dtype=torch.bfloat16)
    out.float().square().mean().backward()
    for key, leaf in [*up.named_parameters(), *zip(("x", "guide"), leaves, strict=False)]:
        assert leaf.grad.dtype == leaf.dtype
        assert leaf.grad.isfinite().all(), f"the gradient of {key} is not finite"


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "strided": lambda t: t.repeat_interleave(2, 1).repeat_interleave(3, 3)[:, ::2, :, 1::3],
}


@every_case
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_of_memory_does_not_matter(name, cfg, layout, device):
    up = randomize(build(name, cfg, device)).eval()
    inputs = make_inputs(up, device=device)
    changed = [LAYOUTS[layout](t) for t in inputs]
    assert not any(t.is_contiguous() for t in changed)
    assert_close(run(up, *changed), run(up, *inputs))


@every_case
def test_gradients_reach_x_the_guide_and_every_parameter(name, cfg, device):
    up = randomize(build(name, cfg, device))
    inputs = [t.requires_grad_() for t in make_inputs(up, device=device)]
    out = run(up, *inputs)
    (out * torch.randn_like(out)).sum().backward()
    for key, leaf in [*up.named_parameters(), *zip(("x", "guide"), inputs, strict=False)]:
        assert leaf.grad is not None and leaf.grad.abs().max() > 0, f"no gradient reaches {key}"


@every_case
def test_no_warnings(name, cfg, device):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        up = build(name, cfg, device)
        inputs = [t.requires_grad_() for t in make_inputs(up, size=(9, 13), device=device)]
        if not up.guided:
            inputs.append(torch.zeros(2, 1, 9, 13, device=device))
        run(up, *inputs).sum().backward()


def materialize_at_once(up: nn.Module, device: str) -> None:
    up.to_empty(device=device)
    spoil([*up.parameters(), *up.buffers()])
    up.init_weights()


def materialize_as_fsdp_does(up: nn.Module, device: str) -> None:
    """Parents first, each module that has parameters or buffers of its own."""
    for module in up.modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if own:
            module.to_empty(device=device, recurse=False)
            spoil([*module.parameters(recurse=False), *module.buffers(recurse=False)])
            module.reset_parameters()


def spoil(values: list[Tensor]) -> None:
    """Values that no initialisation leaves."""
    for value in values:
        with torch.no_grad():
            value.fill_(float("nan") if value.is_floating_point() else 77)


@every_case
@pytest.mark.parametrize("materialize", [materialize_at_once, materialize_as_fsdp_does])
def test_initial_weights_do_not_depend_on_what_was_there(name, cfg, materialize):
    """Those of the constructor, for a module of the meta device too."""
    torch.manual_seed(1)
    expected = build(name, cfg).state_dict()
    with torch.device("meta"):
        up = build(name, cfg, "meta")
    torch.manual_seed(1)
    materialize(up, "cpu")
    actual = up.state_dict()
    assert actual.keys() == expected.keys()
    for key, value in actual.items():
        assert value.dtype == expected[key].dtype and torch.equal(value, expected[key]), key


@every_case
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda up: pickle.loads(pickle.dumps(up))], ids=["copy", "pickle"]
)
def test_copies(name, cfg, duplicate, device):
    up = randomize(build(name, cfg, device)).eval()
    inputs = make_inputs(up, device=device)
    expected = run(up, *inputs)
    twin = duplicate(up)
    randomize(up)
    assert torch.equal(run(twin, *inputs), expected), "the copy has weights of its own"
    assert repr(twin) == repr(up)


@every_case
def test_meta_device(name, cfg, device):
    """Shapes without memory, then weights from a checkpoint: how large models are loaded."""
    up = randomize(build(name, cfg, device)).eval()
    with torch.device("meta"):
        empty = build(name, cfg, "meta").eval()
    assert all(t.is_meta for t in [*empty.parameters(), *empty.buffers()])
    inputs = make_inputs(up, device=device)
    assert run(empty, *(t.to("meta") for t in inputs)).shape == run(up, *inputs).shape

    filled = empty.to_empty(device=device)
    filled.load_state_dict(up.state_dict())
    assert torch.equal(run(filled, *inputs), run(up, *inputs))


@every_class
def test_compiles_in_one_graph(name, device):
    up = randomize(build(name, SMALL.get(name), device)).eval()
    torch.compiler.reset()
    compiled = torch.compile(up, fullgraph=True, backend="aot_eager")
    inputs = [t.requires_grad_() for t in make_inputs(up, size=(9, 14), device=device)]
    guide = inputs[1] if up.guided else torch.zeros(2, 1, 9, 14, device=device)
    outs, grads = [], []
    for module in (up, compiled):
        outs.append(module(inputs[0], guide))
        leaves = [*inputs, *up.parameters()]
        grads.append(torch.autograd.grad(outs[-1].square().sum(), leaves))
    assert_close(*outs)
    for expected, actual in zip(*grads, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@every_class
def test_compiles_with_a_target_size_at_any_size(name, device):
    up = randomize(build(name, SMALL.get(name), device)).eval()
    torch.compiler.reset()
    compiled = torch.compile(up, fullgraph=True, backend="eager")
    for height, width in [(5, 7), (6, 9)]:  # from the second on, sizes are left open
        size = (2 * height - 1, 2 * width + 1)
        inputs = make_inputs(up, height=height, width=width, size=size, device=device)
        assert_close(compiled(*inputs, size=size), up(*inputs, size=size))


@pytest.mark.slow
@needs_compiler
@every_class
def test_compiles_to_machine_code(name, device):
    up = randomize(build(name, SMALL.get(name), device)).eval()
    torch.compiler.reset()
    inputs = make_inputs(up, device=device)
    with torch.no_grad():
        assert_close(torch.compile(up, fullgraph=True)(*inputs), run(up, *inputs))


def export(up: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """With batch, height and width left open."""
    batch, height, width = (torch.export.Dim(n, min=2, max=512) for n in ("b", "h", "w"))
    s = up.scale_factor
    shapes = [{0: batch, 2: height, 3: width}, {0: batch, 2: s * height, 3: s * width}]
    return torch.export.export(up, inputs, dynamic_shapes=tuple(shapes[: len(inputs)]))


# DySample's other style reshapes x
@parametrize_cases(
    [(name, SMALL.get(name, {})) for name in list_upsamplers()] + [("DySample", dict(style="pl"))]
)
def test_exports_with_dynamic_sizes(name, cfg, device):
    up = randomize(build(name, cfg, device)).eval()
    exported = export(up, make_inputs(up, device=device)).module()
    for batch, height, width in [(2, 5, 7), (3, 8, 4)]:
        inputs = make_inputs(up, batch=batch, height=height, width=width, device=device)
        assert_close(exported(*inputs), run(up, *inputs))


@every_class
def test_exports_strictly_with_a_target_size(name, device):
    up = randomize(build(name, SMALL.get(name), device)).eval()
    size = (9, 15)
    inputs = make_inputs(up, size=size, device=device)
    exported = torch.export.export(up, inputs, dict(size=size), strict=True).module()
    assert_close(exported(*inputs, size=size), up(*inputs, size=size))


@pytest.mark.slow  # those of the primitives are not, in tests/ops
@every_class
def test_onnx(name, tmp_path):
    reason = "needs ONNX: pip install onnx onnxscript onnxruntime"
    pytest.importorskip("onnx", reason=reason)
    pytest.importorskip("onnxscript", reason=reason)
    onnxruntime = pytest.importorskip("onnxruntime", reason=reason)
    up = randomize(build(name, SMALL.get(name))).eval()
    inputs = make_inputs(up)
    path = tmp_path / "up.onnx"
    torch.onnx.export(export(up, inputs), dynamo=True).save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch, height, width in [(2, 5, 7), (3, 8, 4)]:
        inputs = make_inputs(up, batch=batch, height=height, width=width)
        feed = {arg.name: t.numpy() for arg, t in zip(session.get_inputs(), inputs, strict=True)}
        (out,) = session.run(None, feed)
        assert_close(torch.from_numpy(out), run(up, *inputs))


@every_case
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_forward_and_backward_never_wait_for_the_gpu(name, cfg):
    """A constant built on the CPU, or a value read back, would stop the queue at each call."""
    up = build(name, cfg, "cuda")
    inputs = [t.requires_grad_() for t in make_inputs(up, size=(9, 13), device="cuda")]
    guide = inputs[1] if up.guided else torch.zeros(2, 1, 9, 13, device="cuda")
    up(inputs[0], guide).sum().backward()  # the first call of all sets CUDA up
    torch.cuda.set_sync_debug_mode("error")
    try:
        up(inputs[0], guide).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@every_case
@pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["first", "last"]
)
def test_the_result_has_the_layout_of_x(name, cfg, memory_format, device):
    """Else one upsampler would change the layout of the whole model behind it."""
    up = randomize(build(name, cfg, device))
    inputs = [
        t.contiguous(memory_format=memory_format).requires_grad_()
        for t in make_inputs(up, device=device)
    ]
    out = run(up, *inputs)
    assert out.is_contiguous(memory_format=memory_format)
    out.sum().backward()
    with torch.no_grad():
        assert run(up.eval(), *inputs).is_contiguous(memory_format=memory_format)


INTERMEDIATE_MAPS = {
    "A2U": {"kernel"},
    "CARAFE": {"kernel"},
    "DySample": {"offset"},
    "FADE": {"kernel", "gate"},
    "IndexNet": {"index"},
    "SAPA": {"kernel"},
}


@every_case
@pytest.mark.parametrize("fits", [True, False])
def test_intermediate_maps_make_the_result(name, cfg, fits):
    """From the maps and ``x``, by another implementation, what `forward` makes."""
    up = randomize(build(name, cfg, dtype=torch.float64).eval(), std=0.2)
    size = (2 * HEIGHT, 2 * WIDTH) if fits else (2 * HEIGHT - 1, 2 * WIDTH + 1)
    x, *guide = make_inputs(up, size=size)
    maps = up.intermediate_maps(x, *guide)
    assert set(maps) == INTERMEDIATE_MAPS.get(name, set()) - (
        set() if cfg.get("gating", True) else {"gate"}
    )
    if not maps:
        return
    if "offset" in maps:
        out = sampled(x, maps["offset"], up)
    elif "index" in maps:
        out = F.interpolate(x, scale_factor=2, mode="nearest") * maps["index"]
    else:
        groups = getattr(up, "up_group", 1)
        size = round((maps["kernel"].shape[1] / groups) ** 0.5)
        out = reassembled(x, maps["kernel"], size, groups)
    if "gate" in maps:
        gate = F.interpolate(maps["gate"], scale_factor=2, mode="nearest")
        y = fit(guide[0], 2 * HEIGHT, 2 * WIDTH)
        out = gate * up.aligner(y) + (1 - gate) * out
    want = up(x, *guide)
    assert_close(fit(out, *want.shape[2:]), want)


def reassembled(x: Tensor, kernel: Tensor, size: int, groups: int) -> Tensor:
    """Windows of PyTorch's unfold, weighted and summed; the first weight is the top left one's."""
    windows = F.unfold(x, size, padding=size // 2).unflatten(1, (groups, -1, size**2))
    windows = windows.unflatten(4, x.shape[2:])
    windows = windows.repeat_interleave(2, dim=4).repeat_interleave(2, dim=5)
    kernel = kernel.unflatten(1, (groups, 1, size**2))
    return (windows * kernel).sum(dim=3).flatten(1, 2)


def sampled(x: Tensor, offset: Tensor, up: Upsampler) -> Tensor:
    """grid_sample at bilinear interpolation's positions, moved by ``offset``."""
    height, width = x.shape[2:]
    rows = (torch.arange(2 * height, dtype=x.dtype) + 0.5) / 2
    columns = (torch.arange(2 * width, dtype=x.dtype) + 0.5) / 2
    places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"))
    outs = []
    for group, part in enumerate(x.chunk(up.groups, dim=1)):
        moved = places + offset[:, [group, up.groups + group]]
        grid = moved / torch.tensor([width, height]).view(2, 1, 1) * 2 - 1
        settings = dict(mode="bilinear", padding_mode="border", align_corners=False)
        outs.append(F.grid_sample(part, grid.permute(0, 2, 3, 1).to(x.dtype), **settings))
    return torch.cat(outs, dim=1)


@every_class
def test_intermediate_maps_check_their_inputs(name):
    up = build(name)
    x, *guide = make_inputs(up)
    with pytest.raises(ValueError, match="x must be"):
        up.intermediate_maps(x[:, :3], *guide)
    if up.guided:
        with pytest.raises(ValueError, match="needs a guide"):
            up.intermediate_maps(x)
        with pytest.raises(ValueError, match="cannot reach size"):
            up.intermediate_maps(x, guide[0][:, :, :5])
    else:
        maps = up.intermediate_maps(x)
        ignored = up.intermediate_maps(x, torch.randn(2, 3, 9, 9))
        assert all(torch.equal(maps[key], ignored[key]) for key in maps)
