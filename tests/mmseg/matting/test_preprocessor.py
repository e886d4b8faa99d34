"""Batches of images and trimaps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmdysample.mmseg.matting import MattingDataPreprocessor
from mmdysample.mmseg.matting.preprocessor import pad_by_reflection
from tests.mmseg.matting.models import MEAN, STD, make_batch
from tests.utils import assert_close


def make(**settings) -> MattingDataPreprocessor:
    return MattingDataPreprocessor(**dict(mean=MEAN, std=STD) | settings)


def test_colors_are_normalized_as_rgb_and_the_trimap_follows():
    batch = make_batch((32, 48), (32, 48))
    inputs = make()(batch, training=True)["inputs"]
    assert inputs.shape == (2, 4, 32, 48) and inputs.dtype == torch.float32
    for n, (image, sample) in enumerate(zip(batch["inputs"], batch["data_samples"], strict=True)):
        blue, green, red = image.double()
        # ImageNet's, of values 0 to 1
        for channel, color, mean, std in (
            (0, red, 0.485, 0.229),
            (1, green, 0.456, 0.224),
            (2, blue, 0.406, 0.225),
        ):
            assert_close(inputs[n, channel], (color / 255 - mean) / std, torch.float32)
        assert_close(inputs[n, 3], sample.trimap.data[0].double() / 255, torch.float32)
    values = sorted(set(inputs[:, 3].flatten().tolist()))
    assert values == pytest.approx([0, 128 / 255, 1])


def test_images_that_are_rgb_already():
    batch = make_batch((16, 16))
    inputs = make(bgr_to_rgb=False)(batch)["inputs"]
    assert_close(inputs[0, 0], (batch["inputs"][0][0].double() - MEAN[0]) / STD[0], torch.float32)


def test_training_leaves_sizes_and_testing_pads():
    assert make()(make_batch((33, 47)), training=True)["inputs"].shape[2:] == (33, 47)
    assert make()(make_batch((33, 47)))["inputs"].shape[2:] == (48, 48)
    assert make(size_divisor=32)(make_batch((33, 47)))["inputs"].shape[2:] == (64, 64)


@pytest.mark.parametrize("size", [(16, 32), (17, 31), (9, 20), (5, 3), (2, 40)])
def test_padding_is_numpys_reflection(size):
    x = torch.randn(2, 3, *size)
    below, right = (-length % 16 for length in size)
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (0, below), (0, right)), mode="reflect")
    assert np.array_equal(pad_by_reflection(x, 16).numpy(), expected)


def test_a_single_pixel_is_repeated():
    padded = pad_by_reflection(torch.tensor(7.0).view(1, 1, 1, 1), 16)
    assert padded.shape == (1, 1, 16, 16) and (padded == 7).all()


def test_fields_and_samples_stay():
    batch = make_batch((20, 24))
    (sample,) = make()(batch)["data_samples"]
    for name in ("trimap", "gt_alpha", "gt_fg", "gt_bg"):
        assert torch.equal(sample.get(name).data, batch["data_samples"][0].get(name).data)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_everything_goes_to_the_device():
    data = make().cuda()(make_batch((20, 24)))
    assert data["inputs"].is_cuda
    for name in ("trimap", "gt_alpha", "gt_fg", "gt_bg"):
        assert data["data_samples"][0].get(name).data.is_cuda


def test_user_errors():
    with pytest.raises(ValueError, match=r"several sizes \(32x32, 32x48\): crop .* batch_size=1"):
        make()(make_batch((32, 48), (32, 32)), training=True)
    batch = make_batch((32, 32))
    del batch["data_samples"][0].trimap
    with pytest.raises(ValueError, match=r"sample of image\.png has no trimap: the pipeline"):
        make()(batch)
    batch = make_batch((32, 32))
    batch["inputs"] = [torch.zeros(3, 32, 40, dtype=torch.uint8)]
    with pytest.raises(ValueError, match=r"trimap of image\.png is 32x32 .* the image is 32x40"):
        make()(batch)
    with pytest.raises(ValueError, match="needs data_samples"):
        make()(dict(inputs=batch["inputs"]))
    with pytest.raises(ValueError, match="std must be three numbers"):
        make(std=(1, 1, 1, 1))
    with pytest.raises(ValueError, match="size_divisor must be an integer >= 1, got 0"):
        make(size_divisor=0)
