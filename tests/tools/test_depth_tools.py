"""Depth through the tools: maps in millimeters, drawings, and the inferencer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.config import Config
from PIL import Image

from mmdysample.inference import load_input, load_model, open_inferencer, predict
from tests.engine.zygote import TEST
from tests.learning import CONFIGS, draw_shapes, train
from tests.panels import count, panel

pytestmark = pytest.mark.slow
CONFIG = CONFIGS / "bts_r18_dysample_shapes.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A directory with Shapes, and BTS trained on it for a moment in ``bts.pth``."""
    directory = tmp_path_factory.mktemp("depth")
    options = [
        *draw_shapes(directory / "shapes"),
        *(f"train_cfg.{name}=3" for name in ("max_iters", "val_interval")),
        "default_hooks.checkpoint.interval=3",
        "train_dataloader.batch_size=2",
    ]
    train(CONFIG, options, directory)
    (directory / "train" / "iter_3.pth").rename(directory / "bts.pth")
    (directory / "options.json").write_text(json.dumps(options))
    return directory


@pytest.fixture(scope="module")
def images(trained) -> list[Path]:
    return sorted((trained / "shapes" / "images" / "validation").glob("*.jpg"))


@pytest.fixture(scope="module")
def depths(trained, images) -> dict[str, np.ndarray]:
    """What the model predicts of each image, in meters, with no tool between."""
    cfg = Config.fromfile(CONFIG)
    model = load_model(cfg, str(trained / "bts.pth"), "cpu")
    found = {}
    for path in images:
        sample = predict(model, load_input(cfg, str(path)))
        found[path.stem] = sample.pred_depth_map.data[0].numpy()
    return found


def test_out_and_show_dir(zygote, trained, images, depths, tmp_path):
    options = json.loads((trained / "options.json").read_text())
    run = zygote.run(
        *(TEST, CONFIG, "bts.pth", "--work-dir", tmp_path / "w", "--out", tmp_path / "maps"),
        *("--show-dir", "drawn", "--cfg-options", *options),
        cwd=trained,
    )
    assert run.status == 0, run.stderr

    stems = [path.stem for path in images]
    assert [path.name for path in sorted((tmp_path / "maps").iterdir())] == [
        f"{stem}.png" for stem in stems
    ]
    abs_rel = []
    for stem in stems:
        with Image.open(tmp_path / "maps" / f"{stem}.png") as image:
            assert image.mode == "I;16"
            millimeters = np.array(image).astype(int)
        expected = depths[stem].clip(1e-3, 10)
        assert millimeters.shape == (160, 160) and expected.std() > 1e-3
        assert abs(millimeters - 1000 * expected).max() <= 0.5 + 0.01  # rounded to the nearest
        truth_path = trained / "shapes" / "depth" / "validation" / f"{stem}.png"
        truth = np.array(Image.open(truth_path)).astype(int)
        valid = truth < 10_000  # the sky is not evaluated
        abs_rel.append((abs(millimeters - truth) / truth)[valid].mean())
    (log,) = (tmp_path / "w").glob("*/*.json")
    assert json.loads(log.read_text())["abs_rel"] == pytest.approx(np.mean(abs_rel), rel=1e-3)

    drawn = sorted((tmp_path / "w").glob("*/drawn/*"))
    assert [path.stem for path in drawn] == stems
    for path, original in zip(drawn, images, strict=True):
        with Image.open(path) as image, Image.open(original) as left:
            drawing = np.array(image)
            assert 3 < count(drawing, 160, 160) < 3.4  # image, truth, prediction, scale
            difference = panel(drawing, 0, 160, 160).astype(int) - np.array(left)
            assert abs(difference).mean() < 10  # compressed once more
            prediction = panel(drawing, 2, 160, 160).reshape(-1, 3)
            assert prediction.std(axis=0).max() > 1


def test_mmsegs_metric_writes_millimeters(zygote, trained, depths, tmp_path):
    """Its default is whole meters; it does not round."""
    options = (
        *json.loads((trained / "options.json").read_text()),
        "test_evaluator.type=DepthMetric",
    )
    out = ("--work-dir", tmp_path / "w", "--out", tmp_path / "maps")
    run = zygote.run(TEST, CONFIG, "bts.pth", *out, "--cfg-options", *options, cwd=trained)
    assert run.status == 0, run.stderr
    assert {path.stem for path in (tmp_path / "maps").iterdir()} == set(depths)
    for stem, depth in depths.items():
        with Image.open(tmp_path / "maps" / f"{stem}.png") as image:
            below = 1000 * depth - np.array(image).astype(int)
        assert below.min() > -0.01 and 0.5 < below.max() < 1.01


def test_what_is_in_a_directory_is_not_replaced(zygote, trained, tmp_path):
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "mine.png").write_bytes(b"mine")
    run = zygote.run(TEST, CONFIG, "bts.pth", "--out", tmp_path / "maps", cwd=trained)
    assert run.status == 2 and f"--out {tmp_path / 'maps'}" in run.stderr
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["mine.png"]


def test_inferencer_on_an_odd_size(trained):
    inferencer = open_inferencer(str(CONFIG), str(trained / "bts.pth"), "cpu")
    image = np.random.default_rng(0).integers(0, 256, (61, 97, 3), dtype=np.uint8)
    depth = inferencer(image)["predictions"]
    assert depth.shape == (61, 97) and np.isfinite(depth).all()
    assert depth.min() >= 1e-3 and depth.max() <= 10
