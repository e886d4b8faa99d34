"""Names, settings and places: how configs become upsamplers."""

from __future__ import annotations

import pytest
from torch import nn

from mmdysample import (
    DySample,
    Nearest,
    build_upsampler,
    list_upsamplers,
    register_upsampler,
    registry,
)
from mmdysample.errors import UserError
from mmdysample.registry import did_you_mean, get_upsampler


def test_registered_names_are_class_names():
    names = list_upsamplers()
    assert names == sorted(names)
    assert {"Bilinear", "DySample", "Nearest"} <= set(names)
    for name in names:
        assert get_upsampler(name).__name__ == name


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="'Nearest' is registered already"):
        register_upsampler(type("Nearest", (nn.Module,), {}))
    assert get_upsampler("Nearest") is Nearest
    assert register_upsampler(Nearest) is Nearest, "the same class again is no conflict"


@pytest.fixture
def own_registry(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_UPSAMPLERS", dict(registry._UPSAMPLERS))
    monkeypatch.setattr(registry, "_FOLLOWERS", [])


def define(value: int) -> type:
    """As a notebook cell that is edited and run again does."""

    class Again(Nearest):
        setting = value

    return Again


def test_a_class_that_is_defined_again_replaces_the_old_one(own_registry):
    followed = []
    registry.for_each_upsampler(followed.append)
    before = len(followed)
    for value in (1, 2):
        cls = register_upsampler(define(value))
        assert get_upsampler("Again") is cls
        assert type(build_upsampler(dict(type="Again"), 8)).setting == value
    assert [cls.setting for cls in followed[before:]] == [1, 2]
    assert list_upsamplers().count("Again") == 1


def test_a_class_of_the_same_name_from_elsewhere_does_not(own_registry):
    ours = register_upsampler(define(1))
    other = define(2)
    other.__module__ = "elsewhere"
    with pytest.raises(ValueError, match=rf"'Again' is registered already: {__name__}\.define"):
        register_upsampler(other)
    assert get_upsampler("Again") is ours


def test_build_from_a_name():
    up = build_upsampler(dict(type="DySample", groups=8, dyscope=True), 64, 4, guide_channels=32)
    assert type(up) is DySample
    settings = (up.in_channels, up.scale_factor, up.guide_channels, up.groups, up.dyscope)
    assert settings == (64, 4, 32, 8, True)


def test_build_from_a_class_that_is_not_registered():
    class Own(Nearest):
        pass

    assert type(build_upsampler(dict(type=Own), 8)) is Own
    assert "Own" not in list_upsamplers()


def test_the_config_is_not_changed():
    cfg = dict(type="DySample", groups=2)
    build_upsampler(cfg, 8)
    assert cfg == dict(type="DySample", groups=2)


def test_a_config_may_repeat_what_its_place_says():
    cfg = dict(type="DySample", in_channels=8, scale_factor=3, guide_channels=None)
    up = build_upsampler(cfg, 8, 3)
    assert (up.in_channels, up.scale_factor, up.guide_channels) == (8, 3, 8)


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [("in_channels", 64, 32), ("scale_factor", 4, 2), ("guide_channels", 8, 16)],
)
def test_a_config_may_not_contradict_its_place(name, value, needed):
    with pytest.raises(ValueError, match=f"upsample_cfg sets {name}={value}.*needs {needed} here"):
        build_upsampler({"type": "DySample", name: value}, 32, 2, guide_channels=16)


@pytest.mark.parametrize("name", ["dysample", "DySampel", "Dysample"])
def test_an_unknown_name_is_answered_with_the_nearest(name):
    names = ".*".join(list_upsamplers())
    message = rf"unknown upsampler '{name}' \(did you mean 'DySample'\?\); registered are {names}"
    with pytest.raises(ValueError, match=message):
        build_upsampler(dict(type=name), 8)


def test_an_unknown_name_like_none_other_is_answered_with_all():
    with pytest.raises(ValueError, match=r"'xyz'; registered are .*Bilinear"):
        build_upsampler(dict(type="xyz"), 8)


@pytest.mark.parametrize("cfg", [None, "DySample", {}, dict(groups=4), ["DySample"]], ids=repr)
def test_a_config_must_be_a_dict_with_a_type(cfg):
    with pytest.raises(TypeError, match=r"must be a dict with the key 'type'.*got"):
        build_upsampler(cfg, 8)


@pytest.mark.parametrize("type_", [None, 3, ["DySample"]], ids=repr)
def test_a_type_must_be_a_name_or_a_class(type_):
    with pytest.raises(ValueError, match="unknown upsampler"):
        build_upsampler(dict(type=type_), 8)


@pytest.mark.parametrize(
    ("name", "known", "nearest"),
    [
        # What the authors' DySample calls it, not the nearest in letters.
        ("scale", ["style", "scale_factor", "a"], "scale_factor"),
        ("the_style", ["style", "scale_factor", "a"], "style"),
        ("stile", ["style", "scale_factor", "a"], "style"),
        ("map", ["map_50", "mAP"], "mAP"),
        ("group", ["groups", "dyscope"], "groups"),
        ("s", ["style", "scale_factor", "a"], None),
    ],
)
def test_did_you_mean(name, known, nearest):
    """Of names a part or a whole is nearer than a likeness."""
    assert did_you_mean(name, known) == (f" (did you mean {nearest!r}?)" if nearest else "")


@pytest.mark.parametrize(
    "settings",
    [dict(mode="nearest"), dict(align_corners=False), dict(up_kernel=5), dict(scale_factor=4)],
    ids=str,
)
def test_what_is_inherited_from_upstreams_upsample_cfg(settings):
    """A config that builds on one of OpenMMLab's merges its ``upsample_cfg`` with what is there."""
    with pytest.raises(UserError, match=r"dict\(_delete_=True, type='DySample'\)"):
        build_upsampler(dict(type="DySample", **settings), 8)
    build_upsampler(dict(type="CARAFE", up_kernel=5), 8)
