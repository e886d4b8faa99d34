"""UpsampleFPN against mmdet's FPN and FPN_CARAFE, a loop over stages, and checkpoints."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")

from mmdet.models.necks import FPN, FPN_CARAFE
from mmdet.registry import MODELS
from mmengine.config import ConfigDict

from mmdysample import DySample, Nearest
from mmdysample.mmdet import UpsampleFPN
from tests.loaders import LENIENT, LOADERS
from tests.reference.dysample import dysample_torch
from tests.utils import DYSAMPLE_VARIANTS, assert_close, fit, randomize

IN_CHANNELS = [8, 16, 24, 32]
OUT_CHANNELS = 16
SIZES = {
    "even": [(32, 48), (16, 24), (8, 12), (4, 6)],
    "odd": [(41, 61), (21, 31), (11, 16), (6, 8)],
    "floored": [(67, 45), (33, 22), (16, 11), (8, 5)],
}
VARIANTS = {name: dict(type="DySample", **cfg) for name, cfg in DYSAMPLE_VARIANTS.items()}


def make_inputs(sizes="odd", batch=2) -> list[Tensor]:
    """As a backbone gives them: fine to coarse, each half as large, rounded up or down."""
    shapes = zip(IN_CHANNELS, SIZES[sizes], strict=True)
    return [torch.randn(batch, channels, *size) for channels, size in shapes]


def make(num_outs=5, cls=UpsampleFPN, **kwargs) -> nn.Module:
    return randomize(cls(IN_CHANNELS, OUT_CHANNELS, num_outs, **kwargs))


def assert_bit_equal(ours: nn.Module, upstream: nn.Module, inputs: list[Tensor]) -> None:
    """Outputs, and gradients of inputs and parameters, after loading the upstream's weights."""
    ours.load_state_dict(upstream.state_dict(), strict=True)
    results = []
    for neck in (ours, upstream):
        leaves = [x.clone().requires_grad_() for x in inputs]
        outs = neck(tuple(leaves))
        torch.manual_seed(1)
        sum((out * torch.randn_like(out)).sum() for out in outs).backward()
        grads = {name: p.grad for name, p in neck.named_parameters()}
        results.append((outs, [x.grad for x in leaves], grads))
    (outs, x_grads, grads), (their_outs, their_x_grads, their_grads) = results
    assert len(outs) == len(their_outs)
    assert all(map(torch.equal, outs, their_outs))
    for mine, theirs in zip(x_grads, their_x_grads, strict=True):
        assert (mine is None and theirs is None) or torch.equal(mine, theirs)
    assert grads.keys() == their_grads.keys()
    for name in grads:
        mine, theirs = grads[name], their_grads[name]
        assert (mine is None and theirs is None) or torch.equal(mine, theirs), name


# start_level, end_level, num_outs
LEVELS = [(0, -1, 4), (0, -1, 5), (0, -1, 6), (1, -1, 5), (2, -1, 4), (3, -1, 3), (0, 2, 3)]
LEVELS += [(1, 2, 2), (0, 3, 5)]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(
    ("add_extra_convs", "relu"),
    [
        (False, False),
        ("on_input", False),
        ("on_input", True),
        ("on_lateral", False),
        ("on_output", False),
        ("on_output", True),
        (True, False),
    ],
)
@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_nearest_is_mmdets_fpn(levels, add_extra_convs, relu, sizes):
    start_level, end_level, num_outs = levels
    kwargs = dict(
        num_outs=num_outs,
        start_level=start_level,
        end_level=end_level,
        add_extra_convs=add_extra_convs,
        relu_before_extra_convs=relu,
    )
    ours = make(upsample_cfg=dict(type="Nearest"), **kwargs)
    assert_bit_equal(ours, make(cls=FPN, **kwargs), make_inputs(sizes))


LAYERS = {
    "batch-norm": dict(norm_cfg=dict(type="BN")),
    "group-norm-relu": dict(norm_cfg=dict(type="GN", num_groups=2), act_cfg=dict(type="ReLU")),
    "no-norm-on-lateral": dict(norm_cfg=dict(type="BN"), no_norm_on_lateral=True),
    "conv-cfg": dict(conv_cfg=dict(type="ConvAWS")),
    "relu": dict(act_cfg=dict(type="ReLU")),
}


@pytest.mark.parametrize("add_extra_convs", [False, "on_output"])
@pytest.mark.parametrize("name", LAYERS)
def test_nearest_is_mmdets_fpn_with_other_layers(name, add_extra_convs):
    kwargs = dict(add_extra_convs=add_extra_convs, **LAYERS[name])
    ours = make(upsample_cfg=dict(type="Nearest"), **kwargs)
    assert_bit_equal(ours, make(cls=FPN, **kwargs), make_inputs())


@pytest.mark.parametrize("sizes", SIZES)
def test_nearest_is_the_default(sizes):
    assert_bit_equal(make(), make(cls=FPN), make_inputs(sizes))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("add_extra_convs", [False, "on_input"])
def test_bilinear_is_mmdets_fpn_with_bilinear(add_extra_convs, sizes):
    kwargs = dict(add_extra_convs=add_extra_convs)
    upstream = make(cls=FPN, upsample_cfg=dict(mode="bilinear", align_corners=False), **kwargs)
    ours = make(upsample_cfg=dict(type="Bilinear"), **kwargs)
    assert_bit_equal(ours, upstream, make_inputs(sizes))


@pytest.mark.parametrize("sizes", ["even", "odd"])  # FPN_CARAFE takes no others
@pytest.mark.parametrize(
    "layers", [{}, LAYERS["batch-norm"], LAYERS["group-norm-relu"]], ids=["plain", "bn", "gn-relu"]
)
@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_extra_levels_in_the_top_down_path_are_mmdets_fpn_carafe(levels, layers, sizes):
    start_level, end_level, num_outs = levels
    kwargs = dict(num_outs=num_outs, start_level=start_level, end_level=end_level, **layers)
    upstream = make(cls=FPN_CARAFE, upsample_cfg=dict(type="nearest"), **kwargs)
    ours = make(top_down_extra_levels=True, **kwargs)
    assert_bit_equal(ours, upstream, make_inputs(sizes))


@pytest.mark.parametrize("no_norm_on_lateral", [False, True])
def test_extra_levels_have_the_layers_of_the_others(no_norm_on_lateral):
    neck = make(
        num_outs=6,
        top_down_extra_levels=True,
        no_norm_on_lateral=no_norm_on_lateral,
        norm_cfg=dict(type="BN"),
        act_cfg=dict(type="ReLU"),
    )
    assert [conv.with_norm for conv in neck.lateral_convs] == [not no_norm_on_lateral] * 6
    assert [conv.with_norm for conv in neck.fpn_convs] == [True] * 6
    assert all(conv.with_activation for conv in [*neck.lateral_convs, *neck.fpn_convs])


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("extra_levels", [False, True], ids=["three-stage", "four-stage"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_stage_upsamples_what_it_should(variant, extra_levels, sizes):
    """Stage N climbs from lateral N + 1 to lateral N, coarse to fine, fitted at the end."""
    neck = make(upsample_cfg=VARIANTS[variant], top_down_extra_levels=extra_levels)
    inputs = make_inputs(sizes)
    laterals = [conv(x) for conv, x in zip(neck.lateral_convs, inputs, strict=False)]
    if extra_levels:
        laterals.append(neck.lateral_convs[4](inputs[-1]))
    stages = len(laterals) - 1
    assert len(neck.upsample_modules) == stages == (4 if extra_levels else 3)
    expected = [laterals[-1]]
    for n in reversed(range(stages)):
        up = neck.upsample_modules[n]
        scope = (up.scope.weight,) if up.dyscope else ()
        fine = dysample_torch(
            expected[0], up.offset.weight, up.offset.bias, *scope, groups=up.groups, style=up.style
        )
        expected.insert(0, laterals[n] + fit(fine, *laterals[n].shape[2:]))
    expected = [conv(x) for conv, x in zip(neck.fpn_convs, expected, strict=True)]
    if not extra_levels:
        expected.append(expected[-1][:, :, ::2, ::2])
    for out, reference in zip(neck(tuple(inputs)), expected, strict=True):
        torch.testing.assert_close(out, reference, rtol=1e-4, atol=1e-4)


class Recorder(Nearest):
    """Nearest interpolation that asks for a guide and keeps it."""

    guided = True
    any_size = False

    def forward(self, x, guide=None, size=None):
        self.x, self.guide = x, guide
        return super().forward(x, guide, size)


@pytest.mark.parametrize("extra_levels", [False, True], ids=["three-stage", "four-stage"])
def test_the_guide_is_the_lateral_before_the_addition(extra_levels):
    neck = make(upsample_cfg=dict(type=Recorder), top_down_extra_levels=extra_levels)
    inputs = make_inputs()
    neck(tuple(inputs))
    laterals = [conv(x) for conv, x in zip(neck.lateral_convs, inputs, strict=False)]
    for n, stage in enumerate(neck.upsample_modules):
        assert (stage.in_channels, stage.guide_channels, stage.scale_factor) == (16, 16, 2)
        assert torch.equal(stage.guide, laterals[n])
    coarsest = laterals[-1] if not extra_levels else neck.lateral_convs[4](inputs[-1])
    assert torch.equal(neck.upsample_modules[-1].x, coarsest)
    first = neck.upsample_modules[0]
    assert not torch.equal(first.x, laterals[1]), "what climbs is the sum, not the lateral"


def count_weights(module: nn.Module) -> int:
    return sum(p.numel() for name, p in module.named_parameters() if not name.endswith("bias"))


INCREMENTS = {"DySample": 8192, "DySample+": 16384, "DySample-S": 1024, "DySample-S+": 2048}
RESNET = [256, 512, 1024, 2048]


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_increments(variant):
    """Table 6: 4 x 8,192 = 32,768 weights for DySample, and so on; three in the plain layout."""
    for stages, layout in ((3, {}), (4, dict(top_down_extra_levels=True))):
        plain = UpsampleFPN(RESNET, 256, 5, **layout)
        neck = UpsampleFPN(RESNET, 256, 5, upsample_cfg=VARIANTS[variant], **layout)
        assert count_weights(neck) - count_weights(plain) == stages * INCREMENTS[variant]


def test_the_four_stage_layout_has_5_31_million_parameters_more():
    """A 3x3 lateral of C5 and a 3x3 output convolution, with biases."""
    sizes = []
    for layout in ({}, dict(top_down_extra_levels=True)):
        neck = UpsampleFPN(RESNET, 256, 5, **layout)
        sizes.append(sum(p.numel() for p in neck.parameters()))
    assert sizes[1] - sizes[0] == (2048 * 256 * 9 + 256) + (256 * 256 * 9 + 256) == 5_308_928


def test_upsamplers_keep_their_own_initialization():
    neck = UpsampleFPN(
        [64] * 4,
        256,
        5,
        upsample_cfg=dict(type="DySample", dyscope=True),
        top_down_extra_levels=True,
    )
    randomize(neck, 77.0)
    neck.init_weights()
    for stage in neck.upsample_modules:
        assert 0.0009 < stage.offset.weight.std() < 0.0011
        assert not stage.offset.bias.any() and not stage.scope.weight.any()
    for conv in [*neck.lateral_convs, *neck.fpn_convs]:
        fans = conv.conv.weight[0].numel() + conv.conv.weight[:, 0].numel()
        # Xavier-uniform
        assert 0.95 < conv.conv.weight.std() / (2 / fans) ** 0.5 < 1.05
        assert not conv.conv.bias.any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_state_dict_names_are_the_authors(variant):
    neck = UpsampleFPN(IN_CHANNELS, OUT_CHANNELS, 5, upsample_cfg=VARIANTS[variant])
    names = {"offset.weight", "offset.bias", "init_pos"}
    if variant.endswith("+"):
        names.add("scope.weight")
    expected = {f"upsample_modules.{n}.{name}" for n in range(3) for name in names}
    expected |= FPN(IN_CHANNELS, OUT_CHANNELS, 5).state_dict().keys()
    assert neck.state_dict().keys() == expected


class Detector(nn.Module):
    def __init__(self, neck: nn.Module) -> None:
        super().__init__()
        self.neck = neck


every_loader = pytest.mark.parametrize("load", LOADERS)


@pytest.mark.parametrize("load", LENIENT)
def test_a_checkpoint_of_mmdets_fpn_loads(load, tmp_path):
    upstream = make(cls=FPN)
    neck = make(upsample_cfg=dict(type="DySample"))
    ours = {k: v.clone() for k, v in neck.state_dict().items() if k.startswith("upsample")}
    load(Detector(neck), Detector(upstream).state_dict(), tmp_path)
    state = neck.state_dict()
    for name, value in (upstream.state_dict() | ours).items():
        assert torch.equal(state[name], value), name


@every_loader
@pytest.mark.parametrize("cfg", [VARIANTS["DySample"], dict(type="Nearest")], ids=["own", "none"])
@pytest.mark.parametrize("stages", [3, 4])
def test_a_checkpoint_of_another_layout_is_refused(stages, cfg, load, tmp_path):
    saved, built = (
        Detector(make(upsample_cfg=cfg, top_down_extra_levels=four))
        for four in (stages == 4, stages != 4)
    )
    before = {k: v.clone() for k, v in built.state_dict().items()}
    layout = {
        3: r"top_down_extra_levels=False \(configs named \*_fpn_\*\)",
        4: r"top_down_extra_levels=True \(configs named \*_fpn-p6_\*\)",
    }
    message = (
        rf"the checkpoint's FPN has {stages} upsampling stages \({stages + 1} laterals\), this one "
        rf"has {7 - stages}; the checkpoint needs {layout[stages]}"
    )
    with pytest.raises(ValueError, match=message):
        load(built, saved.state_dict(), tmp_path)
    for name, value in built.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} was overwritten"


@every_loader
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_checkpoint_with_or_without_scope_bias_loads(variant, load, tmp_path):
    saved = Detector(make(upsample_cfg=VARIANTS[variant]))
    state = saved.state_dict()
    if variant.endswith("+"):
        for n in range(3):
            name = f"neck.upsample_modules.{n}."
            state[name + "scope.bias"] = torch.randn_like(state[name + "offset.bias"])
    built = Detector(make(upsample_cfg=VARIANTS[variant]))
    load(built, state, tmp_path)
    loaded = built.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_a_checkpoint_of_other_backbone_levels_is_refused():
    saved = make(start_level=1)
    with pytest.raises(ValueError, match=r"has 2 upsampling stages.*needs 3 backbone levels"):
        make().load_state_dict(saved.state_dict())


def test_maps_of_other_channels_are_refused():
    neck = make()
    with pytest.raises(
        ValueError, match=r"of in_channels=\[.*\], got maps of \[1, 1, 1, 1\] channels"
    ):
        neck([torch.zeros(1, 1, 8, 8)] * 4)


def test_the_extra_convolutions_of_retinanet_are_no_stages():
    saved = make(add_extra_convs="on_input", upsample_cfg=dict(type="DySample"))
    built = make(add_extra_convs="on_input", upsample_cfg=dict(type="DySample"))
    built.load_state_dict(saved.state_dict(), strict=True)
    assert len(built.upsample_modules) == 3 and len(built.fpn_convs) == 5


def test_builds_from_a_config():
    cfg = ConfigDict(
        type="UpsampleFPN",
        in_channels=IN_CHANNELS,
        out_channels=OUT_CHANNELS,
        num_outs=5,
        upsample_cfg=dict(type="DySample", groups=8),
    )
    neck = MODELS.build(cfg)
    assert type(neck) is UpsampleFPN
    assert all(type(up) is DySample and up.groups == 8 for up in neck.upsample_modules)
    assert cfg.upsample_cfg == dict(type="DySample", groups=8)


def test_user_errors():
    with pytest.raises(ValueError, match="top_down_extra_levels=True and add_extra_convs='on_in"):
        make(add_extra_convs=True, top_down_extra_levels=True)
    with pytest.raises(
        ValueError,
        match=r"feature maps of in_channels=\[8, 16, 24, 32\], got maps of \[8, 16, 24\] channels",
    ):
        make()(tuple(make_inputs()[:3]))
    with pytest.raises(TypeError, match=r"dict with the key 'type'.*got \{'mode': 'nearest'\}"):
        make(upsample_cfg=dict(mode="nearest"))
    with pytest.raises(ValueError, match=r"upsample_cfg sets in_channels=256.*needs 16 here"):
        make(upsample_cfg=dict(type="DySample", in_channels=256))


@pytest.mark.parametrize("variant", VARIANTS)
def test_autocast(variant):
    neck = make(upsample_cfg=VARIANTS[variant]).eval()
    inputs = tuple(make_inputs())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outs = neck(inputs)
    for out, expected in zip(outs, neck(inputs), strict=True):
        assert out.dtype == torch.bfloat16
        # four convolutions deep, each rounded to 8 bits
        torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("extra_levels", [False, True], ids=["three-stage", "four-stage"])
def test_compiles_in_one_graph(extra_levels):
    neck = make(upsample_cfg=dict(type="DySample"), top_down_extra_levels=extra_levels)
    torch.compiler.reset()
    compiled = torch.compile(neck, fullgraph=True, backend="aot_eager")
    inputs = tuple(make_inputs())
    for out, expected in zip(compiled(inputs), neck(inputs), strict=True):
        assert_close(out, expected)


def test_exports():
    neck = make(upsample_cfg=dict(type="DySample")).eval()
    inputs = tuple(make_inputs(batch=2))
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        neck, (inputs,), dynamic_shapes=(tuple({0: batch} for _ in inputs),)
    )
    inputs = tuple(make_inputs(batch=3))
    for out, expected in zip(program.module()(inputs), neck(inputs), strict=True):
        assert_close(out, expected)
