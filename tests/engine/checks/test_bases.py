"""Hosts in configs that build on others: what stood at their place there."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import mmdysample.mmdet
import mmdysample.mmseg  # noqa: F401 - registers its hosts, as mmdysample.mmdet does
from mmdysample.engine.checks import check_config
from mmdysample.engine.config import load_config
from mmdysample.errors import UserError

UPSAMPLER = "upsample_cfg=dict(type='CARAFE')"
HOST = f"neck=dict(type='UpsampleFPN', {UPSAMPLER})"
SIZES = dict(in_channels=[8, 8], out_channels=8, num_outs=2)
OTHER = f"type='UpsampleFPN', in_channels=[8, 8], out_channels=8, num_outs=2, {UPSAMPLER}"


def base(neck: dict | list, **changes) -> str:
    """A config of a detector with a neck; the other parts do not matter here."""
    return f"default_scope = 'mmdet'\nmodel = {dict(type='RetinaNet', neck=neck) | changes!r}\n"


def roi_head(mask_head: dict | list) -> str:
    head = dict(type="CascadeRoIHead", num_stages=1, stage_loss_weights=[1], mask_head=mask_head)
    return base(dict(type="FPN", **SIZES), type="MaskRCNN", roi_head=head)


def check(tmp_path, before: str, text: str, options: dict | None = None) -> None:
    (tmp_path / "before.py").write_text(before)
    (tmp_path / "after.py").write_text(f"_base_ = ['before.py']\n{text}\n")
    check_config(load_config(str(tmp_path / "after.py"), options, ()), ("model",))


FPN = base(dict(type="FPN", **SIZES))
PAFPN = base(dict(type="PAFPN", **SIZES))
DYHEAD = dict(type="DyHead", in_channels=8, out_channels=8)
LISTED = base([dict(type="FPN", **SIZES), DYHEAD])
MASK_HEADS = roi_head([dict(type="HTCMaskHead", with_conv_res=False), dict(type="HTCMaskHead")])
IS_MEANT = {
    "fpn": (FPN, f"model = dict({HOST})"),
    "replaced": (PAFPN, f"model = dict(neck=dict(_delete_=True, {OTHER}))"),
    "replaced-in-braces": (
        PAFPN,
        f"model = dict(neck={{'_delete_': True, **dict({OTHER})}})",
    ),
    "replaced-in-a-variable": (
        PAFPN,
        f"pyramid = dict(_delete_=True, {OTHER})\nmodel = dict(neck=pyramid)",
    ),
    "replaced-by-other-means": (
        PAFPN,
        f"new = dict(_delete_=True, {OTHER})\nmodel = dict(neck=dict(**new))",
    ),
    "replaced-by-a-function": (
        PAFPN,
        f"def make(kind):\n    return dict(_delete_=True, type=kind, **{SIZES})\n"
        "model = dict(neck=make(kind='UpsampleFPN'))",
    ),
    "replaced-by-key": (
        PAFPN,
        f"model = dict()\nmodel['neck'] = dict(_delete_=True, {OTHER})",
    ),
    "replaced-in-pieces": (
        PAFPN,
        "new = dict(type='UpsampleFPN', _delete_=True)\nmodel = {'neck': {'num_outs': 2, **new, "
        "'in_channels': [8, 8], 'out_channels': 8}}",
    ),
    "model-replaced": (
        PAFPN,
        f"model = dict(_delete_=True, type='RetinaNet', neck=dict({OTHER}))",
    ),
    "no-neck-before": (
        "default_scope = 'mmdet'\nmodel = dict(type='RetinaNet')\n",
        f"model = dict(neck=dict({OTHER}))",
    ),
    "list": (LISTED, f"model = dict(neck=[dict({OTHER}), _base_.model.neck[1]])"),
    "list-of-one": (LISTED, f"model = dict(neck=[dict({OTHER})])"),
    "list-where-another-neck-was": (
        base([dict(type="PAFPN", **SIZES), DYHEAD]),
        f"model = dict(neck=[dict({OTHER}), _base_.model.neck[1]])",
    ),
    "mask-heads": (
        MASK_HEADS,
        "model = dict(roi_head=dict(mask_head=[dict(one, type='UpsampleHTCMaskHead') "
        "for one in _base_.model.roi_head.mask_head]))",
    ),
    "mmdets-host-for-mmsegs": (
        f"default_scope = 'mmseg'\nmodel = dict(neck=dict(type='UpsampleFPN', **{SIZES}))\n",
        "model = dict(neck=dict(type='mmdet.UpsampleFPN'))",
    ),
    "mmdets-fpn-for-mmsegs": (
        f"default_scope = 'mmseg'\nmodel = dict(neck=dict(type='FPN', **{SIZES}))\n",
        "model = dict(neck=dict(type='mmdet.UpsampleFPN'))",
    ),
}


@pytest.mark.parametrize("name", IS_MEANT)
def test_what_is_meant_is_let_pass(name, tmp_path):
    check(tmp_path, *IS_MEANT[name])


SWAP = (
    "write model = dict(type='UpsampleModel', of={{_base_.model.type}}, "
    "upsample_cfg=dict(type='CARAFE'), targets='neck')"
)
OR_NECK = ", or neck=dict(_delete_=True, type='UpsampleFPN', ...) if nothing of that is to stay"
PLACE = "model.neck: UpsampleFPN takes the place of FPN, but before.py has "
OR_MASK_HEAD = OR_NECK.replace("neck=", "mask_head=").replace("UpsampleFPN", "UpsampleFCNMaskHead")
MASK_PLACE = "UpsampleFCNMaskHead takes the place of FCNMaskHead, but before.py has "
REFUSED = {
    "pafpn": (PAFPN, f"model = dict({HOST})", f"{PLACE}PAFPN there: {SWAP}{OR_NECK}"),
    "pafpn-and-deleted-cfg": (
        base(dict(type="PAFPN", upsample_cfg=dict(mode="nearest"), **SIZES)),
        "model = dict(neck=dict(type='UpsampleFPN', "
        "upsample_cfg=dict(_delete_=True, type='CARAFE')))",
        f"{PLACE}PAFPN there: {SWAP}{OR_NECK}",
    ),
    "with-arguments-of-its-own": (
        base(dict(type="HRFPN", pooling_type="AVG", **SIZES)),
        f"model = dict({HOST})",
        f"{PLACE}HRFPN there: {SWAP}{OR_NECK}",
    ),
    "carafe": (
        base(dict(type="FPN_CARAFE", order=("conv",), **SIZES)),
        f"model = dict({HOST})",
        f"{PLACE}FPN_CARAFE there: write neck=dict(_delete_=True, type='UpsampleFPN', "
        "top_down_extra_levels=True, ...) with the in_channels, out_channels and num_outs of that "
        "neck",
    ),
    "list-deleted": (
        LISTED,
        f"model = dict(neck=dict(_delete_=True, {OTHER}))",
        "model.neck: before.py has a list there, which one UpsampleFPN would replace: write "
        "neck=[dict(_base_.model.neck[0], type='UpsampleFPN', upsample_cfg=...), "
        "_base_.model.neck[1]]",
    ),
    "mask-heads": (
        MASK_HEADS,
        "model = dict(roi_head=dict(mask_head=[dict(type='UpsampleFCNMaskHead')] * 2))",
        f"model.roi_head.mask_head[0]: {MASK_PLACE}HTCMaskHead there: write "
        "type='mmdet.UpsampleHTCMaskHead'",
    ),
    "mask-head": (
        roi_head(dict(type="SCNetMaskHead", conv_to_res=True)),
        "model = dict(roi_head=dict(mask_head=dict(type='UpsampleFCNMaskHead')))",
        f"model.roi_head.mask_head: {MASK_PLACE}SCNetMaskHead there: write "
        f"type='mmdet.UpsampleSCNetMaskHead'{OR_MASK_HEAD}",
    ),
    "mask-head-that-has-no-host": (
        roi_head(dict(type="CoarseMaskHead")),
        "model = dict(roi_head=dict(mask_head=dict(type='UpsampleFCNMaskHead')))",
        f"model.roi_head.mask_head: {MASK_PLACE}CoarseMaskHead there: nothing of ours takes the "
        f"place of CoarseMaskHead{OR_MASK_HEAD}",
    ),
    "pixel-decoder": (
        base({}, type="MaskFormer", panoptic_head=dict(pixel_decoder=dict(type="PixelDecoder"))),
        "model = dict(panoptic_head=dict(pixel_decoder=dict("
        f"type='UpsampleMSDeformAttnPixelDecoder', {UPSAMPLER})))",
        "model.panoptic_head.pixel_decoder: UpsampleMSDeformAttnPixelDecoder takes the place of "
        "MSDeformAttnPixelDecoder, but before.py has PixelDecoder there: "
        f"{SWAP.replace('neck', 'panoptic_head.pixel_decoder')}, or "
        "pixel_decoder=dict(_delete_=True, type='UpsampleMSDeformAttnPixelDecoder', ...) "
        "if nothing of that is to stay",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    before, text, sentence = REFUSED[name]
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        check(tmp_path, before, text)


DICTS_OVER_LISTS = {
    "neck": (
        LISTED,
        f"model = dict({HOST})",
        "model.neck is a dict, but before.py has a list there: write "
        "neck=[dict(_base_.model.neck[0], type='UpsampleFPN', upsample_cfg=...), "
        "_base_.model.neck[1]]",
    ),
    "mask-heads": (
        MASK_HEADS,
        "model = dict(roi_head=dict(mask_head=dict(type='UpsampleHTCMaskHead')))",
        "model.roi_head.mask_head is a dict, but before.py has a list there: write "
        "mask_head=[dict(one, type='UpsampleHTCMaskHead', upsample_cfg=...) for one in "
        "_base_.model.roi_head.mask_head]",
    ),
    "not-of-hosts": (
        MASK_HEADS,
        "model = 3 + dict()",  # another TypeError
        "cannot be read: line 2: TypeError: unsupported operand",
    ),
}


@pytest.mark.parametrize("name", DICTS_OVER_LISTS)
def test_a_dict_over_a_list(name, tmp_path):
    before, text, sentence = DICTS_OVER_LISTS[name]
    with pytest.raises(UserError, match=f"^config .*after.py.* {re.escape(sentence)}"):
        check(tmp_path, before, text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"model = dict({HOST})", r"before\.py: model\.neck is a dict, but first\.py has a list"),
        ("model = dict(3)", r"after\.py cannot be read: TypeError: 'int' object is not iterable"),
    ],
)
def test_a_base_that_cannot_be_read(text, sentence, tmp_path):
    (tmp_path / "first.py").write_text(LISTED)
    with pytest.raises(UserError, match=sentence):
        check(tmp_path, f"_base_ = 'first.py'\n{text}\n", "")


def test_a_dict_over_an_empty_list(tmp_path):
    check(tmp_path, base([]), "model = dict(neck=[])")
    with pytest.raises(UserError, match=r"before\.py has a list there: write neck=\[\]$"):
        check(tmp_path, base([]), f"model = dict({HOST})")


def test_the_list_that_is_advised_is_a_config(tmp_path):
    for before, cfg in (
        (LISTED, "neck=[dict(_base_.model.neck[0], type='UpsampleFPN'), _base_.model.neck[1]]"),
        (
            MASK_HEADS,
            "roi_head=dict(mask_head=[dict(one, type='UpsampleHTCMaskHead') "
            "for one in _base_.model.roi_head.mask_head])",
        ),
    ):
        check(tmp_path, before, f"model = dict({cfg})")


def test_it_is_found_through_configs_in_between(tmp_path):
    (tmp_path / "first.py").write_text(PAFPN)
    with pytest.raises(UserError, match=r"but first\.py has PAFPN there"):
        check(tmp_path, f"_base_ = 'first.py'\nmodel = dict({HOST})\n", "model = dict(neck=dict())")
    deleting = f"_base_ = 'first.py'\nmodel = dict(neck=dict(_delete_=True, {OTHER}))\n"
    check(tmp_path, deleting, "model = dict(neck=dict())")


def test_it_is_found_on_the_command_line(tmp_path):
    options = {"model.neck.type": "UpsampleFPN"}
    with pytest.raises(UserError, match=r"but after\.py has PAFPN there"):
        check(tmp_path, FPN, "model = dict(neck=dict(type='PAFPN'))", options)
    check(tmp_path, FPN, "", options)


def test_bases_of_other_formats_are_read(tmp_path):
    neck = dict(type="UpsampleFPN", upsample_cfg=dict(type="CARAFE"))
    replacement = dict(_delete_=True, **SIZES, **neck)
    for name, values in {
        "third.json": dict(_base_="first.json", model=dict(neck=replacement)),
        "first.json": dict(default_scope="mmdet", model=dict(neck=dict(type="PAFPN", **SIZES))),
        "second.json": dict(_base_="first.json", model=dict(neck=neck)),
    }.items():
        (tmp_path / name).write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"but first\.json has PAFPN there"):
        check_config(load_config(str(tmp_path / "second.json"), None, ()), ("model",))
    check_config(load_config(str(tmp_path / "third.json"), None, ()), ("model",))


def test_a_base_in_a_package_is_read(tmp_path):
    path = tmp_path / "after.py"
    path.write_text(f"_base_ = 'mmdet::pafpn/faster-rcnn_r50_pafpn_1x_coco.py'\nmodel=dict({HOST})")
    with pytest.raises(UserError, match=r"but faster-rcnn_r50_pafpn_1x_coco\.py has PAFPN there"):
        check_config(load_config(str(path), None, ()), ("model",))
