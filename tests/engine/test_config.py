from __future__ import annotations

import pytest

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")

from mmengine.config import Config

from mmdysample.engine.config import check_operators, check_settings
from mmdysample.engine.errors import UserError


@pytest.mark.parametrize(
    "settings",
    [
        {},
        dict(train_dataloader=None, train_cfg=None, randomness=None),
        # `--cfg-options train_cfg.max_iters=1e5` is a float, which mmengine takes.
        dict(train_cfg=dict(max_iters=1e5, val_interval=100)),
        dict(randomness=dict(seed=None), optim_wrapper=dict(optimizer=dict(lr=0))),
        dict(randomness=dict(seed=2**32 - 1)),
    ],
    ids=str,
)
def test_accepted(settings):
    check_settings(Config(settings))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (dict(train_cfg=dict(max_iters=1.5)), "train_cfg.max_iters"),
        (dict(train_cfg=dict(max_epochs=float("inf"))), "train_cfg.max_epochs"),
        (dict(val_dataloader=dict(dataset={}, num_workers=-1)), "val_dataloader.num_workers"),
        (dict(test_dataloader=dict(batch_size=1)), "test_dataloader"),
        (dict(train_dataloader=dict(dataset={}, batch_size=True)), "batch_size"),
        (dict(randomness=dict(seed=2**32)), "randomness.seed"),
        (dict(optim_wrapper=dict(optimizer=dict(weight_decay="0.1"))), "optimizer.weight_decay"),
    ],
    ids=str,
)
def test_refused(settings, named):
    with pytest.raises(UserError, match=named):
        check_settings(Config(settings))


@pytest.mark.parametrize("scope", ["mmdet", "mmseg"])
@pytest.mark.parametrize("built_with", ["13.0", "not available"])
def test_detectors_on_a_gpu_need_operators_for_it(scope, built_with, monkeypatch):
    ops = pytest.importorskip("mmcv.ops", reason="needs mmcv: bash tools/setup_env.sh installs it")
    monkeypatch.setattr(ops, "get_compiling_cuda_version", lambda: built_with)
    cfg = Config(dict(default_scope=scope))
    if (scope, built_with) == ("mmdet", "not available"):
        with pytest.raises(UserError, match=r"mmcv's CUDA operators.*CUDA_VISIBLE_DEVICES=''"):
            check_operators(cfg)
    else:
        check_operators(cfg)
