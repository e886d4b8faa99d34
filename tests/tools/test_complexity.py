"""tools/analysis/complexity.py gives the papers' figures, and answers mistakes with a sentence."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from tools.analysis import complexity

ROOT = Path(__file__).parents[2]
PUBLISHED = complexity.read_published()
SEGFORMER = sorted(name for name in PUBLISHED if name.startswith("segformer"))


def call(*args: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", ROOT / "tools/analysis/complexity.py", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_every_published_row_has_its_config():
    configs = {path.stem for path in (ROOT / "configs").rglob("*.py")}
    assert set(PUBLISHED) <= configs
    # Tables 4, 6 and 8, the latter with R50 and R101; three models of SAPA's Table 2; its Table 3
    assert sum(map(len, PUBLISHED.values())) == 12 + 14 + 14 + 3 * 7 + 7


@pytest.mark.parametrize("name", SEGFORMER)
def test_figures_of_segformer(name):
    """Each is reproduced to the printed digit, or by counting as the paper does."""
    for row in complexity.measure(str(ROOT / f"configs/segformer/{name}.py"), None, PUBLISHED):
        if row.upsampler == "Bilinear" and row.source.startswith("SAPA"):
            # measured on another implementation of SegFormer
            assert (row.params_difference, row.gflops_difference) == ("-0.0232M", "-0.0319")
        elif row.upsampler == "IndexNet" and row.source.startswith("DySample"):
            assert row.params_difference == "equal"
            assert "30.65, of which 30.7 is a rounding" in row.note
        elif (row.params_difference, row.gflops_difference) != ("equal", "equal"):
            assert row.recount.count(": equal") == row.recount.count(":") > 0
            assert row.note


@pytest.mark.parametrize("model", ["maskformer", "mask2former"])
def test_figures_of_pixel_decoders(model):
    """SAPA's Table 2 with CARAFE (3 stages) and A2U (1 stage)."""
    slug = {"maskformer": "carafe", "mask2former": "a2u"}[model]
    name = f"{model}_swin-b-in22k-384x384-pre_{slug}_8xb2-160k_ade20k-640x640"
    config = str(ROOT / f"configs/{model}/{name}.py")
    (row,) = (
        row for row in complexity.measure(config, None, PUBLISHED) if row.source == "SAPA, Table 2"
    )
    assert (row.params_difference, row.gflops_difference) == ("equal", "equal")
    assert row.stages == {"maskformer": 3, "mask2former": 1}[model]


def test_an_upsampler_that_is_not_run_is_said():
    name = "mask-rcnn_r50_fpn_dysample{}_1x_coco"
    measured = {
        end: complexity.measure(
            str(ROOT / f"configs/mask_rcnn/{name.format(end)}.py"), (256, 320), {}
        )
        for end in ("", "_mask-head")
    }
    (neck,), (both,) = measured.values()
    assert (both.stages, both.params) == (neck.stages, neck.params) == (3, 3 * 8192)
    assert both.note.endswith("its part of the model is not run: roi_head.mask_head.upsample")
    assert neck.note == ""


def test_as_a_user_calls_it(tmp_path):
    configs = [
        ROOT / "configs/segformer/segformer_mit-b1_deconv_8xb2-160k_ade20k-512x512.py",
        ROOT / "configs/faster_rcnn/faster-rcnn_r50_fpn-p6_dysample_1x_coco.py",
    ]
    table = tmp_path / "table.csv"
    result = call(*configs, "--shape", "256", "320", "--csv", table)
    assert result.returncode == 0, result.stderr
    with table.open(newline="") as file:
        deconv, dysample = csv.DictReader(file)
    # Stages of SegFormer from 8x10, 16x20 and 32x40 pixels: 1, 2 and 3 of them
    flops = 9 * 256**2 * (1 * 8 * 10 + 2 * 16 * 20 + 3 * 32 * 40)
    assert deconv["gflops"] == f"{flops / 1e9:.3f}"
    assert deconv["params"] == str(6 * 9 * 256**2)
    # P6 is 4x5
    flops = (8192 + 16 * 256 + 16 * 4) * (4 * 5 + 8 * 10 + 16 * 20 + 32 * 40)
    assert dysample["gflops"] == f"{flops / 1e9:.3f}"
    assert (dysample["params"], dysample["published_params"]) == ("32768", "+32.7K")
    assert dysample["params_difference"] == "+0.068K"
    for row in (deconv, dysample):
        (line,) = [line for line in result.stdout.splitlines() if line.startswith(row["config"])]
        assert f"{int(row['params']):,}" in line.split() and row["gflops"] in line.split()


@pytest.mark.parametrize(
    ("ours", "printed", "unit", "expected"),
    [
        (2_359_296, "+2.4M", None, "equal"),
        (38_912, "+38.9K", None, "equal"),
        (32_768, "+32.7K", None, "+0.068K"),
        (0, "+0M", None, "equal"),
        (30.646e9, "+30.65", 1e9, "equal"),
        (30.646e9, "+30.7", 1e9, "-0.054"),
        (None, "+30.7", 1e9, ""),
        (5.0, "", 1e9, ""),
    ],
)
def test_difference(ours, printed, unit, expected):
    assert complexity.difference(ours, printed, unit) == expected


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "CONFIG"),
        (["no/such.py"], "no/such.py"),
        (["{config}", "--shape", "0", "5"], "--shape must be two integers >= 1, got 0 5"),
        (["{config}", "--csv", "no/such/folder.csv"], "no/such does not exist"),
        (["{config}", "--csv", "docs"], "--csv docs is a directory"),
        (["{plain}"], "has no upsampler of mmdysample"),
    ],
)
def test_mistakes_get_a_sentence(args, says, tmp_path):
    plain = tmp_path / "plain.py"
    plain.write_text("_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'\n")
    config = ROOT / "configs/faster_rcnn/faster-rcnn_r50_fpn_nearest_1x_coco.py"
    result = call(*(arg.format(config=config, plain=plain) for arg in args))
    assert result.returncode == 2
    assert says in result.stderr and "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
