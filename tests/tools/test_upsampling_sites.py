"""tools/analysis/upsampling_sites.py prints the table of a model, and answers mistakes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmdysample.engine.errors import run_tool
from tools.analysis import upsampling_sites

ROOT = Path(__file__).parents[2]
SHAPES = ROOT / "configs/shapes"
DETECTOR = SHAPES / "yolox_s_dysample_shapes.py"
SEGMENTOR = SHAPES / "deeplabv3plus_r18-d8_dysample_shapes.py"
SITES = """\
site               channels  ratio  mode     guide
neck.upsample.128  128       x2     nearest  neck(0, 1)
neck.upsample.64   64        x2     nearest  neck(0, 0)
"""


@pytest.fixture
def call(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["upsampling_sites.py", *map(str, arguments)])
        try:
            status = run_tool(upsampling_sites.main)
        except SystemExit as end:  # argparse's
            status = end.code
        return status, *capsys.readouterr()

    return call


@pytest.mark.parametrize("config", ["yolox_s_dysample_shapes", "yolox_s_nearest_shapes"])
def test_a_swapped_model_and_the_one_before_have_the_same_sites(config, call):
    status, stdout, _ = call(SHAPES / f"{config}.py", "--image-size", 64, 96)
    assert (status, stdout) == (0, SITES)


def test_the_document_has_what_is_printed(call):
    status, stdout, _ = call(SEGMENTOR)
    assert status == 0 and "kept: its ratio changes" in stdout
    document = (ROOT / "docs/openmmlab.md").read_text()
    assert f"{SEGMENTOR.relative_to(ROOT)}\n```\n\nprints:\n\n```\n{stdout}```" in document


def test_pspnet_keeps_everything(call):
    """It enlarges what it has pooled to 1, 2, 3 and 6 pixels a side."""
    status, stdout, _ = call(SHAPES / "pspnet_r18-d8_bilinear_shapes.py", "--image-size", 64)
    _, *sites = stdout.splitlines()
    assert status == 0 and len(sites) == 4
    assert all("kept: its ratio changes with the image size" in site for site in sites)


def test_a_model_that_does_not_run(call):
    status, _, stderr = call(DETECTOR, "--image-size", 100)
    assert status == 2 and "does not run on images of (1, 3, 100, 100)" in stderr
    assert "set image_size" in stderr and "Traceback" not in stderr


def test_options_change_the_model(call):
    status, stdout, _ = call(
        *(DETECTOR, "--image-size", 64, "--cfg-options", "model.backbone.widen_factor=0.125"),
        *("model.neck.in_channels=[32,64,128]", "model.neck.out_channels=32"),
    )
    assert status == 0 and "neck.upsample.32 " in stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["missing.py"], "config missing.py does not exist"),
        ([DETECTOR, "--image-size", "0"], "--image-size must be one or two whole numbers of at"),
        ([DETECTOR, "--image-size", "1", "2", "3"], "--image-size must be .*, got 1 2 3"),
        ([DETECTOR, "--cfg-options", "model.of=YOLOXX"], "did you mean 'YOLOX'"),
        ([DETECTOR, "--cfg-options", "model.of=3"], "of must be a type, such as .*, got 3"),
        ([DETECTOR, "--image-size", str(10**9)], "image_size is too large, .* 1000000000"),
    ],
    ids=["no-file", "zero", "three", "of", "of-a-number", "huge"],
)
def test_mistakes(arguments, sentence, call):
    status, stdout, stderr = call(*arguments)
    assert (status, stdout) == (2, "")
    (line,) = (line for line in stderr.splitlines() if line.startswith("error: "))
    assert re.search(sentence, line)
