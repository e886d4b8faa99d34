"""FPN whose top-down path is built of upsamplers."""

from __future__ import annotations

from mmcv.cnn import ConvModule
from mmdet.models.necks import FPN
from mmdet.registry import MODELS
from torch import Tensor

from mmdysample.errors import InvalidValue
from mmdysample.hosts import append_extra_outs, build_stages, check_channels, top_down
from mmdysample.state_dict import count_stages


@MODELS.register_module()
class UpsampleFPN(FPN):
    """mmdet's FPN with a configurable upsampler at every stage of the top-down path.

    Args:
        upsample_cfg: ``dict(type='DySample', ...)``: what every stage is built from. The guide of a
            stage is the lateral that its result is added to. 'Nearest' gives mmdet's FPN.
        top_down_extra_levels: whether the levels beyond the backbone's join the top-down path, as
            they do in mmdet's FPN_CARAFE: each is a 3x3 stride-2 convolution, of the last input and
            then of the level before, that gets an upsampling stage and an output convolution like
            the others. With four inputs and ``num_outs=5`` this makes four stages (the layout of
            the DySample paper's Table 6) in place of three with a max-pooled fifth output.
        *args, **kwargs: as for mmdet's FPN.

    State-dict names: ``upsample_modules.N`` is the stage whose result is added to lateral N.
    """

    def __init__(
        self,
        *args,
        upsample_cfg: dict | None = None,
        top_down_extra_levels: bool = False,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        layers = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        super().__init__(*args, **layers, **kwargs)
        self.upsample_cfg = dict(type="Nearest") if upsample_cfg is None else upsample_cfg
        if top_down_extra_levels:
            if self.add_extra_convs:
                raise InvalidValue(
                    "top_down_extra_levels=True and add_extra_convs="
                    f"{self.add_extra_convs!r} both say what the extra levels are; choose one"
                )
            self._add_extra_levels(layers)
        self.upsample_modules = build_stages(
            self.upsample_cfg, [self.out_channels] * (len(self.lateral_convs) - 1)
        )

    def _add_extra_levels(self, layers: dict) -> None:
        lateral_layers = layers | dict(norm_cfg=None) if self.no_norm_on_lateral else layers
        channels, out_channels = self.in_channels[self.backbone_end_level - 1], self.out_channels
        for _ in range(self.num_outs - len(self.lateral_convs)):
            self.lateral_convs.append(
                ConvModule(channels, out_channels, 3, 2, 1, inplace=False, **lateral_layers)
            )
            self.fpn_convs.append(
                ConvModule(out_channels, out_channels, 3, 1, 1, inplace=False, **layers)
            )
            channels = out_channels

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Feature maps of the backbone, fine to coarse -> ``num_outs`` maps, fine to coarse."""
        check_channels("UpsampleFPN", inputs, self.in_channels)
        inputs = inputs[self.start_level : self.backbone_end_level]
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, inputs, strict=False)]
        extra = inputs[-1]
        for conv in self.lateral_convs[len(inputs) :]:
            extra = conv(extra)
            laterals.append(extra)

        coarsest = laterals.pop()
        laterals = [*top_down(coarsest, laterals, self.upsample_modules), coarsest]
        outs = [conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=False)]
        append_extra_outs(self, outs, laterals, inputs)
        return tuple(outs)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        # A stage lies between two laterals: also a checkpoint of parameter-free stages tells.
        laterals = count_stages(state_dict, prefix + "lateral_convs.")
        if laterals and laterals != len(self.lateral_convs):
            backbone_levels = self.backbone_end_level - self.start_level
            if laterals == backbone_levels:
                layout = "top_down_extra_levels=False (configs named *_fpn_*)"
            elif laterals == self.num_outs:
                layout = "top_down_extra_levels=True (configs named *_fpn-p6_*)"
            else:
                layout = (
                    f"{laterals} backbone levels (start_level, end_level), or fewer with "
                    "top_down_extra_levels=True and num_outs to match"
                )
            raise InvalidValue(
                f"the checkpoint's FPN has {laterals - 1} upsampling stages ({laterals} laterals), "
                f"this one has {len(self.lateral_convs) - 1}; the checkpoint needs {layout}"
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
