"""Mask2Former's configs: built, with the parameters of SAPA's Table 2."""

from __future__ import annotations

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from tests.configs.test_configs import (
    CONFIGS,
    SLUGS,
    STAGE_WEIGHTS,
    build_to_count,
    trainable,
    upsampler_weights,
)
from tests.configs.test_maskformer import (
    RIVALS,
    build_head,
    check_evaluation,
)

NAME = "mask2former/mask2former_swin-b-in22k-384x384-pre_{}_8xb2-160k_ade20k-640x640.py"
ROWS = ["bilinear", *RIVALS, *SLUGS]


def test_there_is_a_config_for_every_row_of_the_table():
    shipped = {f"mask2former/{path.name}" for path in (CONFIGS / "mask2former").glob("*.py")}
    assert shipped == {NAME.format(slug) for slug in ROWS}


@pytest.mark.parametrize("slug", ROWS)
def test_one_stage_of_the_upsampler_that_the_name_says(slug):
    head = build_head(NAME.format(slug))
    assert type(head.pixel_decoder).__name__ == "UpsampleMSDeformAttnPixelDecoder"
    (stage,) = head.pixel_decoder.upsample_modules
    assert type(stage).__name__.lower() == slug.split("-")[0]
    assert upsampler_weights(head) == STAGE_WEIGHTS[slug]


@pytest.mark.parametrize(
    ("slug", "printed"),
    [
        ("carafe", "0.07"),
        ("indexnet", "2.10"),
        ("a2u", "0.01"),
        ("sapa-i", "0.00"),
        ("sapa-b", "0.02"),
        ("sapa-g", "0.02"),
    ],
)
def test_rivals_have_the_published_increments(slug, printed):
    """Millions, SAPA paper, Table 2."""
    assert f"{upsampler_weights(build_head(NAME.format(slug))) / 1e6:.2f}" == printed


def test_the_baseline_has_the_published_parameters():
    """SAPA paper, Table 2: 107M."""
    assert round(trainable(build_to_count(NAME.format("bilinear"))) / 1e6) == 107


def test_evaluation():
    check_evaluation(NAME.format("dysample"), (640, 1099))
