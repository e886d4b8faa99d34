"""mmdet's and mmseg's inferencers with this project's configs and checkpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmdet.apis import DetInferencer
from mmengine.config import Config
from mmengine.infer import BaseInferencer
from mmengine.registry import MODELS
from mmseg.apis import MMSegInferencer
from PIL import Image

from mmdysample.engine.checkpoint import CheckpointError
from mmdysample.errors import UserError
from mmdysample.inference import (
    _classes_and_palette,
    config_path,
    load_input,
    load_model,
    open_inferencer,
    predict,
    read_image,
)

NAMES = {
    "mmdet": "faster-rcnn_r18_fpn_dysample_shapes",
    "mmseg": "segformer_mit-b0_dysample_shapes",
}
CLASSES = {"mmdet": tuple("abcdefgh"), "mmseg": tuple("abcdefghijkl")}


def config_of(family: str) -> Config:
    return Config.fromfile(config_path(NAMES[family]))


@pytest.fixture(scope="module", params=NAMES)
def saved(request, tmp_path_factory) -> tuple[str, Path]:
    """A family, and a checkpoint of its model as it was made."""
    torch.manual_seed(0)
    model = open_inferencer(NAMES[request.param], None, "cpu").model
    path = tmp_path_factory.mktemp(request.param) / "made.pth"
    meta = dict(dataset_meta=dict(classes=CLASSES[request.param]))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return request.param, path


@pytest.fixture(scope="module")
def opened(saved) -> tuple[str, Path, BaseInferencer]:
    family, checkpoint = saved
    return family, checkpoint, open_inferencer(NAMES[family], checkpoint, "cpu")


@pytest.fixture
def images(tmp_path) -> Path:
    directory = tmp_path / "images"
    directory.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        blocks = rng.integers(0, 255, (6, 8, 3), np.uint8)
        Image.fromarray(blocks.repeat(16, axis=0).repeat(16, axis=1)).save(directory / name)
    return directory


def check_drawn(images: Path, drawn: Path) -> None:
    """One drawn upon for each image."""
    assert sorted(p.name for p in drawn.iterdir()) == sorted(p.name for p in images.iterdir())
    for path in images.iterdir():
        image = np.asarray(Image.open(path).convert("RGB")).astype(int)
        result = np.asarray(Image.open(drawn / path.name).convert("RGB")).astype(int)
        assert result.shape == image.shape
        assert (abs(result - image).max(axis=2) > 40).mean() > 0.001


def test_a_directory_of_images(opened, images, tmp_path):
    family, _, inferencer = opened
    settings = dict(pred_score_thr=0.0, no_save_pred=False) if family == "mmdet" else {}
    inferencer(str(images), out_dir=str(tmp_path / "out"), **settings)
    check_drawn(images, tmp_path / "out" / "vis")
    predictions = tmp_path / "out" / {"mmdet": "preds", "mmseg": "pred"}[family]
    assert len(list(predictions.iterdir())) == 2
    for path in predictions.iterdir():
        if family == "mmdet":
            found = json.loads(path.read_text())
            assert len(found["labels"]) == len(found["bboxes"]) == len(found["scores"])
            assert set(found["labels"]) <= set(range(8))
        else:
            labels = np.asarray(Image.open(path))
            assert labels.shape == (96, 128) and labels.max() < 12


def test_weights_and_classes_are_the_checkpoints(opened):
    family, checkpoint, inferencer = opened
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    loaded = inferencer.model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    assert isinstance(inferencer, {"mmdet": DetInferencer, "mmseg": MMSegInferencer}[family])
    assert tuple(inferencer.model.dataset_meta["classes"]) == CLASSES[family]


@pytest.mark.parametrize("how", ["directory", "file", "list", "link", "linked", "links"])
def test_input_images_are_not_replaced(opened, images, how):
    """Upstream draws the image ``out_dir/vis/a.png`` of any ``a.png``."""
    _, _, inferencer = opened
    out = images.parent
    images = images.rename(out / "vis")
    before = (images / "a.png").read_bytes()
    inputs = dict(directory=str(images), file=str(images / "a.png"), list=[str(images / "b.png")])
    (out / "link").symlink_to(images)
    inputs["link"] = str(out / "link")
    (out / "links").mkdir()
    (out / "links" / "c.png").symlink_to(images / "a.png")
    inputs["linked"] = str(out / "links" / "c.png")
    inputs["links"] = str(out / "links")
    with pytest.raises(UserError, match=r"would replace input images in .*vis, choose another"):
        inferencer(inputs[how], out_dir=str(out))
    assert (images / "a.png").read_bytes() == before and len(list(images.iterdir())) == 2


@pytest.mark.parametrize("key", ["img_out_dir", "pred_out_dir"])
def test_input_images_are_not_replaced_by_a_named_directory(key, images):
    inferencer = open_inferencer(NAMES["mmseg"], None, "cpu")
    with pytest.raises(UserError, match=r"would replace input images in .*images"):
        inferencer(str(images), out_dir=str(images.parent), **{key: "images"})


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_input_images_are_not_replaced_through_links_in_the_output(opened, images, link):
    _, _, inferencer = opened
    out = images.parent / "out"
    (out / "vis").mkdir(parents=True)
    link(images / "a.png", out / "vis" / "a.png")
    with pytest.raises(UserError, match=r"would replace input images in .*vis"):
        inferencer(str(images), out_dir=str(out))


WHOLE = np.zeros((96, 128, 3), np.uint8)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ("nowhere.png", r"the image nowhere\.png cannot be read: no such file"),
        (Path("nowhere.png"), r"the image nowhere\.png cannot be read: no such file"),
        ("empty.png", r"the image empty\.png cannot be read: the file is empty"),
        (["images/a.png", "cut.png"], r"the image cut\.png cannot be read: its end is missing"),
        ("images", r"the image images/b\.png cannot be read"),
        ("void", "the directory void has no image"),
        ([], "the list of inputs has no image"),
        (["images"], "the image images cannot be read: is a directory"),
        (None, "an input must be the path of an image or of a directory.* got None"),
        ([WHOLE, 3], "an input must be the path of an image .* got 3"),
        ([[WHOLE]], r"an input must be the path of an image .* got \[array"),
        (WHOLE / 255, r"uint8 from 0 to 255, got \(96, 128, 3\) of float64"),
        (WHOLE[..., :2], r"must be \(H, W, 3\), .* got \(96, 128, 2\) of uint8"),
        (WHOLE[..., 0], r"must be \(H, W, 3\), .* got \(96, 128\) of uint8"),
        (WHOLE[:0], r"must be \(H, W, 3\), .* got \(0, 128, 3\) of uint8"),
    ],
)
def test_what_is_no_image_gets_a_sentence(opened, images, monkeypatch, inputs, says):
    monkeypatch.chdir(images.parent)
    Path("empty.png").touch()
    Path("cut.png").write_bytes(Path("images/a.png").read_bytes()[:-8])
    Path("void").mkdir()
    Path("images/b.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=says):
        opened[2](inputs, out_dir="out")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("out", "taken"), [("out", "out"), ("out", "out/vis"), ("out/inner", "out")]
)
def test_an_output_directory_that_is_a_file(opened, images, monkeypatch, out, taken):
    monkeypatch.chdir(images.parent)
    Path(taken).parent.mkdir(exist_ok=True)
    Path(taken).write_text("kept")
    with pytest.raises(UserError, match=rf"out_dir='{out}': .*{taken} is not a directory"):
        opened[2]("images/a.png", out_dir=out)
    assert Path(taken).read_text() == "kept"


def test_paths_need_not_be_texts(opened, images):
    _, _, inferencer = opened
    found = [inferencer(each) for each in (images / "a.png", [images / "a.png"])]
    array = np.ascontiguousarray(np.asarray(Image.open(images / "a.png"))[..., ::-1])
    found.append(inferencer(array))
    assert len({str(each["predictions"]) for each in found}) == 1


UPSTREAM = """
import sys
from mmdet.apis import DetInferencer
from mmseg.apis import MMSegInferencer
from mmdysample.engine.checkpoint import install_safe_loading
install_safe_loading()
inferencer = {"mmdet": DetInferencer, "mmseg": MMSegInferencer}[sys.argv[1]]
settings = dict(pred_score_thr=0.0) if sys.argv[1] == "mmdet" else {}
inferencer(sys.argv[2], sys.argv[3], device="cpu")(sys.argv[4], out_dir=sys.argv[5], **settings)
"""


@pytest.mark.slow
def test_upstreams_inferencers_with_a_config_file(saved, images, tmp_path):
    """A process of its own, in which nothing was imported or allowed before."""
    family, checkpoint = saved
    content = torch.load(checkpoint, weights_only=True)
    # mmseg itself needs them.
    palette = [(9 * n, 99, 200) for n in range(len(CLASSES[family]))]
    content["meta"]["dataset_meta"]["palette"] = palette
    checkpoint = tmp_path / "with-palette.pth"
    torch.save(content, checkpoint)
    call = [sys.executable, "-W", "ignore", "-c", UPSTREAM]
    call += [family, config_path(NAMES[family]), checkpoint, images, tmp_path / "out"]
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    result = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    check_drawn(images, tmp_path / "out" / "vis")


def test_mmengine_finds_the_models():
    """As its inferencers do, which look for models in the package of their scope."""
    listed = BaseInferencer.list_models("mmdysample")
    assert len(listed) == len(set(listed)) > 100
    assert all(Path(config_path(name)).stem == name for name in listed)

    class Named(BaseInferencer):
        visualize = postprocess = _init_pipeline = None

        def __init__(self):
            self.scope = "mmdysample"

    cfg, weights = Named()._load_model_from_metafile(NAMES["mmdet"])
    assert cfg.model == config_of("mmdet").model
    assert weights is None


@pytest.mark.parametrize(
    ("model", "weights", "says"),
    [
        ("faster-rcnn_r50_fpn_dysampel_1x_coco", None, "did you mean 'faster-rcnn_r50_fpn_dysa"),
        ("nowhere/config.py", None, "is neither a config file nor a model"),
        (NAMES["mmdet"], "nowhere.pth", "checkpoint nowhere.pth does not exist"),
        (
            None,
            "checkpoint.pth",
            "model=None: .* the config in a checkpoint is a program, which is",
        ),
    ],
)
def test_mistakes_get_a_sentence(model, weights, says):
    with pytest.raises(UserError, match=says):
        open_inferencer(model, weights, "cpu")


def test_a_config_of_another_package_is_refused(tmp_path):
    (tmp_path / "other.py").write_text("default_scope = 'mmpretrain'\nmodel = dict(type='A')\n")
    with pytest.raises(UserError, match=r"default_scope .* 'mmpretrain'.* mmdet and mmseg"):
        open_inferencer(str(tmp_path / "other.py"))


def test_a_checkpoint_that_could_run_code_is_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save(dict(state_dict={}, meta=Harmful()), tmp_path / "harmful.pth")
    with pytest.raises(CheckpointError, match="nothing in it was run"):
        open_inferencer(NAMES["mmdet"], str(tmp_path / "harmful.pth"), "cpu")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    torch.save(dict(state_dict={"head.weight": torch.zeros(1)}), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth does not fit this model"):
        open_inferencer(NAMES["mmseg"], str(tmp_path / "other.pth"), "cpu")


@pytest.mark.parametrize(
    ("meta", "classes", "palette"),
    [
        (dict(dataset_meta=dict(classes=["a"], palette=[[1, 2, 3]])), ("a",), [[1, 2, 3]]),
        (dict(CLASSES=("a",), PALETTE=((1, 2, 3),)), ("a",), [[1, 2, 3]]),
        (dict(dataset_meta=dict(classes=("a",), palette="text")), ("a",), "other"),
        (dict(dataset_meta=dict(classes=("a",), palette=[[10**30, 1, 1]])), ("a",), "other"),
        (dict(dataset_meta=dict(classes=("a", "b"), palette=[[1, 2, 3]])), ("a", "b"), "other"),
        (dict(dataset_meta=dict(classes=[np.arange(3)])), None, None),
        (dict(dataset_meta=[1]), None, None),
        ([1], None, None),
        (None, None, None),
    ],
)
def test_classes_of_a_checkpoint(meta, classes, palette):
    found = _classes_and_palette(meta).get("dataset_meta", {})
    assert found.get("classes") == classes
    if palette == "other":
        assert np.shape(found["palette"]) == (len(classes), 3)
    else:
        assert found.get("palette") == palette


def test_images_of_one_name_have_their_own_predictions(images, tmp_path):
    (images / "b.png").unlink()
    Image.open(images / "a.png").convert("L").save(images / "a.jpg")
    inferencer = open_inferencer(NAMES["mmdet"], None, "cpu")
    result = inferencer(str(images), out_dir=str(tmp_path / "out"), no_save_pred=False)
    written = sorted((tmp_path / "out" / "preds").iterdir())
    assert sorted(path.name for path in written) in (
        ["a.jpg.json", "a.json"],
        ["a.json", "a.png.json"],
    )
    found = [json.loads(path.read_text()) for path in written]
    assert sorted(map(str, found)) == sorted(map(str, result["predictions"]))
    assert found[0] != found[1]


def test_a_model_without_an_inferencer(images, tmp_path):
    """As the analysis tools predict: the same as the inferencer."""
    inferencer = open_inferencer(NAMES["mmseg"], None, "cpu")
    torch.save(inferencer.model.state_dict(), tmp_path / "a.pth")
    cfg = config_of("mmseg")
    data = load_input(cfg, str(images / "a.png"))
    assert data["inputs"].shape[0] == 3 and data["inputs"].dtype == torch.uint8
    found = predict(load_model(cfg, str(tmp_path / "a.pth"), "cpu"), data).pred_sem_seg.data
    expected = inferencer(str(images / "a.png"))["predictions"]
    assert np.array_equal(found[0].numpy(), expected)
    with pytest.raises(UserError, match="--device nowhere cannot be used"):
        load_model(cfg, str(tmp_path / "a.pth"), "nowhere")


@pytest.fixture
def matting() -> Config:
    return Config.fromfile(config_path("a2u-matting_r18_bilinear_shapes"))


def test_a_matting_model_needs_a_trimap(matting, images, tmp_path):
    trimap = np.full((96, 128), 128, np.uint8)
    trimap[:40], trimap[60:] = 0, 255
    Image.fromarray(trimap).save(tmp_path / "trimap.png")
    data = load_input(matting, str(images / "a.png"), str(tmp_path / "trimap.png"))
    assert np.array_equal(data["data_samples"].trimap.data[0], trimap)
    bgr = np.asarray(Image.open(images / "a.png"))[..., ::-1].transpose(2, 0, 1)
    assert np.array_equal(data["inputs"], bgr)
    torch.manual_seed(0)
    torch.save(MODELS.build(matting.model).state_dict(), tmp_path / "a.pth")
    alpha = predict(load_model(matting, str(tmp_path / "a.pth"), "cpu"), data).pred_alpha.data[0]
    assert (alpha[:40] == 0).all() and (alpha[60:] == 255).all()
    assert alpha[40:60].float().std() > 0


@pytest.mark.parametrize(
    ("trimap", "says"),
    [
        (None, r"needs a trimap beside the image .*a\.png: .* \(--trimap\)"),
        ("nowhere.png", r"the trimap nowhere\.png cannot be read: no such file"),
        ("small.png", r"small\.png"),
        ("cut.png", r"the trimap .*cut\.png cannot be read: its end is missing"),
    ],
)
def test_a_wrong_trimap(matting, images, tmp_path, monkeypatch, trimap, says):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((9, 9), 128, np.uint8)).save("small.png")
    Path("cut.png").write_bytes(Path("small.png").read_bytes()[:-8])
    with pytest.raises(UserError, match=says):
        load_input(matting, str(images / "a.png"), trimap)


def test_other_models_take_no_trimap(images):
    with pytest.raises(UserError, match=r"the trimap t\.png is for a matting model"):
        load_input(config_of("mmseg"), str(images / "a.png"), "t.png")


def test_depth_estimators_take_an_image_alone(images):
    cfg = Config.fromfile(config_path("bts_r18_nearest_shapes"))
    assert load_input(cfg, str(images / "a.png"))["inputs"].shape == (3, 96, 128)


def test_an_unreadable_image(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"the image .*a\.jpg cannot be read"):
        read_image(str(tmp_path / "a.jpg"))
