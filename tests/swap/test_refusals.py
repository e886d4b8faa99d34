"""What is kept and what is refused: each with its sentence, and the model as it was."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdysample import find_upsampling, swap_upsampling
from mmdysample.errors import InvalidType, InvalidValue
from tests.swap.test_redirect import Net

DYSAMPLE = dict(type="DySample")
FADE = dict(type="FADE")


class Call(nn.Module):
    """A convolution, a call of any function, and another convolution."""

    def __init__(self, function: Callable[[Tensor], Tensor], channels: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 2, stride=2)
        self.function = function
        self.last = nn.Conv2d(channels, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.function(self.conv(images))
        return self.last(x) if x.dim() == 4 else x


def call(**kwargs) -> Call:
    return Call(lambda x: F.interpolate(x, **kwargs))


class Pool(nn.ModuleList):
    """A container that its owner iterates, as pyramids of pooled maps are."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self[0](x), size=x.shape[2:])


class Double(nn.Module):
    """Can be traced: it branches nowhere."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2).relu()


def pooled(x: Tensor) -> Tensor:
    return F.interpolate(F.adaptive_avg_pool2d(x, 2), size=x.shape[2:])


KEPT = [
    (
        call(scale_factor=2, mode="bilinear", align_corners=True),
        "align_corners=True; learned upsamplers align pixel edges",
    ),
    (Call(pooled), "its ratio changes with the image size (x4, x20)"),
    (call(scale_factor=1.5), "8x8 to 12x12 is no integer ratio"),
    (call(scale_factor=(2, 1)), "8x8 to 16x8 is no integer ratio"),
    (call(scale_factor=2, mode="bicubic"), "mode 'bicubic'"),
    (Call(lambda x: F.interpolate(x.flatten(2), scale_factor=2)), "a map of 3 dimensions"),
    (Call(lambda x: F.interpolate(x[None], scale_factor=2)), "a map of 5 dimensions"),
    (
        Call(lambda x: F.interpolate((x > 0).byte(), scale_factor=2) * x.mean()),
        "a map of torch.uint8, not of floating-point values",
    ),
    (
        nn.Sequential(
            nn.Conv2d(3, 8, 2, stride=2), Pool([nn.Conv2d(8, 8, 2, stride=2)]), nn.ReLU()
        ),
        "called by Pool 1, whose children are run one by one",
    ),
    (
        nn.Sequential(nn.Conv2d(3, 8, 2, stride=2), torch.fx.symbolic_trace(Double()), nn.ReLU()),
        "called by Double 1, a graph of torch.fx; swap the model it was made of",
    ),
]


@pytest.mark.parametrize(("model", "reason"), KEPT, ids=[reason[:25] for _, reason in KEPT])
def test_kept(model, reason):
    (site,) = find_upsampling(model, torch.rand(1, 3, 16, 16))
    assert site.kept is not None
    assert site.kept.startswith(reason)
    assert f"kept: {site.kept}" in str(find_upsampling(model, torch.rand(1, 3, 16, 16)))
    for targets in (None, site.name):
        with pytest.raises(InvalidValue, match=re.escape(f"can be swapped ({site.name}: {reason}")):
            refused(model, DYSAMPLE, targets=targets)


def state(model: nn.Module) -> list:
    """Classes, attributes and hooks of all modules."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        return id(value)

    return [(name, type(m), plain(m.__dict__)) for name, m in model.named_modules()]


def refused(model, upsample_cfg, example=None, **kwargs) -> None:
    """Calls swap_upsampling, which must leave the model as it was."""
    before = state(model) if isinstance(model, nn.Module) else None
    example = torch.rand(1, 3, 16, 16) if example is None else example
    try:
        swap_upsampling(model, upsample_cfg, example, **kwargs)
    finally:
        if isinstance(model, nn.Module):
            assert state(model) == before


def plain() -> Call:
    return call(scale_factor=2)


def compiled() -> nn.Module:
    return torch.compile(plain(), backend="eager")


def compiled_in_place() -> nn.Module:
    model = plain()
    model.compile(backend="eager")
    return model


def swapped_before() -> nn.Module:
    return swap_upsampling(plain(), DYSAMPLE, torch.rand(1, 3, 16, 16))


def traced() -> nn.Module:
    return torch.jit.trace(plain(), torch.rand(1, 3, 16, 16))


class Sharded(nn.Module):
    __module__ = "torch.distributed.fsdp.anything"


def with_forward() -> nn.Module:
    model = plain()
    forward = model.forward
    model.forward = lambda images: forward(images)
    return model


def with_attribute() -> nn.Module:
    model = plain()
    model.upsampling = "bilinear"
    return model


def with_hook() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Upsample(scale_factor=2), nn.ReLU())
    model[1].register_forward_hook(lambda *args: None)
    return model


def recursive() -> nn.Module:
    class Recursive(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[2] <= 4:
                return x
            return F.interpolate(self(F.avg_pool2d(x, 2)), size=x.shape[2:]) + x

    return Recursive()


class Listed(nn.Module):
    """Its modules are called through a list, which nobody else sees."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.up = nn.Upsample(scale_factor=2)
        self.layers = [self.conv, self.up, nn.ReLU()]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Children(nn.Module):
    """Its forward runs all its children, one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return F.interpolate(x, scale_factor=2).relu()


class Final(nn.Module):
    """Its class cannot have a subclass."""

    def __init_subclass__(cls) -> None:
        raise TypeError("Final is final")

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2).relu()


def eighteen_channels() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 18, 1), nn.Upsample(scale_factor=2), nn.ReLU())


def output() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Upsample(scale_factor=2))


# model, upsample_cfg, other arguments, type of the error, part of its sentence
REFUSED = {
    "no module": (lambda: 5, DYSAMPLE, {}, TypeError, "model must be a torch.nn.Module, got int"),
    "compiled": (
        compiled,
        DYSAMPLE,
        {},
        ValueError,
        "OptimizedModule is compiled already; swap before torch.compile",
    ),
    "compiled in place": (
        compiled_in_place,
        DYSAMPLE,
        {},
        ValueError,
        "Call is compiled already; swap before torch.compile",
    ),
    "traced": (traced, DYSAMPLE, {}, ValueError, "is scripted or traced; swap before torch.jit"),
    "scripted": (
        lambda: torch.jit.script(nn.Sequential(nn.ReLU())),
        DYSAMPLE,
        {},
        ValueError,
        "is scripted or traced; swap before torch.jit",
    ),
    "graph": (
        lambda: torch.fx.symbolic_trace(Double()),
        DYSAMPLE,
        {},
        ValueError,
        "Double is a graph of torch.fx; swap the model it was made of",
    ),
    "data parallel": (
        lambda: nn.DataParallel(plain()),
        DYSAMPLE,
        {},
        ValueError,
        "DataParallel wraps the model for parallel training; swap before",
    ),
    "sharded": (
        Sharded,
        DYSAMPLE,
        {},
        ValueError,
        "Sharded is sharded for parallel training; swap before",
    ),
    "lazy": (
        lambda: nn.Sequential(nn.LazyConv2d(8, 1), nn.Upsample(scale_factor=2)),
        DYSAMPLE,
        {},
        ValueError,
        "LazyConv2d 0 is lazy: its parameters get their shapes in a first forward",
    ),
    "swapped": (
        swapped_before,
        DYSAMPLE,
        {},
        ValueError,
        "UpsampledCall was swapped already; build the model again and swap all in one call",
    ),
    "no tensor": (
        plain,
        DYSAMPLE,
        dict(example=[1]),
        TypeError,
        "example must be a torch.Tensor, an image batch (B, C, H, W), got list",
    ),
    "integers": (
        plain,
        DYSAMPLE,
        dict(example=torch.zeros(1, 3, 8, 8, dtype=torch.int)),
        ValueError,
        "of floating-point values, got (1, 3, 8, 8) of torch.int32",
    ),
    "3-D": (plain, DYSAMPLE, dict(example=torch.zeros(3, 8, 8)), ValueError, "got (3, 8, 8)"),
    "empty": (plain, DYSAMPLE, dict(example=torch.zeros(0, 3, 8, 8)), ValueError, "(0, 3, 8, 8)"),
    "it does not run": (
        plain,
        DYSAMPLE,
        dict(example=torch.zeros(1, 4, 8, 8)),
        ValueError,
        "model(images) failed with images of (1, 4, 8, 8), made of example (RuntimeError",
    ),
    "forward does not run": (
        plain,
        DYSAMPLE,
        dict(forward=lambda model, images: model(images, 1)),
        ValueError,
        "forward(model, images) failed with images of (1, 3, 16, 16), made of example (TypeError",
    ),
    "no upsampling": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1)),
        DYSAMPLE,
        {},
        ValueError,
        "the model upsamples nowhere: it made no call of F.interpolate that enlarges a map",
    ),
    "the root": (
        lambda: nn.Upsample(scale_factor=2),
        DYSAMPLE,
        {},
        ValueError,
        "resizes the model's output; name it in targets to swap it",
    ),
    "forward on the object": (
        with_forward,
        DYSAMPLE,
        {},
        ValueError,
        "upsampling.0: the forward of Call was set on the object",
    ),
    "upsampling is taken": (
        with_attribute,
        DYSAMPLE,
        {},
        ValueError,
        "upsampling.0: Call has an attribute 'upsampling' already",
    ),
    "hooks": (with_hook, DYSAMPLE, {}, ValueError, "1: the module has hooks, which would be lost"),
    "outside": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1)),
        DYSAMPLE,
        dict(forward=lambda model, x: F.interpolate(model(x), scale_factor=2).relu()),
        ValueError,
        "called outside of any forward",
    ),
    "recursion": (
        recursive,
        DYSAMPLE,
        {},
        ValueError,
        "Recursive does not always call F.interpolate as many times",
    ),
    "called through a list": (
        Listed,
        DYSAMPLE,
        {},
        ValueError,
        "the model does not call the upsampler up",
    ),
    "runs its children": (
        Children,
        DYSAMPLE,
        {},
        ValueError,
        "the model does not run with the upsamplers upsampling.0 (NotImplementedError",
    ),
    "output": (
        output,
        DYSAMPLE,
        {},
        ValueError,
        "(1: resizes the model's output; name it in targets to swap it)",
    ),
    "no cfg": (plain, None, {}, TypeError, "upsample_cfg must be a dict such as"),
    "cfg is a name": (plain, "DySample", {}, TypeError, "that returns one, got 'DySample'"),
    "cfg is a class": (plain, Net, {}, TypeError, "upsample_cfg must be a dict such as"),
    "no type": (plain, dict(groups=4), {}, TypeError, "a dict with the key 'type'"),
    "unknown type": (
        plain,
        dict(type="DySampel"),
        {},
        ValueError,
        "unknown upsampler 'DySampel' (did you mean 'DySample'?)",
    ),
    "type is no name": (plain, dict(type=5), {}, ValueError, "unknown upsampler 5"),
    "type is another class": (
        plain,
        dict(type=nn.Upsample),
        {},
        ValueError,
        "type of upsample_cfg must be an Upsampler or the name of one, got Upsample",
    ),
    "scale_factor": (
        plain,
        dict(type="DySample", scale_factor=4),
        {},
        ValueError,
        "upsample_cfg sets scale_factor=4, but the model needs 2 here",
    ),
    "unknown setting": (
        plain,
        dict(type="DySample", mode="nearest"),
        {},
        TypeError,
        "DySample has no argument 'mode'",
    ),
    "channels": (
        eighteen_channels,
        DYSAMPLE,
        {},
        ValueError,
        "1 (18 channels, x2): in_channels must be divisible by groups=4, got 18; upsample_cfg may "
        "be a function of the site",
    ),
    "nonsense of a function": (
        plain,
        lambda site: 5,
        {},
        TypeError,
        "upsample_cfg must be a dict with the key 'type', such as dict(type='DySample'), got 5",
    ),
    "None of a function": (
        plain,
        lambda site: None,
        {},
        ValueError,
        "no upsampling can be swapped (upsampling.0: upsample_cfg is None here)",
    ),
    "cannot preserve": (
        Net,
        FADE,
        dict(preserve=True),
        ValueError,
        "FADE cannot start as 'bilinear' interpolation; Bilinear, DySample can",
    ),
    "preserve": (plain, DYSAMPLE, dict(preserve=1), TypeError, "preserve must be True or False"),
    "no targets": (plain, DYSAMPLE, dict(targets=[]), ValueError, "targets is empty"),
    "targets": (
        plain,
        DYSAMPLE,
        dict(targets=[1]),
        TypeError,
        "a name or a list of names, got [1]",
    ),
    "unknown target": (
        Net,
        DYSAMPLE,
        dict(targets=["up", "marge"]),
        ValueError,
        "targets names 'marge', which is no module of the model (did you mean 'merge'?); it "
        "upsamples in upsampling.0, merge.upsampling.0, shared.16, up, shared.8",
    ),
    "nothing under a target": (
        Net,
        DYSAMPLE,
        dict(targets="stages"),
        ValueError,
        "no upsampling found under 'stages'; the model upsamples in upsampling.0, merge",
    ),
    "no guide": (
        plain,
        FADE,
        {},
        ValueError,
        "FADE needs a guide, and what upsampling.0 is next added to or concatenated with is not "
        "there before it",
    ),
    "no guide for a target": (
        plain,
        FADE,
        dict(targets="upsampling.0"),
        ValueError,
        "is not there before it; name a module in guides",
    ),
    "guides": (plain, FADE, dict(guides=["conv"]), TypeError, "guides must be a dict"),
    "guides: site": (
        Net,
        FADE,
        dict(guides={"upp": "refine"}),
        ValueError,
        "guides names the site 'upp', but the sites are upsampling.0, merge.upsampling.0, "
        "shared.16, up, shared.8 (did you mean 'up'?)",
    ),
    "guides: module": (
        Net,
        FADE,
        dict(guides={"up": "refin"}),
        ValueError,
        "guides names 'refin', which is no module of the model (did you mean 'refine'?)",
    ),
    "guides: later": (
        Net,
        FADE,
        dict(guides={"up": "head"}),
        ValueError,
        "head cannot guide up: it returns no map before it in a forward that runs both",
    ),
    "guides: size": (
        Net,
        FADE,
        dict(guides={"up": "stages.0"}),
        ValueError,
        "stages.0 cannot guide up: it returns (1, 8, 8, 8), and the guide of a map that becomes "
        "(1, 8, 16, 16) has its height and width",
    ),
    "forward": (
        Net,
        DYSAMPLE,
        dict(forward=3),
        TypeError,
        "forward must be a function, such as lambda model, images: model.backbone(images), got 3",
    ),
    "guides: unguided": (
        Net,
        DYSAMPLE,
        dict(guides={"upsampling.0": "refine"}),
        ValueError,
        "guides names the site 'upsampling.0', but DySample has no guide",
    ),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    ("make", "upsample_cfg", "kwargs", "error", "sentence"), REFUSED.values(), ids=REFUSED
)
def test_refused(make, upsample_cfg, kwargs, error, sentence):
    model = make()
    with pytest.raises(error) as raised:
        refused(model, upsample_cfg, **kwargs)
    assert isinstance(raised.value, (InvalidValue, InvalidType))
    assert sentence in str(raised.value)


def test_what_goes_wrong_while_the_model_is_changed_is_undone():
    with pytest.raises(TypeError, match="Final is final"):
        refused(Final(), dict(type="CARAFE"))
