"""Every upsampler learns: inside a small network all of its parameters move and the loss falls."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdysample import build_upsampler, list_upsamplers

C = 32
ITERATIONS = 30


class Network(nn.Module):
    """An encoder of two levels, whose coarse one is upsampled and added to the fine one."""

    def __init__(self, upsample_cfg: dict) -> None:
        super().__init__()
        self.fine = nn.Conv2d(1, C, 3, padding=1)
        self.coarse = nn.Conv2d(C, C, 3, stride=2, padding=1)
        self.upsample = build_upsampler(upsample_cfg, C)
        self.head = nn.Conv2d(C, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.fine(image)
        return self.head(fine + self.upsample(self.coarse(fine.relu()), fine))


def draw() -> tuple[Tensor, Tensor]:
    """Noisy images of squares (4, 1, 16, 16), and the squares."""
    corners = torch.randint(1, 9, (4, 2))
    squares = torch.zeros(4, 1, 16, 16)
    for square, (row, column) in zip(squares, corners.tolist(), strict=True):
        square[:, row : row + 6, column : column + 6] = 1
    return squares + 0.3 * torch.randn_like(squares), squares


@pytest.mark.parametrize("name", list_upsamplers())
def test_every_upsampler_learns(name):
    network = Network(dict(type=name))
    before = {key: value.clone() for key, value in network.upsample.named_parameters()}
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(ITERATIONS):
        image, square = draw()
        loss = F.mse_loss(network(image), square)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])
    for key, value in network.upsample.named_parameters():
        assert value.isfinite().all(), key
        assert not torch.equal(value, before[key]), key
