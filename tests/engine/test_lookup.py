from __future__ import annotations

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")

from mmdet.models import FPN
from mmengine.hooks import EMAHook
from mmengine.registry import HOOKS, MODELS

from mmdysample.engine.lookup import class_of


@pytest.mark.parametrize(
    ("registry", "kind", "scope", "cls"),
    [
        (MODELS, "FPN", "mmdet", FPN),
        (MODELS, "mmdet.FPN", None, FPN),
        (MODELS, "mmdet.FPN", "mmseg", FPN),
        (HOOKS, "EMAHook", "mmdet", EMAHook),  # of mmengine, which comes after the scope
        (MODELS, FPN, None, FPN),
        (MODELS, None, None, None),
        (MODELS, "FPNN", "mmdet", None),
        (MODELS, "mmdet.FPNN", None, None),
        (MODELS, "nopackage.FPN", "mmdet", None),
        (HOOKS, "FPN", "mmdet", None),
    ],
)
def test_class_of(registry, kind, scope, cls):
    assert class_of(registry, kind, scope) is cls
