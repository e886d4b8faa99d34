"""What differs between mmdet and mmseg when a model is tested. More is in tools/test_test.py."""

from __future__ import annotations

import pytest

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")

from mmengine.config import Config

from mmdysample.engine.families import augment, visualization_hook, write_predictions
from mmdysample.errors import UserError


def test_each_process_makes_the_directory_of_the_label_images(tmp_path):
    """Else one that has an image to write before rank 0 has built its metric would fail."""
    for _ in range(2):
        cfg = Config(dict(default_scope="mmseg", test_evaluator=dict(type="IoUMetric")))
        write_predictions(cfg, str(tmp_path / "labels"))
        assert (tmp_path / "labels").is_dir()
        assert cfg.test_evaluator.output_dir == str(tmp_path / "labels")
        assert cfg.test_evaluator.keep_results  # else CityscapesMetric removes them


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("a user's")
    cfg = Config(dict(default_scope="mmseg", test_evaluator=dict(type="IoUMetric")))
    with pytest.raises(UserError, match=r"--out .*file/labels cannot be made: not a directory"):
        write_predictions(cfg, str(tmp_path / "file" / "labels"))


def test_every_image_is_shown():
    cfg = Config(dict(default_hooks=dict(visualization=dict(type="SegVisualizationHook"))))
    visualization_hook(cfg)
    assert cfg.default_hooks.visualization == dict(
        type="SegVisualizationHook", draw=True, interval=1
    )


@pytest.mark.parametrize("scope", ["mmdet", "mmseg"])
def test_the_augmentation_of_a_config_is_used_in_every_data_set(scope):
    dataset = dict(type="ConcatDataset", datasets=[dict(pipeline=[1]), dict(pipeline=[2])])
    own = dict(tta_model=dict(type="Own"), tta_pipeline=[dict(type="Load")])
    loader = dict(test_dataloader=dict(dataset=dataset))
    cfg = Config(dict(default_scope=scope, model=dict(type="Model"), **loader, **own))
    augment(cfg)
    assert cfg.model == dict(type="Own", module=dict(type="Model"))
    assert [each.pipeline for each in cfg.test_dataloader.dataset.datasets] == 2 * [
        own["tta_pipeline"]
    ]


def test_without_one_a_detectors_images_are_flipped():
    load, pack = dict(type="Load"), dict(type="PackDetInputs")
    loader = dict(dataset=dict(pipeline=[load, pack]))
    cfg = Config(dict(default_scope="mmdet", model=dict(type="Model"), test_dataloader=loader))
    augment(cfg)
    assert (cfg.model.type, cfg.model.module) == ("DetTTAModel", dict(type="Model"))
    first, last = cfg.test_dataloader.dataset.pipeline
    assert (first, last.type) == (load, "TestTimeAug")
    assert [flip.prob for flip in last.transforms[0]] == [1, 0]
