"""Each ablation config has the settings of its table's row, and the weights that follow."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

from mmengine.registry import MODELS

from tests.configs.built import CONFIGS, build, count_weights, host_of, load

HOSTS = {  # name of the config, part of the model, stages
    "segformer": ("segformer_mit-b1_{}_8xb2-160k_ade20k-512x512", "decode_head", 6),
    "faster_rcnn": ("faster-rcnn_r50_fpn-p6_{}_1x_coco", "neck", 4),
}
# As the paper has them: style, groups, dynamic scope, factor of the offsets, initial position
DYSAMPLE = {
    # Table 1; "bilinear" without a factor is Table 2's factor 1
    "dysample-g1-scope-1-nearest": ("lp", 1, False, 1, "nearest"),
    # Table 2; its 0.25 is Table 3's first row
    "dysample-g1-scope-0p1": ("lp", 1, False, 0.1, "bilinear"),
    "dysample-g1-scope-0p5": ("lp", 1, False, 0.5, "bilinear"),
    "dysample-g1-scope-1": ("lp", 1, False, 1, "bilinear"),
    # Table 3; its rows with four groups are DySample and DySample+ themselves
    "dysample-g1": ("lp", 1, False, 0.25, "bilinear"),
    "dysample-plus-g1": ("lp", 1, True, 0.5, "bilinear"),
    # Fig. 5; four groups of LP are DySample, eight of PL are DySample-S
    "dysample-g2": ("lp", 2, False, 0.25, "bilinear"),
    "dysample-g8": ("lp", 8, False, 0.25, "bilinear"),
    "dysample-g16": ("lp", 16, False, 0.25, "bilinear"),
    "dysample-s-g1": ("pl", 1, False, 0.25, "bilinear"),
    "dysample-s-g2": ("pl", 2, False, 0.25, "bilinear"),
    "dysample-s-g4": ("pl", 4, False, 0.25, "bilinear"),
    "dysample-s-g16": ("pl", 16, False, 0.25, "bilinear"),
}
# SAPA, Table 6: kernel size, embedding dimension, normalization; the defaults are 5, 32 and exp
SAPA = {
    "sapa-b-d16": (5, 16, "exp"),
    "sapa-b-d64": (5, 64, "exp"),
    "sapa-b-d128": (5, 128, "exp"),
    "sapa-b-none": (5, 32, "none"),
    "sapa-b-relu": (5, 32, "relu"),
    "sapa-b-sigmoid": (5, 32, "sigmoid"),
    "sapa-b-softplus": (5, 32, "softplus"),
    "sapa-b-k3": (3, 32, "exp"),
    "sapa-b-k7": (7, 32, "exp"),
}


def stages_of(host: str, slug: str) -> list:
    return list(host_of(build(HOSTS[host][0].format(slug))).upsample_modules)


@pytest.mark.slow
@pytest.mark.parametrize("slug", DYSAMPLE)
@pytest.mark.parametrize("host", HOSTS)
def test_ablations_of_dysample(host, slug):
    style, groups, dynamic, factor, position = DYSAMPLE[slug]
    stages = stages_of(host, slug)
    assert len(stages) == HOSTS[host][2]
    for up in stages:
        assert (up.style, up.groups, up.dyscope) == (style, groups, dynamic)
        assert (up.scope_factor, up.initial_position) == (factor, position)
        # 256 channels to x and y of 2 x 2 points of each group, or a quarter of them to a point's
        per_group = 256 * 2 * 4 if style == "lp" else 64 * 2
        assert count_weights(up) == per_group * groups * (1 + dynamic)


@pytest.mark.slow
@pytest.mark.parametrize("slug", SAPA)
def test_ablations_of_sapa(slug):
    kernel_size, embedding_dim, normalization = SAPA[slug]
    stages = stages_of("segformer", slug)
    assert len(stages) == 6
    for up in stages:
        assert up.variant == "b"
        assert (up.kernel_size, up.embedding_dim) == (kernel_size, embedding_dim)
        assert up.normalization == normalization
        assert count_weights(up) == 2 * 256 * embedding_dim


def test_the_position_is_where_the_points_start():
    """Table 1: 'nearest' starts every point at the pixel's centre, 'bilinear' a quarter off it."""
    for slug, distance in [("dysample-g1-scope-1-nearest", 0), ("dysample-g1-scope-1", 0.25)]:
        cfg = load(HOSTS["segformer"][0].format(slug))
        built = MODELS.build(dict(**cfg.model.decode_head.upsample_cfg, in_channels=8))
        assert (built.init_pos.abs() == distance).all()


def test_every_ablation_is_tested():
    expected = {HOSTS[host][0].format(slug) for host in HOSTS for slug in DYSAMPLE}
    expected |= {HOSTS["segformer"][0].format(slug) for slug in SAPA}
    assert {path.stem for path in (CONFIGS / "ablations").glob("*.py")} == expected


@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS)
def test_only_the_upsampler_differs_from_the_papers_model(host):
    """An ablation is trained and tested as the model that it varies."""
    name, part, _ = HOSTS[host]
    for slug in DYSAMPLE if host == "faster_rcnn" else [*DYSAMPLE, *SAPA]:
        base = "sapa-b" if slug.startswith("sapa") else "dysample"
        settings = []
        for variant in (slug, base):
            cfg = copy.deepcopy(load(name.format(variant)).to_dict())
            del cfg["model"][part]["upsample_cfg"], cfg["upsample_cfg"]
            settings.append(cfg)
        assert settings[0] == settings[1], slug
