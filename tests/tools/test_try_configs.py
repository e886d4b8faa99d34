"""Every kind of model trains and is tested on Shapes by tools/analysis/try_configs.py."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools/analysis/try_configs.py"
CONFIGS = ROOT / "configs"
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONWARNINGS": "ignore",
}
# One of each host, with guided and unguided upsamplers, both layouts of FPN and the largest model
# left out; `python tools/analysis/try_configs.py configs/*/*.py` tries all of them.
TRIED = [
    "faster_rcnn/faster-rcnn_r50_fpn-p6_carafe_1x_coco.py",
    "retinanet/retinanet_r50_fpn_dysample-s-plus_1x_coco.py",
    "mask_rcnn/mask-rcnn_r50_fpn_dysample_mask-head_1x_coco.py",
    "panoptic_fpn/panoptic-fpn_r50_fpn_fade-ungated_1x_coco.py",
    "segformer/segformer_mit-b1_sapa-b_8xb2-160k_ade20k-512x512.py",
    "maskformer/maskformer_swin-b-in22k-384x384-pre_dysample-plus_8xb2-160k_ade20k-640x640.py",
    "mask2former/mask2former_swin-b-in22k-384x384-pre_dysample_8xb2-160k_ade20k-640x640.py",
    "upernet/upernet_r50_dysample_4xb4-80k_ade20k-512x512.py",
    "ablations/segformer_mit-b1_dysample-g16_8xb2-160k_ade20k-512x512.py",
    "shapes/segformer_mit-b0_dysample_shapes.py",
]


def call(*args: object, timeout: float = 120) -> subprocess.CompletedProcess:
    command = [sys.executable, str(TOOL), *map(str, args)]
    return subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout, cwd=ROOT
    )


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    command = [sys.executable, ROOT / "tools/make_shapes.py", folder, "--train", 12, "--val", 4]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return folder


def test_the_list_has_every_folder_of_configs():
    folders = {path.parent.name for path in CONFIGS.glob("*/*.py") if path.parent.name != "_base_"}
    assert {name.split("/")[0] for name in TRIED} == folders


def test_configs_train_and_are_tested(shapes, tmp_path):
    table = tmp_path / "tried.csv"
    paths = [CONFIGS / name for name in TRIED]
    result = call(*paths, "--data", shapes, "--csv", table, timeout=1800)
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    with table.open(newline="") as file:
        rows = {row["config"]: row for row in csv.DictReader(file)}
    assert {path.stem for path in paths} == rows.keys()
    for row in rows.values():
        assert row["verdict"] == "ok"
        assert float(row["loss"]) > 0
    assert "bbox_mAP" in rows[Path(TRIED[0]).stem]["metrics"]
    assert "PQ" in rows[Path(TRIED[3]).stem]["metrics"]
    assert "mIoU" in rows[Path(TRIED[4]).stem]["metrics"]


def test_a_config_that_does_not_train_is_told(shapes, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text(
        f"_base_ = {str(CONFIGS / 'shapes/segformer_mit-b0_dysample_shapes.py')!r}\n"
        "model = dict(decode_head=dict(in_channels=[16, 32, 64, 100]))\n"
    )
    result = call(broken, "--data", shapes)
    assert result.returncode == 1
    assert "broken: exit status" in result.stdout or "broken: RuntimeError" in result.stdout
    assert "0 of 1 configs are ok" in result.stdout
    assert "100" in result.stderr  # the end of its log


def test_show_prints_commands_that_name_shapes_alone(shapes):
    result = call(CONFIGS / TRIED[3], "--data", shapes, "--show")
    assert result.returncode == 0, result.stderr
    train, test = map(shlex.split, result.stdout.splitlines())
    assert train[:2] == ["python", "tools/train.py"] and test[:2] == ["python", "tools/test.py"]
    options = dict(word.split("=", 1) for word in train[train.index("--cfg-options") + 1 :])
    assert options["model.backbone.init_cfg"] == "None"
    assert options["train_dataloader.dataset.data_root"] == f"'{shapes}/'"
    assert options["model.roi_head.bbox_head.num_classes"] == "8"
    assert options["model.panoptic_fusion_head.num_things_classes"] == "8"
    assert options["model.panoptic_fusion_head.num_stuff_classes"] == "4"
    sizes = [int(n) for key, v in options.items() if "scale" in key for n in re.findall(r"\d+", v)]
    assert sizes and max(sizes) <= 96


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("missing.py",), ("missing.py", "does not exist")),
        ((CONFIGS / "_base_/upsamplers/carafe.py",), ("does not set", "model")),
        ((CONFIGS / TRIED[0], "--data", "nowhere"), ("nowhere", "make_shapes.py")),
        ((CONFIGS / TRIED[0], "--workers", "0"), ("--workers", "1")),
        ((CONFIGS / TRIED[0], "--csv", "/no/where.csv"), ("--csv", "/no does not exist")),
        ((CONFIGS / TRIED[0], "--csv", CONFIGS), ("--csv", "is a directory")),
    ],
)
def test_mistakes_are_answered_in_a_sentence(arguments, named, shapes):
    data = () if "--data" in arguments else ("--data", shapes)
    result = call(*arguments, *data)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    for word in named:
        assert word in result.stderr
