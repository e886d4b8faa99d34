"""tools/analysis/try_configs.py trains and tests configs on Shapes, and says which ones fail."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.config import Config

from mmdysample.engine.config import load_config
from mmdysample.engine.errors import run_tool
from tests.engine.zygote import TEST, TRAIN
from tools.analysis import try_configs as tool
from tools.shapes.classes import STUFF, THINGS

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
DETECTOR = "retinanet/retinanet_r50_fpn_dysample-s-plus_1x_coco.py"
PANOPTIC = "panoptic_fpn/panoptic-fpn_r50_fpn_fade-ungated_1x_coco.py"
SEGMENTOR = "segformer/segformer_mit-b1_sapa-b_8xb2-160k_ade20k-512x512.py"
MASKFORMER = "mask2former/mask2former_swin-b-in22k-384x384-pre_dysample_8xb2-160k_ade20k-640x640.py"
DEPTH = "depthformer/depthformer_swin-t_sapa-b_2xb8-38k_nyu-416x544.py"
MATTING = "a2u_matting/a2u-matting_r34_fade_1xb16-180k_comp1k-512x512.py"
EPOCHS = "bts/bts_r50_dysample_1xb4-50e_nyu-416x544.py"
SEGNET = "segnet/segnet_vgg16_fade_1xb8-200e_sunrgbd.py"
MOSAIC = "yolox/yolox_s_dysample_8xb8-300e_coco.py"
PADDED = "rtmdet/rtmdet_tiny_dysample_8xb32-300e_coco.py"
CITYSCAPES = "unet/unet-s5-d16_fcn_dysample_4xb4-160k_cityscapes-512x1024.py"
SMALL = CONFIGS / "shapes/segformer_mit-b0_dysample_shapes.py"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("data") / "shapes"
    command = [sys.executable, ROOT / "tools/make_shapes.py", directory, "--train", 12, "--val", 4]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return directory


@pytest.fixture
def call(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["try_configs.py", *map(str, arguments)])
        try:
            status = run_tool(tool.main)
        except SystemExit as end:  # argparse's
            status = end.code
        return status, *capsys.readouterr()

    return call


@pytest.mark.slow
def test_a_config_trains_and_is_tested(call, shapes):
    status, stdout, stderr = call(SMALL, "--data", shapes)
    assert status == 0, stderr
    first, last = stdout.splitlines()
    assert "segformer_mit-b0_dysample_shapes: train " in first and first.endswith(": ok")
    assert "mIoU" in first and ", loss 2." in first
    assert last == "1 of 1 configs are ok"


def reduced(name: str) -> Config:
    cfg = load_config(str(CONFIGS / name), None, ())
    tool.reduce_config(cfg, Path("/data/shapes"))
    return cfg


@pytest.mark.parametrize("name", [DETECTOR, PANOPTIC, SEGMENTOR, MASKFORMER])
def test_reduced_configs_read_shapes_alone_and_small(name):
    cfg = reduced(name)
    for part in ("model", "train_dataloader", "val_dataloader", "test_evaluator"):
        text = str(cfg.to_dict()[part])
        assert "'checkpoint': 'http" not in text
        assert "data/coco" not in text and "data/ade" not in text
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        (dataset,) = tool.data_set_configs(loader.dataset)
        assert dataset.data_root == "/data/shapes/"
        assert dataset.indices == (4 if loader is cfg.train_dataloader else 2)
        sizes = [
            side
            for transform in tool.nested_dicts(loader.dataset)
            for key in ("scale", "scales", "crop_size")
            if key in transform
            for side in str(transform[key]).strip("[]()").replace("(", "").split(",")
            if side
        ]
        assert sizes and {int(side.strip(" )")) for side in sizes} <= {64, 96}
    assert (cfg.train_cfg.get("max_iters", 2), cfg.train_cfg.get("max_epochs", 1)) == (2, 1)
    assert cfg.model.data_preprocessor.get("size", tool.CROP) == tool.CROP


@pytest.mark.parametrize("name", [MOSAIC, PADDED])
def test_images_that_are_made_of_several_are_small(name):
    cfg = reduced(name)
    transforms = list(tool.nested_dicts([cfg.train_dataloader.to_dict()["dataset"]]))
    sizes = [t[key] for t in transforms for key in ("img_scale", "size") if key in t]
    assert len(sizes) >= 2 and set(sizes) == {(96, 96)}
    # Mosaic is twice as large
    assert [t["border"] for t in transforms if t.get("type") == "RandomAffine"] == (
        [(-48, -48)] if name is MOSAIC else []
    )
    augments = cfg.model.data_preprocessor.get("batch_augments") or []
    assert [each.random_size_range for each in augments] == ([(64, 96)] if name is MOSAIC else [])


def test_reduced_panoptic_config_has_the_classes_of_shapes():
    cfg = reduced(PANOPTIC)
    assert tool.THINGS + tool.STUFF == THINGS + STUFF
    assert cfg.train_dataloader.dataset.metainfo.classes == THINGS + STUFF
    assert cfg.model.roi_head.bbox_head.num_classes == len(THINGS)
    assert cfg.model.panoptic_fusion_head.num_things_classes == len(THINGS)
    assert cfg.model.panoptic_fusion_head.num_stuff_classes == len(STUFF)
    assert cfg.model.semantic_head.num_stuff_classes == len(STUFF)
    assert cfg.model.test_cfg.rcnn.score_thr == 0
    expected = "/data/shapes/annotations/panoptic_val2017"
    assert cfg.test_evaluator.ann_file == f"{expected}.json"
    assert cfg.test_evaluator.seg_prefix.rstrip("/") == expected
    assert reduced(DETECTOR).model.bbox_head.num_classes == len(THINGS)
    assert reduced(SEGMENTOR).model.decode_head.num_classes == 150


@pytest.mark.parametrize("name", [DEPTH, EPOCHS, MATTING])
def test_reduced_configs_of_depth_and_matting_find_their_files_in_shapes(name, shapes):
    """Every directory that they name is there, and holds files."""
    cfg = load_config(str(CONFIGS / name), None, ())
    tool.reduce_config(cfg, shapes)
    for part in ("train", "val", "test"):
        dataset = cfg[f"{part}_dataloader"].dataset
        split = "training" if part == "train" else "validation"
        assert dataset.data_root == f"{shapes}/" and not dataset.get("ann_file")
        for path in dataset.data_prefix.values():
            assert split in path.split("/") and any((shapes / path).iterdir()), path
        if name is not MATTING:
            depth = dict(img_path=f"images/{split}", depth_map_path=f"depth/{split}")
            assert dataset.data_prefix == depth
        crops = [each.crop_size for each in dataset.pipeline if "crop_size" in each]
        crop = tool.CROP[0] if name is MATTING else tool.CROP
        assert crops == ([crop] if part == "train" else [])
        resized = [each["size"] for each in dataset.pipeline if each.type == "ResizeForeground"]
        assert resized == ([tool.SIDE] if (name, part) == (MATTING, "train") else [])
        # not every image of Shapes has a matte
        assert dataset.get("leave_out_images", False) == (name is MATTING and part != "train")
    assert "checkpoint" not in str(cfg.model.to_dict()["backbone"])
    assert (cfg.train_cfg.get("max_iters", 2), cfg.train_cfg.get("max_epochs", 1)) == (2, 1)
    assert cfg.train_cfg.val_interval == (1 if name is EPOCHS else 2)


def test_a_reduced_config_of_cityscapes_finds_its_files_in_shapes(shapes):
    cfg = load_config(str(CONFIGS / CITYSCAPES), None, ())
    tool.reduce_config(cfg, shapes)
    for part, split in tool.DIRECTORIES.items():
        dataset = cfg[f"{part}_dataloader"].dataset
        suffixes = dict(img_path=dataset.img_suffix, seg_map_path=dataset.seg_map_suffix)
        for key, path in dataset.data_prefix.items():
            assert split in path.split("/") and any((shapes / path).glob(f"*{suffixes[key]}"))


def test_every_reduced_epoch_is_validated():
    """SegNet is every tenth."""
    assert reduced(SEGNET).train_cfg.val_interval == 1


def test_windows_of_a_depth_model_are_small():
    test_cfg = reduced(DEPTH).model.test_cfg
    assert (test_cfg.mode, test_cfg.crop_size, test_cfg.stride) == (
        "slide_flip",
        (96, 96),
        (96, 96),
    )
    assert reduced(EPOCHS).model.test_cfg == dict(mode="whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("depthformer_swin-small_dysample_shapes", "abs_rel"),
        ("a2u-matting_r18_fade_shapes", "SAD"),
    ],
)
def test_configs_of_depth_and_matting_train_and_are_tested(name, metric, shapes, zygote, tmp_path):
    """The reduced config through both tools, as a trial runs them."""
    cfg = load_config(str(CONFIGS / f"shapes/{name}.py"), None, ())
    tool.reduce_config(cfg, shapes)
    cfg.dump(tmp_path / "config.py")
    trained = zygote.run(TRAIN, "config.py", "--work-dir", "run", cwd=tmp_path)
    assert trained.status == 0, trained.stderr
    tested = zygote.run(TEST, "config.py", "run/iter_2.pth", "--work-dir", "run", cwd=tmp_path)
    assert tested.status == 0, tested.stderr
    losses, metrics = tool.read_logs(tmp_path / "run")
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    assert 0 < metrics[metric] < math.inf


@pytest.fixture
def tools_that_leave(monkeypatch):
    """Stand-ins for train.py and test.py, which write what they are given."""

    def use(losses: list[float], metrics: dict, statuses: tuple[int, int] = (0, 0)) -> None:
        def run(command, stdout, **options):
            name = Path(command[1]).name
            print(f"{name} was here", file=stdout, flush=True)
            out = Path(command[-1]) / "20260101"
            (out / "vis_data").mkdir(parents=True, exist_ok=True)
            if name == "train.py":
                lines = [json.dumps(dict(loss=loss)) for loss in losses]
                (out / "vis_data" / "scalars.json").write_text("\n".join(lines))
                (out.parent / "best_mIoU_iter_2.pth").touch()
                (out.parent / "iter_2.pth").touch()
                return SimpleNamespace(returncode=statuses[0])
            assert Path(command[3]).name == "iter_2.pth"
            (out / f"{out.name}.json").write_text(json.dumps(dict(**metrics, time=0.1)))
            (out / "run.json").write_text(json.dumps(dict(settings="of a training")))
            return SimpleNamespace(returncode=statuses[1])

        monkeypatch.setattr(tool.subprocess, "run", run)

    return use


@pytest.mark.parametrize(
    ("losses", "metrics", "statuses", "says"),
    [
        ([2.5, 2.0], dict(mIoU=1.5), (0, 0), "loss 2.000, mIoU 1.5: ok"),
        ([2.5, math.nan], dict(mIoU=1.5), (0, 0), "not finite"),
        ([], dict(mIoU=1.5), (0, 0), "not finite"),
        ([2.5, 2.0], {}, (0, 0), "no metric was written"),
        ([2.5, 2.0], dict(mIoU=1.5), (1, 0), "train.py ended with exit status 1"),
        ([2.5, 2.0], dict(mIoU=1.5), (0, -9), "test.py ended with exit status -9"),
    ],
)
def test_verdicts(call, shapes, tools_that_leave, losses, metrics, statuses, says):
    tools_that_leave(losses, metrics, statuses)
    status, stdout, stderr = call(CONFIGS / "_base_/mmdet.py", SMALL, "--data", shapes)
    good = says.endswith("ok")
    assert status == (0 if good else 1)
    assert says in stdout.splitlines()[0]
    assert f"{int(good)} of 1 configs are ok" in stdout
    assert ("train.py was here" in stderr) == (not good)  # the end of the log


def test_ctrl_c_starts_no_further_config(call, shapes, monkeypatch):
    started, cancelled = [], threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            cancelled.set()
            super().shutdown(wait=wait)

    def try_config(directory: Path) -> str:
        started.append(directory)
        assert cancelled.wait(timeout=60)
        return "trained"

    def interrupted(trials):
        raise KeyboardInterrupt

    monkeypatch.setattr(tool, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(tool, "try_config", try_config)
    monkeypatch.setattr(tool, "as_completed", interrupted)
    configs = sorted((CONFIGS / "shapes").glob("segformer*.py"))
    assert len(configs) > 1
    status, _, stderr = call(*configs, "--data", shapes, "--workers", 1)
    assert (status, stderr) == (130, "\ninterrupted\n")
    assert len(started) <= 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("missing.py",), "missing.py does not exist"),
        ((CONFIGS / "_base_/upsamplers/carafe.py",), "files below _base_ are parts of configs"),
        ((SMALL, "--data", "nowhere"), "nowhere is not a Shapes data set: python tools/make_"),
        ((SMALL, "--workers", "0"), "--workers must be at least 1, got 0"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(call, arguments, says, shapes):
    data = () if "--data" in arguments else ("--data", shapes)
    status, _, stderr = call(*arguments, *data)
    assert status == 2
    assert stderr.startswith("error: ") and says in stderr and stderr.count("\n") == 1
