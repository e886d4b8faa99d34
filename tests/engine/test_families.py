"""What differs between mmdet and mmseg when a model is tested. More is in tools/test_test.py."""

from __future__ import annotations

import pytest

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")

from mmengine.config import Config

from mmdysample.engine.families import family_of
from mmdysample.errors import UserError


def test_each_process_makes_the_directory_of_the_label_images(tmp_path):
    """Else one that has an image to write before rank 0 has built its metric would fail."""
    for _ in range(2):
        cfg = Config(dict(default_scope="mmseg", test_evaluator=dict(type="IoUMetric")))
        family_of(cfg).write_predictions(cfg, str(tmp_path / "labels"))
        assert (tmp_path / "labels").is_dir()
        assert cfg.test_evaluator.output_dir == str(tmp_path / "labels")


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("a user's")
    cfg = Config(dict(default_scope="mmseg", test_evaluator=dict(type="IoUMetric")))
    with pytest.raises(UserError, match=r"--out .*file/labels cannot be made: not a directory"):
        family_of(cfg).write_predictions(cfg, str(tmp_path / "file" / "labels"))
