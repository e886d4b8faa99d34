"""tools/results.py: from the logs of runs to tables beside the papers'."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import yaml
from mmengine.config import Config

from tests.engine.toy import write_config
from tests.engine.zygote import ROOT, TEST, TRAIN
from tools.model_zoo import document, results
from tools.model_zoo.configs import Entry, load, model_configs, read_entries
from tools.model_zoo.dumps import read_dump
from tools.model_zoo.logs import Run, batch_difference, read_runs
from tools.model_zoo.tables import AP, BIOU, MIOU, TABLES, Row, Table

BY_NAME = {table.name: table for table in TABLES}


def published(table: str, config: str) -> dict[str, str]:
    """What is printed of a config, by the headings of its columns."""
    found = BY_NAME[table]
    (row,) = (row for row in found.rows() if row.config == config)
    values = zip((metric.heading for metric in found.metrics), row.values, strict=True)
    return dict(values) | dict(params=row.params, gflops=row.gflops)


# ---------------------------------------------------------------- the papers' numbers


def test_every_published_row_has_its_config():
    configs = model_configs()
    missing = {row.config for table in TABLES for row in table.rows()} - configs.keys()
    assert not missing


@pytest.mark.parametrize(
    ("table", "rows", "numbers"),
    [
        # rows, and printed values: rows by columns
        ("dysample_table1", 4, 4),
        ("dysample_table2", 8, 8),
        ("dysample_table3", 8, 8),
        ("dysample_figure5", 20, 2),  # g = 4 of LP alone is in the text
        ("dysample_table4", 12, 12 * 2),
        ("dysample_table5", 6, 6),
        ("dysample_table6", 14, 14 * 6),
        ("dysample_table7_bbox", 14, 14 * 6),
        ("dysample_table7_segm", 14, 14 * 6),
        ("dysample_table8", 14, 14 * 5),
        ("sapa_table2", 21, 21),
        ("sapa_table3", 7, 7 * 6),
        ("sapa_table6", 16, 16),
    ],
)
def test_published_tables_are_whole(table, rows, numbers):
    found = BY_NAME[table].rows()
    assert len(found) == rows
    values = [value for row in found for value in row.values if value]
    assert len(values) == numbers
    assert all(re.fullmatch(r"\d\d\.\d\d?", value) for value in values)
    params = [row.params for row in found if row.params]
    assert all(re.fullmatch(r"\+?\d+(\.\d+)?[KM]", text) for text in params)


@pytest.mark.parametrize(
    ("table", "config", "printed"),
    [  # as the papers' text quotes them
        ("dysample_table4", "segformer_mit-b1_dysample-s-plus_8xb2-160k_ade20k-512x512", "43.58"),
        (
            "dysample_table5",
            "maskformer_swin-b-in22k-384x384-pre_dysample-s-plus_8xb2-160k_ade20k-640x640",
            "53.91",
        ),
        (
            "dysample_table5",
            "maskformer_swin-l-in22k-384x384-pre_nearest_8xb2-160k_ade20k-640x640",
            "54.10",
        ),
        ("dysample_table6", "faster-rcnn_r50_fpn-p6_nearest_1x_coco", "37.5"),
        ("dysample_table6", "faster-rcnn_r50_fpn-p6_dysample-plus_1x_coco", "38.7"),
        ("dysample_table8", "panoptic-fpn_r101_fpn_dysample-plus_1x_coco", "43.0"),
    ],
)
def test_published_values(table, config, printed):
    assert published(table, config)[BY_NAME[table].metrics[0].heading] == printed


def test_the_gains_that_the_papers_state():
    """DySample, section 4: box AP +1.2 (R50) and +1.1 (R101), mask AP +1.0 and +0.8."""
    for table, name, gains in [
        ("dysample_table6", "faster-rcnn_{}_fpn-p6_{}_1x_coco", {"r50": "+1.2", "r101": "+1.1"}),
        ("dysample_table7_segm", "mask-rcnn_{}_fpn_{}_1x_coco", {"r50": "+1.0", "r101": "+0.8"}),
    ]:
        lines = document.lines_of(BY_NAME[table], BY_NAME[table].rows(), [], {}, None)
        deltas = {line.row.config: line.deltas[0] for line in lines if not line.ours}
        for backbone, gain in gains.items():
            assert deltas[name.format(backbone, "dysample-plus")] == gain
            assert deltas[name.format(backbone, "nearest")] == ""


# ---------------------------------------------------------------- runs from logs


CONFIG = """
default_scope = "mmseg"
model = {model}
train_cfg = dict(type="IterBasedTrainLoop", max_iters=4, val_interval={interval})
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr={lr}))
param_scheduler = [dict(type="PolyLR", power=1.0)]
train_dataloader = {loader}
val_dataloader = {loader}
test_dataloader = {loader}
val_evaluator = {evaluator}
test_evaluator = {evaluator}
randomness = dict(seed={seed})
load_from = {tested}
resume = {resume}
launcher = "pytorch"
env_cfg = dict({env_cfg})
auto_scale_lr = dict({scaling})
"""
LOADER = """dict(
    batch_size={batch}, num_workers=2, dataset=dict(
        type="Data", data_root="{data}", ann_file="{annotations}", pipeline=[]
    ),
)"""
DEFAULTS = dict(lr=0.1, batch=2, data="data/a", evaluator='dict(type="IoUMetric")', seed=None)
DEFAULTS |= dict(env_cfg="world_size=1", scaling="")
DEFAULTS |= dict(tested=None, resume=False, interval=2, annotations="annotations/train.json")
PRETRAINED = 'dict(type="Pretrained", checkpoint="{}")'
MODEL = 'dict(type="Model", width=8, pretrained={}, backbone=dict(init_cfg={}))'
DEFAULTS |= dict(model=MODEL.format("'hub://r50'", PRETRAINED.format("hub://r50")))
PANOPTIC = 'dict(type="CocoPanopticMetric", ann_file="{0}/val.json", seg_prefix="{0}/{1}/")'


def config_text(**settings) -> str:
    settings = DEFAULTS | settings
    return CONFIG.format(loader=LOADER.format(**settings), **settings)


class WorkDirs:
    """Folders as the tools leave them."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "work_dirs"
        self.configs = {}
        for name in ("segformer_a", "segformer_b"):
            path = folder / f"{name}.py"
            path.write_text(config_text())
            self.configs[name] = path
        self.notices: list[str] = []
        self.clock = 0

    def start(self, work_dir: str, config: str = "segformer_a", **settings) -> Path:
        self.clock += 1
        start = self.root / work_dir / f"20260101_{self.clock:06d}"
        (start / "vis_data").mkdir(parents=True)
        (self.root / work_dir / f"{config}.py").write_text(config_text(**settings))
        (start / "vis_data" / "config.py").write_text(config_text(**settings))
        return start

    def train(self, work_dir: str, scores: dict[int, float], end: str = "", **settings) -> Path:
        """A training with its evaluations; ``end`` is what a kill leaves of the last line."""
        start = self.start(work_dir, **settings)
        lines = []
        for step in range(1, 5):
            lines.append(json.dumps(dict(lr=0.1, loss=1.0, iter=step, step=step, mIoU=99.0)))
            if step in scores:
                metrics = dict(mIoU=scores[step], bIoU=scores[step] / 2, time=0.1, step=step)
                lines.append(json.dumps(metrics))
        (start / "vis_data" / "scalars.json").write_text("\n".join(lines) + "\n" + end)
        return start

    def test(self, work_dir: str, checkpoint: str, score: float, **settings) -> Path:
        path = repr(str(self.root / checkpoint))
        start = self.start(work_dir, tested=path, **settings)
        metrics = json.dumps(dict(mIoU=score, data_time=0.1))
        (start / f"{start.name}.json").write_text(metrics)
        return start

    def read(self) -> list[Run]:
        self.notices.clear()
        return read_runs(self.root, self.configs, self.notices.append)[0]


@pytest.fixture
def work_dirs(tmp_path) -> WorkDirs:
    return WorkDirs(tmp_path)


def test_a_run(work_dirs):
    work_dirs.train("a", {2: 40.0, 4: 39.0}, seed=7)
    (run,) = work_dirs.read()
    assert run.evaluations == {2: dict(mIoU=40.0, bIoU=20.0), 4: dict(mIoU=39.0, bIoU=19.5)}
    assert (run.config, run.seed, run.length) == ("segformer_a", 7, 4)
    assert not work_dirs.notices


def test_seeds_are_runs_of_their_own_and_resumed_ones_are_not(work_dirs):
    work_dirs.train("a/seed0", {2: 40.0, 4: 41.0}, seed=0)
    work_dirs.train("a/seed1", {2: 42.0}, seed=1)
    work_dirs.train("a/seed1", {4: 43.0}, seed=1, resume=True)
    work_dirs.train("a/seed1", {2: 30.0, 4: 31.0}, seed=2)  # anew in the same place
    found = {run.seed: run.evaluations for run in work_dirs.read()}
    assert {seed: max(steps) for seed, steps in found.items()} == {0: 4, 1: 4, 2: 4}
    assert found[1] == {2: dict(mIoU=42.0, bIoU=21.0), 4: dict(mIoU=43.0, bIoU=21.5)}


def test_a_run_that_was_stopped_is_said_and_left_out(work_dirs):
    start = work_dirs.train("a", {2: 40.0})
    assert work_dirs.read() == []
    (notice,) = work_dirs.notices
    assert (
        f"a/{start.name}" in notice and "stopped" in notice and "evaluation was after 2" in notice
    )


def test_a_line_that_is_cut_off(work_dirs):
    start = work_dirs.train("a", {2: 40.0, 4: 41.0}, end='{"mIoU": 4')
    (run,) = work_dirs.read()
    assert sorted(run.evaluations) == [2, 4]
    (notice,) = work_dirs.notices
    assert f"line 7 of {start / 'vis_data' / 'scalars.json'}" in notice and "cut off" in notice


@pytest.mark.parametrize(
    "line",
    ["[1, 2]", "\x00\x00\x00", '"text"', "[" * 100_000, '{"mIoU": 9, "step": "4"}', '{"mIoU": 9}'],
)
def test_a_line_that_is_no_metrics(work_dirs, line):
    work_dirs.train("a", {4: 41.0}, end=line)
    (run,) = work_dirs.read()
    assert run.evaluations == {4: dict(mIoU=41.0, bIoU=20.5)}
    assert len(work_dirs.notices) == 1 and "line 6" in work_dirs.notices[0]


def test_a_metric_that_is_not_defined(work_dirs):
    work_dirs.train("a", {4: math.nan})
    assert work_dirs.read() == []
    assert "bIoU, mIoU in line 5" in work_dirs.notices[0]


def test_an_unknown_config(work_dirs):
    work_dirs.train("a", {4: 41.0}, config="mine")
    work_dirs.train("b", {4: 42.0})
    (run,) = work_dirs.read()
    assert run.evaluations[4]["mIoU"] == 42.0
    assert (
        len(work_dirs.notices) == 1 and "mine is no config of this project" in work_dirs.notices[0]
    )


def test_runs_of_two_configs_in_one_work_dir(work_dirs):
    work_dirs.train("a", {4: 41.0})
    work_dirs.train("a", {4: 42.0}, config="segformer_b")
    assert work_dirs.read() == []
    (notice,) = work_dirs.notices
    assert "several configs, segformer_a and segformer_b" in notice


def test_a_damaged_config(work_dirs):
    start = work_dirs.train("a", {4: 41.0})
    (start / "vis_data" / "config.py").write_text("model = dict(")
    assert work_dirs.read() == []
    assert f"{start} is left out: its config.py cannot be read" in work_dirs.notices[0]


def test_other_settings_are_said_and_left_out(work_dirs):
    work_dirs.train("a", {4: 41.0}, lr=0.2)
    assert work_dirs.read() == []
    assert "optim_wrapper.optimizer.lr is 0.2, not 0.1" in work_dirs.notices[0]


def test_where_the_data_lies_is_no_other_setting(work_dirs):
    work_dirs.train("a", {4: 41.0}, data="/elsewhere")
    assert len(work_dirs.read()) == 1


# The config's own batch is 2, or, by its name, 16.
@pytest.mark.parametrize(
    ("config", "settings", "says"),
    [
        ("segformer_a", dict(batch=1, env_cfg="world_size=2"), ""),
        ("segformer_a", dict(batch=2, env_cfg="world_size=2"), "2 images on each of 2 GPUs, not 2"),
        ("segformer_a", dict(batch=4), "4 images on each of 1 GPUs, not 2 in all"),
        ("segformer_a", dict(env_cfg=""), "does not say on how many GPUs"),
        ("segformer_a", dict(env_cfg="world_size='2'"), "does not say on how many GPUs"),
        ("segformer_8xb2-160k_a", dict(env_cfg="world_size=8"), ""),
        ("segformer_8xb2-160k_a", dict(env_cfg="world_size=4", batch=4), ""),
        ("segformer_8xb2-160k_a", dict(), "2 images on each of 1 GPUs, not 16 in all"),
        ("segformer_8xb2-160k_a", dict(scaling="enable=True, base_batch_size=16"), ""),
        (
            *("segformer_8xb2-160k_a", dict(scaling="enable=True, base_batch_size=2")),
            "auto_scale_lr.base_batch_size is 2, not 16",
        ),
    ],
)
def test_another_batch_with_the_same_learning_rate(work_dirs, config, settings, says):
    work_dirs.configs[config] = work_dirs.configs["segformer_a"]
    work_dirs.train("a", {4: 41.0}, config=config, **settings)
    assert len(work_dirs.read()) == (0 if says else 1)
    assert says in "".join(work_dirs.notices) and len(work_dirs.notices) == bool(says)


def test_the_batches_of_the_projects_configs():
    """As in the name or, of upstream's schedules, 16; those of Shapes are for one GPU."""
    kinds = {(name.split("_")[0], "shapes" in name): name for name in model_configs()}
    for name in kinds.values():
        own = load(model_configs()[name])
        gpus = 1 if name.endswith("_shapes") else 4 if "_4xb4-" in name else 8
        batch = dict(train_dataloader=dict(batch_size=own.train_dataloader.batch_size))
        assert not batch_difference(batch | of_gpus(gpus), own, name), name
        assert batch_difference(batch | of_gpus(gpus + 1), own, name), name


def dump(path: Path, gpus: int) -> str:
    """A config as a run on so many GPUs keeps it."""
    settings = Config.fromfile(path, import_custom_modules=False).to_dict() | of_gpus(gpus)
    return Config(settings, format_python_code=False).dump()


def of_gpus(count: int) -> dict:
    return dict(env_cfg=dict(world_size=count))


ATTACKS = {
    "a call": "__import__('pathlib').Path('ran').touch()",
    "in a value": "model = [__import__('pathlib').Path('ran').touch()]",
    "an import": "from pathlib import Path\nPath('ran').touch()",
    "a base": "_base_ = 'evil.py'",
    "a class": "class A:\n    __import__('pathlib').Path('ran').touch()",
    "a default": "def f(a=__import__('pathlib').Path('ran').touch()): pass",
    "a format": "work_dir = f\"{__import__('pathlib').Path('ran').touch()}\"",
    "keywords": "model = dict(**{'a': __import__('pathlib').Path('ran').touch()})",
    "another dict": "dict = __import__\nmodel = dict('evil')",
    "nesting": f"model = {'-' * 100_000}1",
    "brackets": f"model = {'[' * 150}{']' * 150}",
    "no text": "\udcff",
    "too much": f"model = '{'a' * 2_000_000}'",
    "types": "randomness = 5\nenv_cfg = 5\nval_evaluator = [5]\ntrain_dataloader = 'a'",
    "a seed": "{}\nrandomness = dict(seed='a,b')",
    "a place": "{}\nresume = True\nload_from = '\\0'",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_config_of_a_stranger_is_data(work_dirs, monkeypatch, attack):
    """Nothing in it runs, and it is left out with a sentence."""
    start = work_dirs.train("a", {4: 41.0})
    monkeypatch.chdir(start)
    (start / "evil.py").write_text("__import__('pathlib').Path('ran').touch()")
    text = ATTACKS[attack].replace("{}", config_text())
    (start / "vis_data" / "config.py").write_text(text, errors="surrogateescape")
    assert work_dirs.read() == []
    assert len(work_dirs.notices) == 1 and "is left out" in work_dirs.notices[0]
    assert not (start / "ran").exists()


def test_what_mmengine_writes_is_read(tmp_path):
    """Every value of the configs of a model of each kind, as a run keeps it."""
    bases = {name.split("_")[0]: path for name, path in model_configs().items()}
    odd = Config(
        {"a": {"b-c": (1, -2.5, None)}, "d": float("inf"), "e": [{"f": {}, 1: "'"}], "g": ((),)}
    )
    for cfg in [*map(load, bases.values()), odd]:
        (tmp_path / "config.py").write_text(Config(cfg.to_dict(), format_python_code=False).dump())
        assert read_dump(tmp_path / "config.py") == cfg.to_dict()


@pytest.mark.parametrize(
    ("pretrained", "init_cfg", "says"),
    [
        ("None", PRETRAINED.format("hub://r50"), "model.pretrained is None, not 'hub://r50'"),
        ("''", PRETRAINED.format("hub://r50"), "model.pretrained is '', not 'hub://r50'"),
        ("'hub://r50'", "None", "model.backbone.init_cfg is None, not"),
        ("'hub://r50'", PRETRAINED.format(""), "init_cfg.checkpoint is '', not 'hub://r50'"),
        ("'hub://r50'", 'dict(type="Kaiming")', "init_cfg.type is 'Kaiming', not 'Pretrained'"),
    ],
)
def test_other_weights_to_start_from_are_other_settings(work_dirs, pretrained, init_cfg, says):
    work_dirs.train("a", {4: 41.0}, model=MODEL.format(pretrained, init_cfg))
    assert work_dirs.read() == []
    assert says in work_dirs.notices[0]


def test_pretrained_weights_may_lie_elsewhere(work_dirs):
    model = MODEL.format("'/weights/a.pth'", PRETRAINED.format("/weights/b.pth"))
    work_dirs.train("a", {4: 41.0}, model=model)
    assert len(work_dirs.read()) == 1


def test_a_test_does_not_need_pretrained_weights(work_dirs):
    work_dirs.train("a", {2: 40.0})
    work_dirs.test("a", "a/iter_4.pth", 42.0, model=MODEL.format("None", "None"))
    assert len(work_dirs.read()) == 1


@pytest.mark.parametrize("interval", ["1", "2, val_begin=3"])
def test_evaluations_at_other_times_are_another_setting(work_dirs, interval):
    """The more there are, the better is the best."""
    work_dirs.train("a", {4: 41.0}, interval=interval)
    assert work_dirs.read() == []
    assert "train_cfg.val_" in work_dirs.notices[0]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(annotations="/elsewhere/train.json"), ""),
        (dict(annotations="annotations/val.json"), "dataset.ann_file is 'annotations/val.json'"),
        (dict(annotations=""), "dataset.ann_file is ''"),
        (dict(evaluator=PANOPTIC.format("/elsewhere", "val")), ""),
        (dict(evaluator=PANOPTIC.format("data", "half")), "val_evaluator.seg_prefix is 'data/half"),
    ],
)
def test_annotations_go_by_the_name_of_their_file(work_dirs, settings, says):
    if "evaluator" in settings:
        panoptic = config_text(evaluator=PANOPTIC.format("data", "val"))
        work_dirs.configs["segformer_a"].write_text(panoptic)
    work_dirs.train("a", {4: 41.0}, **settings)
    assert len(work_dirs.read()) == (0 if says else 1)
    assert says in "".join(work_dirs.notices) and len(work_dirs.notices) == bool(says)


def test_a_test_adds_to_the_run_that_it_tests(work_dirs):
    work_dirs.train("a", {2: 40.0})
    work_dirs.test("a", "a/iter_4.pth", 42.0)
    work_dirs.test("elsewhere", "a/best_mIoU_iter_2.pth", 40.5)
    (run,) = work_dirs.read()
    assert run.evaluations == {2: dict(mIoU=40.5, bIoU=20.0), 4: dict(mIoU=42.0)}


def test_a_training_comes_before_a_test_of_it_in_the_same_second(work_dirs):
    trained = work_dirs.train("b", {2: 40.0, 4: 41.0})
    work_dirs.clock -= 1
    assert work_dirs.test("a", "b/iter_4.pth", 42.0).name == trained.name
    (run,) = work_dirs.read()
    assert run.evaluations[4] == dict(mIoU=42.0, bIoU=20.5)


def test_a_test_without_the_training(work_dirs):
    """The checkpoint may be anybody's, also if it is tested beside a training of ours."""
    work_dirs.train("a", {4: 41.0})
    (work_dirs.root / "downloads").mkdir()
    work_dirs.test("elsewhere", "gone/iter_4.pth", 42.0)
    work_dirs.test("a", "downloads/iter_4.pth", 42.0)
    (run,) = work_dirs.read()
    assert run.evaluations[4]["mIoU"] == 41.0
    assert len(work_dirs.notices) == 2
    assert f"it tests a training in {work_dirs.root / 'gone'}, which is" in work_dirs.notices[0]
    assert f"it tests a training in {work_dirs.root / 'downloads'}" in work_dirs.notices[1]


def test_a_test_of_a_training_that_was_moved(work_dirs):
    work_dirs.train("a", {4: 41.0})
    work_dirs.test("tested", "old/place/a/iter_4.pth", 42.0)
    (run,) = work_dirs.read()
    assert run.evaluations[4]["mIoU"] == 42.0


def test_a_training_from_other_weights(work_dirs):
    work_dirs.train("a", {4: 41.0}, tested="'pretrained.pth'")
    assert work_dirs.read() == []
    assert "load_from is 'pretrained.pth', not None" in work_dirs.notices[0]


def test_a_training_that_continues_one_that_is_not_here(work_dirs):
    work_dirs.train("a", {4: 41.0}, tested="'/gone/iter_2.pth'", resume=True)
    assert work_dirs.read() == []
    assert "it continues a training in /gone, which is not among" in work_dirs.notices[0]


def test_a_training_that_continues_in_another_work_dir(work_dirs):
    work_dirs.train("a", {2: 40.0})
    checkpoint = repr(str(work_dirs.root / "a" / "iter_2.pth"))
    work_dirs.train("b", {4: 41.0}, tested=checkpoint, resume=True)
    (run,) = work_dirs.read()
    assert sorted(run.evaluations) == [2, 4]


def test_a_test_that_also_writes_predictions(work_dirs):
    writing = '[dict(type="IoUMetric"), dict(type="DumpWholeDetResults", out_file_path="a.pkl")]'
    work_dirs.train("a", {2: 41.0})
    work_dirs.test("a", "a/iter_4.pth", 42.0, evaluator=writing)
    assert len(work_dirs.read()) == 1


def test_a_test_of_a_checkpoint_that_names_no_step(work_dirs):
    work_dirs.test("a", "a/downloaded.pth", 42.0)
    assert work_dirs.read() == []
    assert "downloaded.pth, is not named by an epoch or iteration" in work_dirs.notices[0]


def test_a_test_of_a_training_with_other_settings(work_dirs):
    work_dirs.train("a", {4: 41.0}, lr=0.2)
    work_dirs.test("elsewhere", "a/iter_4.pth", 42.0)
    assert work_dirs.read() == []
    assert f"it tests a training in {work_dirs.root / 'a'}, which is not" in work_dirs.notices[1]


def test_a_start_that_logged_nothing(work_dirs):
    start = work_dirs.start("a")
    assert work_dirs.read() == []
    assert f"{start} has neither scalars nor metrics" in work_dirs.notices[0]


@pytest.mark.parametrize("family", ["detector", "segmentor"])
def test_what_the_tools_leave(family, zygote, toy_data, tmp_path):
    """A training of tools/train.py and a test of tools/test.py, options that are free included."""
    config = write_config(family, toy_data, tmp_path / f"{family}.py")
    text = config.read_text()
    short = dict(detector="\ntrain_cfg.update(max_epochs=1)\n", segmentor="")[family]
    if family == "segmentor":
        short = "\ntrain_cfg.update(max_iters=4, val_begin=1, val_interval=2)\n"
        short += "default_hooks['checkpoint'].update(interval=2)\n"
    config.write_text(text + short)
    run = zygote.run(
        *(TRAIN, config, "--work-dir", "w"),
        # The toy detector's learning rate is meant for more images than its batch has.
        *(["--auto-scale-lr"] if family == "detector" else []),
        *("--cfg-options", "train_dataloader.num_workers=0"),
        "train_dataloader.persistent_workers=False",
        cwd=tmp_path,
    )
    assert run.status == 0, run.stderr
    checkpoint = (tmp_path / "w" / "last_checkpoint").read_text()
    arguments = ("--work-dir", "tested", "--show-dir", "drawn")
    run = zygote.run(TEST, config, checkpoint, *arguments, cwd=tmp_path)
    assert run.status == 0, run.stderr
    (tested,) = (tmp_path / "tested").glob("*/*.json")
    expected = json.loads(tested.read_text())

    notices: list[str] = []
    (found,), starts = read_runs(tmp_path, {family: config}, notices.append)
    assert (starts, notices) == (2, [])
    key, length = dict(detector=("coco/bbox_mAP", 1), segmentor=("aAcc", 4))[family]
    assert (found.length, found.finished) == (length, True)
    assert found.evaluations[length][key] == pytest.approx(expected[key], abs=1e-3)
    assert sorted(found.evaluations) == ([2, 4] if family == "segmentor" else [1])
    assert not {"time", "data_time", "lr"} & found.evaluations[length].keys()

    change = dict(detector="train_cfg.max_epochs=2", segmentor="train_cfg.max_iters=6")[family]
    run = zygote.run(TRAIN, config, "--work-dir", "v", "--cfg-options", change, cwd=tmp_path)
    assert run.status == 0, run.stderr
    runs, starts = read_runs(tmp_path, {family: config}, notices.append)
    assert (len(runs), starts, len(notices)) == (1, 3, 1)
    assert f"{change.split('=')[0]} is {change.split('=')[1]}, not {length}" in notices[0]


# ---------------------------------------------------------------- tables of them


def runs_of(config: str, *scores: list[float]) -> list[Run]:
    """Runs with evaluations 1, 2, ... of which the last is the end."""
    return [
        Run(config, f"{config}/{number}", number, len(each), {
            step: {"mIoU": score, "bIoU": 10 * step, "coco/bbox_mAP": score / 100}
            for step, score in enumerate(each, start=1)
        })
        for number, each in enumerate(scores)
    ]  # fmt: skip


def test_best_and_last():
    (run,) = runs_of("segformer_x", [40.0, 42.0, 41.0])
    assert results.pick_evaluation(run, "last", (MIOU, BIOU))["mIoU"] == 41.0
    # the other metrics are of the same evaluation, not each its own best
    best = results.pick_evaluation(run, "best", (MIOU, BIOU))
    assert (best["mIoU"], best["bIoU"]) == (42.0, 20)
    assert results.pick_evaluation(run, "best", (BIOU,))["bIoU"] == 30


def test_usual_pick_is_the_papers():
    runs = runs_of("segformer_x", [42.0, 41.0]) + runs_of("faster-rcnn_x", [42.0, 41.0])
    found = results.summarize(runs, (MIOU, AP))
    assert found["segformer_x"]["mIoU"].mean == 42.0
    assert found["faster-rcnn_x"]["AP"].mean == pytest.approx(41.0)


def test_mean_and_spread():
    runs = runs_of("faster-rcnn_x", [38.0], [39.0], [40.6])
    result = results.summarize(runs, (AP,))["faster-rcnn_x"]["AP"]
    assert result.mean == pytest.approx((38 + 39 + 40.6) / 3)
    mean = 117.6 / 3
    variance = ((38 - mean) ** 2 + (39 - mean) ** 2 + (40.6 - mean) ** 2) / 2
    assert result.spread == pytest.approx(math.sqrt(variance))
    assert result.runs == 3
    (single,) = results.summarize(runs[:1], (AP,)).values()
    assert single["AP"].spread is None


ROWS = [
    Row("base", "M", "Nearest", "10.0M", "", ("37.5",)),
    Row("new", "M", "DySample", "+1.0K", "", ("38.6",)),
    Row("other", "N", "Nearest", "20.0M", "", ("39.4",)),
]
TABLE = Table("made_up", "A table", "A paper", (AP,), note="A note.")
ENTRIES = {
    name: Entry(ROOT / "configs" / f"{name}.py", "COCO", "Epochs", 1, ["m"], "up", weights, ["AP"])
    for name, weights in (("base", 0), ("new", 1024), ("other", 0))
}


def made_up_lines(runs):
    return document.lines_of(TABLE, ROWS, runs, ENTRIES, None)


def test_deltas_are_ours_over_ours_and_theirs_over_theirs():
    runs = runs_of("base", [36.0]) + runs_of("new", [36.5], [37.5]) + runs_of("other", [30.0])
    lines = made_up_lines(runs)
    assert [(line.row.config, line.ours) for line in lines] == [
        (name, ours) for name in ("base", "new", "other") for ours in (False, True)
    ]
    assert [line.values[0] for line in lines] == ["37.5", "36.0", "38.6", "37.0", "39.4", "30.0"]
    # 38.6 - 37.5 and 37.0 - 36.0; the other model is its own baseline
    assert [line.deltas[0] for line in lines] == ["", "", "+1.1", "+1.0", "", ""]
    assert [line.spreads[0] for line in lines] == ["", "", "", "0.7", "", ""]
    assert [line.params for line in lines] == ["10.0M", "+0", "+1.0K", "+1,024", "20.0M", "+0"]
    assert [line.runs for line in lines] == [0, 1, 0, 2, 0, 1]


def test_without_our_baseline_there_is_no_delta():
    lines = made_up_lines(runs_of("new", [36.5]))
    (new,) = (line for line in lines if line.ours and line.row.config == "new")
    assert (new.values[0], new.deltas[0]) == ("36.5", "")


def test_without_runs_our_cells_are_empty():
    for line in made_up_lines([]):
        if line.ours:
            assert (line.values, line.deltas, line.spreads, line.runs) == (("",), ("",), ("",), 0)


def cells(markdown: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in markdown.splitlines()
        if line.startswith("| ")
    ]


def test_markdown_of_a_run_beside_the_paper():
    config = "faster-rcnn_r50_fpn-p6_dysample_1x_coco"
    runs = runs_of(config, [38.0], [39.0]) + runs_of(config.replace("dysample", "nearest"), [37.0])
    text = document.markdown(runs, read_entries())
    section = text.split("(DySample, Table 6)")[1].split("\n## ")[0]
    rows = cells(section)
    (at,) = (i for i, row in enumerate(rows) if row[1].startswith("[DySample]"))
    paper, ours = rows[at], rows[at + 1]
    assert paper[1] == f"[DySample](../configs/faster_rcnn/{config}.py)"
    assert paper[2:4] == ["paper", "38.6 (+1.1)"] and paper[-2:] == ["+32.7K", ""]
    assert ours[:4] == ["", "", "ours", "38.5 ± 0.7 (+1.5)"] and ours[-2:] == ["+32,768", "2"]
    assert ours[4:-2] == [""] * 5
    assert len({len(row) for row in rows}) == 1
    assert (document.DOCUMENT.parent / "../configs/faster_rcnn" / f"{config}.py").is_file()


def test_csv_has_the_same_numbers():
    config = "segformer_mit-b1_dysample_8xb2-160k_ade20k-512x512"
    text = document.comma_separated(runs_of(config, [40.0, 39.0]), read_entries())
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["config"] == config]
    table_4 = {
        (row["result"], row["metric"]): (row["value"], row["delta"], row["evaluation"])
        for row in rows
        if row["table"] == "DySample, Table 4"
    }
    assert table_4 == {
        ("paper", "mIoU"): ("43.21", "+1.53", ""),
        ("paper", "bIoU"): ("29.12", "+1.32", ""),
        ("ours", "mIoU"): ("40.00", "", "best"),
        ("ours", "bIoU"): ("10.00", "", "best"),
    }


def test_every_config_is_in_a_table():
    lines = [line for _, lines in document.sections([], read_entries(), None) for line in lines]
    assert {line.row.config for line in lines} == model_configs().keys()


def test_recorded_runs_come_back(tmp_path):
    runs = runs_of("segformer_x", [40.0, 39.0], [38.5, 41.25])
    runs[1].seed = None
    path = tmp_path / "runs.csv"
    results.write(runs, path)
    assert results.read(path) == runs
    again = Run("segformer_x", runs[0].name, 0, 2, {2: {"mIoU": 50.0}})
    assert results.merge(results.read(path), [again]) == [again, runs[1]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "columns of"),
        ("config,run\n", "columns of"),
        ("{}\n1,2\n", "line 2: there must be 7 values"),
        ("{}\na,r,0,2,2,mIoU,1,9\n", "line 2: there must be 7 values"),
        ("{}\na,r,0,2,2,mIoU,nan\n", "line 2: value must be a finite number, got 'nan'"),
        ("{}\na,r,0,2,2,mIoU,\n", "line 2: value must be a finite number, got ''"),
        ("{}\na,r,0,2,2,mIoU,1\na,r,0,2,end,mIoU,1\n", "line 3: step must be a whole number"),
        ("{}\na,r,0,,2,mIoU,1\n", "line 2: length must be a whole number, got ''"),
        ("{}\na,r,x,2,2,mIoU,1\n", "line 2: seed must be a whole number, got 'x'"),
        ("{}\na,r,0,2,2,mIou,1\n", "line 2: metric 'mIou' is none of"),
        ("{}\nmine,r,0,2,2,mIoU,1\n", "line 2: 'mine' is no config of this project"),
        ("{}\na,r,0,2,2,mIoU,1\na,r,0,3,2,bIoU,1\n", "line 3: seed or length is not that"),
        ("{}\na,r,0,2,1,mIoU,1\n", "run r of a has no evaluation after 2, its length; its last"),
    ],
)
def test_a_damaged_record(text, says, tmp_path):
    columns = ",".join(results.COLUMNS)
    (tmp_path / "runs.csv").write_text(text.format(columns))
    with pytest.raises(ValueError) as error:
        results.read(tmp_path / "runs.csv", configs={"a"})
    assert says in str(error.value)


def test_the_document_is_up_to_date():
    """With the metafiles, that is; tests/configs/test_metafiles.py compares these with configs."""
    above = document.written_by_hand(document.DOCUMENT)
    expected = document.whole_document(above, results.read(), read_entries())
    assert document.DOCUMENT.read_text() == expected, "run: python tools/results.py --write"


# ---------------------------------------------------------------- the tool


TOOL = ROOT / "tools" / "results.py"


def test_as_a_user_calls_it(tmp_path):
    """Of a run in the shape that the tools leave, with a config of the project."""
    name = "segformer_mit-b0_dysample_shapes"
    start = tmp_path / "work_dirs" / name / "20260101_000000"
    (start / "vis_data").mkdir(parents=True)
    for path in (start / "vis_data" / "config.py", start.parent / f"{name}.py"):
        path.write_text(dump(model_configs()[name], gpus=1))
    evaluation = json.dumps(dict(mIoU=58.06, mAcc=67.0, step=600))
    (start / "vis_data" / "scalars.json").write_text(f"{evaluation}\n")
    command = [sys.executable, TOOL, "work_dirs", "--out", "tables.md", "--csv", "tables.csv"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (result.stdout, result.stderr) == ("", "")
    with (tmp_path / "tables.csv").open(newline="") as file:
        ours = [row for row in csv.DictReader(file) if row["result"] == "ours" and row["value"]]
    assert [(row["config"], row["metric"], row["value"]) for row in ours] == [
        (name, "mIoU", "58.06")
    ]
    assert "| 58.06 |" in (tmp_path / "tables.md").read_text()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nowhere"], "work dir nowhere does not exist"),
        (["docs"], "docs holds no run of tools/train.py or tools/test.py"),
        (["README.md"], "work dir README.md is a file"),
        (["--record"], "--record needs a WORK_DIR"),
        (["--check", "--write"], "--check writes nothing"),
        (["--write", "--pick", "best"], "--pick is for tables"),
        (["--pick", "first"], "invalid choice: 'first'"),
        (["--out", "nowhere/a.md"], "nowhere does not exist"),
        (["--csv", "docs"], "--csv docs is a directory"),
        (["--csv", "a.md", "--out", "docs/../a.md"], "--out and --csv are the same file"),
    ],
)
def test_mistakes_get_a_sentence(args, says, zygote):
    result = zygote.run(TOOL, *args, cwd=ROOT)
    assert result.status == 2
    assert says in result.stderr and "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_nothing_that_can_be_shown(tmp_path, zygote):
    dirs = WorkDirs(tmp_path)
    dirs.train("a", {4: 41.0}, config="mine")
    result = zygote.run(TOOL, dirs.root, cwd=tmp_path)
    assert result.status == 2
    note, error = result.stderr.splitlines()
    assert note.startswith("note: ") and "mine is no config of this project" in note
    assert error == f"error: none of the 1 starts of tools in {dirs.root} is a run to show"


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A project of a few configs with a run of one of them, of two epochs."""
    project = tmp_path / "project"
    shutil.copytree(ROOT / "tools" / "model_zoo", project / "tools" / "model_zoo")
    shutil.copy(TOOL, project / "tools")
    results.write([], project / "tools" / "model_zoo" / "runs.csv")
    for folder in ("_base_", "retinanet"):
        shutil.copytree(ROOT / "configs" / folder, project / "configs" / folder)
    (project / "configs" / "retinanet" / "metafile.yml").unlink()
    (project / "docs").mkdir()
    (project / "docs" / "model_zoo.md").write_text(f"# By hand\n\n{document.MARKER}\nold\n")
    name = "retinanet_r50_fpn_dysample_1x_coco"
    start = tmp_path / "work_dirs" / name / "20260101_000000"
    (start / "vis_data").mkdir(parents=True)
    base = project / "configs" / "retinanet" / f"{name}.py"
    for path in (start / "vis_data" / "config.py", start.parent / f"{name}.py"):
        path.write_text(dump(base, gpus=8))
    evaluations = [dict(step=step, **{"coco/bbox_mAP": step / 100 + 0.25}) for step in (11, 12)]
    lines = "".join(json.dumps(each) + "\n" for each in evaluations)
    (start / "vis_data" / "scalars.json").write_text(lines)
    return project


def test_record_write_and_check(checkout, tmp_path, zygote):
    tool, page = checkout / "tools" / "results.py", checkout / "docs" / "model_zoo.md"
    check = zygote.run(tool, "--check", cwd=tmp_path)
    assert check.status == 2
    files = "docs/model_zoo.md, configs/retinanet/metafile.yml, model-index.yml"
    assert check.stderr.startswith(f"error: not up to date: {files}; python tools/results.py")
    assert page.read_text().endswith("old\n")

    record = zygote.run(tool, "work_dirs", "--record", cwd=tmp_path)
    assert record.status == 0, record.stderr
    assert record.stderr.splitlines() == [
        "recorded 1 runs in tools/model_zoo/runs.csv",
        *(f"wrote {name}" for name in files.split(", ")),
    ]
    text = page.read_text()
    assert text.startswith(f"# By hand\n\n{document.MARKER}\n\n## SegFormer-B1")
    assert "| ours | 37.00 | +16,384 | 1 |" in text and "\nold\n" not in text
    metafile = yaml.safe_load((checkout / "configs" / "retinanet" / "metafile.yml").read_text())
    measured = {model["Name"]: model.get("Results") for model in metafile["Models"]}
    own = measured.pop("retinanet_r50_fpn_dysample_1x_coco")
    assert own == [dict(Task="Object Detection", Dataset="COCO", Metrics={"box AP": 37.0})]
    assert set(measured.values()) == {None}

    # The work dirs are not needed any more, and what was written stays.
    shutil.rmtree(tmp_path / "work_dirs")
    assert zygote.run(tool, "--check", cwd=tmp_path).status == 0
    (checkout / "configs" / "retinanet" / "retinanet_r50_fpn_nearest_1x_coco.py").unlink()
    assert zygote.run(tool, "--check", cwd=tmp_path).status == 2


def test_a_damaged_metafile_is_written_anew(checkout, tmp_path, zygote):
    tool = checkout / "tools" / "results.py"
    metafile = checkout / "configs" / "retinanet" / "metafile.yml"
    metafile.write_bytes(b"Models: [\xff")
    run = zygote.run(tool, cwd=tmp_path)
    assert run.status == 2 and run.stderr.count("\n") == 1
    assert f"{metafile} is damaged: python tools/results.py --write" in run.stderr
    assert zygote.run(tool, "--write", cwd=tmp_path).status == 0
    assert len(yaml.safe_load(metafile.read_text())["Models"]) > 1


@pytest.mark.parametrize("damage", ["page", "marker", "record", "run"])
def test_a_damaged_checkout(damage, checkout, tmp_path, zygote):
    page, record = checkout / "docs/model_zoo.md", checkout / "tools/model_zoo/runs.csv"
    says = dict(page="is missing: this works in a checkout", marker="has no line <!--")
    says["record"] = "runs.csv cannot be read: columns of"
    says["run"] = "has no evaluation after 12, its length; its last is after 6"
    if damage == "page":
        page.unlink()
    elif damage == "run":
        name = "retinanet_r50_fpn_dysample_1x_coco"
        results.write([Run(name, "a", 0, 12, {6: {"coco/bbox_mAP": 0.3}})], record)
    else:
        (page if damage == "marker" else record).write_text("something else\n")
    run = zygote.run(checkout / "tools" / "results.py", "--write", cwd=tmp_path)
    assert run.status == 2 and run.stderr.count("\n") == 1
    assert says[damage] in run.stderr
