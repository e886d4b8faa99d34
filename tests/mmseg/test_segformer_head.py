"""UpsampleSegformerHead against mmseg's SegformerHead, a loop over stages, and checkpoints."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.config import ConfigDict
from mmseg.models.decode_heads import SegformerHead
from mmseg.registry import MODELS

from mmdysample import Bilinear, DySample, Nearest
from mmdysample.mmseg import UpsampleSegformerHead
from tests.loaders import LENIENT, LOADERS
from tests.reference.dysample import dysample_torch
from tests.utils import DYSAMPLE_VARIANTS, assert_close, fit, randomize

IN_CHANNELS = [8, 16, 24, 32]
CHANNELS = 16
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


def make(cls=UpsampleSegformerHead, levels=4, **kwargs) -> nn.Module:
    settings = dict(
        in_channels=IN_CHANNELS[:levels],
        in_index=list(range(levels)),
        channels=CHANNELS,
        num_classes=5,
        dropout_ratio=0,
        norm_cfg=dict(type="BN"),
        align_corners=False,
    )
    return randomize(cls(**settings | kwargs))


def project(head: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    return [conv(x) for conv, x in zip(head.convs, inputs, strict=True)]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(
    ("theirs", "cfg"),
    [
        ({}, None),
        ({}, dict(type="Bilinear")),
        (dict(interpolate_mode="nearest", align_corners=None), None),
        (dict(interpolate_mode="nearest", align_corners=None), dict(type="Nearest")),
    ],
    ids=["default", "Bilinear", "default-nearest", "Nearest"],
)
def test_fixed_interpolation_is_mmsegs_segformer_head(theirs, cfg, sizes, training):
    """Outputs, and gradients of inputs and parameters."""
    upstream = make(SegformerHead, **theirs)
    ours = make(upsample_cfg=cfg, **theirs)
    ours.load_state_dict(upstream.state_dict(), strict=True)
    inputs = make_inputs(sizes)
    results = []
    for head in (ours.train(training), upstream.train(training)):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = head(leaves)
        torch.manual_seed(1)
        (out * torch.randn_like(out)).sum().backward()
        results.append((out, [x.grad for x in leaves], [p.grad for p in head.parameters()]))
    (out, *grads), (their_out, *their_grads) = results
    assert torch.equal(out, their_out)
    for mine, expected in zip(grads, their_grads, strict=True):
        assert len(mine) == len(expected) and all(map(torch.equal, mine, expected))
    for name, value in upstream.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), f"{name} (statistics of BN)"


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_stage_upsamples_what_it_should(variant, sizes):
    """Stages 0, 1, 2 climb from c4, 3, 4 from c3, 5 from c2, each fitted at the end."""
    # in float64, and moving by whole pixels: stages that changed places would show
    head = randomize(make(upsample_cfg=VARIANTS[variant]).eval().double(), 0.4)
    inputs = [x.double() for x in make_inputs(sizes)]
    c1, c2, c3, c4 = project(head, inputs)

    def climb(x: Tensor, stages: tuple[int, ...], targets: tuple[Tensor, ...]) -> Tensor:
        for n, target in zip(stages, targets, strict=True):
            up = head.upsample_modules[n]
            scope = (up.scope.weight,) if up.dyscope else ()
            x = dysample_torch(
                x, up.offset.weight, up.offset.bias, *scope, groups=up.groups, style=up.style
            )
            x = fit(x, *target.shape[2:])
        return x

    levels = [
        c1,
        climb(c2, (5,), (c1,)),
        climb(c3, (3, 4), (c2, c1)),
        climb(c4, (0, 1, 2), (c3, c2, c1)),
    ]
    expected = head.conv_seg(head.fusion_conv(torch.cat(levels, dim=1)))
    assert_close(head(inputs), expected)


class Recorder(Nearest):
    """Nearest interpolation, s times a stage, that asks for a guide and keeps its inputs."""

    guided = True
    any_size = False

    def forward(self, x, guide=None, size=None):
        self.x, self.guide = x, guide
        self.out = super().forward(x, guide, size)
        return self.out


def test_guides_are_the_projected_levels():
    head = make(upsample_cfg=dict(type=Recorder)).eval()
    inputs = make_inputs()
    head(inputs)
    c1, c2, c3, c4 = project(head, inputs)
    stages = head.upsample_modules
    assert all(
        (up.in_channels, up.guide_channels, up.scale_factor) == (CHANNELS, CHANNELS, 2)
        for up in stages
    )
    sources = (c4, stages[0].out, stages[1].out, c3, stages[3].out, c2)
    for stage, x, guide in zip(stages, sources, (c3, c2, c1, c2, c1, c1), strict=True):
        assert torch.equal(stage.x, x) and torch.equal(stage.guide, guide)


@pytest.mark.parametrize(("levels", "stages"), [(2, 1), (3, 3), (4, 6)])
def test_n_levels_have_n_choose_2_stages(levels, stages):
    head = make(levels=levels, upsample_cfg=dict(type=Recorder)).eval()
    assert len(head.upsample_modules) == stages
    inputs = make_inputs()[:levels]
    out = head(inputs)
    assert out.shape == (2, 5, 41, 61)
    coarse, *_ = head.upsample_modules
    assert torch.equal(coarse.x, project(head, inputs)[-1])


def count_weights(module: nn.Module) -> int:
    return sum(p.numel() for name, p in module.named_parameters() if not name.endswith("bias"))


INCREMENTS = {"DySample": 49_152, "DySample+": 98_304, "DySample-S": 6_144, "DySample-S+": 12_288}


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_increments(variant):
    """Six stages at 256 channels."""
    plain = make(channels=256)
    assert len(list(plain.parameters())) == len(list(make(SegformerHead).parameters()))
    head = make(channels=256, upsample_cfg=VARIANTS[variant])
    assert count_weights(head) - count_weights(plain) == INCREMENTS[variant]


def test_upsamplers_keep_their_own_initialization():
    head = make(channels=256, upsample_cfg=dict(type="DySample", dyscope=True))
    randomize(head, 77.0)
    head.init_weights()
    for stage in head.upsample_modules:
        assert 0.0009 < stage.offset.weight.std() < 0.0011
        assert not stage.offset.bias.any() and not stage.scope.weight.any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_state_dict_names_are_the_authors(variant):
    names = {"offset.weight", "offset.bias", "init_pos"}
    if variant.endswith("+"):
        names.add("scope.weight")
    expected = {f"upsample_modules.{n}.{name}" for n in range(6) for name in names}
    expected |= make(SegformerHead).state_dict().keys()
    assert make(upsample_cfg=VARIANTS[variant]).state_dict().keys() == expected


class Segmentor(nn.Module):
    def __init__(self, decode_head: nn.Module) -> None:
        super().__init__()
        self.decode_head = decode_head


@pytest.mark.parametrize("load", LENIENT)
def test_a_checkpoint_of_mmsegs_segformer_head_loads(load, tmp_path):
    upstream = make(SegformerHead)
    head = make(upsample_cfg=dict(type="DySample"))
    ours = {k: v.clone() for k, v in head.state_dict().items() if k.startswith("upsample")}
    load(Segmentor(head), Segmentor(upstream).state_dict(), tmp_path)
    state = head.state_dict()
    for name, value in (upstream.state_dict() | ours).items():
        assert torch.equal(state[name], value), name


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("scope_bias", [False, True], ids=["no-bias", "scope-bias"])
@pytest.mark.parametrize("prefix", ["upsample_modules", "upsamplers"])
def test_checkpoints_of_either_prefix_load(prefix, scope_bias, load, tmp_path):
    saved = Segmentor(make(upsample_cfg=VARIANTS["DySample+"])).state_dict()
    if scope_bias:
        for n in range(6):
            name = f"decode_head.upsample_modules.{n}."
            saved[name + "scope.bias"] = torch.randn_like(saved[name + "offset.bias"])
    renamed = {key.replace("upsample_modules", prefix): value for key, value in saved.items()}
    names = list(renamed)
    built = Segmentor(make(upsample_cfg=VARIANTS["DySample+"]))
    load(built, renamed, tmp_path)
    assert list(renamed) == names, "the user's dict is not changed"
    loaded = built.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("prefix", ["upsample_modules", "upsamplers"])
@pytest.mark.parametrize(("saved", "built"), [(3, 4), (4, 3)])
def test_a_checkpoint_with_another_number_of_stages_is_refused(
    saved, built, prefix, load, tmp_path
):
    cfg = dict(type="DySample")
    state = Segmentor(make(levels=saved, upsample_cfg=cfg)).state_dict()
    state = {key.replace("upsample_modules", prefix): value for key, value in state.items()}
    stages = {3: 3, 4: 6}
    message = (
        f"the checkpoint's SegFormer head has {stages[saved]} upsampling stages, this one has "
        rf"{stages[built]}: n backbone levels need n\*\(n-1\)/2 stages"
    )
    with pytest.raises(ValueError, match=message):
        load(Segmentor(make(levels=built, upsample_cfg=cfg)), state, tmp_path)


def test_builds_from_a_config():
    cfg = ConfigDict(
        type="UpsampleSegformerHead",
        in_channels=IN_CHANNELS,
        in_index=[0, 1, 2, 3],
        channels=CHANNELS,
        num_classes=5,
        upsample_cfg=dict(type="DySample", groups=8),
    )
    head = MODELS.build(cfg)
    assert type(head) is UpsampleSegformerHead
    assert all(type(up) is DySample and up.groups == 8 for up in head.upsample_modules)


def test_the_default_follows_interpolate_mode():
    assert type(make().upsample_modules[0]) is Bilinear
    assert type(make(interpolate_mode="nearest").upsample_modules[0]) is Nearest


def test_user_errors():
    with pytest.raises(ValueError, match="align_corners=False, got align_corners=True"):
        make(align_corners=True)
    make(align_corners=True, upsample_cfg=dict(type="DySample"))
    with pytest.raises(ValueError, match=r"interpolate_mode must be one of .*'bicubic'"):
        make(interpolate_mode="bicubic")
    with pytest.raises(ValueError, match=r"upsample_cfg sets in_channels=256.*needs 16 here"):
        make(upsample_cfg=dict(type="DySample", in_channels=256))
    with pytest.raises(TypeError, match="upsample_cfg must be a dict with the key 'type'"):
        make(upsample_cfg="DySample")


def test_maps_of_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"of in_channels=.*got maps of \[1, 1, 1, 1\] channels"):
        make()([torch.zeros(1, 1, 8, 8)] * 4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_autocast(variant):
    head = randomize(make(upsample_cfg=VARIANTS[variant]).eval(), 0.4)
    inputs = make_inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = head(inputs)
    assert out.dtype == torch.bfloat16
    expected = head(inputs)
    # Layers that round to 8 bits one after the other: a few percent of the values' spread.
    assert (out.float() - expected).std() < 0.05 * expected.std()


def test_compiles_in_one_graph():
    head = make(upsample_cfg=dict(type="DySample")).eval()
    torch.compiler.reset()
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    inputs = make_inputs()
    assert_close(compiled(inputs), head(inputs))


def test_exports():
    head = make(upsample_cfg=dict(type="DySample")).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    inputs = make_inputs(batch=2)
    program = torch.export.export(head, (inputs,), dynamic_shapes=([{0: batch} for _ in inputs],))
    inputs = make_inputs(batch=3)
    assert_close(program.module()(inputs), head(inputs))
