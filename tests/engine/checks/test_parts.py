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


def upsample_model(scope: str = "mmdet", **settings) -> Config:
    model = dict(
        type="UpsampleModel",
        of="YOLOX",
        upsample_cfg=dict(type="DySample"),
        backbone=dict(type="CSPDarknet"),
        neck=dict(type="YOLOXPAFPN", upsample_cfg=dict(scale_factor=2, mode="nearest")),
        bbox_head=dict(type="YOLOXHead", num_classes=3),
    )
    return Config(dict(default_scope=scope, model={**model, **settings}))


def test_a_swapped_model_is_seen_and_so_is_the_one_behind_it():
    parts = check_parts(upsample_model(targets="neck", image_size=(640, 480)), ["model"])
    found = [(part.place, part.cls.__name__, set(part.settings)) for part in parts[:3]]
    own = {"type", "of", "upsample_cfg", "targets", "image_size"}
    assert found == [
        ("model", "UpsampleModel", own),
        ("model", "YOLOX", {"type", "backbone", "neck", "bbox_head"}),
        ("model.upsample_cfg", "DySample", {"type"}),
    ]
    assert parts[1].settings["type"] == "YOLOX"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(of=None), r"^UpsampleModel needs of: .*of={{_base_.model.type}}"),
        (dict(upsample_cfg=None), "^UpsampleModel needs upsample_cfg: the upsampler, such as"),
        (dict(of=3), "^UpsampleModel: of must be a type, such as 'YOLOX', got 3$"),
        (dict(of="YOLOXX"), r"model.of: type 'YOLOXX' is not registered \(did you mean 'YOLOX'"),
        (dict(of="Xyzzy"), "model.of: type 'Xyzzy' is not registered$"),
        (dict(of="EncoderDecoder"), "model.of: .* belongs to mmseg: write of='mmseg.EncoderDecod"),
        (dict(of="nopackage.YOLOX"), "model.of: .* the package nopackage, which is not installed"),
        (dict(of="YOLOXPAFPN"), "of='YOLOXPAFPN' is no detector or segmentor; .* targets says"),
        (dict(of="UpsampleModel"), "the base's model is one already: leave out type and of"),
        (dict(upsample_cfg=dict(type="DySampel")), r"model.upsample_cfg: .* 'DySample'\?"),
        (dict(upsample_cfg=dict(type="Xyzzy")), "unknown upsampler 'Xyzzy'; registered are A2U"),
        (dict(upsample_cfg=dict(type="ResNet")), "unknown upsampler 'ResNet'"),
        (dict(upsample_cfg="DySample"), "upsample_cfg must be a dict .*, or a function"),
        (dict(upsample_cfg=dict(groups=4)), "upsample_cfg must be a dict with the key 'type'"),
        (
            dict(upsample_cfg=dict(type="CARAFE", groups=4)),
            r"model.upsample_cfg: CARAFE has no argument 'groups' \(did you mean 'up_group'"
            r".* inherited .* write upsample_cfg=dict\(_delete_=True, type='CARAFE'\)",
        ),
        (dict(targets=[]), "targets is empty; leave it out to swap the whole model"),
        (dict(targets=3), "targets must be a name or a list of names, got 3"),
        (dict(target="neck"), r"UpsampleModel has no argument 'target' \(did you mean 'targets'"),
        (dict(preserve="yes"), "preserve must be True or False, got 'yes'"),
        (dict(guides=["neck"]), "guides must be a dict"),
        (dict(image_size=0), r"image_size must be a whole number .*\(height, width\), got 0"),
        (dict(image_size=(640, 480, 3)), r"image_size must be .*, got \(640, 480, 3\)"),
        (dict(image_size=2.5), "image_size must be .*, got 2.5"),
        (dict(necks=1), r"model: YOLOX has no argument 'necks' \(did you mean 'neck'"),
        (
            dict(neck=dict(type="YOLOXPAFPN", upsample_cfg=dict(type="DySample"))),
            "model.neck: YOLOXPAFPN does not take the upsampler 'DySample'",
        ),
        (dict(backbone=dict(type="CSPDarknet", deepen=1)), "model.backbone: CSPDarknet has no"),
    ],
    ids=str,
)
def test_refused_in_a_swapped_model(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        check_parts(upsample_model(**settings), ["model"])


def test_a_swapped_part():
    cfg = upsample_model(neck=dict(type="UpsampleModel", of="FPN", upsample_cfg=dict(type="FADE")))
    with pytest.raises(UserError, match=r"model.neck: .* stands at the top of model"):
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
