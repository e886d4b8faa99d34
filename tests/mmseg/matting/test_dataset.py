"""Data sets of matting: which samples they list, from directories and from lists."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdysample.errors import InvalidValue, UserError
from mmdysample.mmseg.matting import ComposedMattingDataset, MattingDataset
from tests.mmseg.matting.toy import CONFIGS, HEIGHT, WIDTH, draw_data, write

TESTED = dict(img_path="images", trimap_path="matting/trimap", alpha_path="matting/alpha")
TRAINED = dict(fg_path="matting/fg", alpha_path="matting/alpha", bg_path="matting/bg")


def training_data(root: Path, crop_size: int = 24) -> ComposedMattingDataset:
    """Toy data through the training pipeline for Composition-1k, with small crops."""
    init_default_scope("mmseg")
    config = Config.fromfile(CONFIGS / "_base_/datasets/comp1k_512x512.py")
    settings = dict(CropAroundUnknown=dict(crop_size=crop_size), ResizeForeground=dict(size=64))
    pipeline = [{**step, **settings.get(step["type"], {})} for step in config.train_pipeline]
    return ComposedMattingDataset(data_root=str(root), data_prefix=TRAINED, pipeline=pipeline)


def test_samples_to_test_on(tmp_path):
    root = draw_data(tmp_path)
    dataset = MattingDataset(data_root=str(root), data_prefix=TESTED, test_mode=True)
    assert len(dataset) == 4
    assert dataset.get_data_info(2) == dict(
        img_path=str(root / "images/002.png"),
        trimap_path=str(root / "matting/trimap/002.png"),
        alpha_path=str(root / "matting/alpha/002.png"),
        sample_idx=2,
    )


def test_no_ground_truth(tmp_path):
    prefix = dict(img_path="images", trimap_path="matting/trimap")
    dataset = MattingDataset(data_root=str(draw_data(tmp_path)), data_prefix=prefix)
    assert set(dataset.get_data_info(0)) == {"img_path", "trimap_path", "sample_idx"}


def test_names_with_other_extensions_and_below(tmp_path):
    root = draw_data(tmp_path, 1)
    for kind in TESTED.values():
        write(root / kind / "part.1/cat.5.png", np.zeros((4, 4, 3)))
    (root / "images/part.1/cat.5.png").rename(root / "images/part.1/cat.5.JPG")
    (root / "images/.hidden.png").write_bytes(b"")
    (root / "images/notes.txt").write_text("no image")
    dataset = MattingDataset(data_root=str(root), data_prefix=TESTED)
    assert [Path(dataset.get_data_info(i)["img_path"]).name for i in range(len(dataset))] == [
        "000.png",
        "cat.5.JPG",
    ]


def test_training_samples(tmp_path):
    root = draw_data(tmp_path)
    dataset = training_data(root)
    assert len(dataset) == 4
    assert [Path(path).name for path in dataset.backgrounds] == [
        f"other-{number:03d}.png" for number in range(4)
    ]
    dataset.pipeline = lambda sample: sample
    np.random.seed(0)
    drawn = [dataset[1] for _ in range(60)]
    assert {Path(sample["fg_path"]).name for sample in drawn} == {"001.png"}
    assert {sample["bg_path"] for sample in drawn} == set(dataset.backgrounds)
    seconds = {Path(sample["other"]["fg_path"]).stem for sample in drawn}
    assert seconds == {"000", "001", "002", "003"}
    for sample in drawn:
        assert Path(sample["other"]["fg_path"]).stem == Path(sample["other"]["alpha_path"]).stem


def test_samples_obey_the_matting_equation(tmp_path):
    """What is packed fits together, after every transform for Composition-1k."""
    dataset = training_data(draw_data(tmp_path))
    fractions = 0
    for seed in range(12):
        np.random.seed(seed)
        packed = dataset[seed % 4]
        image, sample = packed["inputs"].numpy().astype(float), packed["data_samples"]
        alpha = sample.gt_alpha.data.numpy() / 255
        front, back = sample.gt_fg.data.numpy(), sample.gt_bg.data.numpy()
        assert image.shape == (3, 24, 24)
        assert np.abs(alpha * front + (1 - alpha) * back - image).max() <= 0.5 + 1e-9
        trimap = sample.trimap.data.numpy()
        assert (alpha[trimap == 255] == 1).all()
        assert (alpha[trimap == 0] == 0).all()
        fractions += ((alpha > 0) & (alpha < 1)).sum()
    assert fractions > 0


def listed(root: Path, wrap: Callable = lambda samples: samples, **change) -> str:
    """A list in mmagic's form."""
    samples = []
    for number in range(4):
        name = f"{number:03d}.png"
        sample = dict(
            merged=f"images/{name}",
            trimap=f"matting/trimap/{name}",
            alpha=f"matting/alpha/{name}",
            fg=f"matting/fg/{name}",
            bg=f"matting/bg/other-{name}",
        )
        samples.append({**sample, **change} if number == 2 else sample)
    (root / "list.json").write_text(json.dumps(wrap(samples)))
    return "list.json"


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: dict(data_list=s)], ids=["list", "dict"])
def test_lists(tmp_path, wrap):
    root = draw_data(tmp_path)
    settings = dict(data_root=str(root), data_prefix={}, ann_file=listed(root, wrap))
    tested = MattingDataset(**settings)
    by_directory = MattingDataset(data_root=str(root), data_prefix=TESTED)
    trained = ComposedMattingDataset(**settings)
    assert [tested.get_data_info(i) for i in range(4)] == [
        by_directory.get_data_info(i) for i in range(4)
    ]
    assert len(trained) == 4
    assert len(trained.backgrounds) == 4


def test_a_foreground_that_is_listed_often_counts_once(tmp_path):
    root = draw_data(tmp_path)
    names = dict(fg="matting/fg/000.png", alpha="matting/alpha/000.png")
    ann_file = listed(root, **names)
    trained = ComposedMattingDataset(data_root=str(root), data_prefix={}, ann_file=ann_file)
    assert len(trained) == 3
    assert len(trained.backgrounds) == 4


LISTS = {
    "missing": (lambda root: None, "no such file"),
    "not-json": (lambda root: (root / "list.json").write_text("["), "is not in JSON"),
    "not-a-list": (lambda root: (root / "list.json").write_text("3"), "is not a list of samples"),
    "not-dicts": (lambda root: (root / "list.json").write_text("[3]"), "sample 0 .* but 3"),
    "no-trimap": (lambda root: listed(root, trimap=None), "sample 2 .* no path 'trimap'"),
    "no-file": (lambda root: listed(root, alpha="a.png"), "alpha matte .*a.png: no such file"),
    "nested": (lambda root: (root / "list.json").write_text("[" * 200_000), "is not in JSON"),
    "empty": (
        lambda root: (root / "list.json").write_text("[]"),
        r"MattingDataset is empty: no sample in .*list\.json",
    ),
    # Both files are there.
    "outside": (
        lambda root: listed(root, merged=f"../{root.name}/images/000.png"),
        r"sample 2 .*image '\.\./.* below data_root",
    ),
    "absolute": (
        lambda root: listed(root, trimap=str(root / "matting/trimap/000.png")),
        "sample 2 .*trimap '/.* below data_root",
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_wrong_lists(name, tmp_path):
    make, says = LISTS[name]
    make(draw_data(tmp_path))
    with pytest.raises(UserError, match=says):
        MattingDataset(data_root=str(tmp_path), data_prefix={}, ann_file="list.json")


def test_a_foreground_that_is_listed_with_two_alphas(tmp_path):
    ann_file = listed(draw_data(tmp_path), fg="matting/fg/000.png")
    dataset = dict(data_root=str(tmp_path), data_prefix={}, ann_file=ann_file)
    with pytest.raises(InvalidValue, match=r"fg/000\.png: .*alpha/000\.png and .*alpha/002\.png"):
        ComposedMattingDataset(**dataset)


@pytest.mark.parametrize("kind", [MattingDataset, ComposedMattingDataset])
def test_empty_directories(kind, tmp_path):
    prefix = TESTED if kind is MattingDataset else TRAINED
    for directory in prefix.values():
        (tmp_path / directory).mkdir(parents=True)
    write(tmp_path / "matting/bg/000.png", np.zeros((4, 4, 3)))
    says = f"{kind.__name__} is empty: no sample in .*/matting/alpha"
    with pytest.raises(InvalidValue, match=says):
        kind(data_root=str(tmp_path), data_prefix=prefix)


def test_missing_directories(tmp_path):
    draw_data(tmp_path)
    with pytest.raises(InvalidValue, match="needs directories img_path, trimap_path, alpha_path"):
        MattingDataset(data_root=str(tmp_path), data_prefix=dict(img_path="images"))
    with pytest.raises(InvalidValue, match=r"foregrounds .*nowhere does not exist"):
        prefix = dict(TRAINED, fg_path="nowhere")
        ComposedMattingDataset(data_root=str(tmp_path), data_prefix=prefix)


def test_images_without_mattes(tmp_path):
    root = draw_data(tmp_path)
    write(root / "images/800.png", np.zeros((HEIGHT, WIDTH, 3)))
    settings = dict(data_root=str(root), data_prefix=TESTED)
    with pytest.raises(InvalidValue, match=r"1 of 5 images .*images/800\.png"):
        MattingDataset(**settings)
    assert len(MattingDataset(**settings, leave_out_images=True)) == 4
