"""The metafiles say of each config once what the config is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import yaml
from mmdet.registry import MODELS as REGISTRY
from mmengine.config import Config

from mmdysample.engine.errors import UserError
from tools.model_zoo.configs import derive, model_configs, read_entries
from tools.model_zoo.tables import MASK_HEAD_NOTE

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
INDEX = yaml.safe_load((ROOT / "model-index.yml").read_text())["Import"]
METAFILES = {name: yaml.safe_load((ROOT / name).read_text()) for name in INDEX}
MODELS = [model for metafile in METAFILES.values() for model in metafile["Models"]]
UPDATE = "run: python tools/results.py --write"
# What derived entries are compared for, one of each folder: all take a minute, as does
# `python tools/results.py --check`.
SAMPLES = {path.parent.name: path for path in sorted(CONFIGS.glob("[!_]*/*.py"))}


def test_the_index_names_every_metafile():
    files = {path.relative_to(ROOT).as_posix() for path in CONFIGS.glob("*/metafile.yml")}
    assert Counter(INDEX) == Counter(files), UPDATE


def test_every_model_config_has_one_entry():
    configs = {
        path.relative_to(ROOT).as_posix()
        for path in CONFIGS.rglob("*.py")
        if not path.relative_to(CONFIGS).parts[0].startswith("_")
    }
    assert Counter(model["Config"] for model in MODELS) == Counter(configs), UPDATE


def test_names_are_those_of_the_files():
    for model in MODELS:
        assert model["Name"] == Path(model["Config"]).stem
    assert max(Counter(model["Name"].lower() for model in MODELS).values()) == 1


def test_every_model_is_in_a_collection_of_its_file():
    collections = Counter()
    for metafile in METAFILES.values():
        own = {collection["Name"] for collection in metafile["Collections"]}
        assert {model["In Collection"] for model in metafile["Models"]} == own
        collections.update(own)
    assert set(collections.values()) == {1}


def test_nothing_is_claimed_that_was_not_measured():
    """No weights exist, and results are those of runs.csv alone."""
    recorded = (ROOT / "tools" / "model_zoo" / "runs.csv").read_text().splitlines()[1:]
    measured = {line.split(",")[0] for line in recorded}
    for model in MODELS:
        assert model["Weights"] is None
        assert ("Results" in model) == (model["Name"] in measured)


@pytest.mark.parametrize("folder", SAMPLES)
def test_entries_are_those_of_the_configs(folder):
    path = SAMPLES[folder]
    assert read_entries()[path.stem] == derive(path), UPDATE


def test_an_upsampler_in_a_mask_head_is_said():
    name = "mask-rcnn_r50_fpn_dysample{}_1x_coco"
    plain, mask_head = (model_configs()[name.format(end)] for end in ("", "_mask-head"))
    added = "; also in place of the mask head's transposed convolution"
    assert derive(mask_head).upsampler == derive(plain).upsampler + added
    # What is replaced, in mmdet's own head.
    head = REGISTRY.build(Config.fromfile(plain).model.roi_head.mask_head)
    assert f"{head.upsample.weight.numel():,} weights" in MASK_HEAD_NOTE
    said = [model["Name"] for model in MODELS if added in model["Metadata"]["Upsampler"]]
    assert said == [mask_head.stem]
    assert " ".join(MASK_HEAD_NOTE.split()) in " ".join(
        (ROOT / "docs" / "model_zoo.md").read_text().split()
    )


@pytest.mark.parametrize(
    "text",
    [
        "Models: [",
        "",
        "Models:\n- Name: a\n",
        "Models: 5\n",
        "- a\n",
        "Models:\n- Name: a\n  Config: b.py\n  Metadata: {Epochs: 1}\n",
    ],
)
def test_a_damaged_metafile(text, tmp_path):
    path = tmp_path / "family" / "metafile.yml"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_entries(tmp_path)
    assert str(path) in str(error.value) and "tools/results.py --write" in str(error.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "faster-rcnn_r50_fpn-p6_dysample_1x_coco",
            ("COCO", "Epochs", 12, "DySample, style=lp, groups=4, dyscope=False", 4 * 8192, ["AP"]),
        ),
        (
            "segformer_mit-b1_dysample-s_8xb2-160k_ade20k-512x512",
            (
                *("ADE20K", "Iterations", 160_000),
                *("DySample, style=pl, groups=8, dyscope=False", 6 * 1024, ["mIoU", "bIoU"]),
            ),
        ),
        (
            "panoptic-fpn_r101_fpn_nearest_1x_coco",
            ("COCO", "Epochs", 12, "Nearest", 0, ["PQ"]),
        ),
        (
            "segformer_mit-b0_bilinear_shapes",
            ("Shapes", "Iterations", 600, "Bilinear", 0, ["mIoU"]),
        ),
    ],
)
def test_what_is_said(name, expected):
    entry = read_entries()[name]
    said = (entry.data, entry.unit, entry.length, entry.upsampler, entry.weights, entry.metrics)
    assert said == expected
