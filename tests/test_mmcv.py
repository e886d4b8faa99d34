"""Every upsampler through MMCV's registries, of mmcv 2.x here and of a real mmcv 1.7 beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mmdysample.registry as ours
from mmdysample import Nearest, list_upsamplers, register_upsampler
from mmdysample.registry import get_upsampler

ROOT = Path(__file__).resolve().parents[1]
MMCV1 = Path(sys.prefix, "opt", "mmcv1")
INSTALL = "bash tools/setup_env.sh installs it"


@pytest.fixture
def mmcv2():
    pytest.importorskip("mmengine", reason=f"needs mmengine: {INSTALL}")
    mmcv = pytest.importorskip("mmcv", reason=f"needs mmcv 2.x: {INSTALL}")
    import mmdysample.mmcv  # noqa: F401 - registers

    return mmcv


@pytest.mark.parametrize("name", list_upsamplers())
def test_build_upsample_layer(name, mmcv2):
    from mmcv.cnn import build_upsample_layer

    s = {"A2U": 2, "IndexNet": 2}.get(name, 4)  # these two are defined for nothing else
    up = build_upsample_layer(dict(type=name), in_channels=32, scale_factor=s).eval()
    assert type(up) is get_upsampler(name)
    assert (up.in_channels, up.scale_factor) == (32, s)
    guide = torch.zeros(1, 32, s * 3, s * 4)
    assert up(torch.zeros(1, 32, 3, 4), guide).shape == (1, 32, s * 3, s * 4)


def test_models_build_from_any_scope(mmcv2):
    from mmengine.registry import MODELS, Registry

    downstream = Registry("model", parent=MODELS, scope="downstream of mmdysample")
    for registry in (MODELS, downstream):
        for name in list_upsamplers():
            up = registry.build(dict(type=name, in_channels=32))
            assert type(up) is get_upsampler(name)


def test_settings_travel_in_the_config(mmcv2):
    from mmcv.cnn import build_upsample_layer

    cfg = dict(type="DySample", style="pl", groups=8, dyscope=True)
    up = build_upsample_layer(cfg, in_channels=32, scale_factor=2)
    assert (up.style, up.groups, up.dyscope) == ("pl", 8, True)


def test_an_unknown_setting_is_answered_as_everywhere(mmcv2):
    from mmcv.cnn import build_upsample_layer
    from mmengine.registry import MODELS

    message = r"DySample has no argument 'group' \(given 4\) \(did you mean 'groups'\?\)"
    with pytest.raises(TypeError, match=message):
        build_upsample_layer(dict(type="DySample", group=4), in_channels=32)
    with pytest.raises(TypeError, match=message):
        MODELS.build(dict(type="DySample", in_channels=32, group=4))


def test_a_class_that_is_defined_again_replaces_the_old_one(mmcv2, monkeypatch):
    from mmengine.registry import MODELS

    monkeypatch.setattr(ours, "_UPSAMPLERS", dict(ours._UPSAMPLERS))
    monkeypatch.setattr(MODELS, "_module_dict", dict(MODELS.module_dict))
    for value in (1, 2):  # as a notebook cell that is edited and run again does

        class Again(Nearest):
            setting = value

        register_upsampler(Again)
        assert MODELS.build(dict(type="Again", in_channels=8)).setting == value

    other = type("Again", (Nearest,), dict(__module__="elsewhere"))
    MODELS.module_dict["Again"] = other
    with pytest.raises(KeyError, match="Again is already registered"):
        register_upsampler(Again)


MMCV1_CODE = """
import sys, types
sys.modules["torchvision"] = types.ModuleType("torchvision")  # imported, but not needed, by mmcv 1
import mmcv, torch
import mmdysample.mmcv
from mmcv.cnn import UPSAMPLE_LAYERS, build_upsample_layer
print(mmcv.__version__)
for name in mmdysample.list_upsamplers():
    up = build_upsample_layer(dict(type=name), in_channels=32, scale_factor=2)
    assert type(up) is UPSAMPLE_LAYERS.get(name) is mmdysample.registry.get_upsampler(name)
    print(name, *up(torch.zeros(1, 32, 3, 4), torch.zeros(1, 32, 6, 8)).shape)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not MMCV1.is_dir(), reason=f"needs mmcv 1.7 in {MMCV1}: bash tools/setup_env.sh puts it there"
)
def test_mmcv_1():
    path = os.pathsep.join([str(MMCV1), str(ROOT)])
    result = subprocess.run(
        [sys.executable, "-c", MMCV1_CODE],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    version, *lines = result.stdout.strip().splitlines()
    assert version.startswith("1.7.")
    assert lines == [f"{name} 1 32 6 8" for name in list_upsamplers()]
