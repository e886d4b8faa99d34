"""Bad input gets one clear sentence, exit status 2 and no traceback, and nothing is lost.

What only the part that refuses it knows (`FOUND_LATE`) gives its traceback under a line that says
what was being done, and status 1.

The tools are called as a user calls them; the library is called with what a user might write.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from PIL import Image

from mmdysample import Bilinear, DySample, build_upsampler
from tests.engine.toy import draw_data, write_config
from tests.engine.zygote import TEST, TRAIN

# Nothing listens there: as on a machine without a network.
UNREACHABLE = "http://127.0.0.1:9"
IN_PROCESS = "train_dataloader.update(num_workers=0, persistent_workers=False)\n"


@dataclass
class Case:
    """One mistake and what the sentence has to name.

    The tool runs in a folder with ``data/`` (6 pictures), ``good.pth`` (a checkpoint that fits the
    detector), ``config.py`` (the toy config of ``family`` with ``config`` added to it) and
    ``work/`` (a work dir with a checkpoint).
    """

    says: tuple[str, ...]
    script: Path = TRAIN
    family: str = "detector"
    config: str = ""
    arguments: tuple[str, ...] = ("config.py",)
    spoil: Callable[[Path], object] | None = None
    env: dict[str, str] = field(default_factory=dict)


def annotations(folder: Path, **changes) -> None:
    path = folder / "data" / "annotations.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(name: str, content: bytes | str) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def spoil_pictures(folder: Path) -> None:
    for path in (folder / "data" / "images").iterdir():
        path.write_bytes(b"not a picture")


def spoil_labels(folder: Path) -> None:
    for path in (folder / "data" / "labels").iterdir():
        path.write_bytes(path.read_bytes()[:60])


def widen_labels(folder: Path) -> None:
    for path in (folder / "data" / "labels").iterdir():
        with Image.open(path) as labels:
            labels.resize((100, 80)).save(path)


def relabel(folder: Path) -> None:
    for path in (folder / "data" / "labels").iterdir():
        with Image.open(path) as labels:
            labels.point(lambda value: 7 * value).save(path)


class Malicious:
    """Unpickled by plain pickle, it would write a file."""

    def __reduce__(self):
        return Path.write_text, (Path("run-by-the-checkpoint"), "x")


def save_malicious(folder: Path) -> None:
    torch.save(dict(meta=dict(epoch=1, iter=1), bad=Malicious()), folder / "bad.pth")


def truncate(folder: Path) -> None:
    content = (folder / "good.pth").read_bytes()
    (folder / "bad.pth").write_bytes(content[: len(content) // 2])


TESTING = dict(script=TEST)
TOOLS = {
    # the command line
    "no-arguments": Case(("config",), arguments=()),
    "unknown-argument": Case(("--lr",), arguments=("config.py", "--lr", "1")),
    "option-without-equals": Case(
        ("--cfg-options", "KEY=VALUE", "'lr'"), arguments=("config.py", "--cfg-options", "lr")
    ),
    "option-without-place": Case(
        ("--cfg-options", "model.backbone.depth.x"),
        arguments=("config.py", "--cfg-options", "model.backbone.depth.x=1"),
    ),
    "option-unbalanced": Case(
        ("--cfg-options", "brackets"), arguments=("config.py", "--cfg-options", "a=[(1,2]")
    ),
    "launcher-without-environment": Case(
        ("--launcher pytorch", "torchrun", "RANK"), arguments=("config.py", "--launcher", "pytorch")
    ),
    "slurm-without-environment": Case(
        ("--launcher slurm", "SLURM_PROCID"), arguments=("config.py", "--launcher", "slurm")
    ),
    "amp-without-gpu": Case(
        ("mixed precision", "GPU"),
        arguments=("config.py", "--amp"),
        env=dict(CUDA_VISIBLE_DEVICES=""),
    ),
    "auto-scale-lr-without-base": Case(
        ("--auto-scale-lr", "base_batch_size"),
        config="del auto_scale_lr\n",
        arguments=("config.py", "--auto-scale-lr"),
    ),
    "work-dir-is-a-file": Case(
        ("work dir", "config.py"), arguments=("config.py", "--work-dir", "config.py")
    ),
    "work-dir-below-a-file": Case(
        ("work dir", "good.pth/x"), arguments=("config.py", "--work-dir", "good.pth/x")
    ),
    "out-of-mmdet-is-no-pickle": Case(
        ("--out", ".pkl"), arguments=("config.py", "good.pth", "--out", "x.json"), **TESTING
    ),
    "out-in-no-folder": Case(
        ("--out", "nowhere"),
        arguments=("config.py", "good.pth", "--out", "nowhere/x.pkl"),
        **TESTING,
    ),
    "out-of-mmseg-is-a-file": Case(
        ("--out", "directory"),
        family="segmentor",
        arguments=("config.py", "good.pth", "--out", "good.pth"),
        **TESTING,
    ),
    "show-dir-without-hook": Case(
        ("--show-dir", "visualization"),
        config='del default_hooks["visualization"]\n',
        arguments=("config.py", "good.pth", "--show-dir", "pictures"),
        **TESTING,
    ),
    "tta-of-mmseg-without-pipeline": Case(
        ("--tta", "tta_pipeline"),
        family="segmentor",
        config="del tta_pipeline\n",
        arguments=("config.py", "good.pth", "--tta"),
        **TESTING,
    ),
    # the config
    "config-missing": Case(("nowhere.py", "does not exist"), arguments=("nowhere.py",)),
    "config-is-a-directory": Case(("data", "directory"), arguments=("data",)),
    "config-of-another-type": Case(("good.pth", "cannot be read"), arguments=("good.pth",)),
    "config-syntax": Case(("config.py", "line"), config="model = dict(\n"),
    "config-name-error": Case(
        ("config.py", "NameError", "no_such_name"), config="x = no_such_name\n"
    ),
    "config-import": Case(
        ("config.py", "no_such_module"),
        config='custom_imports = dict(imports=["no_such_module"], allow_failed_imports=False)\n',
    ),
    "config-base-missing": Case(
        ("config.py", "nowhere.py"), spoil=rewrite("config.py", '_base_ = "nowhere.py"\n')
    ),
    "config-without-model": Case(("config.py", "model"), config="del model\n"),
    "config-without-evaluator": Case(
        ("config.py", "test_evaluator"),
        config="del test_evaluator\n",
        arguments=("config.py", "good.pth"),
        **TESTING,
    ),
    "config-of-another-family": Case(
        ("default_scope", "mmpretrain"), config='default_scope = "mmpretrain"\n'
    ),
    "families-mixed-up": Case(
        ("belongs to mmdet", "default_scope"), config='default_scope = "mmseg"\n'
    ),
    "unknown-type": Case(
        ("'ResNett'", "did you mean 'ResNet'"), config='model["backbone"]["type"] = "ResNett"\n'
    ),
    "unknown-key": Case(("ResNet", "'colour'"), config='model["backbone"]["colour"] = 1\n'),
    "unknown-key-of-optimizer": Case(
        ("SGD", "'lrr'"), config='optim_wrapper["optimizer"]["lrr"] = 1\n'
    ),
    "unknown-key-of-loop": Case(
        ("EpochBasedTrainLoop", "'max_epoch'"), config='train_cfg["max_epoch"] = 1\n'
    ),
    "unknown-key-of-neck": Case(
        ("UpsampleFPN", "'upsample'", "did you mean 'upsample_cfg'"),
        config='model["neck"]["upsample"] = dict(type="DySample")\n',
    ),
    "unknown-key-of-head": Case(
        ("UpsampleSegformerHead", "'upsample'", "did you mean 'upsample_cfg'"),
        family="segmentor",
        config='model["decode_head"]["upsample"] = dict(type="DySample")\n',
    ),
    "unknown-key-of-visualizer": Case(
        ("DetLocalVisualizer", "'line_widht'", "did you mean 'line_width'"),
        config='visualizer["line_widht"] = 2\n',
    ),
    "key-of-neck-left-out": Case(
        ("UpsampleFPN", "'num_outs'"), config='del model["neck"]["num_outs"]\n'
    ),
    "channels-of-neck": Case(
        ("UpsampleFPN", "in_channels", "[8, 16, 32, 65]"),
        config='model["neck"]["in_channels"] = [8, 16, 32, 65]\n',
    ),
    "channels-of-head": Case(
        ("UpsampleSegformerHead", "in_channels", "[8, 8, 8, 9]"),
        family="segmentor",
        config='model["decode_head"]["in_channels"] = [8, 8, 8, 9]\n',
    ),
    "too-few-classes": Case(
        ("model.decode_head.num_classes is 1", "BaseSegDataset", "2 classes"),
        family="segmentor",
        config='model["decode_head"].update(num_classes=1, out_channels=1, threshold=0.3)\n',
    ),
    "too-few-classes-of-a-detector": Case(
        ("model.roi_head.bbox_head.num_classes is 80", "train_dataloader.dataset", "2 classes"),
        config='del model["roi_head"]["bbox_head"]["num_classes"]\n',  # which then is COCO's
    ),
    "too-many-classes-tested": Case(
        ("model.roi_head.bbox_head.num_classes is 3", "test_dataloader.dataset", "2 classes"),
        config='model["roi_head"]["bbox_head"]["num_classes"] = 3\n',
        arguments=("config.py", "good.pth"),
        **TESTING,
    ),
    "key-misspelt": Case(
        ("'optim_wraper'", "did you mean 'optim_wrapper'"), config="optim_wraper = dict()\n"
    ),
    "option-misspelt": Case(
        ("--cfg-options load_form", "did you mean 'load_from'"),
        arguments=("config.py", "--cfg-options", "load_form=good.pth"),
    ),
    "option-of-nothing": Case(
        ("--cfg-options colour.red", "'colour'"),
        arguments=("config.py", "--cfg-options", "colour.red=1"),
    ),
    "unknown-key-of-dataloader": Case(
        ("train_dataloader", "'batchsize'", "did you mean 'batch_size'"),
        config='train_dataloader["batchsize"] = 2\n',
    ),
    "workers-that-persist-without-workers": Case(
        ("train_dataloader", "persistent_workers", "num_workers=0"),
        arguments=("config.py", "--cfg-options", "train_dataloader.num_workers=0"),
    ),
    "batch-larger-than-the-data-set": Case(
        ("6 samples", "drop_last=True", "batch_size=7"),
        config='del train_dataloader["batch_sampler"]\n'
        "train_dataloader.update(batch_size=7, drop_last=True)\n",
    ),
    "best-of-what-is-not-measured": Case(
        ("save_best", "'coco/bbox_map'", "did you mean 'coco/bbox_mAP'"),
        config='default_hooks["checkpoint"]["save_best"] = "coco/bbox_map"\n',
    ),
    "best-of-what-is-not-measured-in-pixels": Case(
        ("save_best", "'mIou'", "did you mean 'mIoU'"),
        family="segmentor",
        config='default_hooks["checkpoint"]["save_best"] = ["mIou"]\n',
    ),
    "upsampler-in-plain-fpn": Case(
        ("model.neck: FPN does not take", "'DySample'", "type='UpsampleFPN'"),
        config='model["neck"]["type"] = "FPN"\n',
    ),
    "upsampler-in-plain-head": Case(
        ("model.decode_head: SegformerHead", "type='UpsampleSegformerHead'"),
        family="segmentor",
        config='model["decode_head"]["type"] = "SegformerHead"\n',
    ),
    "upsampler-in-what-has-no-host": Case(
        ("model.neck: PAFPN", "'UpsampleFPN'", "'UpsampleFCNMaskHead'"),
        config='model["neck"]["type"] = "PAFPN"\n',
    ),
    "host-of-mmdet-in-mmseg": Case(
        ("model.neck: 'UpsampleFPN' belongs to mmdet", "type='mmdet.UpsampleFPN'"),
        family="segmentor",
        config='model["neck"] = dict(type="UpsampleFPN")\n',
    ),
    "upsampler-with-the-authors-argument": Case(
        ("DySample", "'scale'", "did you mean 'scale_factor'"),
        config='model["neck"]["upsample_cfg"]["scale"] = 2\n',
    ),
    "unknown-type-inside": Case(
        ("loss_bbox", "'SmoothL1Los'", "did you mean 'SmoothL1Loss'"),
        config='model["rpn_head"]["loss_bbox"]["type"] = "SmoothL1Los"\n',
    ),
    "unknown-type-of-hook": Case(
        ("custom_hooks[0]", "'EMAHok'", "did you mean 'EMAHook'"),
        config='custom_hooks = [dict(type="EMAHok")]\n',
    ),
    "package-missing": Case(
        ("'nopackage.ResNet'", "not installed"),
        config='model["backbone"]["type"] = "nopackage.ResNet"\n',
    ),
    "no-data-set": Case(
        ("train_dataloader", "no dataset"), config='del train_dataloader["dataset"]\n'
    ),
    "batches-of-none": Case(
        ("train_dataloader.batch_size", "at least 1", "0"),
        config='train_dataloader["batch_size"] = 0\n',
    ),
    "batch-size-is-text": Case(
        ("train_dataloader.batch_size", "'two'"),
        arguments=("config.py", "--cfg-options", "train_dataloader.batch_size=two"),
    ),
    "seed-is-text": Case(
        ("randomness.seed", "'abc'"),
        arguments=("config.py", "--cfg-options", "randomness.seed=abc"),
    ),
    "learning-rate-is-text": Case(
        ("optim_wrapper.optimizer.lr", "number", "'fast'"),
        arguments=("config.py", "--cfg-options", "optim_wrapper.optimizer.lr=fast"),
    ),
    "no-epochs": Case(
        ("train_cfg.max_epochs", "at least 1", "0"),
        arguments=("config.py", "--cfg-options", "train_cfg.max_epochs=0"),
    ),
    "type-left-out": Case(("'type'",), config='del model["neck"]["type"]\n'),
    "upsampler-unknown": Case(
        ("'DySampel'", "DySample"), config='model["neck"]["upsample_cfg"] = dict(type="DySampel")\n'
    ),
    "upsampler-unknown-key": Case(
        ("DySample", "'group'"), config='model["neck"]["upsample_cfg"]["group"] = 4\n'
    ),
    "upsampler-groups": Case(
        ("groups", "16", "5"), config='model["neck"]["upsample_cfg"]["groups"] = 5\n'
    ),
    "upsampler-is-no-dict": Case(
        ("upsample_cfg", "'DySample'"), config='model["neck"]["upsample_cfg"] = "DySample"\n'
    ),
    # the data
    "data-missing": Case(
        ("annotations.json", "no such file"), spoil=lambda folder: shutil.rmtree(folder / "data")
    ),
    "pictures-missing": Case(
        ("images/00", "no such file"),
        spoil=lambda folder: shutil.rmtree(folder / "data" / "images"),
    ),
    "annotations-broken": Case(
        ("annotations.json", "not valid JSON"),
        spoil=rewrite("data/annotations.json", '{"images": ['),
    ),
    "no-pictures": Case(
        ("CocoDataset", "empty"), spoil=lambda f: annotations(f, images=[], annotations=[])
    ),
    "all-pictures-filtered": Case(
        ("CocoDataset", "empty", "filter_empty_gt"), spoil=lambda f: annotations(f, annotations=[])
    ),
    "no-segmentation-data": Case(
        ("images", "no such file"), family="segmentor", spoil=lambda f: shutil.rmtree(f / "data")
    ),
    "no-segmentation-pictures": Case(
        ("BaseSegDataset", "empty"),
        family="segmentor",
        spoil=lambda f: [path.unlink() for path in (f / "data" / "images").iterdir()],
    ),
    "picture-damaged-in-worker": Case(("images/00", "damaged"), spoil=spoil_pictures),
    "picture-damaged": Case(("images/00", "damaged"), config=IN_PROCESS, spoil=spoil_pictures),
    "label-damaged-in-worker": Case(("labels/00",), family="segmentor", spoil=spoil_labels),
    "label-missing": Case(
        ("labels/00", "no such file"),
        family="segmentor",
        spoil=lambda f: shutil.rmtree(f / "data" / "labels"),
    ),
    "label-of-another-size": Case(
        ("labels/00", "80x100", "images/00", "(height x width)"),
        family="segmentor",
        config=IN_PROCESS,
        spoil=widen_labels,
    ),
    "label-of-another-size-in-worker": Case(
        ("labels/00", "80x100", "images/00"), family="segmentor", spoil=widen_labels
    ),
    "label-beyond-the-classes": Case(
        ("labels/00", "label 7", "2 classes, 0 to 1", "255"),
        family="segmentor",
        spoil=relabel,
    ),
    # checkpoints
    "tta-of-masks": Case(
        ("--tta", "boxes", "mask_head"),
        arguments=("config.py", "good.pth", "--tta"),
        config='model["roi_head"] = dict(type="StandardRoIHead", mask_head=dict())\n',
        **TESTING,
    ),
    "checkpoint-missing": Case(
        ("nowhere.pth", "does not exist"), arguments=("config.py", "nowhere.pth"), **TESTING
    ),
    "checkpoint-is-a-directory": Case(
        ("data", "is a directory"), arguments=("config.py", "data"), **TESTING
    ),
    "checkpoint-truncated": Case(
        ("bad.pth", "cut off"), arguments=("config.py", "bad.pth"), spoil=truncate, **TESTING
    ),
    "checkpoint-is-text": Case(
        ("bad.pth", "torch.save"),
        arguments=("config.py", "bad.pth"),
        spoil=rewrite("bad.pth", "not a checkpoint"),
        **TESTING,
    ),
    "checkpoint-is-a-tensor": Case(
        ("bad.pth", "Tensor"),
        arguments=("config.py", "bad.pth"),
        spoil=lambda folder: torch.save(torch.zeros(1), folder / "bad.pth"),
        **TESTING,
    ),
    "checkpoint-of-another-model": Case(
        ("good.pth", "does not fit this model"),
        family="segmentor",
        arguments=("config.py", "good.pth"),
        **TESTING,
    ),
    "checkpoint-of-another-width": Case(
        ("good.pth", "does not fit this model"),
        config='model["roi_head"]["bbox_head"]["fc_out_channels"] = 24\n',
        arguments=("config.py", "good.pth"),
        **TESTING,
    ),
    "checkpoint-malicious": Case(
        ("bad.pth", "refused"), arguments=("config.py", "bad.pth"), spoil=save_malicious, **TESTING
    ),
    "checkpoint-malicious-pickle": Case(
        ("bad.pth", "refused"),
        arguments=("config.py", "bad.pth"),
        spoil=lambda folder: (folder / "bad.pth").write_bytes(pickle.dumps(Malicious(), 2)),
        **TESTING,
    ),
    "resume-malicious": Case(
        ("bad.pth", "refused"), arguments=("config.py", "--resume", "bad.pth"), spoil=save_malicious
    ),
    "load-from-malicious": Case(
        ("bad.pth", "refused"),
        arguments=("config.py", "--cfg-options", "load_from=bad.pth"),
        spoil=save_malicious,
    ),
    "pretrained-malicious": Case(
        ("bad.pth", "refused"),
        config='model["backbone"]["init_cfg"] = dict(type="Pretrained", checkpoint="bad.pth")\n',
        spoil=save_malicious,
    ),
    "load-from-unreachable": Case(
        (f"{UNREACHABLE}/x.pth", "refused", "give its path"),
        arguments=("config.py", "--cfg-options", f"load_from={UNREACHABLE}/x.pth"),
    ),
    "checkpoint-unreachable": Case(
        (f"{UNREACHABLE}/x.pth", "refused", "give its path"),
        arguments=("config.py", f"{UNREACHABLE}/x.pth"),
        **TESTING,
    ),
    "pretrained-unreachable": Case(
        (f"{UNREACHABLE}/y.pth", "init_cfg.checkpoint=PATH", "model.backbone.init_cfg=None"),
        config='model["backbone"]["init_cfg"] = '
        f'dict(type="Pretrained", checkpoint="{UNREACHABLE}/y.pth")\n',
    ),
    "resume-missing": Case(
        ("nowhere.pth", "does not exist"), arguments=("config.py", "--resume", "nowhere.pth")
    ),
    "resume-weights-alone": Case(
        ("good.pth", "not with --resume"), arguments=("config.py", "--resume", "good.pth")
    ),
    "resume-all-damaged": Case(
        ("none of the checkpoints", "work"),
        arguments=("config.py", "--work-dir", "work", "--resume"),
        spoil=rewrite("work/epoch_1.pth", b"PK\x03\x04 cut off"),
    ),
    "load-from-another-model": Case(
        ("good.pth", "does not fit this model"),
        family="segmentor",
        arguments=("config.py", "--cfg-options", "load_from=good.pth"),
    ),
}


FOUND_LATE = {
    "neck-has-too-few-outputs": Case(
        ("building the model", "config.py"), config='model["neck"]["num_outs"] = 3\n'
    ),
    "pipeline-step-refuses": Case(
        ("building a data set",), config='train_pipeline[3]["prob"] = 1.5\n'
    ),
    "key-handed-on-to-nobody": Case(
        ("building the model", "config.py"),
        config='model["roi_head"]["bbox_head"]["colour"] = 1\n',
    ),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """The folder that each case works on a copy of."""
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    folder = tmp_path_factory.mktemp("prepared")
    draw_data(folder / "data")
    config = Config.fromfile(write_config("detector", Path("data"), folder / "detector.py"))
    init_default_scope("mmdet")
    model = MODELS.build(config.model)
    torch.save(dict(meta={}, state_dict=model.state_dict()), folder / "good.pth")
    (folder / "work").mkdir()
    shutil.copy(folder / "good.pth", folder / "work" / "epoch_1.pth")
    (folder / "work" / "last_checkpoint").write_text("work/epoch_1.pth")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", [*TOOLS, *FOUND_LATE])
def test_tools(name, zygote, prepared, tmp_path):
    late = name in FOUND_LATE
    case = FOUND_LATE[name] if late else TOOLS[name]
    folder = tmp_path / "folder"
    shutil.copytree(prepared, folder)
    write_config(case.family, Path("data"), folder / "config.py", case.config)
    if case.spoil is not None:
        case.spoil(folder)
    before = contents(folder)

    result = zygote.run(case.script, *case.arguments, cwd=folder, env=case.env)

    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.status == (1 if late else 2), result.stderr
    assert ("Traceback" in result.stderr + result.stdout) == late
    assert len(errors) == 1, result.stderr
    assert [part for part in case.says if part.lower() not in errors[0].lower()] == [], errors[0]
    after = contents(folder)
    assert {path: after.get(path) for path in before} == before
    assert not (folder / "run-by-the-checkpoint").exists()


FEATURE = torch.zeros(1, 16, 4, 4)
LIBRARY = {
    "unknown-key": (lambda: build_upsampler(dict(type="DySample", group=4), 16), "group"),
    "unknown-type": (lambda: build_upsampler(dict(type="DySampel"), 16), "DySample"),
    "no-type": (lambda: build_upsampler(dict(groups=4), 16), "type"),
    "no-dict": (lambda: build_upsampler("DySample", 16), "dict"),
    "place-contradicted": (
        lambda: build_upsampler(dict(type="DySample", in_channels=8), 16),
        "in_channels",
    ),
    "groups-do-not-divide": (lambda: DySample(16, groups=5), "groups"),
    "groups-zero": (lambda: DySample(16, groups=0), "groups"),
    "scale-zero": (lambda: DySample(16, 0), "scale_factor"),
    "scale-fraction": (lambda: Bilinear(16, 1.5), "scale_factor"),
    "channels-zero": (lambda: DySample(0), "in_channels"),
    "wrong-channels": (lambda: DySample(16)(torch.zeros(1, 8, 4, 4)), "16"),
    "wrong-rank": (lambda: DySample(16)(torch.zeros(16, 4, 4)), "16, 4, 4"),
    "wrong-dtype": (lambda: DySample(16)(torch.zeros(1, 16, 4, 4, dtype=torch.int64)), "int64"),
    "size-too-large": (lambda: DySample(16)(FEATURE, size=(10, 8)), "10"),
    "size-too-small": (lambda: DySample(16)(FEATURE, size=(6, 8)), "6"),
    "guide-of-another-batch": (lambda: DySample(16)(FEATURE, torch.zeros(2, 16, 8, 8)), "guide"),
    "guide-of-another-size": (lambda: DySample(16)(FEATURE, torch.zeros(1, 16, 12, 12)), "12"),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_library(name):
    call, named = LIBRARY[name]
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    message = str(caught.value)
    assert named in message
    assert "\n" not in message.strip()
