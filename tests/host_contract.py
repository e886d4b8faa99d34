"""What every host keeps, tested in one place; see `HostContract`."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from mmdysample import Nearest
from tests.loaders import LENIENT
from tests.utils import assert_close, randomize

# Sizes of a backbone's maps, fine to coarse: halved, rounded up, and rounded down.
SIZES = {
    "even": [(32, 48), (16, 24), (8, 12), (4, 6)],
    "odd": [(41, 61), (21, 31), (11, 16), (6, 8)],
    "floored": [(67, 45), (33, 22), (16, 11), (8, 5)],
}


class Recorder(Nearest):
    """Nearest interpolation that asks for a guide and keeps what it is given."""

    guided = True
    any_size = False

    def forward(self, x, guide=None, size=None):
        self.x, self.guide = x, guide
        self.out = super().forward(x, guide, size)
        return self.out


def make_maps(in_channels: list[int], sizes: str = "odd", batch: int = 2) -> list[Tensor]:
    """Feature maps of a backbone, fine to coarse."""
    shapes = zip(in_channels, SIZES[sizes], strict=False)
    return [torch.randn(batch, channels, *size) for channels, size in shapes]


def outputs_and_gradients(module: nn.Module, inputs: list[Tensor], call) -> tuple[list, dict]:
    """Outputs, and gradients of inputs and parameters."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    outs = call(module, leaves)
    torch.manual_seed(1)
    sum((out * torch.randn_like(out)).sum() for out in outs).backward()
    grads = {str(n): x.grad for n, x in enumerate(leaves)}
    return outs, grads | {name: p.grad for name, p in module.named_parameters()}


def assert_bit_equal(ours: nn.Module, upstream: nn.Module, inputs: list[Tensor], call) -> None:
    """Outputs, gradients and buffers, after loading the upstream's weights."""
    ours.load_state_dict(upstream.state_dict(), strict=True)
    outs, grads = outputs_and_gradients(ours, inputs, call)
    expected_outs, expected_grads = outputs_and_gradients(upstream, inputs, call)
    assert len(outs) == len(expected_outs) and all(map(torch.equal, outs, expected_outs))
    assert grads.keys() == expected_grads.keys()
    for name, grad in grads.items():
        expected = expected_grads[name]
        assert (grad is None and expected is None) or torch.equal(grad, expected), name
    for name, value in upstream.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


class HostContract:
    """The tests of every host; a subclass says how host and upstream's class are made.

    Both have 32 channels, of which DySample's groups and SAPA's embedding are made.
    """

    interpolation = "Nearest"  # upstream's own
    in_channels = (8, 16, 24, 48)
    stages = 3

    def make(self, upsample_cfg: dict | None = None) -> nn.Module:
        raise NotImplementedError

    def make_upstream(self) -> nn.Module:
        raise NotImplementedError

    def call(self, module: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
        return list(module(tuple(inputs)))

    def guides(self, host: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
        """The guide of each stage: here the lateral that its result is added to."""
        laterals = [conv(x) for conv, x in zip(host.lateral_convs, inputs, strict=False)]
        return laterals[: self.stages]

    @pytest.mark.parametrize("sizes", SIZES)
    @pytest.mark.parametrize("default", [True, False], ids=["default", "named"])
    def test_with_upstreams_interpolation_it_is_upstreams_class(self, default, sizes):
        ours = self.make(None if default else dict(type=self.interpolation))
        assert [type(up).__name__ for up in ours.upsample_modules] == [
            self.interpolation
        ] * self.stages
        inputs = make_maps(self.in_channels, sizes)
        assert_bit_equal(ours, self.make_upstream(), inputs, self.call)

    def test_each_stage_has_its_guide(self):
        """With the equality above this says where each stage is."""
        host = self.make(dict(type=Recorder)).eval()
        inputs = make_maps(self.in_channels)
        self.call(host, inputs)
        guides = self.guides(host, inputs)
        for stage, guide in zip(host.upsample_modules, guides, strict=True):
            assert (stage.in_channels, stage.guide_channels, stage.scale_factor) == (32, 32, 2)
            assert torch.equal(stage.guide, guide)

    @pytest.mark.parametrize(  # without a guide and with one
        ("kind", "sizes"), [("DySample", "odd"), ("DySample", "floored"), ("SAPA", "odd")]
    )
    def test_a_gradient_reaches_every_upsampler(self, kind, sizes):
        host = self.make(dict(type=kind))
        host.init_weights()
        _, grads = outputs_and_gradients(host, make_maps(self.in_channels, sizes), self.call)
        of_upsamplers = {n: g for n, g in grads.items() if "upsample_modules" in n}
        assert of_upsamplers
        for name, grad in of_upsamplers.items():
            assert grad is not None and torch.isfinite(grad).all(), name

    def test_upsamplers_keep_their_own_initialization(self):
        host = randomize(self.make(dict(type="DySample", dyscope=True)), 77.0)
        host.init_weights()
        for stage in host.upsample_modules:
            assert 0.0008 < stage.offset.weight.std() < 0.0012
            assert not stage.offset.bias.any() and not stage.scope.weight.any()
            assert stage.init_pos.abs().max() == 0.25

    @pytest.mark.parametrize("load", LENIENT)
    def test_a_checkpoint_of_upstreams_class_loads(self, load, tmp_path):
        upstream, host = self.make_upstream(), self.make(dict(type="DySample", dyscope=True))
        names = ("offset.weight", "offset.bias", "scope.weight", "init_pos")
        own = {f"upsample_modules.{n}.{name}" for n in range(self.stages) for name in names}
        assert host.state_dict().keys() == upstream.state_dict().keys() | own
        expected = {name: host.state_dict()[name].clone() for name in own} | upstream.state_dict()
        load(host, upstream.state_dict(), tmp_path)
        for name, value in host.state_dict().items():
            assert torch.equal(value, expected[name]), name

    @pytest.mark.parametrize("kind", ["DySample", "SAPA"])
    def test_autocast(self, kind):
        host = randomize(self.make(dict(type=kind)).eval(), 0.2)
        inputs = make_maps(self.in_channels)
        with torch.no_grad():
            expected = self.call(host, inputs)[0]
            with torch.autocast("cpu", dtype=torch.bfloat16):
                out = self.call(host, inputs)[0]
        assert out.dtype == torch.bfloat16
        # Layers that round to 8 bits one after the other: a few percent of the spread of values.
        assert (out.float() - expected).std() < 0.1 * expected.std()

    @pytest.mark.slow
    def test_compiles_in_one_graph(self):
        host = self.make(dict(type="DySample")).eval()
        torch.compiler.reset()
        compiled = torch.compile(host, fullgraph=True, backend="aot_eager")
        inputs = make_maps(self.in_channels)
        pairs = zip(self.call(compiled, inputs), self.call(host, inputs), strict=True)
        for out, expected in pairs:
            assert_close(out, expected)

    def test_the_settings_of_upsamplers_are_checked_and_left_as_they_are(self):
        settings = dict(type="DySample", groups=8)
        host = self.make(settings)
        assert [up.groups for up in host.upsample_modules] == [8] * self.stages
        assert settings == dict(type="DySample", groups=8)
        with pytest.raises(TypeError, match=r"dict with the key 'type'.*got \{'mode': 'nearest'\}"):
            self.make(dict(mode="nearest"))
        with pytest.raises(ValueError, match=r"upsample_cfg sets in_channels=256.*needs 32 here"):
            self.make(dict(type="DySample", in_channels=256))

    def test_a_copy_stands_for_itself(self):
        host = self.make(dict(type="DySample")).eval()
        inputs = make_maps(self.in_channels)
        expected = self.call(host, inputs)[0]
        copied = copy.deepcopy(host)
        randomize(host, 3.0)
        assert torch.equal(self.call(copied, inputs)[0], expected)
