"""Try models of mmdet and mmseg that have no config here, as docs/other_models.md says to.

    python tools/analysis/other_models.py             # all of them, about 20 minutes of one core
    python tools/analysis/other_models.py htc tood    # those with a part of these names

Each config of the installed mmdet or mmseg is given upsamplers by the line of `WRITE` that `MODELS`
names, checked as tools/train.py does, and built without downloads. It loads the state dict of
upstream's model, with nothing missing but the upsamplers and nothing left over but the layers that
they take the place of; the loss of two small random images is finite, and a gradient reaches every
weight of every upsampler. The exit status is 1 where one of that is not so.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from pathlib import Path

import torch
from mmengine.logging import MessageHub
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from torch import nn
from try_configs import nested_dicts, reduce_module

from mmdysample.engine.checks import TRAINING, check_config
from mmdysample.engine.config import load_config
from mmdysample.engine.errors import UserError, run_tool
from mmdysample.upsamplers.base import Upsampler

CFG = "upsample_cfg=dict(type='DySample')"
FPN = f"neck=dict(type='UpsampleFPN', {CFG})"
SWAP = f"type='UpsampleModel', of={{{{_base_.model.type}}}}, {CFG}"
WRITE = {
    "neck": f"dict({FPN})",
    "neck, deleted": (
        "dict(neck=dict(type='UpsampleFPN', upsample_cfg=dict(_delete_=True, type='DySample')))"
    ),
    "neck in a list": (
        f"dict(neck=[dict(_base_.model.neck[0], type='UpsampleFPN', {CFG}), _base_.model.neck[1]])"
    ),
    "neck and mask head": (
        f"dict({FPN}, roi_head=dict(mask_head=dict(type='UpsampleFCNMaskHead', {CFG})))"
    ),
    "neck and mask heads": (
        f"dict({FPN}, roi_head=dict(mask_head=[dict(head, type='Upsample' + head.type, "
        "upsample_cfg=dict(type='DySample')) for head in _base_.model.roi_head.mask_head]))"
    ),
    "neck and mask head of SCNet": (
        f"dict({FPN}, roi_head=dict(mask_head=dict(type='UpsampleSCNetMaskHead', {CFG})))"
    ),
    "FPN_CARAFE": (
        "dict(neck=dict(_delete_=True, type='UpsampleFPN', top_down_extra_levels=True, "
        f"in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5, {CFG}))"
    ),
    "swapped neck": f"dict({SWAP}, targets='neck')",
    "swapped backbone": f"dict({SWAP}, targets='backbone')",
    "swapped head": f"dict({SWAP}, targets='decode_head')",
    "swapped": f"dict({SWAP})",
    "pixel decoder of mmdet": (
        "dict(panoptic_head=dict(pixel_decoder=dict("
        f"type='UpsampleMSDeformAttnPixelDecoder', {CFG})))"
    ),
    "MaskFormer of mmdet": f"dict(panoptic_head=dict(type='UpsampleMaskFormerHead', {CFG}))",
    "UPerHead": f"dict(decode_head=dict(type='UpsampleUPerHead', {CFG}))",
    "UPerHead in K-Net": (
        f"dict(decode_head=dict(kernel_generate_head=dict(type='UpsampleUPerHead', {CFG})))"
    ),
    "SegformerHead": f"dict(decode_head=dict(type='UpsampleSegformerHead', {CFG}))",
    "pixel decoder of mmseg": (
        "dict(decode_head=dict(pixel_decoder=dict("
        f"type='mmdet.UpsampleMSDeformAttnPixelDecoder', {CFG})))"
    ),
    "MaskFormer of mmseg": f"dict(decode_head=dict(type='UpsampleMaskFormerHead', {CFG}))",
}
"""What is written as ``model`` of a config."""
MODELS = {
    "mmdet": {
        "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco": "neck",
        "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco": "neck and mask head",
        "dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco": "neck",
        "double_heads/dh-faster-rcnn_r50_fpn_1x_coco": "neck",
        "sabl/sabl-faster-rcnn_r50_fpn_1x_coco": "neck",
        "pisa/faster-rcnn_r50_fpn_pisa_1x_coco": "neck",
        "guided_anchoring/ga-retinanet_r50_fpn_1x_coco": "neck",
        "rpn/rpn_r50_fpn_1x_coco": "neck",
        "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco": "neck",
        "atss/atss_r50_fpn_1x_coco": "neck",
        "gfl/gfl_r50_fpn_1x_coco": "neck",
        "tood/tood_r50_fpn_1x_coco": "neck",
        "vfnet/vfnet_r50_fpn_1x_coco": "neck",
        "autoassign/autoassign_r50-caffe_fpn_1x_coco": "neck",
        "free_anchor/freeanchor_r50_fpn_1x_coco": "neck",
        "reppoints/reppoints-moment_r50_fpn_1x_coco": "neck",
        "fsaf/fsaf_r50_fpn_1x_coco": "neck",
        "foveabox/fovea_r50_fpn_4xb4-1x_coco": "neck",
        "centernet/centernet-update_r50_fpn_8xb8-amp-lsj-200e_coco": "neck",
        "sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco": "neck",
        "grid_rcnn/grid-rcnn_r50_fpn_gn-head_2x_coco": "neck",
        "point_rend/point-rend_r50-caffe_fpn_ms-1x_coco": "neck",
        "solo/solo_r50_fpn_1x_coco": "neck",
        "solov2/solov2_r50_fpn_1x_coco": "neck",
        "condinst/condinst_r50_fpn_ms-poly-90k_coco_instance": "neck",
        "panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco": "neck",
        "swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco": "neck and mask head",
        "ms_rcnn/ms-rcnn_r50-caffe_fpn_1x_coco": "neck and mask head",
        "yolact/yolact_r50_1xb8-55e_coco": "neck, deleted",
        "dyhead/atss_r50_fpn_dyhead_1x_coco": "neck in a list",
        "libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco": "neck in a list",
        "htc/htc_r50_fpn_1x_coco": "neck and mask heads",
        "htc/htc-without-semantic_r50_fpn_1x_coco": "neck and mask heads",
        "queryinst/queryinst_r50_fpn_1x_coco": "neck and mask heads",
        "scnet/scnet_r50_fpn_1x_coco": "neck and mask head of SCNet",
        "carafe/faster-rcnn_r50_fpn-carafe_1x_coco": "FPN_CARAFE",
        "mask2former/mask2former_r50_8xb2-lsj-50e_coco": "pixel decoder of mmdet",
        "maskformer/maskformer_r50_ms-16xb1-75e_coco": "MaskFormer of mmdet",
        "pafpn/faster-rcnn_r50_pafpn_1x_coco": "swapped neck",
        "nas_fcos/nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco": "swapped neck",
        "nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco": "swapped neck",
        "hrnet/faster-rcnn_hrnetv2p-w32-1x_coco": "swapped",
        "detectors/cascade-rcnn_r50-rfp_1x_coco": "swapped neck",
        "fpg/retinanet_r50_fpg_crop640_50e_coco": "swapped neck",
        "yolo/yolov3_d53_8xb8-320-273e_coco": "swapped neck",
        "yolox/yolox_s_8xb8-300e_coco": "swapped neck",
        "libra_rcnn/libra-retinanet_r50_fpn_1x_coco": "swapped neck",
    },
    "mmseg": {
        "sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024": "neck",
        "twins/twins_pcpvt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512": "neck",
        "point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024": "neck",
        "beit/beit-base_upernet_8xb2-160k_ade20k-640x640": "UPerHead",
        "swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512": "UPerHead",
        "twins/twins_svt-s_uperhead_8xb2-160k_ade20k-512x512": "UPerHead",
        "vit/vit_deit-s16_mln_upernet_8xb2-160k_ade20k-512x512": "UPerHead",
        "mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512": "UPerHead",
        "knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512": "UPerHead in K-Net",
        "segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024": "SegformerHead",
        "mask2former/mask2former_r50_8xb2-160k_ade20k-512x512": "pixel decoder of mmseg",
        "maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512": "MaskFormer of mmseg",
        "ocrnet/ocrnet_hr48_4xb2-160k_cityscapes-512x1024": "swapped backbone",
        "unet/unet-s5-d16_deeplabv3_4xb4-40k_drive-64x64": "swapped",
        "deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024": "swapped head",
        "resnest/resnest_s101-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024": "swapped head",
        "fastfcn/fastfcn_r50-d32_jpu_psp_4xb2-80k_cityscapes-512x1024": "swapped neck",
        "icnet/icnet_r50-d8_4xb2-80k_cityscapes-832x832": "swapped",
        "bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024": "swapped",
        "stdc/stdc1_4xb12-80k_cityscapes-512x1024": "swapped",
        "ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024": "swapped",
        "segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512": "swapped",
    },
}
"""Configs, and what of `WRITE` gives them upsamplers."""
SIZE = (192, 256)
"""Of the images, in pixels."""


def main() -> int:
    summary, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="parts of names of configs (all)")
    args = parser.parse_args()
    wanted = [
        (family, name)
        for family, configs in MODELS.items()
        for name in configs
        if not args.names or any(part in name for part in args.names)
    ]
    bad = 0
    for family, name in wanted:
        start = time.monotonic()
        try:
            verdict = f"ok, {try_model(family, name)}"
        except Exception as error:  # of any kind: the others are tried nevertheless
            bad += 1
            verdict = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        print(f"{family}::{name}: {verdict} ({time.monotonic() - start:.0f} s)", flush=True)
        gc.collect()
    print(f"{len(wanted) - bad} of {len(wanted)} models are ok")
    return 1 if bad or not wanted else 0


def try_model(family: str, name: str) -> str:
    """Try a config of a family; says how many upsamplers it got and what its loss is.

    Raises:
        UserError: the state dict of upstream's model does not load as it must, the loss is not
            finite, or a weight of an upsampler gets no gradient.
    """
    ours, upstream = (build(family, name, text) for text in (WRITE[MODELS[family][name]], "dict()"))
    upsamplers = {
        key: module for key, module in ours.named_modules() if isinstance(module, Upsampler)
    }
    result = ours.load_state_dict(upstream.state_dict(), strict=False)
    odd = [
        key
        for key in [*result.missing_keys, *result.unexpected_keys]
        if not any(key.startswith(f"{upsampler}.") for upsampler in upsamplers)
    ]
    if odd or not upsamplers:
        raise UserError(
            f"upstream's state dict differs in {odd}, with {len(upsamplers)} upsamplers"
        )
    losses = loss_of(ours.train(), family)
    total = sum(losses.values())
    if not torch.isfinite(total):
        raise UserError(f"the losses are {losses}")
    total.backward()
    for key, upsampler in upsamplers.items():
        for weight, value in upsampler.named_parameters():
            if value.grad is None or not torch.isfinite(value.grad).all():
                raise UserError(f"{key}.{weight} has the gradient {value.grad}")
    return f"{len(upsamplers)} upsamplers, loss {total:.4g}"


def build(family: str, name: str, text: str) -> nn.Module:
    """The model of a config that has ``model = text`` and builds on one of upstream's."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "config.py")
        path.write_text(
            f"_base_ = '{family}::{name}.py'\n"
            f"custom_imports = dict(imports=['mmdysample.{family}'], allow_failed_imports=False)\n"
            f"model = {text}\n"
        )
        cfg = load_config(str(path), None, ())
        init_default_scope(family)
        check_config(cfg, TRAINING)
    if "data_preprocessor" in cfg and "data_preprocessor" not in cfg.model:
        cfg.model.data_preprocessor = cfg.data_preprocessor
    for module in nested_dicts(cfg.model):
        reduce_module(module, is_coco=False)
        if str(module.get("type")).endswith("Sampler") and "num" in module:
            module["num"] = 16  # regions of an image that a second stage is trained on
        if module.get("type") == "BatchFixedSizePad":
            module["size"] = SIZE
        if "img_size" in module:
            module["img_size"] = SIZE
    model = MMENGINE_MODELS.build(cfg.model)
    model.init_weights()
    return model


def loss_of(model: nn.Module, family: str) -> dict[str, torch.Tensor]:
    """The losses of two images of noise with random labels, by name."""
    torch.manual_seed(0)
    for name in ("epoch", "iter"):  # which some losses depend on
        MessageHub.get_current_instance().update_info(name, 0)
    if family == "mmdet":
        from mmdet.testing import demo_mm_inputs

        batch = demo_mm_inputs(
            2, [[3, *SIZE]] * 2, num_items=[3, 3], num_classes=4, with_mask=True, with_semantic=True
        )
        batch = model.data_preprocessor(batch, True)
    else:
        from mmseg.structures import SegDataSample

        labels = torch.randint(0, 2, (2, 1, *SIZE))
        samples = [
            SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=dict(img_shape=SIZE))
            for label in labels
        ]
        batch = dict(inputs=torch.randn(2, 3, *SIZE), data_samples=samples)
    return model.parse_losses(model(**batch, mode="loss"))[1]


if __name__ == "__main__":
    sys.exit(run_tool(main))
