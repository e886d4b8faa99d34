"""BTSHead against a second implementation; where its upsamplers are and what they are given."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmdysample.mmseg.depth import BTSHead
from mmdysample.mmseg.depth.planar_guidance import local_planar_guidance, planes_of
from tests.host_contract import Recorder, outputs_and_gradients
from tests.loaders import LENIENT
from tests.reference import bts
from tests.utils import assert_close, randomize

IN_CHANNELS = [8, 16, 24, 32, 48]
IMAGES = {"even": (32, 64), "odd": (43, 61), "one": (1, 33)}
GUIDED = [dict(type="DySample"), dict(type="SAPA")]


def make(upsample_cfg: dict | None = None, **kwargs) -> BTSHead:
    """With random weights and running statistics."""
    settings = dict(in_channels=IN_CHANNELS, channels=32, upsample_cfg=upsample_cfg)
    head = randomize(BTSHead(**settings | kwargs), 0.2)
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)
    return head.eval()


def make_maps(image: str = "odd", batch: int = 2, channels: list[int] = IN_CHANNELS) -> list:
    """A backbone's maps, fine to coarse: each size is half of the last, rounded up."""
    size, maps = IMAGES[image], []
    for number in channels:
        size = tuple(-(-n // 2) for n in size)
        maps.append(torch.randn(batch, number, *size))
    return maps


def make_sample(depth: Tensor) -> SegDataSample:
    return SegDataSample(
        gt_depth_map=PixelData(data=depth), metainfo=dict(img_shape=tuple(depth.shape[1:]))
    )


@pytest.mark.parametrize("image", IMAGES)
def test_it_is_the_decoder_of_the_paper(image):
    head, maps = make(max_depth=7.5).double(), [x.double() for x in make_maps(image)]
    depth = head(maps)
    size = tuple(n + n % 2 for n in IMAGES[image])
    assert depth.shape == (2, 1, *size)
    assert_close(depth, bts.bts(maps, head.state_dict(), 7.5))


def test_with_upsamplers_it_is_the_decoder_of_the_paper():
    """A factor of its own shows where each stage is."""

    class Scaled(Recorder):
        def upsample(self, x, guide, size):
            return super().upsample(x, guide, size) * self.factor

    head, maps = make(dict(type=Scaled)).double(), [x.double() for x in make_maps()]
    for number, stage in enumerate(head.upsample_modules):
        stage.factor = 1 + number

    def upsample(stage, x, guide):
        return bts.nearest(stage, x, guide) * (1 + stage)

    assert_close(head(maps), bts.bts(maps, head.state_dict(), 10.0, upsample))
    for stage, channels, guide in zip(
        head.upsample_modules, (48, 32, 8, 8), maps[3::-1], strict=True
    ):
        assert (stage.in_channels, stage.guide_channels) == (channels, guide.shape[1])
        assert (stage.scale_factor, stage.x.shape[1]) == (2, channels)
        assert torch.equal(stage.guide, guide)


def test_a_negative_value_of_the_coarsest_map_does_not_count():
    head, maps = make(), make_maps()
    expected = head(maps)
    maps[-1] = maps[-1].clamp(min=0)
    assert torch.equal(head(maps), expected)


@pytest.mark.parametrize("upsample_cfg", GUIDED, ids=lambda cfg: cfg["type"])
@pytest.mark.parametrize("image", ["odd", "one"])
def test_a_gradient_reaches_every_parameter(upsample_cfg, image):
    head = make(upsample_cfg).train()
    _, grads = outputs_and_gradients(head, make_maps(image), lambda m, maps: [m(maps)])
    assert sum("upsample_modules" in name for name in grads) >= 8
    for name, grad in grads.items():
        assert grad is not None and torch.isfinite(grad).all(), name


def test_initialization():
    head = randomize(BTSHead(IN_CHANNELS, 64, upsample_cfg=dict(type="DySample", dyscope=True)), 77)
    head.init_weights()
    for stage in head.upsample_modules:
        assert 0.0008 < stage.offset.weight.std() < 0.0012
        assert not stage.offset.bias.any() and not stage.scope.weight.any()
    bound = (6 / (9 * (48 + 64))) ** 0.5  # Xavier's
    assert 0.98 * bound < head.upconv5[0].weight.abs().max() <= bound
    for name, module in head.named_modules():
        if isinstance(module, nn.Conv2d) and "upsample" not in name:
            area = module.kernel_size[0] ** 2
            bound = (6 / (area * (module.in_channels + module.out_channels))) ** 0.5
            assert module.weight.abs().max() <= bound and module.bias is None, name


def test_normalizations_are_those_of_the_paper():
    norms = {n: m for n, m in make().named_modules() if isinstance(m, nn.BatchNorm2d)}
    first = {f"aspp.branches.{n}.0" for n in range(1, 5)}
    hidden = {f"aspp.branches.{n}.3" for n in range(5)}
    assert norms.keys() == {"bn5", "bn4", "bn4_2", "bn3", "bn2"} | first | hidden
    for name, norm in norms.items():
        expected = (1e-5, 0.1) if name in hidden else (1.1e-5, 0.01)
        assert (norm.eps, norm.momentum) == expected, name


@pytest.mark.parametrize("upsample_cfg", GUIDED, ids=lambda cfg: cfg["type"])
def test_autocast(upsample_cfg):
    head, maps = make(upsample_cfg), make_maps()
    with torch.no_grad():
        expected = head(maps)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = head(maps)
    assert out.dtype == torch.float32
    assert (out - expected).std() < 0.1 * expected.std()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_ray_along_a_plane_leaves_no_nan(dtype):
    """In half precision this corner's ray lies in its plane, in float32 it almost does."""
    head, maps = make().train(), make_maps("even")
    along = torch.tensor([3.5137, -1.9053, 3.0])
    deepest = []

    def replace(_, args, logits):
        logits = logits.clone()
        logits[1, :, 2, 3] = along.to(logits)
        planes = planes_of(logits, 1.0)
        deepest.append(local_planar_guidance(planes, 8).abs().max())
        return logits

    def keep(_, args):
        # row 16 is the first of the patches below pixel 2; column 24 the first beside pixel 3
        assert args[0][1, -1, 16, 24].abs() == 1000
        assert args[0][:, -4:].isfinite().all()

    head.reduction8.register_forward_hook(replace)
    head.conv1.register_forward_pre_hook(keep)
    for x in maps:
        x.requires_grad_()
    with torch.autocast("cpu", dtype=torch.float16, enabled=dtype == torch.float16):
        depth = head(maps)
    assert deepest[0] > 65504
    assert depth.isfinite().all()
    depth.sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    for name, buffer in head.named_buffers():
        assert buffer.isfinite().all(), name


def test_a_copy_stands_for_itself():
    head, maps = make(dict(type="DySample")), make_maps()
    expected = head(maps)
    copied = copy.deepcopy(head)
    randomize(head, 3.0)
    assert torch.equal(copied(maps), expected)


@pytest.mark.parametrize("load", LENIENT)
def test_a_checkpoint_with_nearest_interpolation_loads(load, tmp_path):
    nearest, head = make(), make(dict(type="DySample"))
    own = {name for name in head.state_dict() if name.startswith("upsample_modules.")}
    assert head.state_dict().keys() == nearest.state_dict().keys() | own
    expected = {name: head.state_dict()[name].clone() for name in own} | nearest.state_dict()
    load(head, nearest.state_dict(), tmp_path)
    for name, value in head.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.slow
def test_compiles_in_one_graph():
    head, maps = make(dict(type="DySample")), make_maps()
    torch.compiler.reset()
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    assert_close(compiled(maps), head(maps))


def test_of_an_odd_image_the_last_row_and_column_are_left_out():
    head, maps = make(), make_maps("odd")
    depth = head(maps)
    assert depth.shape == (2, 1, 44, 62)
    meta = dict(img_shape=IMAGES["odd"])
    assert torch.equal(head.predict(maps, [meta] * 2, None), depth[:, :, :43, :61])
    target = torch.rand(2, 1, 43, 61)
    loss = head.loss(maps, [make_sample(t) for t in target], None)["loss_depth"]
    assert torch.equal(loss, head.loss_decode(depth[:, :, :43, :61], target))


def test_another_size_is_interpolated():
    head, maps = make(), make_maps("even")
    (out,) = head.predict(maps, [dict(img_shape=(16, 32))] * 2, None)[:1]
    expected = head(maps)[0].reshape(1, 16, 2, 32, 2).mean((2, 4))  # centers between four pixels
    assert_close(out, expected)


def test_user_errors():
    with pytest.raises(ValueError, match=r"in_channels .*must be 5 integers.*got \[8, 16\]"):
        BTSHead([8, 16])
    with pytest.raises(TypeError, match=r"in_channels of BTSHead must be 5 integers, got 64"):
        BTSHead(64)
    with pytest.raises(ValueError, match=r"in_index .*must be 5 integers.*got \[0, 1\]"):
        make(in_index=[0, 1])
    with pytest.raises(ValueError, match="channels of BTSHead must be a multiple of 16, got 24"):
        make(channels=24)
    with pytest.raises(TypeError, match="channels of BTSHead must be a multiple of 16, got 'wide'"):
        make(channels="wide")
    with pytest.raises(ValueError, match=r"got maps of \[8, 16, 24, 32, 8\] channels"):
        make()(make_maps(channels=[8, 16, 24, 32, 8]))
    maps = make_maps("even")
    maps[2] = maps[2][:, :, :3]
    with pytest.raises(ValueError, match=r"after \(8, 16\) the next must be \(4, 8\), got \(3,"):
        make()(maps)
