"""DepthFormer's neck: hierarchical aggregation and heterogeneous interaction (HAHI)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmcv.ops import MultiScaleDeformableAttention
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmdysample.errors import InvalidValue
from mmdysample.hosts import check_channels
from mmdysample.ops.checks import positive_int
from mmdysample.state_dict import rename_prefix


@MODELS.register_module()
class HAHINeck(BaseModule):
    """Deformable attention among a transformer's maps, and from a stem's map to them.

    Source: Li et al., "DepthFormer: Exploiting Long-Range Correlation and Local Information for
    Accurate Monocular Depth Estimation", 2022, section 3.3.

    1. Each map passes through a 1x1 convolution (`lateral_convs`).
    2. Aggregation: the pixels of the transformer's maps, projected to ``embed_dims`` channels, are
       the tokens of one self-attention across all levels. A token's position is its sine encoding
       plus an embedding of its level.
    3. Interaction: the projected pixels of the stem's map attend to the aggregated tokens, at
       points that start from a linear function of a pixel's position.
    4. Each map is fused with its tokens by a 3x3 convolution, which sees a transformer's map before
       its tokens, and the stem's map after what it attended to. The order of the channels is that
       of the toolbox that DepthFormer was published with; the paper has none.

    All convolutions have batch normalization and ReLU. The attentions compute in float32 where
    autocast is on: their coordinates do not survive half precision.

    Args:
        in_channels: channels of the maps, fine to coarse: the stem's, then the transformer's. The
            results have the same.
        embed_dims: channels of a token, a multiple of 4 and of ``num_heads``.
        num_heads, num_points: heads of an attention, and points that each head looks at per level.
        dropout: of an attention's result while training.
        norm_cfg: normalization after each convolution; ``dict(type='BN')`` by default.

    State-dict names: ``lateral_convs.N``, N = 0 being the stem's; ``trans_proj.N``,
    ``trans_fusion.N`` and row N of ``level_embed``, N = 0 being the transformer's finest map;
    ``self_attn``; ``conv_proj``, ``reference_points``, ``multi_att`` and ``conv_fusion`` of the
    stem's map. The last two convolutions load from lists of one module too (``conv_proj.0``).
    """

    #: Whether each map has the shape of the backbone's, which can stand for it where shapes count.
    keeps_shapes = True

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        embed_dims: int = 256,
        num_heads: int = 8,
        num_points: int = 8,
        dropout: float = 0.1,
        norm_cfg: dict | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = [positive_int("in_channels", channels) for channels in in_channels]
        if len(self.in_channels) < 2:
            raise InvalidValue(
                "in_channels of HAHINeck must be the stem's channels and those of at least one map "
                f"of the transformer, got {in_channels!r}"
            )
        self.embed_dims = positive_int("embed_dims", embed_dims)
        num_heads = positive_int("num_heads", num_heads)
        num_points = positive_int("num_points", num_points)
        if embed_dims % 4 or embed_dims % num_heads:
            raise InvalidValue(
                "embed_dims of HAHINeck must be a multiple of 4 and of num_heads, got "
                f"embed_dims={embed_dims} and num_heads={num_heads}"
            )
        norm_cfg = norm_cfg or dict(type="BN")
        stem, *levels = self.in_channels

        def conv(inputs: int, outputs: int, kernel_size: int) -> ConvModule:
            return ConvModule(
                inputs, outputs, kernel_size, padding=kernel_size // 2, norm_cfg=norm_cfg
            )

        def attention() -> MultiScaleDeformableAttention:
            return MultiScaleDeformableAttention(
                embed_dims,
                num_heads,
                num_levels=len(levels),
                num_points=num_points,
                dropout=dropout,
                batch_first=True,
            )

        self.lateral_convs = nn.ModuleList(conv(c, c, 1) for c in self.in_channels)
        self.trans_proj = nn.ModuleList(conv(c, embed_dims, 1) for c in levels)
        self.level_embed = nn.Parameter(torch.empty(len(levels), embed_dims))
        self.self_attn = attention()
        self.trans_fusion = nn.ModuleList(conv(c + embed_dims, c, 3) for c in levels)

        self.conv_proj = conv(stem, embed_dims, 1)
        self.reference_points = nn.Linear(embed_dims, 2)
        self.multi_att = attention()
        self.conv_fusion = conv(embed_dims + stem, stem, 3)
        self._initialize()

    def init_weights(self) -> None:
        super().init_weights()
        self._initialize()

    def _initialize(self) -> None:
        """Xavier's uniform distribution for all weights but those of the attentions."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.normal_(self.level_embed)
        nn.init.zeros_(self.reference_points.bias)
        self.self_attn.init_weights()
        self.multi_att.init_weights()

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Maps of the backbone, fine to coarse -> maps of the same shapes."""
        check_channels("HAHINeck", inputs, self.in_channels)
        stem, *levels = [conv(x) for conv, x in zip(self.lateral_convs, inputs, strict=True)]
        tokens = self.aggregate(levels)
        attended = self.interact(stem, tokens, levels)
        sizes = [level.shape[2:] for level in levels]
        lengths = [height * width for height, width in sizes]
        maps = [
            as_map(part, size)
            for part, size in zip(tokens.split(lengths, dim=1), sizes, strict=True)
        ]
        return [
            self.conv_fusion(torch.cat((attended, stem), dim=1)),
            *(
                conv(torch.cat((level, aggregated), dim=1))
                for conv, level, aggregated in zip(self.trans_fusion, levels, maps, strict=True)
            ),
        ]

    def aggregate(self, levels: Sequence[Tensor]) -> Tensor:
        """Self-attention of the transformer's maps, (B, C, h, w) each.

        Returns:
            (B, sum of all h*w, embed_dims), the maps' pixels row by row, fine to coarse.
        """
        tokens, positions, centers = [], [], []
        for n, level in enumerate(levels):
            height, width = level.shape[2:]
            tokens.append(as_tokens(self.trans_proj[n](level)))
            position = encode_positions(height, width, self.embed_dims, level.device)
            positions.append(position + self.level_embed[n])
            centers.append(pixel_centers(height, width, level.device))
        tokens = torch.cat(tokens, dim=1)
        return _attend(
            self.self_attn, tokens, torch.cat(positions), tokens, torch.cat(centers), levels
        )

    def interact(self, stem: Tensor, tokens: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """Attention of the stem's map to the ``tokens`` of ``levels``.

        Returns:
            (B, embed_dims, H, W), the size of the stem's map.
        """
        height, width = stem.shape[2:]
        query = as_tokens(self.conv_proj(stem))
        position = encode_positions(height, width, self.embed_dims, stem.device)
        with torch.autocast(stem.device.type, enabled=False):
            points = self.reference_points(position.to(self.level_embed.dtype)).sigmoid()
        return as_map(
            _attend(self.multi_att, query, position, tokens, points, levels), stem.shape[2:]
        )

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        for name in ("conv_proj", "conv_fusion"):
            rename_prefix(state_dict, f"{prefix}{name}.0.", f"{prefix}{name}.")
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _attend(
    attention: MultiScaleDeformableAttention,
    query: Tensor,
    position: Tensor,
    tokens: Tensor,
    points: Tensor,
    levels: Sequence[Tensor],
) -> Tensor:
    """``query`` plus what it finds among the tokens of ``levels`` around ``points``.

    Args:
        query: (B, Q, C).
        position: (Q, C), encoded.
        tokens: (B, K, C).
        points: (Q, 2), x and y as shares of a map's width and height.
    """
    batch = query.shape[0]
    sizes = torch.tensor([level.shape[2:] for level in levels], device=query.device)
    ends = sizes.prod(1).cumsum(0)
    dtype = attention.value_proj.weight.dtype
    with torch.autocast(query.device.type, enabled=False):
        return attention(
            query.to(dtype),
            value=tokens.to(dtype),
            query_pos=position.to(dtype),
            reference_points=points[None, :, None].expand(batch, -1, len(levels), -1),
            spatial_shapes=sizes,
            level_start_index=torch.cat((ends.new_zeros(1), ends[:-1])),
        )


def as_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H*W, C), row by row."""
    return x.flatten(2).transpose(1, 2)


def as_map(tokens: Tensor, size: Sequence[int]) -> Tensor:
    """(B, H*W, C) -> (B, C, H, W)."""
    return tokens.transpose(1, 2).unflatten(2, tuple(size))


def pixel_centers(height: int, width: int, device: torch.device) -> Tensor:
    """(H*W, 2): x and y of each pixel's center as shares of width and height, row by row."""
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((x, y), dim=-1).flatten(0, 1)


def encode_positions(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Sines and cosines of the rows' and columns' numbers, which count from 1.

    Source: Carion et al., "End-to-End Object Detection with Transformers" (DETR), 2020, without its
    normalization by the map's size.

    Returns:
        (H*W, channels): of a pixel, row by row, sine and cosine in turn, of its row and then of its
        column, at wavelengths from 2*pi to 10000 * 2*pi.
    """
    steps = torch.arange(0, channels // 2, 2, device=device, dtype=torch.float32)
    frequencies = 10000 ** (-steps / (channels // 2))

    def encode(count: int) -> Tensor:
        numbers = torch.arange(1, count + 1, device=device, dtype=torch.float32)
        angles = numbers[:, None] * frequencies
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)

    rows, columns = encode(height), encode(width)
    return torch.cat(
        (
            rows[:, None].expand(-1, width, -1),
            columns[None].expand(height, -1, -1),
        ),
        dim=-1,
    ).flatten(0, 1)
