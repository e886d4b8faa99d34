"""Small models with the call patterns of the models that people swap upsamplers in.

They need torch alone and run in milliseconds. Each stands beside the list of sites that a reader of
its code finds by hand: `STAND_INS` has model, example and list by name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

ALIGNED_CORNERS = "align_corners=True; learned upsamplers align pixel edges"
CHILDREN_ARE_RUN = "called by ListOwner pyramid, whose children are run one by one"


def changes(first: float, second: float) -> str:
    """Why a site is kept whose ratio is another one in the second, larger dry run."""
    return f"its ratio changes with the image size (x{first}, x{second})"


@dataclass(frozen=True)
class ExpectedSite:
    """What a reader of the code says of one site.

    `guide` is the name of the module that computes it, or where it is among the arguments of the
    innermost forward that has it.
    """

    name: str
    channels: int
    scale_factor: int | None
    mode: str
    kept: str | None = None
    guide: str | None = None
    guide_channels: int | None = None
    is_output: bool = False


@dataclass(frozen=True)
class StandIn:
    """How to build a model, the shape of its images, and its sites in the order of their calls."""

    build: Callable[[], nn.Module]
    sites: tuple[ExpectedSite, ...]
    shape: tuple[int, int, int, int] = (1, 3, 64, 64)

    def example(self) -> Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(0))

    @property
    def swappable(self) -> tuple[ExpectedSite, ...]:
        return tuple(site for site in self.sites if site.kept is None and not site.is_output)


STAND_INS: dict[str, StandIn] = {}


def stand_in(*sites: ExpectedSite, shape: tuple[int, int, int, int] = (1, 3, 64, 64)):
    """Register the decorated class, whose instances these are the sites of."""

    def register(build: Callable[[], nn.Module]):
        STAND_INS[build.__name__] = StandIn(build, sites, shape)
        return build

    return register


def conv_bn_relu(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class Backbone(nn.Module):
    """Features at strides 2, 4, 8, ... of the images."""

    def __init__(self, *channels: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            conv_bn_relu(before, after, stride=2)
            for before, after in zip((3, *channels), channels, strict=False)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


# Upsampling as a module


class Concat(nn.Module):
    def forward(self, inputs: list[Tensor]) -> Tensor:
        return torch.cat(inputs, 1)


@stand_in(
    ExpectedSite("model.3", 32, 2, "nearest", guide="model.1", guide_channels=16),
    ExpectedSite("model.6", 16, 2, "nearest", guide="model.0", guide_channels=8),
)
class YOLO(nn.Module):
    """Ultralytics: layers of a yaml file that say where their input comes from."""

    def __init__(self) -> None:
        super().__init__()
        layers = [
            (-1, conv_bn_relu(3, 8, stride=2)),
            (-1, conv_bn_relu(8, 16, stride=2)),
            (-1, conv_bn_relu(16, 32, stride=2)),
            (-1, nn.Upsample(None, 2, "nearest")),
            ([-1, 1], Concat()),
            (-1, conv_bn_relu(48, 16)),
            (-1, nn.Upsample(None, 2, "nearest")),
            ([-1, 0], Concat()),
            (-1, conv_bn_relu(24, 16)),
            ([5, 8], Detect(16)),
        ]
        for index, (source, layer) in enumerate(layers):
            layer.i, layer.f = index, source
            layer.type = f"{type(layer).__module__}.{type(layer).__name__}"
            layer.np = sum(parameter.numel() for parameter in layer.parameters())
        self.model = nn.Sequential(*(layer for _, layer in layers))
        self.save = [0, 1, 5, 8]

    def forward(self, x: Tensor) -> Tensor:
        return self._predict_once(x)

    def _predict_once(self, x: Tensor) -> Tensor:
        outputs: list[Tensor | None] = []
        for layer in self.model:
            if layer.f != -1:
                x = [x if source == -1 else outputs[source] for source in layer.f]
            x = layer(x)
            outputs.append(x if layer.i in self.save else None)
        return x


class Detect(nn.Module):
    """One value per class and cell of all levels, (B, classes, cells)."""

    def __init__(self, channels: int, classes: int = 2) -> None:
        super().__init__()
        self.cv = nn.ModuleList(nn.Conv2d(channels, classes, 1) for _ in range(2))

    def forward(self, features: list[Tensor]) -> Tensor:
        levels = [conv(feature).flatten(2) for conv, feature in zip(self.cv, features, strict=True)]
        return torch.cat(levels, 2)


class SharedUpsampleNeck(nn.Module):
    """mmdet's YOLOXPAFPN and CSPNeXtPAFPN: one nn.Upsample for all levels, of several widths."""

    def __init__(self, in_channels: tuple[int, ...]) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        downwards = range(len(in_channels) - 1, 0, -1)
        self.reduce_layers = nn.ModuleList(
            conv_bn_relu(in_channels[level], in_channels[level - 1]) for level in downwards
        )
        self.top_down_blocks = nn.ModuleList(
            conv_bn_relu(2 * in_channels[level - 1], in_channels[level - 1]) for level in downwards
        )

    def forward(self, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        outputs = [inputs[-1]]
        for index, level in enumerate(range(len(inputs) - 1, 0, -1)):
            high = self.reduce_layers[index](outputs[0])
            outputs[0] = high
            x = torch.cat([self.upsample(high), inputs[level - 1]], 1)
            outputs.insert(0, self.top_down_blocks[index](x))
        return tuple(outputs)


@stand_in(
    ExpectedSite("neck.upsample.16", 16, 2, "nearest", None, "neck(0, 1)", 16),
    ExpectedSite("neck.upsample.8", 8, 2, "nearest", None, "neck(0, 0)", 8),
)
class SharedUpsample(nn.Module):
    """One nn.Upsample called with 16, then with 8 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(8, 16, 32)
        self.neck = SharedUpsampleNeck((8, 16, 32))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.neck(self.backbone(x))


# Its two calls have one guide each, so the site has none.
@stand_in(ExpectedSite("upsample", 8, 2, "bilinear"))
class SharedUpsampleOfOneWidth(nn.Module):
    """One nn.Upsample called twice with the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(8, 8, 8)
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.convs = nn.ModuleList(conv_bn_relu(8, 8) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        *skips, x = self.backbone(x)
        for conv in self.convs:
            x = conv(self.upsample(x) + skips.pop())
        return x


@stand_in(
    ExpectedSite("fuse_layers.0.1.2", 8, 2, "nearest"),
    ExpectedSite("fuse_layers.0.2.2", 8, 4, "nearest"),
    ExpectedSite("fuse_layers.0.3.2", 8, 8, "nearest"),
    ExpectedSite("fuse_layers.1.2.2", 16, 2, "nearest"),
    ExpectedSite("fuse_layers.1.3.2", 16, 4, "nearest"),
    ExpectedSite("fuse_layers.2.3.2", 32, 2, "nearest"),
)
class HRNetFuse(nn.Module):
    """HRNet of mmdet, mmpose and timm: each resolution is fused into every other one."""

    channels = (8, 16, 32, 64)

    def __init__(self) -> None:
        super().__init__()
        self.branches = Backbone(*self.channels)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self.fuse(target, source) for source in range(4)) for target in range(4)
        )

    def fuse(self, target: int, source: int) -> nn.Module:
        before, after = self.channels[source], self.channels[target]
        if source == target:
            return nn.Identity()
        if source < target:
            return nn.Sequential(
                nn.Conv2d(before, after, 1, stride=2 ** (target - source), bias=False),
                nn.BatchNorm2d(after),
            )
        return nn.Sequential(
            nn.Conv2d(before, after, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.Upsample(scale_factor=2 ** (source - target), mode="nearest"),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        branches = self.branches(x)
        fused = []
        for layers in self.fuse_layers:
            y = 0
            for layer, branch in zip(layers, branches, strict=True):
                y = y + layer(branch)
            fused.append(F.relu(y))
        return fused


class Interpolate(nn.Module):
    """YOLACT's InterpolateModule: F.interpolate's arguments as a module."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__()
        self.args, self.kwargs = args, kwargs

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, *self.args, **self.kwargs)


@stand_in(
    ExpectedSite("protonet.1", 8, 2, "bilinear"),
    ExpectedSite("protonet.3", 8, 2, "nearest"),
    ExpectedSite("protonet.5", 8, 2, "bilinear"),
)
class InterpolateModules(nn.Module):
    """Modules that are not torch's nn.Upsample, and torch's two others."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(8, 8, 8)
        self.protonet = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1),
            Interpolate(scale_factor=2, mode="bilinear", align_corners=False),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.UpsamplingNearest2d(scale_factor=2),
            nn.Conv2d(8, 8, 3, padding=1),
            Interpolate(None, 2, "bilinear"),
            nn.Conv2d(8, 8, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.protonet(self.backbone(x)[-1])


@stand_in(ExpectedSite("upsample.upsampling.0", 8, 2, "nearest", None, "backbone.stages.0", 8))
class UpsampleToSize(nn.Module):
    """An nn.Upsample that has to reach the size of what it is added to, by a wrapper's argument."""

    class Upsample(nn.Upsample):
        def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
            return F.interpolate(x, size or self.size, None if size else self.scale_factor)

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(8, 8)
        self.upsample = self.Upsample(scale_factor=2)

    def forward(self, x: Tensor) -> Tensor:
        fine, coarse = self.backbone(x)
        return F.relu(fine + self.upsample(coarse, size=fine.shape[2:]))


@stand_in(ExpectedSite("resize.upsampling.0", 8, 2, "nearest"))
class ResizeWithMore(nn.Module):
    """The forward of a module is one call of F.interpolate, but the module holds more than that."""

    class Resize(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.interpolate(x, scale_factor=2, mode="nearest")

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(8, 8)
        self.resize = self.Resize()

    def forward(self, x: Tensor) -> Tensor:
        return self.resize.conv(self.resize(self.backbone(x)[-1]))


# Upsampling inside of a forward


class FPNNeck(nn.Module):
    """mmdet's FPN: `path_aggregation` makes it its PAFPN."""

    def __init__(
        self, in_channels: tuple[int, ...], out_channels: int, path_aggregation: bool = False
    ) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(nn.Conv2d(c, out_channels, 1) for c in in_channels)
        self.fpn_convs = nn.ModuleList(
            nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in in_channels
        )
        levels = len(in_channels) - 1 if path_aggregation else 0
        self.downsample_convs = nn.ModuleList(
            nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1) for _ in range(levels)
        )

    def forward(self, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, inputs, strict=True)]
        for i in range(len(laterals) - 1, 0, -1):
            prev_shape = laterals[i - 1].shape[2:]
            laterals[i - 1] = laterals[i - 1] + F.interpolate(
                laterals[i], size=prev_shape, mode="nearest"
            )
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=True)]
        for i, conv in enumerate(self.downsample_convs):
            outputs[i + 1] = outputs[i + 1] + conv(outputs[i])
        return tuple(outputs)


@stand_in(
    ExpectedSite("neck.upsampling.0", 16, 2, "nearest", None, "neck.lateral_convs.1", 16),
    ExpectedSite("neck.upsampling.1", 16, 2, "nearest", None, "neck.lateral_convs.0", 16),
)
class FPN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(4, 8, 12)
        self.neck = FPNNeck((4, 8, 12), 16)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.neck(self.backbone(x))


@stand_in(
    ExpectedSite("neck.upsampling.0", 8, 2, "nearest", None, "neck.lateral_convs.2", 8),
    ExpectedSite("neck.upsampling.1", 8, 2, "nearest", None, "neck.lateral_convs.1", 8),
    ExpectedSite("neck.upsampling.2", 8, 2, "nearest", None, "neck.lateral_convs.0", 8),
)
class PAFPN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(4, 8, 8, 12)
        self.neck = FPNNeck((4, 8, 8, 12), 8, path_aggregation=True)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.neck(self.backbone(x))


class TorchvisionFPNNeck(nn.Module):
    """Maps by name in, maps by name out; blocks are chosen by a method, not by an index."""

    def __init__(self, in_channels: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, out_channels, 1)) for c in in_channels
        )
        self.layer_blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(out_channels, out_channels, 3, padding=1)) for _ in in_channels
        )

    def get_result_from_inner_blocks(self, x: Tensor, index: int) -> Tensor:
        return self.inner_blocks[index](x)

    def get_result_from_layer_blocks(self, x: Tensor, index: int) -> Tensor:
        return self.layer_blocks[index](x)

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        names, maps = list(x.keys()), list(x.values())
        last_inner = self.get_result_from_inner_blocks(maps[-1], -1)
        results = [self.get_result_from_layer_blocks(last_inner, -1)]
        for index in range(len(maps) - 2, -1, -1):
            inner_lateral = self.get_result_from_inner_blocks(maps[index], index)
            feat_shape = inner_lateral.shape[-2:]
            inner_top_down = F.interpolate(last_inner, size=feat_shape, mode="nearest")
            last_inner = inner_lateral + inner_top_down
            results.insert(0, self.get_result_from_layer_blocks(last_inner, index))
        return OrderedDict(zip(names, results, strict=True))


@stand_in(
    ExpectedSite("fpn.upsampling.0", 8, 2, "nearest", None, "fpn.inner_blocks.1", 8),
    ExpectedSite("fpn.upsampling.1", 8, 2, "nearest", None, "fpn.inner_blocks.0", 8),
)
class TorchvisionFPN(nn.Module):
    """BackboneWithFPN of torchvision's detectors."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Backbone(4, 8, 12)
        self.fpn = TorchvisionFPNNeck((4, 8, 12), 8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x)
        return self.fpn(OrderedDict((str(i), feature) for i, feature in enumerate(features)))


class UnetDecoderBlock(nn.Module):
    """segmentation_models_pytorch: the decoder says which size a block has to reach."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = conv_bn_relu(in_channels + skip_channels, out_channels)
        self.conv2 = conv_bn_relu(out_channels, out_channels)

    def forward(
        self,
        feature_map: Tensor,
        target_height: int,
        target_width: int,
        skip_connection: Tensor | None = None,
    ) -> Tensor:
        feature_map = F.interpolate(feature_map, size=(target_height, target_width), mode="nearest")
        if skip_connection is not None:
            feature_map = torch.cat([feature_map, skip_connection], dim=1)
        return self.conv2(self.conv1(feature_map))


class UnetDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [UnetDecoderBlock(16, 12, 16), UnetDecoderBlock(16, 8, 8), UnetDecoderBlock(8, 0, 8)]
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        sizes = [feature.shape[2:] for feature in features][::-1]
        x, *skips = features[1:][::-1]
        for i, block in enumerate(self.blocks):
            height, width = sizes[i + 1]
            x = block(x, height, width, skip_connection=skips[i] if i < len(skips) else None)
        return x


@stand_in(
    ExpectedSite(
        "decoder.blocks.0.upsampling.0",
        16,
        2,
        "nearest",
        None,
        "decoder.blocks.0(skip_connection)",
        12,
    ),
    ExpectedSite(
        "decoder.blocks.1.upsampling.0",
        16,
        2,
        "nearest",
        None,
        "decoder.blocks.1(skip_connection)",
        8,
    ),
    ExpectedSite("decoder.blocks.2.upsampling.0", 8, 2, "nearest"),
)
class Unet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Backbone(8, 12, 16)
        self.decoder = UnetDecoder()
        self.segmentation_head = nn.Sequential(nn.Conv2d(8, 2, 3, padding=1), nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return self.segmentation_head(self.decoder([x, *self.encoder(x)]))


class UnetPlusPlusBlock(nn.Module):
    """As many skips as the dense grid has maps of this resolution so far."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = conv_bn_relu(in_channels + skip_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.conv(x if skip is None else torch.cat([x, skip], dim=1))


@stand_in(
    ExpectedSite("blocks.x_0_0.upsampling.0", 16, 2, "nearest", None, "blocks.x_0_0(1)", 12),
    ExpectedSite("blocks.x_1_1.upsampling.0", 12, 2, "nearest", None, "blocks.x_1_1(1)", 8),
    ExpectedSite("blocks.x_0_1.upsampling.0", 12, 2, "nearest", None, "blocks.x_0_1(1)", 8 + 8),
    ExpectedSite("blocks.x_0_2.upsampling.0", 8, 2, "nearest"),
)
class UnetPlusPlus(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Backbone(8, 12, 16)
        self.blocks = nn.ModuleDict(
            {
                "x_0_0": UnetPlusPlusBlock(16, 12, 12),
                "x_1_1": UnetPlusPlusBlock(12, 8, 8),
                "x_0_1": UnetPlusPlusBlock(12, 8 + 8, 8),
                "x_0_2": UnetPlusPlusBlock(8, 0, 8),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        fine, middle, coarse = self.encoder(x)
        x_0_0 = self.blocks["x_0_0"](coarse, middle)
        x_1_1 = self.blocks["x_1_1"](middle, fine)
        x_0_1 = self.blocks["x_0_1"](x_0_0, torch.cat([x_1_1, fine], dim=1))
        return self.blocks["x_0_2"](x_0_1)


def resize(
    input: Tensor,
    size: tuple[int, int] | None = None,
    scale_factor: float | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """mmseg's function, which hands its arguments on by position."""
    return F.interpolate(input, size, scale_factor, mode, align_corners)


class MLPHead(nn.Module):
    """mmseg's SegformerHead: all levels are resized to the finest one."""

    def __init__(self, in_channels: tuple[int, ...], channels: int, classes: int = 2) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.fusion_conv = conv_bn_relu(channels * len(in_channels), channels)
        self.cls_seg = nn.Conv2d(channels, classes, 1)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        maps = [
            resize(conv(x), inputs[0].shape[2:], mode="bilinear", align_corners=False)
            for conv, x in zip(self.convs, inputs, strict=True)
        ]
        return self.cls_seg(self.fusion_conv(torch.cat(maps, dim=1)))


@stand_in(
    # The call for level 0 does not enlarge: it is counted, but not listed.
    ExpectedSite("decode_head.upsampling.1", 8, 2, "bilinear", None, "decode_head.convs.0", 8),
    ExpectedSite("decode_head.upsampling.2", 8, 4, "bilinear", None, "decode_head.convs.0", 8),
)
class Segmentor(nn.Module):
    """mmseg's EncoderDecoder: calls the head's `forward`, resizes logits outside of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(4, 8, 12)
        self.decode_head = MLPHead((4, 8, 12), 8)

    def extract_feat(self, inputs: Tensor) -> list[Tensor]:
        return self.backbone(inputs)

    def forward(self, inputs: Tensor, labels: Tensor | None = None, mode: str = "tensor"):
        if mode == "tensor":
            return self.decode_head.forward(self.extract_feat(inputs))
        if mode == "loss":
            return self.loss(inputs, labels)
        return self.predict(inputs)

    def loss(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss_ce": F.cross_entropy(self.logits(inputs), labels)}

    def predict(self, inputs: Tensor) -> Tensor:
        return self.logits(inputs).argmax(1)

    def logits(self, inputs: Tensor) -> Tensor:
        logits = self.decode_head.forward(self.extract_feat(inputs))
        return resize(logits, inputs.shape[2:], mode="bilinear", align_corners=False)


@stand_in(
    ExpectedSite("coarse.upsampling.0", 8, 2, "bilinear"),
    # The owner of the call is the root.
    ExpectedSite("upsampling.0", 8, 2, "bilinear", None, "backbone.stages.0", 8),
)
class NestedOwners(nn.Module):
    """An owner of a call that holds another one; both calls are the first of their owner.

    The root's result is added twice, first to what there is before it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(8, 8, 8)
        self.coarse = CoarsePath(8)
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine, middle, coarse = self.backbone(x)
        x = self.coarse(coarse, middle.shape[2:])
        x = F.interpolate(x, size=fine.shape[2:], mode="bilinear", align_corners=False)
        return F.relu(x + fine) + F.relu(x + self.conv(fine))


class CoarsePath(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv_bn_relu(channels, channels)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        return self.conv(x)


@stand_in(
    ExpectedSite("child.upsampling.0", 8, 2, "bilinear", ALIGNED_CORNERS),
    ExpectedSite("child.upsampling.1", 8, 2, "nearest"),
    ExpectedSite("upsampling.1", 8, 2, "nearest"),
)
class CallsOfKeptChildren(nn.Module):
    """The owner's calls are counted without those of its child, of which the first one is kept."""

    class Child(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = F.interpolate(self.conv(x), scale_factor=2, mode="bilinear", align_corners=True)
            return F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="nearest")

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(8, 8, 8)
        self.child = self.Child()

    def forward(self, x: Tensor) -> Tensor:
        x = self.backbone(x)[-1]
        x = F.interpolate(x, size=x.shape[2:], mode="nearest")
        x = self.child(x)
        return F.relu(F.interpolate(x, scale_factor=2, mode="nearest"))


@stand_in(ExpectedSite("head.upsampling.0", 8, 2, "nearest"))
class SharedHead(nn.Module):
    """One head for all levels, as in detectors: its forward runs once per level."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)
            self.predictor = nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.predictor(F.interpolate(self.conv(x), scale_factor=2))

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(8, 8, 8)
        self.head = self.Head()

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.head(feature) for feature in self.backbone(x)]


@stand_in(
    ExpectedSite("block.upsampling.0", 8, 2, "nearest", None, "block(1)", 8),
)
class Checkpointed(nn.Module):
    """Activation checkpointing: the block's forward runs once more in the backward pass."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv_bn_relu(8, 8)

        def forward(self, x: Tensor, skip: Tensor) -> Tensor:
            return self.conv(F.interpolate(x, size=skip.shape[2:], mode="nearest") + skip)

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(8, 8, 8)
        self.block = self.Block()
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, middle, coarse = self.backbone(x)
        return self.head(checkpoint(self.block, coarse, middle, use_reentrant=False))


@stand_in(
    ExpectedSite("upsampling.0", 8, 2, "nearest", None, "backbone.stages.1", 8),
    ExpectedSite("upsampling.1", 8, 2, "nearest", None, "backbone.stages.0", 8),
)
class ModeBySize(nn.Module):
    """RT-DETR's encoder: nearest if the ratio is exactly two, else bilinear."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(8, 8, 8)
        self.blocks = nn.ModuleList(conv_bn_relu(16, 8) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        fine, middle, x = self.backbone(x)
        for low, block in zip((middle, fine), self.blocks, strict=True):
            height, width = low.shape[2:]
            if (height, width) == (2 * x.shape[2], 2 * x.shape[3]):
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            else:
                x = F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
            x = block(torch.cat([x, low], dim=1))
        return x


class HourglassModule(nn.Module):
    """mmdet's: holds itself, and F.interpolate as an attribute."""

    def __init__(self, depth: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.up1 = conv_bn_relu(channels[0], channels[0])
        self.low1 = conv_bn_relu(channels[0], channels[1], stride=2)
        if depth > 1:
            self.low2 = HourglassModule(depth - 1, channels[1:])
        else:
            self.low2 = conv_bn_relu(channels[1], channels[1])
        self.low3 = conv_bn_relu(channels[1], channels[0])
        self.up2 = F.interpolate

    def forward(self, x: Tensor) -> Tensor:
        up1 = self.up1(x)
        low3 = self.low3(self.low2(self.low1(x)))
        return up1 + self.up2(low3, size=up1.shape[2:], mode="nearest")


@stand_in(
    ExpectedSite("hourglass.low2.upsampling.0", 12, 2, "nearest", None, "hourglass.low2.up1", 12),
    ExpectedSite("hourglass.upsampling.0", 8, 2, "nearest", None, "hourglass.up1", 8),
)
class Hourglass(nn.Module):
    """Guides are what results are added to first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 8, stride=2)
        self.hourglass = HourglassModule(2, (8, 12, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.hourglass(x)


@stand_in(
    ExpectedSite("upsampling.0", 8, 4, "bilinear"),
    ExpectedSite("upsampling.1", 2, 8, "bilinear", is_output=True),
)
class TwoOutputs(nn.Module):
    """LRASPP of torchvision, without its attention: maps are added as logits, then resized."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(4, 8, 8, 8, 8)
        self.low_classifier = nn.Conv2d(8, 2, 1)
        self.high_classifier = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.backbone(x)
        low, high = features[2], features[4]
        high = F.interpolate(high, size=low.shape[-2:], mode="bilinear", align_corners=False)
        out = self.low_classifier(low) + self.high_classifier(high)
        out = F.interpolate(out, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return OrderedDict(out=out)


# Kept


class PPM(nn.ModuleList):
    """Pooling pyramid: a list whose owner calls it, as mmseg's PSPHead does."""

    def __init__(self, pool_scales: tuple[int, ...], in_channels: int, channels: int) -> None:
        super().__init__(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), nn.Conv2d(in_channels, channels, 1))
            for scale in pool_scales
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        return [
            resize(branch(x), x.shape[2:], mode="bilinear", align_corners=False) for branch in self
        ]


@stand_in(
    ExpectedSite("psp_modules.upsampling.0", 4, None, "bilinear", changes(32, 48)),
    ExpectedSite("psp_modules.upsampling.1", 4, None, "bilinear", changes(16, 24)),
    ExpectedSite("psp_modules.upsampling.2", 4, None, "bilinear", changes(8, 12)),
    shape=(1, 3, 128, 128),
)
class PSPHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(8, 8)
        self.psp_modules = PPM((1, 2, 4), 8, 4)
        self.bottleneck = conv_bn_relu(8 + 3 * 4, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.backbone(x)[-1]
        return self.bottleneck(torch.cat([x, *self.psp_modules(x)], dim=1))


@stand_in(
    ExpectedSite("pyramid.upsampling.0", 8, 2, "nearest", CHILDREN_ARE_RUN),
    ExpectedSite("pyramid.upsampling.1", 8, 2, "nearest", CHILDREN_ARE_RUN),
)
class CalledInModuleList(nn.Module):
    """A list that upsamples and that is iterated elsewhere: a child of it would be run."""

    class ListOwner(nn.ModuleList):
        def forward(self, x: Tensor) -> Tensor:
            for conv in self:
                x = conv(F.interpolate(x, scale_factor=2, mode="nearest"))
            return x

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(8, 8, 8)
        self.pyramid = self.ListOwner(nn.Conv2d(8, 8, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pyramid(self.backbone(x)[-1])
        for conv in self.pyramid:
            x = conv(x)
        return x


class ASPPPooling(nn.Sequential):
    """torchvision's: a Sequential with a forward of its own."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        for module in self:
            x = module(x)
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class ASPP(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(in_channels, out_channels, 1),
                nn.Conv2d(in_channels, out_channels, 3, padding=2, dilation=2),
                ASPPPooling(in_channels, out_channels),
            ]
        )
        self.project = conv_bn_relu(3 * out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([conv(x) for conv in self.convs], dim=1))


@stand_in(
    ExpectedSite("classifier.0.convs.2.upsampling.0", 8, None, "bilinear", changes(16, 24)),
    ExpectedSite("upsampling.0", 2, 8, "bilinear", is_output=True),
    shape=(1, 3, 128, 128),
)
class DeepLabV3(nn.Module):
    """torchvision's: the root resizes the logits to the images."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(4, 8, 16)
        self.classifier = nn.Sequential(ASPP(16, 8), nn.Conv2d(8, 2, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        size = x.shape[-2:]
        logits = self.classifier(self.backbone(x)[-1])
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return OrderedDict(out=logits)


@stand_in(
    ExpectedSite(
        "decode_head.image_pool_resize.upsampling.0", 8, None, "bilinear", changes(16, 24)
    ),
    ExpectedSite("decode_head.upsampling.0", 8, 4, "bilinear", None, "decode_head.c1", 4),
    shape=(1, 3, 128, 128),
)
class DeepLabV3Plus(nn.Module):
    """mmseg's: the result of ASPP is resized to a fine map and concatenated with it."""

    class ImagePool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(16, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            pooled = self.conv(F.adaptive_avg_pool2d(x, 1))
            return resize(pooled, size=x.size()[2:], mode="bilinear", align_corners=False)

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image_pool_resize = DeepLabV3Plus.ImagePool()
            self.c1 = conv_bn_relu(4, 4)
            self.bottleneck = conv_bn_relu(16 + 8, 8)
            self.cls_seg = nn.Conv2d(8 + 4, 2, 1)

        def forward(self, inputs: list[Tensor]) -> Tensor:
            x = inputs[-1]
            output = self.bottleneck(torch.cat([self.image_pool_resize(x), x], dim=1))
            c1 = self.c1(inputs[0])
            output = resize(output, size=c1.shape[2:], mode="bilinear", align_corners=False)
            return self.cls_seg(torch.cat([output, c1], dim=1))

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(4, 8, 16)
        self.decode_head = self.Head()

    def forward(self, x: Tensor) -> Tensor:
        return self.decode_head.forward(self.backbone(x))


@stand_in(
    ExpectedSite("corners", 8, 2, "bilinear", ALIGNED_CORNERS),
    ExpectedSite("upsampling.0", 8, 2, "bicubic", "mode 'bicubic'"),
    ExpectedSite("upsampling.1", 8, 2, "area", "mode 'area'"),
    ExpectedSite("upsampling.2", 8, None, "nearest", "3x3 to 4x4 is no integer ratio"),
    ExpectedSite("upsampling.3", 8, None, "nearest", "4x4 to 4x8 is no integer ratio"),
    ExpectedSite(
        "upsampling.4", 1, 2, "nearest", "a map of torch.uint8, not of floating-point values"
    ),
    ExpectedSite("upsampling.5", 8, 2, "linear", "a map of 3 dimensions, not (B, C, H, W)"),
    ExpectedSite("upsampling.6", 1, 2, "trilinear", "a map of 5 dimensions, not (B, C, H, W)"),
)
class Kept(nn.Module):
    """Every single call for which there is no learned upsampler, the masks of attention too."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(8, 8, 8)
        self.corners = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.corners(self.backbone(x)[-1])
        x = F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)
        x = F.interpolate(x, scale_factor=2, mode="area")
        x = F.interpolate(x[:, :, :3, :3], size=(4, 4), mode="nearest")
        x = F.interpolate(x, scale_factor=(1, 2), mode="nearest")
        mask = (x[:, :1] > 0).to(torch.uint8)
        mask = F.interpolate(mask, scale_factor=2, mode="nearest") > 0
        row = F.interpolate(x[:, :, 0], scale_factor=2, mode="linear", align_corners=False)
        volume = F.interpolate(x[:, None], scale_factor=2, mode="trilinear", align_corners=False)
        row = F.adaptive_avg_pool1d(row, 8)[:, :, None]
        volume = F.adaptive_avg_pool2d(volume[:, 0], (4, 8))[:, :8]
        mask = F.adaptive_avg_pool2d(mask.to(x.dtype), (4, 8))
        return self.head((x + row + volume) * mask)
