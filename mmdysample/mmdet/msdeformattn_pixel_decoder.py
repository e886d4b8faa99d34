"""Mask2Former's pixel decoder, whose top-down path is built of upsamplers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.models.layers import MSDeformAttnPixelDecoder
from mmdet.registry import MODELS
from torch import Tensor

from mmdysample.mmdet.pixel_decoder import TopDownPath


@MODELS.register_module()
class UpsampleMSDeformAttnPixelDecoder(TopDownPath, MSDeformAttnPixelDecoder):
    """mmdet's MSDeformAttnPixelDecoder with a configurable upsampler.

    Its encoder takes the coarse levels; from the finest of these the top-down path climbs to the
    levels that are left: with Mask2Former's settings one stage, from stride 8 to 4. For mmdet's
    Mask2FormerHead, and with ``type='mmdet.UpsampleMSDeformAttnPixelDecoder'`` for mmseg's.

    Args:
        upsample_cfg: ``dict(type='DySample', ...)``: what every stage is built from. The guide of a
            stage is the lateral that its result is added to. None means mmdet's bilinear
            interpolation.
        *args, **kwargs: as for mmdet's MSDeformAttnPixelDecoder.

    State-dict names: ``upsample_modules.N`` is the stage whose result is added to lateral N.
    """

    interpolation = "Bilinear"

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Features of the backbone, fine to coarse -> mask feature (finest level), and the
        ``num_outs`` coarsest levels, coarse to fine."""
        encoded = self.encode(feats)
        outs = [*encoded[:-1], *reversed(self.climb(encoded[-1], feats))]
        return self.mask_feature(outs[-1]), outs[: self.num_outs]

    def encode(self, feats: Sequence[Tensor]) -> list[Tensor]:
        """The coarsest levels through the encoder -> (B, C, h, w) each, coarse to fine."""
        tokens, positions, points, sizes = [], [], [], []
        for n, conv in enumerate(self.input_convs):
            level = self.num_input_levels - 1 - n  # from the coarsest on
            feat = feats[level]
            batch, _, height, width = feat.shape
            sizes.append((height, width))
            tokens.append(conv(feat).flatten(2).transpose(1, 2))

            no_padding = feat.new_zeros((batch, height, width), dtype=torch.bool)
            position = self.postional_encoding(no_padding)  # upstream's spelling
            position = self.level_encoding.weight[n].view(1, -1, 1, 1) + position
            positions.append(position.flatten(2).transpose(1, 2))

            # Pixel centers in pixels of the image, then as a share of its width and height.
            centers = self.point_generator.single_level_grid_priors(
                (height, width), level, device=feat.device
            )
            extent = torch.tensor([width, height], device=feat.device) * self.strides[level]
            points.append(centers / extent)

        lengths = [height * width for height, width in sizes]
        shapes = torch.tensor(sizes, device=feats[0].device)
        ends = shapes.prod(1).cumsum(0)
        points = torch.cat(points)[None, :, None].repeat(batch, 1, len(sizes), 1)
        memory = self.encoder(
            query=torch.cat(tokens, dim=1),
            query_pos=torch.cat(positions, dim=1),
            key_padding_mask=points.new_zeros((batch, sum(lengths)), dtype=torch.bool),
            spatial_shapes=shapes,
            reference_points=points,
            level_start_index=torch.cat((ends.new_zeros(1), ends[:-1])),
            valid_ratios=points.new_ones((batch, len(sizes), 2)),
        )
        levels = memory.transpose(1, 2).split(lengths, dim=-1)
        return [y.reshape(batch, -1, *size) for y, size in zip(levels, sizes, strict=True)]
