"""tools/analysis/complexity.py gives the papers' figures, and answers mistakes with a sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmdysample.engine.errors import run_tool
from tools.analysis import complexity

CONFIGS = Path(__file__).parents[2] / "configs"
PUBLISHED = complexity.read_published()
SEGFORMER = "segformer/segformer_mit-b1_{}_8xb2-160k_ade20k-512x512.py"
# Upsampler and table -> differences of parameters and GFLOPs; docs/benchmarks.md explains them.
DIFFERENT = {
    # measured on another implementation of SegFormer
    ("bilinear", "sapa_table2"): ("-0.0232M", "-0.0319"),
    ("deconv", "dysample_table4"): ("equal", "-25.793"),
    ("dysample", "dysample_table4"): ("equal", "-0.120"),
    ("dysample-plus", "dysample_table4"): ("equal", "-0.100"),
    ("dysample-s", "dysample_table4"): ("equal", "-0.079"),
    ("dysample-s-plus", "dysample_table4"): ("equal", "-0.118"),
    ("fade-ungated", "dysample_table4"): ("equal", "-0.080"),
    # SAPA's paper prints 30.65 for the same, of which 30.7 is a rounding
    ("indexnet", "dysample_table4"): ("equal", "-0.054"),
    ("sapa-g", "sapa_table2"): ("+0.0490M", "+0.1235"),
}


@pytest.fixture
def call(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["complexity.py", *map(str, arguments)])
        try:
            status = run_tool(complexity.main)
        except SystemExit as end:  # argparse's
            status = end.code
        return status, *capsys.readouterr()

    return call


def test_every_published_row_has_its_config():
    configs = {path.stem for path in CONFIGS.rglob("*.py")}
    assert set(PUBLISHED) <= configs
    # Tables 4, 6 and 8, the latter with R50 and R101; three models of SAPA's Table 2; its Table 3;
    # depth in Tables 9 and, of SAPA, 4; matting in SAPA's Table 5, and what the READMEs print
    assert sum(map(len, PUBLISHED.values())) == 12 + 14 + 14 + 3 * 7 + 7 + 12 + 6 + 7 + 10
    assert {table for _, table in DIFFERENT} == {"dysample_table4", "sapa_table2"}


def test_a_swapped_model_whose_first_layer_takes_other_channels_than_the_image():
    """CSPDarknet's first convolution is of four pixels each, 12 channels."""
    path = CONFIGS / "shapes/yolox_s_dysample_shapes.py"
    (row,) = complexity.measure(str(path), [64, 64], {})
    assert (row.upsampler, row.stages, row.params) == ("DySample", 2, 32 * 128 + 32 * 64)


def check_segformer(upsampler: str) -> None:
    rows = complexity.measure(str(CONFIGS / SEGFORMER.format(upsampler)), None, PUBLISHED)
    assert {row.source for row in rows} <= {"dysample_table4", "sapa_table2"}
    for row in rows:
        expected = DIFFERENT.get((upsampler, row.source), ("equal", "equal"))
        assert (row.params_difference, row.gflops_difference) == expected


def test_figures_of_segformer_with_dysample_and_carafe():
    check_segformer("dysample")
    check_segformer("carafe")


@pytest.mark.slow
@pytest.mark.parametrize(
    "upsampler",
    [
        *("a2u", "bilinear", "deconv", "dysample-plus", "dysample-s", "dysample-s-plus"),
        *("fade-ungated", "indexnet", "pixelshuffle", "sapa-b", "sapa-g", "sapa-i"),
    ],
)
def test_figures_of_segformer(upsampler):
    check_segformer(upsampler)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "upsampler", "stages"), [("maskformer", "carafe", 3), ("mask2former", "a2u", 1)]
)
def test_figures_of_pixel_decoders(model, upsampler, stages):
    name = f"{model}_swin-b-in22k-384x384-pre_{upsampler}_8xb2-160k_ade20k-640x640"
    rows = complexity.measure(str(CONFIGS / model / f"{name}.py"), None, PUBLISHED)
    (row,) = (row for row in rows if row.source == "sapa_table2")
    assert (row.params_difference, row.gflops_difference, row.stages) == ("equal", "equal", stages)


def rows_of(name: str) -> dict[str, complexity.Row]:
    """Of a config, by the table."""
    (path,) = CONFIGS.glob(f"*/{name}_*.py")
    return {row.source: row for row in complexity.measure(str(path), None, PUBLISHED)}


@pytest.mark.parametrize(
    ("name", "table", "params", "difference"),
    [
        # DySample, Table 9: weights alone
        ("depthformer_swin-t_dysample", "dysample_table9", 4 * 8 * 1440, "equal"),
        # SAPA, Table 5: all parameters, of widths 256, 128, 64, 64
        (
            "a2u-matting_r34_sapa-g",
            "sapa_table5",
            32 * 3 * 512 + 512 + 4 * 512 + 4 * 97,
            "+0.0121M",
        ),
    ],
)
def test_what_depth_and_matting_add(name, table, params, difference):
    row = rows_of(name)[table]
    assert (row.stages, row.idle) == (4, "")
    assert (row.params, row.params_difference) == (params, difference)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "table", "params", "differences"),
    [
        ("depthformer_swin-t_bilinear", "dysample_table9", 47_612_029, ("equal", "")),
        # without the classifier of ResNet-50, 2,049,000
        ("bts_r50_nearest", "sapa_table4", 49_530_968 - 2_049_000, ("-2.0480M", "")),
        ("bts_r50_sapa-b", "sapa_table4", 159_104, ("equal", "")),
        ("a2u-matting_r34_bilinear", "sapa_table5", 8_049_003, ("equal", "")),
        ("a2u-matting_r34_fade", "fade_readme_matting", 124_008, ("equal", "equal")),
        ("a2u-matting_r34_fade-lite", "fade_readme_matting", 27_216, ("equal", "+0.0488")),
        ("a2u-matting_r34_a2u", "fade_readme_matting", 21_656, ("-16.34K", "equal")),
        ("a2u-matting_r34_carafe", "fade_readme_matting", 263_824, ("equal", "equal")),
        (
            "a2u-matting_r34_indexnet",
            *("fade_readme_matting", 2_889_728, ("-9.3703M", "-16.5953")),
        ),
        ("a2u-matting_r34_a2u", "sapa_table5", 21_656, ("equal", "")),
        ("segnet_vgg16_sapa-b", "", 32 * 2 * 1472, ("", "")),
    ],
)
def test_figures_of_depth_matting_and_segnet(name, table, params, differences):
    row = rows_of(name)[table]
    assert (row.params, (row.params_difference, row.gflops_difference)) == (params, differences)


def test_the_maps_of_depthformer_have_the_sizes_of_its_backbone():
    """Its neck is not run: four stages climb from 1/32 to 1/2, and no FLOPs are of the whole."""
    row = rows_of("depthformer_swin-t_dysample")["dysample_table9"]
    # offsets of a pixel, 32 x, sampling of its four, 16 x, and 64 for the points
    sizes = zip((768, 384, 192, 96), (13 * 17 * 4**n for n in range(4)), strict=True)
    assert row.gflops == f"{sum((48 * x + 64) * pixels for x, pixels in sizes) / 1e9:.3f}"
    assert rows_of("depthformer_swin-t_bilinear")["dysample_table9"].gflops == ""


@pytest.mark.slow
def test_a_detector_as_a_user_calls_it(call):
    """With an upsampler in the mask head, which is not run."""
    config = CONFIGS / "mask_rcnn/mask-rcnn_r50_fpn_dysample_mask-head_1x_coco.py"
    status, stdout, stderr = call(config, "--shape", 256, 320)
    assert status == 0, stderr
    (row,) = [line.split() for line in stdout.splitlines() if line.startswith("mask-rcnn")]
    # P5 is 8x10
    flops = (8192 + 16 * 256 + 16 * 4) * (8 * 10 + 16 * 20 + 32 * 40)
    assert row[1:] == [
        *("DySample", "3", f"{3 * 8192:,}", f"{flops / 1e9:.3f}", "roi_head.mask_head.upsample")
    ]


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
    ("arguments", "says"),
    [
        ([], "CONFIG"),
        (["no/such.py"], "no/such.py"),
        (["{plain}", "--shape", "0", "5"], "--shape must be two integers >= 1, got 0 5"),
        (["{plain}"], "has no upsampler of mmdysample"),
    ],
)
def test_mistakes_get_a_sentence(call, arguments, says, tmp_path):
    plain = tmp_path / "plain.py"
    plain.write_text("_base_ = 'mmdet::rpn/rpn_r50_fpn_1x_coco.py'\n")
    status, _, stderr = call(*(argument.format(plain=plain) for argument in arguments))
    assert status == 2
    assert says in stderr.splitlines()[-1] and stderr.splitlines()[-1].startswith("error: ")
