"""Bad input gets one clear sentence, exit status 2 and no traceback, and nothing is lost.

What only the part that refuses it knows (`FOUND_LATE`) gives its traceback under a line that says
what was being done, and status 1.
"""

from __future__ import annotations

import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from PIL import Image

from tests.engine.toy import draw_data, write_config
from tests.engine.zygote import ROOT, TEST, TRAIN

# Nothing listens there: as on a machine without a network.
UNREACHABLE = "http://127.0.0.1:9"
IN_PROCESS = "train_dataloader.num_workers=0 train_dataloader.persistent_workers=False"


class Case(NamedTuple):
    """One mistake and what the sentence has to name.

    The tool runs in a directory with ``data/`` (6 images), the toy configs ``det.py`` and
    ``seg.py``, checkpoints (``good.pth`` fits the detector) and ``work/``, a work dir with one.
    """

    command: str
    says: tuple[str, ...]
    #: added to both configs
    config: str = ""
    spoil: Callable[[Path], object] | None = None


def annotations(directory: Path, **changes) -> None:
    path = directory / "data" / "annotations.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(name: str, content: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_text(content)


def remove(name: str) -> Callable[[Path], object]:
    return lambda directory: shutil.rmtree(directory / name)


def every(name: str, change: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda directory: [change(path) for path in (directory / name).iterdir()]


def widen(path: Path) -> None:
    with Image.open(path) as image:
        image.resize((100, 80)).save(path)


def relabel(path: Path) -> None:
    with Image.open(path) as labels:
        labels.point(lambda value: 7 * value).save(path)


class Malicious:
    """Unpickled by plain pickle, it would write a file."""

    def __reduce__(self):
        return Path.write_text, (Path("run-by-the-checkpoint"), "x")


COMMAND_LINE = {
    "no-arguments": Case("train", ("config",)),
    "option-without-equals": Case("train det.py --cfg-options lr", ("KEY=VALUE", "'lr'")),
    "option-without-place": Case(
        "train det.py --cfg-options model.backbone.depth.x=1", ("model.backbone.depth.x",)
    ),
    "option-unbalanced": Case("train det.py --cfg-options 'a=[(1,2]'", ("--cfg-options", "brack")),
    "option-misspelt": Case(
        "train det.py --cfg-options load_form=good.pth", ("load_form", "did you mean 'load_from'")
    ),
    "option-of-nothing": Case("train det.py --cfg-options colour.red=1", ("'colour'",)),
    "launcher-without-environment": Case(
        "train det.py --launcher pytorch", ("--launcher pytorch", "torchrun", "RANK")
    ),
    "slurm-without-environment": Case(
        "train det.py --launcher slurm", ("--launcher slurm", "SLURM_PROCID")
    ),
    "amp-without-gpu": Case("train det.py --amp", ("mixed precision", "GPU")),
    "auto-scale-lr-without-base": Case(
        "train det.py --auto-scale-lr", ("base_batch_size",), "auto_scale_lr = None\n"
    ),
    "work-dir-is-a-file": Case("train det.py --work-dir det.py", ("work dir", "det.py")),
    "work-dir-below-a-file": Case("train det.py --work-dir good.pth/x", ("work dir", "good.pth/x")),
    "out-of-mmdet-is-no-pickle": Case("test det.py good.pth --out x.json", ("--out", ".pkl")),
    "out-in-no-directory": Case("test det.py good.pth --out no/x.pkl", ("--out", "no does not")),
    "out-of-mmseg-is-a-file": Case("test seg.py good.pth --out good.pth", ("--out", "directory")),
    "show-dir-that-cannot-be-made": Case(
        "test det.py good.pth --show-dir /proc/x", ("--show-dir /proc/x", "cannot be made")
    ),
    "show-dir-without-hook": Case(
        "test det.py good.pth --show-dir drawn",
        ("--show-dir", "visualization"),
        'del default_hooks["visualization"]\n',
    ),
    "tta-of-mmseg-without-pipeline": Case(
        "test seg.py good.pth --tta", ("--tta", "tta_pipeline"), "del tta_pipeline\n"
    ),
    "tta-of-masks": Case(
        "test det.py good.pth --tta",
        ("--tta", "boxes", "mask_head"),
        'model["roi_head"] = dict(type="mmdet.StandardRoIHead", mask_head=dict())\n',
    ),
}

CONFIGS = {
    "config-missing": Case("train nowhere.py", ("nowhere.py", "does not exist")),
    "config-is-a-directory": Case("train data", ("data", "directory")),
    "config-of-another-type": Case("train good.pth", ("good.pth", "cannot be read")),
    "config-syntax": Case("train det.py", ("det.py", "line"), "model = dict(\n"),
    "config-name-error": Case(
        "train det.py", ("det.py", "line", "NameError", "no_such_name"), "x = no_such_name\n"
    ),
    "config-import": Case(
        "train det.py",
        ("det.py", "No module named 'no_such_module'"),
        'custom_imports = dict(imports=["no_such_module"], allow_failed_imports=False)\n',
    ),
    "config-base-missing": Case(
        "train det.py", ("det.py", "nowhere.py"), spoil=rewrite("det.py", '_base_ = "nowhere.py"')
    ),
    "config-without-model": Case("train det.py", ("det.py", "model"), "del model\n"),
    "config-without-evaluator": Case(
        "test det.py good.pth", ("det.py", "test_evaluator"), "del test_evaluator\n"
    ),
    "config-of-another-family": Case(
        "train det.py", ("default_scope", "mmpretrain"), 'default_scope = "mmpretrain"\n'
    ),
    "families-mixed-up": Case(
        "train det.py", ("belongs to mmdet", "default_scope"), 'default_scope = "mmseg"\n'
    ),
    "key-misspelt": Case(
        "train det.py",
        ("'optim_wraper'", "did you mean 'optim_wrapper'"),
        "optim_wraper = dict()\n",
    ),
    "batch-size-is-text": Case(
        "train det.py --cfg-options train_dataloader.batch_size=two",
        ("train_dataloader.batch_size", "at least 1", "'two'"),
    ),
    "no-epochs": Case(
        "train det.py --cfg-options train_cfg.max_epochs=0", ("train_cfg.max_epochs", "at least 1")
    ),
    "batch-larger-than-the-data-set": Case(
        "train det.py",
        ("6 samples", "drop_last=True", "batch_size=7"),
        'train_dataloader.pop("batch_sampler", None)\n'
        "train_dataloader.update(batch_size=7, drop_last=True)\n",
    ),
    "best-of-what-is-not-measured": Case(
        "train det.py --cfg-options default_hooks.checkpoint.save_best=coco/bbox_map",
        ("save_best", "'coco/bbox_map'", "did you mean 'coco/bbox_mAP'"),
    ),
    "unknown-metric": Case(
        "test seg.py good.pth --cfg-options test_evaluator.iou_metrics=mIou",
        ("iou_metrics", "'mIou'", "did you mean 'mIoU'"),
    ),
}


def part(says: str, change: str, command: str = "train det.py") -> Case:
    """A mistake in a part of the model or of what trains it."""
    return Case(command, tuple(says.split(" | ")), f"{change}\n")


# The detector with mmdet's own neck, as an UpsampleModel.
SWAPPED = """
model["neck"] = dict(type="FPN", in_channels=[8, 16, 32, 64], out_channels=16, num_outs=5)
model.update(type="UpsampleModel", of="FasterRCNN", upsample_cfg=dict(type="DySample"))
"""
PARTS = {
    "swapped-model-of-no-type": part(
        "model.of: | 'FasterRCN' | did you mean 'FasterRCNN'", f'{SWAPPED}model["of"] = "FasterRCN"'
    ),
    "swapped-model-without-a-site": part(
        "no upsampling found under 'backbone' | neck.upsampling.0",
        f'{SWAPPED}model["targets"] = "backbone"',
        "test det.py good.pth",
    ),
    "swapped-model-on-images-of-no-size": part(
        "image_size must be | 'large'", f'{SWAPPED}model["image_size"] = "large"'
    ),
    "unknown-type": part(
        "'ResNett' | did you mean 'ResNet'", 'model["backbone"]["type"] = "ResNett"'
    ),
    "unknown-type-inside": part(
        "loss_bbox | 'SmoothL1Los' | did you mean 'SmoothL1Loss'",
        'model["rpn_head"]["loss_bbox"]["type"] = "SmoothL1Los"',
    ),
    "unknown-type-of-hook": part(
        "custom_hooks[0] | 'EMAHok' | did you mean 'EMAHook'",
        'custom_hooks = [dict(type="EMAHok")]',
    ),
    "package-missing": part(
        "'nopackage.ResNet' | not installed", 'model["backbone"]["type"] = "nopackage.ResNet"'
    ),
    "unknown-key": part("ResNet | 'colour'", 'model["backbone"]["colour"] = 1'),
    "unknown-key-of-loop": part("EpochBasedTrainLoop | 'max_epoch'", 'train_cfg["max_epoch"] = 1'),
    "unknown-key-of-neck": part(
        "UpsampleFPN | 'upsample' | did you mean 'upsample_cfg'",
        'model["neck"]["upsample"] = dict(type="DySample")',
    ),
    "unknown-key-of-head": part(
        "UpsampleSegformerHead | 'upsample' | did you mean 'upsample_cfg'",
        'model["decode_head"]["upsample"] = dict(type="DySample")',
        "train seg.py",
    ),
    "unknown-key-of-dataloader": part(
        "train_dataloader | 'batchsize' | did you mean 'batch_size'",
        'train_dataloader["batchsize"] = 2',
    ),
    "channels-of-neck": part(
        "UpsampleFPN | in_channels | [8, 16, 32, 65]",
        'model["neck"]["in_channels"] = [8, 16, 32, 65]',
    ),
    "channels-of-head": part(
        "UpsampleSegformerHead | in_channels | [8, 8, 8, 9]",
        'model["decode_head"]["in_channels"] = [8, 8, 8, 9]',
        "train seg.py",
    ),
    "too-few-classes": part(
        "model.decode_head.num_classes is 1 | BaseSegDataset | 2 classes",
        'model["decode_head"].update(num_classes=1, out_channels=1, threshold=0.3)',
        "train seg.py",
    ),
    "too-many-classes-tested": part(
        "model.roi_head.bbox_head.num_classes is 80 | test_dataloader.dataset | 2 classes",
        'del model["roi_head"]["bbox_head"]["num_classes"]',  # which then is COCO's
        "test det.py good.pth",
    ),
    "upsampler-in-plain-fpn": part(
        "model.neck: FPN does not take | 'DySample' | type='mmdet.UpsampleFPN'",
        'model["neck"]["type"] = "FPN"',
    ),
    "upsampler-in-what-has-no-host": part(
        "model.neck: PAFPN | write model = dict(type='UpsampleModel' | targets='neck')",
        'model["neck"]["type"] = "PAFPN"',
    ),
    "host-of-mmdet-in-mmseg": part(
        "model.neck: 'UpsampleFCNMaskHead' belongs to mmdet | type='mmdet.UpsampleFCNMaskHead'",
        'model["neck"] = dict(type="UpsampleFCNMaskHead")',
        "train seg.py",
    ),
    "upsampler-unknown": part(
        "'DySampel' | DySample", 'model["neck"]["upsample_cfg"] = dict(type="DySampel")'
    ),
    "upsampler-with-the-authors-argument": part(
        "DySample | 'scale' | did you mean 'scale_factor'",
        'model["neck"]["upsample_cfg"]["scale"] = 2',
    ),
    "upsampler-groups": part("groups | 16 | 5", 'model["neck"]["upsample_cfg"]["groups"] = 5'),
    "upsampler-is-no-dict": part(
        "upsample_cfg | 'DySample'", 'model["neck"]["upsample_cfg"] = "DySample"'
    ),
}

DATA = {
    "data-missing": Case(
        "train det.py", ("annotations.json", "no such file"), spoil=remove("data")
    ),
    "images-missing": Case(
        "train det.py", ("images/00", "no such file"), spoil=remove("data/images")
    ),
    "annotations-broken": Case(
        "train det.py",
        ("annotations.json", "not valid JSON"),
        spoil=rewrite("data/annotations.json", '{"images": ['),
    ),
    "no-images": Case(
        "train det.py",
        ("CocoDataset", "empty"),
        spoil=lambda directory: annotations(directory, images=[], annotations=[]),
    ),
    "all-images-filtered": Case(
        "train det.py",
        ("CocoDataset", "empty", "filter_empty_gt"),
        spoil=lambda directory: annotations(directory, annotations=[]),
    ),
    "no-segmentation-data": Case("train seg.py", ("images", "no such file"), spoil=remove("data")),
    "no-segmentation-images": Case(
        "train seg.py", ("BaseSegDataset", "empty"), spoil=every("data/images", Path.unlink)
    ),
    "image-damaged-in-worker": Case(
        "train det.py",
        ("images/00", "damaged"),
        spoil=every("data/images", lambda path: path.write_bytes(b"not an image")),
    ),
    "image-damaged": Case(
        f"train det.py --cfg-options {IN_PROCESS}",
        ("images/00", "damaged"),
        spoil=every("data/images", lambda path: path.write_bytes(b"not an image")),
    ),
    "label-damaged-in-worker": Case(
        "train seg.py",
        ("labels/00",),
        spoil=every("data/labels", lambda path: path.write_bytes(path.read_bytes()[:60])),
    ),
    "label-missing": Case("train seg.py", ("labels", "no such file"), spoil=remove("data/labels")),
    "label-of-another-size": Case(
        "train seg.py",
        ("labels/00", "80x100", "images/00", "(height x width)"),
        spoil=every("data/labels", widen),
    ),
    "label-beyond-the-classes": Case(
        "train seg.py",
        ("labels/00", "label 7", "2 classes, 0 to 1", "255"),
        spoil=every("data/labels", relabel),
    ),
}

URL = f"{UNREACHABLE}/x.pth"
CHECKPOINTS = {
    "checkpoint-missing": Case("test det.py nowhere.pth", ("nowhere.pth", "does not exist")),
    "checkpoint-is-a-directory": Case("test det.py data", ("data", "is a directory")),
    "checkpoint-truncated": Case("test det.py half.pth", ("half.pth", "cut off")),
    "checkpoint-is-text": Case("test det.py text.pth", ("text.pth", "torch.save")),
    "checkpoint-is-a-tensor": Case("test det.py tensor.pth", ("tensor.pth", "Tensor")),
    "checkpoint-of-another-model": Case("test seg.py good.pth", ("good.pth", "does not fit")),
    "checkpoint-of-another-width": Case(
        "test det.py good.pth --cfg-options model.roi_head.bbox_head.fc_out_channels=24",
        ("good.pth", "does not fit this model"),
    ),
    "checkpoint-malicious": Case("test det.py bad.pth", ("bad.pth", "refused")),
    "checkpoint-malicious-pickle": Case("test det.py pickle.pth", ("pickle.pth", "refused")),
    "checkpoint-unreachable": Case(f"test det.py {URL}", (URL, "refused", "give its path")),
    "resume-malicious": Case("train det.py --resume bad.pth", ("bad.pth", "refused")),
    "resume-missing": Case("train det.py --resume nowhere.pth", ("nowhere.pth", "not exist")),
    "resume-weights-alone": Case(
        "train det.py --resume good.pth", ("good.pth", "not with --resume")
    ),
    "resume-all-damaged": Case(
        "train det.py --work-dir work --resume",
        ("none of the checkpoints", "work"),
        spoil=rewrite("work/epoch_1.pth", "PK\x03\x04 cut off"),
    ),
    "load-from-malicious": Case(
        "train det.py --cfg-options load_from=bad.pth", ("bad.pth", "refused")
    ),
    "load-from-unreachable": Case(
        f"train det.py --cfg-options load_from={URL}", (URL, "refused", "give its path")
    ),
    "load-from-another-model": Case(
        "train seg.py --cfg-options load_from=good.pth", ("good.pth", "does not fit this model")
    ),
    "pretrained-malicious": part(
        "bad.pth | refused",
        'model["backbone"]["init_cfg"] = dict(type="Pretrained", checkpoint="bad.pth")',
    ),
    "pretrained-unreachable": part(
        f"{URL} | init_cfg.checkpoint=PATH | model.backbone.init_cfg=None",
        f'model["backbone"]["init_cfg"] = dict(type="Pretrained", checkpoint="{URL}")',
    ),
}

FOUND_LATE = {
    "type-left-out": part("building the model | det.py", 'del model["neck"]["type"]'),
    "key-of-neck-left-out": part("building the model | det.py", 'del model["neck"]["num_outs"]'),
    "key-handed-on-to-nobody": part(
        "building the model | det.py", 'model["roi_head"]["bbox_head"]["colour"] = 1'
    ),
    "pipeline-step-refuses": part("building a data set", 'train_pipeline[3]["prob"] = 1.5'),
    "workers-that-persist-without-workers": Case(
        "train det.py --cfg-options train_dataloader.num_workers=0", ("building a data set",)
    ),
    "learning-rate-is-text": Case(
        "train det.py --cfg-options optim_wrapper.optimizer.lr=fast", ("training det.py",)
    ),
}

SENTENCES = {**COMMAND_LINE, **CONFIGS, **PARTS, **DATA, **CHECKPOINTS}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """The directory that each case works on a copy of."""
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    directory = tmp_path_factory.mktemp("prepared")
    draw_data(directory / "data")
    config = Config.fromfile(write_config("detector", Path("data"), directory / "detector.py"))
    init_default_scope("mmdet")
    model = MODELS.build(config.model)
    torch.save(dict(meta={}, state_dict=model.state_dict()), directory / "good.pth")
    (directory / "work").mkdir()
    shutil.copy(directory / "good.pth", directory / "work" / "epoch_1.pth")
    (directory / "work" / "last_checkpoint").write_text("work/epoch_1.pth")
    whole = (directory / "good.pth").read_bytes()
    (directory / "half.pth").write_bytes(whole[: len(whole) // 2])
    (directory / "text.pth").write_text("not a checkpoint")
    torch.save(torch.zeros(1), directory / "tensor.pth")
    torch.save(dict(meta=dict(epoch=1, iter=1), bad=Malicious()), directory / "bad.pth")
    (directory / "pickle.pth").write_bytes(pickle.dumps(Malicious(), 2))
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", [*SENTENCES, *FOUND_LATE])
def test_tools(name, zygote, prepared, tmp_path):
    late = name in FOUND_LATE
    case = FOUND_LATE[name] if late else SENTENCES[name]
    directory = tmp_path / "directory"
    shutil.copytree(prepared, directory)
    for family, file in (("detector", "det.py"), ("segmentor", "seg.py")):
        write_config(family, Path("data"), directory / file, case.config)
    if case.spoil is not None:
        case.spoil(directory)
    before = contents(directory)

    tool, *arguments = shlex.split(case.command)
    script = TRAIN if tool == "train" else TEST
    env = dict(CUDA_VISIBLE_DEVICES="")
    result = zygote.run(script, *arguments, cwd=directory, env=env)

    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.status == (1 if late else 2), result.stderr
    assert ("Traceback" in result.stderr + result.stdout) == late
    assert len(errors) == 1, result.stderr
    assert [part for part in case.says if part.lower() not in errors[0].lower()] == [], errors[0]
    after = contents(directory)
    assert {path: after.get(path) for path in before} == before
    assert not (directory / "run-by-the-checkpoint").exists()


def test_the_table_is_long_enough():
    assert len(SENTENCES) >= 60


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train.py nowhere.py", "test.py --tta"])
def test_in_a_process_that_has_imported_nothing(command, tmp_path):
    tool, *arguments = command.split()
    result = subprocess.run(
        [sys.executable, ROOT / "tools" / tool, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert list(tmp_path.iterdir()) == []
