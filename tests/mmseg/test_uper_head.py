"""UpsampleUPerHead against mmseg's UPerHead, a loop over stages, and checkpoints."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.config import ConfigDict
from mmseg.models.decode_heads import UPerHead
from mmseg.registry import MODELS

from mmdysample import Nearest, list_upsamplers
from mmdysample.mmseg import UpsampleUPerHead
from tests.loaders import LENIENT
from tests.reference.dysample import dysample_torch
from tests.utils import DYSAMPLE_VARIANTS, assert_close, fit, randomize

IN_CHANNELS = [8, 16, 24, 48]
CHANNELS = 32
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


def make(cls=UpsampleUPerHead, levels=4, **kwargs) -> nn.Module:
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


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("cfg", [None, dict(type="Bilinear")], ids=["default", "Bilinear"])
@pytest.mark.parametrize("levels", [2, 4])
def test_bilinear_is_mmsegs_uper_head(levels, cfg, sizes, training):
    """Outputs, and gradients of inputs and parameters."""
    upstream = make(UPerHead, levels)
    ours = make(levels=levels, upsample_cfg=cfg)
    ours.load_state_dict(upstream.state_dict(), strict=True)
    inputs = make_inputs(sizes)[:levels]
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


def climb(head: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    """The top-down path with mmseg's interpolation replaced by DySample, coarse to fine."""
    laterals = [conv(x) for conv, x in zip(head.lateral_convs, inputs, strict=False)]
    path = [head.psp_forward(inputs)]
    for n in (2, 1, 0):
        up = head.upsample_modules[n]
        scope = (up.scope.weight,) if up.dyscope else ()
        fine = dysample_torch(
            path[0], up.offset.weight, up.offset.bias, *scope, groups=up.groups, style=up.style
        )
        path.insert(0, laterals[n] + fit(fine, *laterals[n].shape[2:]))
    return path


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_stage_upsamples_what_it_should(variant, sizes):
    """Stage N climbs from level N + 1 to lateral N, coarse to fine, fitted at the end."""
    # in float64, and moving by whole pixels: stages that changed places would show
    head = randomize(make(upsample_cfg=VARIANTS[variant]).eval().double(), 0.4)
    inputs = [x.double() for x in make_inputs(sizes)]
    path = climb(head, inputs)
    levels = [conv(x) for conv, x in zip(head.fpn_convs, path, strict=False)]
    levels.append(path[-1])
    levels = [nn.functional.interpolate(x, SIZES[sizes][0], mode="bilinear") for x in levels]
    feature = head.fpn_bottleneck(torch.cat(levels, dim=1))
    assert_close(head(inputs), head.conv_seg(feature))


class Recorder(Nearest):
    """Nearest interpolation, s times a stage, that asks for a guide and keeps its inputs."""

    guided = True
    any_size = False

    def forward(self, x, guide=None, size=None):
        self.x, self.guide = x, guide
        return super().forward(x, guide, size)


def test_the_guide_is_the_lateral_before_the_addition():
    head = make(upsample_cfg=dict(type=Recorder)).eval()
    inputs = make_inputs()
    head(inputs)
    assert len(head.upsample_modules) == 3
    for n, stage in enumerate(head.upsample_modules):
        assert (stage.in_channels, stage.guide_channels, stage.scale_factor) == (32, 32, 2)
        assert torch.equal(stage.guide, head.lateral_convs[n](inputs[n]))
    assert torch.equal(head.upsample_modules[2].x, head.psp_forward(inputs))
    lateral = head.lateral_convs[1](inputs[1])
    assert not torch.equal(head.upsample_modules[0].x, lateral), "what climbs is the sum"


@pytest.mark.parametrize("name", list_upsamplers())
def test_every_upsampler_passes_through(name):
    head = make(upsample_cfg=dict(type=name))
    head.init_weights()
    out = head(make_inputs())
    assert out.shape == (2, 5, *SIZES["odd"][0])
    out.square().mean().backward()
    for key, parameter in head.upsample_modules.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key


def test_upsamplers_keep_their_own_initialization():
    head = make(upsample_cfg=dict(type="DySample", dyscope=True))
    randomize(head, 77.0)
    head.init_weights()
    for stage in head.upsample_modules:
        assert 0.0009 < stage.offset.weight.std() < 0.0011
        assert not stage.offset.bias.any() and not stage.scope.weight.any()


@pytest.mark.parametrize("load", LENIENT)
def test_a_checkpoint_of_mmsegs_uper_head_loads(load, tmp_path):
    upstream = make(UPerHead)
    head = make(upsample_cfg=dict(type="DySample"))
    ours = {k: v.clone() for k, v in head.state_dict().items() if k.startswith("upsample")}
    assert ours.keys() == {
        f"upsample_modules.{n}.{name}"
        for n in range(3)
        for name in ("offset.weight", "offset.bias", "init_pos")
    }
    load(head, upstream.state_dict(), tmp_path)
    state = head.state_dict()
    for name, value in (upstream.state_dict() | ours).items():
        assert torch.equal(state[name], value), name


def test_builds_from_a_config():
    cfg = ConfigDict(
        type="UpsampleUPerHead",
        in_channels=IN_CHANNELS,
        in_index=[0, 1, 2, 3],
        channels=CHANNELS,
        num_classes=5,
        upsample_cfg=dict(type="DySample", groups=8),
    )
    head = MODELS.build(cfg)
    assert type(head) is UpsampleUPerHead
    assert [up.groups for up in head.upsample_modules] == [8, 8, 8]


def test_user_errors():
    with pytest.raises(ValueError, match="align_corners=False, got align_corners=True"):
        make(align_corners=True)
    make(align_corners=True, upsample_cfg=dict(type="DySample"))
    with pytest.raises(ValueError, match=r"upsample_cfg sets in_channels=256.*needs 32 here"):
        make(upsample_cfg=dict(type="DySample", in_channels=256))
    with pytest.raises(TypeError, match="upsample_cfg must be a dict with the key 'type'"):
        make(upsample_cfg="DySample")
    with pytest.raises(ValueError, match=r"of in_channels=.*got maps of \[1, 1, 1, 1\] channels"):
        make()([torch.zeros(1, 1, 8, 8)] * 4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_autocast(variant):
    head = randomize(make(upsample_cfg=VARIANTS[variant]).eval(), 0.3)
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
