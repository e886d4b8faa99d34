"""SegNet's own upsampling: each value goes where the encoder's max pool took its own from."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class MaxUnpool(nn.Module):
    """Max unpooling, x2 (SegNet paper, section 3.2).

    Not an `Upsampler`: it fits guides of as many channels as ``x`` alone, and only where a 2x2 max
    pool of the guide has exactly the size of ``x``.
    """

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Upsample ``x``.

        Args:
            x: (B, C, H // 2, W // 2).
            guide: the encoder's map before its pool, (B, C, H, W).

        Returns:
            (B, C, H, W), 0 but at the largest pixel of each 2x2 window of the guide, the first of
            equal ones.
        """
        _, indices = F.max_pool2d(guide, 2, return_indices=True)
        flat = x.new_zeros(guide.shape).flatten(2)
        return flat.scatter(2, indices.flatten(2), x.flatten(2)).view(guide.shape)
