from __future__ import annotations

import copy
import inspect
import sys

import pytest

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")

from mmengine.config import Config

from mmdysample.engine.config import check_operators, load_config
from mmdysample.errors import UserError


def test_spaces_of_options_arrive(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("train_dataloader = dict(dataset=dict(data_root='x'))\n")
    options = {"train_dataloader.dataset.data_root": "my shapes"}
    cfg = load_config(str(path), options, ())
    assert cfg.train_dataloader.dataset.data_root == "my shapes"


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("train_cfg = dict(max_iters=0)", "train_cfg.max_iters"),
        ("default_hooks = dict(checkpoint=dict(filename_tmpl='last.pth'))", "filename_tmpl"),
    ],
)
def test_settings_are_checked(tmp_path, setting, sentence):
    (tmp_path / "config.py").write_text(setting + "\n")
    with pytest.raises(UserError, match=sentence):
        load_config(str(tmp_path / "config.py"), None, ())


def test_bases_in_a_circle(tmp_path):
    (tmp_path / "a.py").write_text("_base_ = 'b.py'\n")
    (tmp_path / "b.py").write_text("_base_ = 'a.py'\n")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)  # to be quick
    try:
        with pytest.raises(UserError, match=r"a.py cannot be read: .*`_base_`.* back to it"):
            load_config(str(tmp_path / "a.py"), None, ())
    finally:
        sys.setrecursionlimit(limit)


def test_the_text_of_a_config_is_not_formatted(tmp_path, monkeypatch):
    """An interrupt during yapf's seconds ends in mmengine's bare except."""
    path = tmp_path / "config.py"
    path.write_text("a = dict(b=[1, dict(c=2)], d='x y')\ncustom = ('p', )\n")

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("mmengine.config.config.FormatCode", interrupted)
    cfg = load_config(str(path), None, ())
    again = Config.fromstring(copy.deepcopy(cfg).pretty_text, ".py")
    assert again.to_dict() == dict(a=dict(b=[1, dict(c=2)], d="x y"), custom=("p",))
    assert (cfg.filename, cfg.text) == (str(path), Config.fromfile(path).text)


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
