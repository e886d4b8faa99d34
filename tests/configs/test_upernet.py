"""UPerNet's configs: built, with an upsampler's weights at 512 channels, trained and tested."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from tests.configs.test_configs import (
    CONFIGS,
    SLUGS,
    STAGE_WEIGHTS,
    build_to_count,
    load,
    upsampler_weights,
)
from tests.configs.test_maskformer import (
    build_head,
    check_evaluation,
)
from tests.engine.conftest import zygote  # noqa: F401 - a fixture
from tests.engine.zygote import ROOT, TEST, TRAIN

NAME = "upernet/upernet_r50_{}_4xb4-80k_ade20k-512x512.py"
ROWS = ["bilinear", *SLUGS]


def test_there_is_a_config_for_every_variant():
    shipped = {f"upernet/{path.name}" for path in (CONFIGS / "upernet").glob("*.py")}
    assert shipped == {NAME.format(slug) for slug in ROWS}


@pytest.mark.parametrize("slug", ROWS)
def test_three_stages_of_the_upsampler_that_the_name_says(slug):
    head = build_head(NAME.format(slug))
    assert type(head).__name__ == "UpsampleUPerHead"
    assert [type(up).__name__.lower() for up in head.upsample_modules] == [slug.split("-")[0]] * 3
    # twice the channels of the other models, and weights are linear in them
    assert upsampler_weights(head) == 3 * STAGE_WEIGHTS[slug] * 2


def test_dysample_adds_to_upstreams_parameters():
    """Weights and biases of three offset convolutions, 512 -> 32 channels."""
    plain, ours = (
        sum(p.numel() for p in build_to_count(NAME.format(slug)).parameters())
        for slug in ("bilinear", "dysample")
    )
    assert ours - plain == 3 * (512 * 32 + 32)


def test_the_schedule():
    cfg = load(NAME.format("dysample"))
    assert cfg.train_dataloader.batch_size == 4 and cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.train_cfg.max_iters == 80_000


def test_evaluation():
    check_evaluation(NAME.format("dysample"), (512, 879))


def test_training_and_testing_report_both_ious(zygote, tmp_path):  # noqa: F811
    """Two iterations of tools/train.py on Shapes, then tools/test.py with the checkpoint."""
    data = tmp_path / "shapes"
    draw = [sys.executable, ROOT / "tools" / "make_shapes.py", data]
    subprocess.run([*draw, "--train", "4", "--val", "2", "--quiet"], check=True)
    config = CONFIGS / NAME.format("dysample")
    options = [
        *(f"{part}_dataloader.dataset.data_root={data}" for part in ("train", "val", "test")),
        *(f"{part}_dataloader.num_workers=0" for part in ("train", "val", "test")),
        *(f"{part}_dataloader.persistent_workers=False" for part in ("train", "val", "test")),
        *("train_cfg.max_iters=2", "train_cfg.val_interval=2", "randomness.seed=0"),
        "default_hooks.checkpoint.interval=2",
        *("model.backbone.depth=18", "model.backbone.base_channels=8", "model.pretrained=None"),
        *("model.decode_head.in_channels=[8,16,32,64]", "model.decode_head.channels=32"),
        "model.auxiliary_head.in_channels=32",
        "model.data_preprocessor.size=(64,64)",
        "train_dataloader.dataset.pipeline.2.scale=(160,64)",
        "train_dataloader.dataset.pipeline.3.crop_size=(64,64)",
        "val_dataloader.dataset.pipeline.1.scale=(160,96)",
        "test_dataloader.dataset.pipeline.1.scale=(160,96)",
    ]
    arguments = ["--work-dir", "train", "--cfg-options", *options]
    train = zygote.run(TRAIN, config, *arguments, cwd=tmp_path)
    assert train.status == 0, train.stderr
    (log,) = (tmp_path / "train").glob("*/vis_data/scalars.json")
    evaluation = json.loads(log.read_text().splitlines()[-1])

    arguments = ["train/iter_2.pth", "--work-dir", "test", "--cfg-options", *options]
    test = zygote.run(TEST, config, *arguments, cwd=tmp_path)
    assert test.status == 0, test.stderr
    (log,) = (tmp_path / "test").glob("*/[0-9]*.json")
    results = json.loads(log.read_text())
    # After two iterations a model may be wrong about every pixel.
    for name in ("aAcc", "mIoU", "mAcc", "bIoU"):
        assert 0 <= results[name] <= 100 and results[name] == evaluation[name], name
