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

import mmdet
import mmseg
from mmengine.config import Config
from mmengine.registry import MODELS

import mmdysample.mmdet
import mmdysample.mmseg  # noqa: F401
from mmdysample.engine.checks import TESTING, TRAINING, check_config
from mmdysample.engine.checks.parts import check_parts
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
    cfg = load_config(path, None, ())
    check_config(cfg, TRAINING)
    check_config(cfg, TESTING)


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


def neck(**settings) -> Config:
    model = dict(type="TwoStageDetector", backbone=dict(type="ResNet", depth=18), neck=settings)
    return Config(dict(default_scope="mmdet", model=model))


@pytest.mark.parametrize(
    "settings",
    [
        dict(type="OwnNeck", channels=8, anything=1, part=dict(type="no such type")),
        dict(type="mmdet.FPN", in_channels=[8], out_channels=8, num_outs=1),
        dict(type=OwnNeck, channels=8),
        dict(type="OwnNeck", channels=8, upsample_cfg=dict(type="DySample")),
        dict(type="FPN", in_channels=[8], out_channels=8, num_outs=1, _scope_="mmdet"),
    ],
    ids=str,
)
def test_what_cannot_be_decided_is_let_pass(settings):
    check_parts(neck(**settings), ["model"])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(type="OwnNeck"), "model.neck: OwnNeck needs 'channels'"),
        (
            dict(type="OwnNeck", chanels=8, channels=8),
            r"OwnNeck has no argument 'chanels' \(did you mean 'channels'\?\)",
        ),
        (dict(channels=8), "model.neck in the config has no 'type'; its keys are: channels"),
        (
            dict(type="FPNN"),
            r"model.neck: type 'FPNN' is not registered .*\(did you mean 'FPN'\?\)",
        ),
    ],
    ids=str,
)
def test_refused(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        check_parts(neck(**settings), ["model"])


FORGOTTEN = {
    ("mmdet", "UpsampleFPN"): "imports=['mmdysample.mmdet'], allow_failed_imports=False) to the",
    ("mmdet", "DySample"): "imports=['mmdysample.mmdet']",
    ("mmseg", "UpsampleUPerHead"): "imports=['mmdysample.mmseg']",
    ("mmseg", "UpsampleFPN"): "write type='mmdet.UpsampleFPN'",
}


@pytest.mark.parametrize(
    "decoder",
    [
        dict(type="mmdet.PixelDecoder", upsample_cfg=dict(type="DySample")),
        dict(type="mmdet.TransformerEncoderPixelDecoder", upsample_cfg=dict(type="DySample")),
        dict(type="UpsamplePixelDecoder", upsample_cfg=dict(type="DySample")),
        dict(type="mmdet.UpsamplePixelDecoder"),
    ],
    ids=lambda decoder: f"{decoder['type']}-{len(decoder)}",
)
def test_the_upsampler_of_a_maskformer_is_given_to_its_head(decoder):
    head = dict(type="MaskFormerHead", pixel_decoder=decoder)
    cfg = Config(dict(default_scope="mmseg", model=dict(decode_head=head, type=dict)))
    with pytest.raises(UserError, match=r"decode_head\.pixel_decoder: .*'UpsampleMaskFormerHead'"):
        check_parts(cfg, ["model"])


def test_forgotten_imports():
    """In processes of their own, in which nothing has imported the hosts."""
    code = (
        "import os\n"
        "from mmengine.config import Config\n"
        "import mmdet.models, mmseg.models\n"
        "from mmdysample.engine.checks.parts import check_parts\n"
        "from mmdysample.errors import UserError\n"
        f"for scope, host in {list(FORGOTTEN)!r}:\n"
        "    if os.fork() == 0:\n"
        "        try:\n"
        "            cfg = Config(dict(default_scope=scope, model=dict(type=host)))\n"
        "            check_parts(cfg, ['model'])\n"
        "        except UserError as error:\n"
        "            print(error, flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    told = [line for line in result.stdout.splitlines() if line.startswith("model: ")]
    assert len(told) == len(FORGOTTEN), result.stderr
    for line, ((_, host), expected) in zip(told, FORGOTTEN.items(), strict=True):
        assert f"{host!r} is not imported: add custom_imports" in line
        assert expected in line
