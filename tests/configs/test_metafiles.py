"""The metafiles and the document are up to date, and say of each config what the config is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")

import yaml

from tools.model_zoo.configs import ROOT, model_configs
from tools.model_zoo.document import DOCUMENT, whole_document
from tools.model_zoo.metafiles import metafiles, parts_of
from tools.model_zoo.runs import read_runs
from tools.model_zoo.tables import TABLES

INDEX = yaml.safe_load((ROOT / "model-index.yml").read_text())["Import"]
METAFILES = {name: yaml.safe_load((ROOT / name).read_text()) for name in INDEX}
MODELS = [model for metafile in METAFILES.values() for model in metafile["Models"]]


def test_what_is_written_is_up_to_date():
    runs = read_runs()
    for path, text in {DOCUMENT: whole_document(runs), **metafiles(runs)}.items():
        assert path.read_text() == text, "run: python tools/results.py --record"


def test_every_metafile_is_in_the_index_and_every_config_in_one_metafile():
    files = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/*/metafile.yml")}
    assert Counter(INDEX) == Counter(files)
    configs = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/[!_]*/**/*.py")}
    assert Counter(model["Config"] for model in MODELS) == Counter(configs)


def test_names_are_those_of_the_files():
    assert {model["Name"] for model in MODELS} == model_configs().keys()
    for model in MODELS:
        assert model["Name"] == Path(model["Config"]).stem
    assert max(Counter(model["Name"].lower() for model in MODELS).values()) == 1


def test_every_model_is_in_the_collection_of_its_file():
    for name, metafile in METAFILES.items():
        (collection,) = metafile["Collections"]
        assert collection["Name"] == Path(name).parent.name
        assert {model["In Collection"] for model in metafile["Models"]} == {collection["Name"]}


def test_the_paper_of_a_collection_is_the_one_that_has_its_models():
    """SAPA alone has matting, BTS and SegNet; most others are in both, and DySample's is named."""
    papers = {
        collection["Name"]: collection["Paper"]["Title"].partition(":")[0]
        for metafile in METAFILES.values()
        for collection in metafile["Collections"]
    }
    sapa = {name for name, title in papers.items() if title == "SAPA"}
    assert sapa == {"a2u_matting", "bts", "segnet"}
    for table in TABLES:
        if table.source.startswith("DySample, Table"):
            directories = {model_configs()[row.config].parent.name for row in table.rows()}
            assert sapa.isdisjoint(directories)


def test_nothing_is_claimed_that_was_not_measured():
    """No weights exist, and results are those of runs.csv alone."""
    measured = {run.config for run in read_runs()}
    for model in MODELS:
        assert model["Weights"] is None
        assert ("Results" in model) == (model["Name"] in measured)


@pytest.mark.parametrize(
    ("name", "architecture", "upsampler", "data"),
    [
        ("faster-rcnn_r50_fpn-p6_sapa-b_1x_coco", "faster-rcnn r50 fpn-p6", "sapa-b", "COCO"),
        (
            "mask-rcnn_r50_fpn_dysample_mask-head_1x_coco",
            *("mask-rcnn r50 fpn", "dysample mask-head", "COCO"),
        ),
        (
            "segformer_mit-b1_dysample-s_8xb2-160k_ade20k-512x512",
            *("segformer mit-b1", "dysample-s", "ADE20K"),
        ),
        ("segformer_mit-b0_bilinear_shapes", "segformer mit-b0", "bilinear", "Shapes"),
        (
            "depthformer_swin-t_fade-ungated_2xb8-38k_nyu-416x544",
            *("depthformer swin-t", "fade-ungated", "NYU Depth V2"),
        ),
        (
            "a2u-matting_r34_sapa-i_1xb16-180k_comp1k-512x512",
            *("a2u-matting r34", "sapa-i", "Composition-1k"),
        ),
        ("segnet_vgg16_a2u_1xb8-200e_sunrgbd", "segnet vgg16", "a2u", "SUN RGB-D"),
    ],
)
def test_what_a_name_says(name, architecture, upsampler, data):
    assert parts_of(name) == (architecture.split(), upsampler, data)
