"""Types and keys of a config, and what may not be refused. More are in tools/test_bad_input.py."""

from __future__ import annotations

import glob
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import mmdet.registry
import mmseg.registry
from mmengine.config import Config
from mmengine.registry import MODELS

import mmdysample.mmdet
import mmdysample.mmseg
from mmdysample.engine.checks import TESTING, TRAINING, check_config
from mmdysample.engine.checks.parts import arguments, check_parts, package_of
from mmdysample.engine.config import load_config
from mmdysample.errors import UserError
from tests.engine.toy import CONFIGS

ROOT = Path(__file__).parents[3]


def sample(pattern: str, count: int) -> list[str]:
    paths = [path for path in sorted(glob.glob(pattern)) if "_base_" not in path]
    return random.Random(0).sample(paths, count)


@pytest.mark.parametrize(
    "path",
    [
        *sample(f"{ROOT}/configs/*/*.py", 6),
        *sample(f"{os.path.dirname(mmdet.__file__)}/.mim/configs/*/*_coco.py", 8),
        *sample(f"{os.path.dirname(mmseg.__file__)}/.mim/configs/*/*.py", 8),
        *(str(path) for path in sorted(CONFIGS.glob("*.py"))),
    ],
    ids=lambda path: Path(path).stem,
)
def test_configs_that_work_are_not_refused(path):
    check_config(load_config(path, None, ()), tuple(dict.fromkeys(TRAINING + TESTING)))


def test_every_part_is_seen():
    parts = check_parts(Config.fromfile(CONFIGS / "detector.py"), TRAINING)
    places = {part.place: getattr(part.cls, "__name__", None) for part in parts}
    expected = {
        "model.neck.upsample_cfg": "DySample",
        "model.rpn_head.loss_bbox": "L1Loss",
        "model.train_cfg.rcnn.assigner": "MaxIoUAssigner",
        "train_dataloader.dataset.pipeline[3]": "RandomFlip",
        "train_dataloader.batch_sampler": "AspectRatioBatchSampler",
        "val_evaluator": "CocoMetric",
        "optim_wrapper.optimizer": "SGD",
        "param_scheduler[1]": "MultiStepLR",
        "default_hooks.checkpoint": "CheckpointHook",
        "visualizer.vis_backends[0]": "LocalVisBackend",
    }
    assert {place: places.get(place) for place in expected} == expected


@MODELS.register_module()
class OwnNeck:
    """A class of a user, which makes of its parts and its ``**kwargs`` what it likes."""

    def __init__(self, channels, **kwargs):
        pass


def neck(scope: str = "mmdet", **settings) -> Config:
    model = dict(type="mmdet.TwoStageDetector", backbone=DEFORMABLE, neck=settings)
    return Config(dict(default_scope=scope, model=model))


# mmcv's builder takes a key that its layer does not.
DEFORMABLE = dict(type="mmdet.ResNet", depth=18, dcn=dict(type="DCNv2", deformable_groups=1))


@pytest.mark.parametrize(
    "settings",
    [
        dict(type="OwnNeck", channels=8, anything=1, neck=dict(type="no such type")),
        dict(type="mmdet.FPN", in_channels=[8], out_channels=8, num_outs=1),
        dict(type=OwnNeck, channels=8),
        dict(type=None),
        dict(type="OwnNeck", channels=8, upsample_cfg=dict(type="DySample")),
        dict(type="PAFPN", in_channels=[8], num_outs=1, _scope_="mmdet", scope="mmseg"),
    ],
    ids=str,
)
def test_what_cannot_be_decided_is_let_pass(settings):
    check_parts(neck(**settings), ["model"])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            dict(type="OwnNeck", chanels=8, channels=8),
            r"OwnNeck has no argument 'chanels' \(did you mean 'channels'\?\)",
        ),
        (dict(type="FPNN"), r"model.neck: type 'FPNN' is not registered \(did you mean 'FPN'\?\)"),
        (dict(type="Xyzzy"), "model.neck: type 'Xyzzy' is not registered$"),
        (
            dict(type="UpsampleFPN", upsample_cfg=dict(type="DySample", mode="nearest")),
            "model.neck.upsample_cfg: DySample has no argument 'mode'; where it is inherited from "
            r"the config .* upsample_cfg=dict\(_delete_=True, type='DySample'\)$",
        ),
        (
            dict(type="FPN", upsample_cfg=dict(type="DySample")),
            "FPN does not take the upsampler 'DySample' .*: write type='mmdet.UpsampleFPN'$",
        ),
        (
            dict(type="FCNMaskHead", upsample_cfg=dict(type="DySample")),
            "FCNMaskHead does not take .*: write type='mmdet.UpsampleFCNMaskHead'$",
        ),
        (dict(type="FPN", mode="nearest"), "FPN has no argument 'mode'$"),
    ],
    ids=str,
)
def test_refused(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        check_parts(neck(**settings), ["model"])


def test_misspelt_loss():
    head = dict(type="FCNHead", in_channels=8, channels=8, num_classes=2)
    head["loss_decode"] = [dict(type="CrossEntropyLos")]
    cfg = Config(dict(default_scope="mmseg", model=dict(type="EncoderDecoder", decode_head=head)))
    with pytest.raises(UserError, match=r"loss_decode\[0\]: .*did you mean 'CrossEntropyLoss'"):
        check_parts(cfg, ["model"])


@pytest.mark.parametrize("key", ["loss_decode", "norm_cfg", "act_cfg", "conv_cfg"])
@pytest.mark.parametrize("head", ["FCNHead", "BTSHead", "DenseDepthHead"])
def test_a_part_of_a_head_that_is_not_registered(head, key):
    settings = {"type": head, "in_channels": [8, 8], key: dict(type="Xyzzy")}
    model = dict(type="EncoderDecoder", decode_head=settings)
    cfg = Config(dict(default_scope="mmseg", model=model))
    with pytest.raises(UserError, match=f"model.decode_head.{key}: type 'Xyzzy' is not registered"):
        check_parts(cfg, ["model"])


def test_every_host_is_exported_by_its_family():
    """Also those of sub-packages: the checks look for hosts in the families' `__all__`."""
    exported = {*mmdysample.mmdet.__all__, *mmdysample.mmseg.__all__}
    classes = [
        *mmdet.registry.MODELS.module_dict.values(),
        *mmseg.registry.MODELS.module_dict.values(),
    ]
    hosts = {
        cls.__name__
        for cls in classes
        if package_of(cls) == "mmdysample" and "upsample_cfg" in arguments(cls)[0]
    }
    assert {"UpsampleFPN", "BTSHead", "MattingHead"} <= hosts <= exported


def test_a_forgotten_import(monkeypatch):
    monkeypatch.setattr("mmdysample.engine.checks.parts._find", lambda kind, scope: None)
    for name in ("UpsampleFPN", "DySample"):
        cfg = Config(dict(default_scope="mmdet", model=dict(type=name)))
        with pytest.raises(UserError, match=rf"'{name}' is not .*imports=\['mmdysample.mmdet'\]"):
            check_parts(cfg, ["model"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["UpsampleUPerHead", "DySample"])
def test_a_forgotten_import_in_a_process_without_it(name):
    code = (
        "from mmengine.config import Config\n"
        "from mmdysample.engine.checks.parts import check_parts\n"
        f"cfg = Config(dict(default_scope='mmseg', model=dict(type={name!r})))\n"
        "check_parts(cfg, ['model'])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    told = f"UserError: model: {name!r} is not imported: add custom_imports = dict(imports=["
    assert f"{told}'mmdysample.mmseg']" in result.stderr
