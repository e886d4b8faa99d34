"""How drawings are laid out."""

from __future__ import annotations

import pytest

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import numpy as np

from mmdysample.mmseg.panels import caption_height, enlarge, lay_out


@pytest.mark.parametrize(
    ("shape", "enlarged"),
    [
        ((160, 160), (320, 320)),
        ((100, 119), (300, 357)),
        ((120, 24), (240, 48)),
        ((240, 1), (240, 1)),
        ((480, 640), (480, 640)),
        ((1, 1), (240, 240)),
    ],
)
def test_small_images_are_enlarged(shape, enlarged):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    large = enlarge(image)
    assert large.shape == (*enlarged, 3)
    factor = enlarged[0] // shape[0]
    for row in range(factor):
        assert np.array_equal(large[row::factor, factor - 1 - row :: factor], image)


@pytest.mark.parametrize("side", [240, 1600])
def test_each_image_is_below_its_caption(side):
    black = np.zeros((side, side, 3), np.uint8)
    gray = np.full((side // 2, 3, 3), 128, np.uint8)
    drawn = lay_out([("image", black), ("a caption", gray)])
    top = caption_height(side)
    assert not drawn[top:, :side].any()
    assert (drawn[:, side : side + 8] == 255).all()
    assert (drawn[top : top + side // 2, side + 8 : side + 11] == 128).all()
    assert (drawn[top + side // 2 :, side + 8 :] == 255).all()
    right = drawn[:top, side + 8 :].min(axis=2) < 100
    assert right.any() and right.shape[1] > 30  # the caption is wider than its image
    written = np.flatnonzero((drawn[:top, :side].min(axis=2) < 100).any(axis=1))
    # letters are as high as a hundredth of the image or 8 pixels, and not cut
    assert written[-1] - written[0] >= max(8, side / 100)
    assert written[0] > 0 and written[-1] < top - 1
