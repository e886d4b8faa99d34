"""Numbers of classes of heads and data sets."""

from __future__ import annotations

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.config import Config

from mmdysample.engine.checks.classes import check_classes
from mmdysample.engine.checks.parts import check_parts
from mmdysample.errors import UserError


def check(scope: str, dataset: dict, **heads) -> None:
    kind = "TwoStageDetector" if scope == "mmdet" else "EncoderDecoder"
    kind = "GLIP" if "language_model" in heads else kind
    cfg = dict(
        default_scope=scope,
        model=dict(type=kind, backbone=None, **heads),
        train_dataloader=dict(dataset=dataset),
    )
    check_classes(check_parts(Config(cfg), ["model", "train_dataloader"]))


TWO = dict(type="CocoDataset", metainfo=dict(classes=("a", "b")))
WRAPPED = dict(type="RepeatDataset", times=2, dataset=TWO)
TEXTS = dict(language_model=dict(type="BertModel", name="bert"))
BOXES, MASKS = "Shared2FCBBoxHead", "FCNMaskHead"


def roi(**heads) -> dict:
    return dict(roi_head=dict(type="StandardRoIHead", **heads))


@pytest.mark.parametrize(
    ("dataset", "heads"),
    [
        (TWO, roi(bbox_head=dict(type=BOXES, num_classes=2))),
        (dict(type="CocoDataset"), roi(bbox_head=dict(type=BOXES))),  # 80 of both
        (dict(type="CocoDataset", metainfo=dict(classes="classes.txt")), roi()),
        (TWO, dict(rpn_head=dict(type="FCOSHead", num_classes=1, in_channels=8))),
        (TWO, dict(bbox_head=dict(type="FCOSHead", num_classes=9, in_channels=8), **TEXTS)),
        (dict(type="MOTChallengeDataset"), roi(bbox_head=dict(type=BOXES, num_classes=1))),
        (TWO, roi(mask_head=dict(type=MASKS, class_agnostic=True))),
        (
            dict(type="CocoPanopticDataset"),
            roi(bbox_head=dict(type=BOXES), mask_head=dict(type=MASKS)),
        ),
        (  # the file says which are things
            dict(type="CocoPanopticDataset", metainfo=dict(classes=("a", "b", "c"))),
            roi(bbox_head=dict(type=BOXES, num_classes=2)),
        ),
    ],
    ids=str,
)
def test_fit(dataset, heads):
    check("mmdet", dataset, **heads)


@pytest.mark.parametrize(
    ("dataset", "heads", "sentence"),
    [
        (TWO, roi(bbox_head=dict(type=BOXES)), "roi_head.bbox_head.num_classes is 80, but"),
        (WRAPPED, roi(bbox_head=dict(type=BOXES, num_classes=3)), "set num_classes=2"),
        (TWO, roi(bbox_head=[dict(type=BOXES, num_classes=3)]), r"bbox_head\[0\].num_classes is 3"),
        (TWO, roi(mask_head=dict(type=MASKS)), "mask_head.num_classes is 80"),
        (
            dict(type="CocoPanopticDataset"),
            roi(bbox_head=dict(type=BOXES, num_classes=133)),
            "num_classes is 133.*80 classes",
        ),
    ],
    ids=str,
)
def test_do_not_fit(dataset, heads, sentence):
    with pytest.raises(UserError, match=sentence):
        check("mmdet", dataset, **heads)


def test_heads_of_segmentors():
    heads = dict(
        decode_head=dict(type="FCNHead", num_classes=150),
        auxiliary_head=[
            dict(type="STDCHead", num_classes=2, boundary_threshold=0.1),
            dict(type="FCNHead", num_classes=19),
        ],
    )
    check("mmseg", dict(type="BaseSegDataset"), **heads)  # does not say its classes
    with pytest.raises(UserError, match=r"auxiliary_head\[1\].num_classes is 19.*has 150"):
        check("mmseg", dict(type="ADE20KDataset"), **heads)
