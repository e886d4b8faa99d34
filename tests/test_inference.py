"""mmdet's and mmseg's inferencers with this project's configs and checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import numpy as np
from mmdet.apis import DetInferencer
from mmengine.config import Config
from mmengine.infer import BaseInferencer
from mmseg.apis import MMSegInferencer
from PIL import Image

from mmdysample.engine.checkpoint import CheckpointError, load_checkpoint_file
from mmdysample.engine.errors import UserError
from mmdysample.inference import config_path, open_inferencer
from tests.engine.zygote import ROOT, TRAIN, shared_zygote

NAMES = {
    "mmdet": "faster-rcnn_r18_fpn_dysample_shapes",
    "mmseg": "segformer_mit-b0_dysample_shapes",
}
SHORT = {
    "mmdet": ["train_cfg.max_epochs=1", "train_cfg.val_interval=9"],
    "mmseg": ["train_cfg.max_iters=2", "train_cfg.val_interval=9"],
}
SHORT["mmseg"] += ["default_hooks.checkpoint.interval=2"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inferencers") / "shapes"
    command = [sys.executable, ROOT / "tools/make_shapes.py", folder, "--train", "8", "--val", "2"]
    subprocess.run([*command, "--size", "96", "128", "--workers", "1"], check=True)
    return folder


@pytest.fixture(scope="module", params=NAMES)
def trained(request, shapes, tmp_path_factory) -> tuple[str, Path]:
    """A family, and a checkpoint that tools/train.py wrote after some steps."""
    family, name = request.param, NAMES[request.param]
    work_dir = tmp_path_factory.mktemp(family)
    options = [f"{split}_dataloader.dataset.data_root={shapes}/" for split in ("train", "val")]
    options += [f"{split}_dataloader.num_workers=0" for split in ("train", "val")]
    options += [f"{split}_dataloader.persistent_workers=False" for split in ("train", "val")]
    if family == "mmdet":
        options.append(f"val_evaluator.ann_file={shapes}/annotations/instances_val2017.json")
    config = ROOT / "configs" / "shapes" / f"{name}.py"
    arguments = [config, "--work-dir", work_dir, "--cfg-options", *options, *SHORT[family]]
    run = shared_zygote().run(TRAIN, *arguments, cwd=work_dir)
    assert run.status == 0, run.stderr
    return family, Path((work_dir / "last_checkpoint").read_text())


@pytest.fixture
def images(shapes, tmp_path) -> Path:
    folder = tmp_path / "images"
    shutil.copytree(shapes / "val2017", folder)
    return folder


def check_pictures(images: Path, pictures: Path) -> None:
    """One drawn upon for each image."""
    assert sorted(p.name for p in pictures.iterdir()) == sorted(p.name for p in images.iterdir())
    for path in images.iterdir():
        image = np.asarray(Image.open(path).convert("RGB")).astype(int)
        picture = np.asarray(Image.open(pictures / path.name).convert("RGB")).astype(int)
        assert picture.shape == image.shape
        assert (abs(picture - image).max(axis=2) > 40).mean() > 0.001


def check_predictions(family: str, predictions: Path, count: int) -> None:
    files = sorted(predictions.iterdir())
    assert len(files) == count
    for path in files:
        if family == "mmdet":
            found = json.loads(path.read_text())
            assert len(found["labels"]) == len(found["bboxes"]) == len(found["scores"])
            assert set(found["labels"]) <= set(range(8))
        else:
            labels = np.asarray(Image.open(path))
            assert labels.shape == (96, 128) and labels.max() < 12


def test_a_folder_of_images_by_the_models_name(trained, images, tmp_path):
    family, checkpoint = trained
    inferencer = open_inferencer(NAMES[family], str(checkpoint), "cpu")
    settings = dict(pred_score_thr=0.0, no_save_pred=False) if family == "mmdet" else {}
    inferencer(str(images), out_dir=str(tmp_path / "out"), **settings)
    check_pictures(images, tmp_path / "out" / "vis")
    folder = {"mmdet": "preds", "mmseg": "pred"}[family]
    check_predictions(family, tmp_path / "out" / folder, len(list(images.iterdir())))


UPSTREAM = {
    "mmdet": """
from mmdet.apis import DetInferencer
from mmdysample.engine.checkpoint import install_safe_loading
install_safe_loading()
inferencer = DetInferencer(model=sys.argv[1], weights=sys.argv[2], device="cpu")
inferencer(sys.argv[3], out_dir=sys.argv[4], pred_score_thr=0.0)
""",
    "mmseg": """
from mmseg.apis import MMSegInferencer
from mmdysample.engine.checkpoint import install_safe_loading
install_safe_loading()
inferencer = MMSegInferencer(model=sys.argv[1], weights=sys.argv[2], device="cpu")
inferencer(sys.argv[3], out_dir=sys.argv[4])
""",
}


def test_upstreams_inferencers_with_a_config_file(trained, images, tmp_path):
    """A process of its own, in which nothing was imported or allowed before."""
    family, checkpoint = trained
    config = ROOT / "configs" / "shapes" / f"{NAMES[family]}.py"
    code = f"import sys\n{UPSTREAM[family]}"
    call = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        code,
        config,
        checkpoint,
        images,
        tmp_path / "out",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    check_pictures(images, tmp_path / "out" / "vis")


def test_weights_and_classes_are_the_checkpoints(trained):
    family, checkpoint = trained
    inferencer = open_inferencer(NAMES[family], str(checkpoint), "cpu")
    saved = load_checkpoint_file(checkpoint)
    loaded = inferencer.model.state_dict()
    assert loaded.keys() == saved["state_dict"].keys()
    assert all(torch.equal(loaded[name], value) for name, value in saved["state_dict"].items())
    assert isinstance(inferencer, {"mmdet": DetInferencer, "mmseg": MMSegInferencer}[family])
    classes = inferencer.model.dataset_meta["classes"]
    assert tuple(classes) == tuple(saved["meta"]["dataset_meta"]["classes"])
    assert len(classes) == {"mmdet": 8, "mmseg": 12}[family]


def test_mmengine_lists_the_models():
    names = BaseInferencer.list_models("mmdysample", patterns=r"retinanet_.*")
    files = {path.stem for path in (ROOT / "configs" / "retinanet").glob("*.py")}
    assert len(names) == len(files) and set(names) == files


def test_mmengine_resolves_every_name():
    """As its inferencers do, which look for models in the package of their scope."""
    for name in BaseInferencer.list_models("mmdysample"):
        assert Path(config_path(name)).stem == name

    class Named(BaseInferencer):
        visualize = postprocess = _init_pipeline = None

        def __init__(self):
            self.scope = "mmdysample"

    cfg, weights = Named()._load_model_from_metafile(NAMES["mmdet"])
    expected = Config.fromfile(ROOT / "configs" / "shapes" / f"{NAMES['mmdet']}.py")
    assert cfg.model == expected.model
    assert weights is None


@pytest.mark.parametrize(
    ("model", "weights", "says"),
    [
        ("faster-rcnn_r50_fpn_dysampel_1x_coco", None, "did you mean 'faster-rcnn_r50_fpn_dysa"),
        ("nowhere/config.py", None, "is neither a config file nor a model"),
        (NAMES["mmdet"], "nowhere.pth", "checkpoint nowhere.pth does not exist"),
    ],
)
def test_mistakes_get_a_sentence(model, weights, says):
    with pytest.raises((UserError, CheckpointError), match=says):
        open_inferencer(model, weights, "cpu")


def test_a_config_of_another_package_is_refused(tmp_path):
    (tmp_path / "other.py").write_text("default_scope = 'mmpretrain'\nmodel = dict(type='A')\n")
    with pytest.raises(UserError, match=r"default_scope .* 'mmpretrain'.* mmdet and mmseg"):
        open_inferencer(str(tmp_path / "other.py"))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save(dict(state_dict={}, meta=Harmful()), tmp_path / "harmful.pth")
    with pytest.raises(CheckpointError, match="nothing in it was run"):
        open_inferencer(NAMES["mmseg"], str(tmp_path / "harmful.pth"), "cpu")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_another_model_is_refused(trained):
    family, checkpoint = trained
    other = {"mmdet": "segformer_mit-b0_dysample_shapes", "mmseg": NAMES["mmdet"]}[family]
    with pytest.raises(CheckpointError, match="does not fit this model"):
        open_inferencer(other, str(checkpoint), "cpu")


def test_a_checkpoint_that_lacks_a_layer_is_refused(trained, tmp_path):
    """Though there are other parameters of its names and shapes."""
    family, checkpoint = trained
    content = load_checkpoint_file(checkpoint)
    start = {"mmdet": "backbone.layer1.1.", "mmseg": "backbone.layers.0.1.0."}[family]
    lost = [name for name in content["state_dict"] if name.startswith(start)]
    for name in lost:
        del content["state_dict"][name]
    torch.save(content, tmp_path / "part.pth")
    lost = [name for name in lost if "num_batches_tracked" not in name]
    with pytest.raises(CheckpointError, match=f" {len(lost)} of its .* such as {start}"):
        open_inferencer(NAMES[family], str(tmp_path / "part.pth"), "cpu")


@pytest.mark.parametrize("model", [None, 3])
def test_the_config_in_a_checkpoint_is_not_run(model, tmp_path):
    torch.save(dict(meta=dict(cfg=f"open({str(tmp_path / 'ran')!r}, 'w')")), tmp_path / "c.pth")
    with pytest.raises(UserError, match="which is not run"):
        open_inferencer(model, str(tmp_path / "c.pth"), "cpu")
    assert not (tmp_path / "ran").exists()


def test_images_of_one_name_have_their_own_predictions(images, tmp_path):
    (first, *rest) = sorted(images.iterdir())
    for path in rest:
        path.unlink()
    Image.open(first).convert("L").save(first.with_suffix(".png"))
    inferencer = open_inferencer(NAMES["mmdet"], None, "cpu")
    result = inferencer(str(images), out_dir=str(tmp_path / "out"), no_save_pred=False)
    written = sorted((tmp_path / "out" / "preds").iterdir())
    assert [path.name for path in written] == [f"{first.stem}.json", f"{first.stem}.png.json"]
    found = [json.loads(path.read_text()) for path in written]
    assert sorted(map(str, found)) == sorted(map(str, result["predictions"]))
    assert found[0] != found[1]
