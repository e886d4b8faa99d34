"""What all depth heads do with ground truth and predictions, by loops and closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.structures import PixelData
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.structures import SegDataSample

from mmdysample.mmseg.depth.depth_head import OF_SEGMENTATION, DepthHead
from tests.utils import assert_close


class Given(DepthHead):
    """Returns the first feature map, which the tests choose."""

    def forward(self, inputs):
        (depth,) = self._transform_inputs(inputs)
        return depth


class MeanDifference(nn.Module):
    """Of the pixels whose depth is known; keeps what it was called with."""

    loss_name = "loss_difference"

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, depth, target):
        self.depth, self.target = depth, target
        valid = target > 0
        return self.sign * (depth - target)[valid].mean()


def make(loss: nn.Module | None = None, **kwargs) -> Given:
    head = Given(**dict(in_channels=[1], channels=1, loss_decode=dict(type="SiLogLoss")) | kwargs)
    head.loss_decode = loss or MeanDifference()
    return head


def make_sample(depth: torch.Tensor, **meta) -> SegDataSample:
    return SegDataSample(gt_depth_map=PixelData(data=depth), metainfo=meta)


def interpolate_aligned(depth: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bilinear, the corners' centers staying where they are: by loops over (h, w)."""
    out = torch.empty(height, width)
    rows, columns = depth.shape
    for i in range(height):
        for j in range(width):
            y, x = i * (rows - 1) / (height - 1), j * (columns - 1) / (width - 1)
            top, left = min(int(y), rows - 2), min(int(x), columns - 2)
            down, right = y - top, x - left
            upper = (1 - right) * depth[top, left] + right * depth[top, left + 1]
            lower = (1 - right) * depth[top + 1, left] + right * depth[top + 1, left + 1]
            out[i, j] = (1 - down) * upper + down * lower
    return out


def test_a_prediction_is_clamped_before_it_is_resized():
    depth = torch.tensor([[-7.0, 2.0, 400.0], [1.0, 3.0, 5.0]])
    head = make(min_depth=0.5, max_depth=10.0)
    out = head.predict([depth[None, None]], [dict(img_shape=(5, 9))], None)
    clamped = torch.tensor([[0.5, 2.0, 10.0], [1.0, 3.0, 5.0]])
    assert_close(out[0, 0], interpolate_aligned(clamped, 5, 9))
    late = interpolate_aligned(depth, 5, 9).clamp(0.5, 10)
    assert (out[0, 0] - late).abs().max() > 1, "an order that the numbers tell apart"


def test_a_prediction_has_the_size_of_the_padded_image():
    depth = torch.rand(2, 1, 4, 6) + 1
    metas = [dict(img_shape=(7, 11), pad_shape=(8, 12))] * 2
    assert make().predict([depth], metas, None).shape == (2, 1, 8, 12)


def test_a_prediction_has_the_size_of_its_window():
    """mmseg's slide inference gives the size of a window as a torch.Size."""
    meta = dict(img_shape=torch.Size([5, 9]), pad_shape=(8, 12))
    assert make().predict([torch.ones(1, 1, 4, 6)], [meta], None).shape == (1, 1, 5, 9)


@pytest.mark.parametrize("align_corners", [True, False])
def test_the_loss_is_computed_at_the_size_of_the_ground_truth(align_corners):
    depth = torch.rand(2, 1, 3, 4) + 1
    samples = [make_sample(torch.rand(1, 7, 9) + 1) for _ in range(2)]
    head = make(align_corners=align_corners)
    losses = head.loss([depth], samples, None)
    assert list(losses) == ["loss_difference"]
    target = head.loss_decode.target
    assert target.shape == (2, 1, 7, 9)
    assert torch.equal(target[1], samples[1].gt_depth_map.data)
    aligned = interpolate_aligned(depth[1, 0], 7, 9)
    difference = (head.loss_decode.depth[1, 0] - aligned).abs().max()
    assert difference < 1e-5 if align_corners else difference > 0.05
    assert_close(losses["loss_difference"], (head.loss_decode.depth - target).mean())


def test_depth_that_padding_adds_is_not_known():
    """As mmseg's preprocessor pads it: with seg_pad_val=0, and not 255 m."""
    preprocessor = SegDataPreProcessor(
        mean=[0.0] * 3, std=[1.0] * 3, size=(6, 8), pad_val=0, seg_pad_val=0
    )
    data = dict(
        inputs=[torch.zeros(3, 5, 7, dtype=torch.uint8)],
        data_samples=[make_sample(torch.full((1, 5, 7), 2.0))],
    )
    samples = preprocessor(data, training=True)["data_samples"]
    head = make()
    loss = head.loss([torch.full((1, 1, 3, 4), 2.5)], samples, None)["loss_difference"]
    assert head.loss_decode.target.shape == (1, 1, 6, 8)
    assert (head.loss_decode.target > 0).sum() == 5 * 7
    assert loss == 0.5


def test_several_losses_are_reported_by_their_names_and_added_where_they_share_one():
    losses = nn.ModuleList([MeanDifference(), MeanDifference(), MeanDifference(-1.0)])
    losses[2].loss_name = "loss_negative"
    sample = make_sample(torch.full((1, 2, 2), 1.0))
    values = make(losses).loss([torch.full((1, 1, 2, 2), 4.0)], [sample], None)
    assert values == dict(loss_difference=torch.tensor(6.0), loss_negative=torch.tensor(-3.0))


def test_half_precision_is_resized_in_float32():
    depth = torch.tensor([[[[8.0, 8.0625]]]], dtype=torch.bfloat16)
    head = make()
    head.loss([depth], [make_sample(torch.ones(1, 1, 3))], None)
    expected = torch.tensor([[[[8.0, 8.03125, 8.0625]]]])
    assert torch.equal(head.loss_decode.depth, expected)
    assert torch.equal(head.predict([depth], [dict(img_shape=(1, 3))], None), expected)


def test_it_has_no_layer_for_classes_and_takes_the_levels_it_is_told():
    head = make(in_channels=[4, 8], in_index=[1, 3])
    assert list(head.parameters()) == []
    assert (head.num_classes, head.out_channels, head.in_index) == (1, 1, [1, 3])
    head.init_weights()
    assert make(in_channels=[4, 8]).in_index == [0, 1]
    maps = [torch.ones(1, channels, 2, 2) for channels in (2, 4, 6, 1)]
    assert make(in_index=[3])([*maps]) is maps[3]
    with pytest.raises(ValueError, match=r"Given takes .*in_channels=\[2\], got .*\[2, 4, 6, 1\]"):
        make(in_channels=[2])(maps)


def test_user_errors():
    sample = SegDataSample(metainfo=dict(img_path="office/1.jpg"))
    with pytest.raises(Exception, match=r"office/1.jpg has no gt_depth_map.*LoadDepthAnnotation"):
        make().loss([torch.ones(1, 1, 2, 2)], [sample], None)
    for settings in (dict(min_depth=0.0), dict(min_depth=3.0, max_depth=2.0)):
        with pytest.raises(ValueError, match=r"0 < min_depth < max_depth, got min_depth=[03]\.0"):
            make(**settings)
    with pytest.raises(TypeError, match=r"max_depth must be a finite number of meters, got '10m'"):
        make(max_depth="10m")
    with pytest.raises(ValueError, match=r"max_depth must be a finite number of meters, got inf"):
        make(max_depth=float("inf"))
    for name in OF_SEGMENTATION:
        with pytest.raises(TypeError, match=f"Given takes no {name}: a head for depth sets"):
            make(**{name: None})
