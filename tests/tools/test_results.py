"""tools/results.py: from the logs of trainings to tables beside the papers'."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import statistics
from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import yaml
from mmengine.config import Config

from mmdysample.engine.errors import UserError
from mmdysample.engine.record import FILE_NAME, plain
from tests.engine.toy import write_config
from tests.engine.zygote import ROOT, TRAIN
from tools.model_zoo import document
from tools.model_zoo.configs import model_configs
from tools.model_zoo.metafiles import metafiles
from tools.model_zoo.runs import Run, merge, read_runs, result_of, write_runs
from tools.model_zoo.tables import AP, MIOU, TABLES, Metric, Row, Table
from tools.model_zoo.work_dirs import find_runs

TOOL = ROOT / "tools" / "results.py"
BY_NAME = {table.name: table for table in TABLES}


# ---------------------------------------------------------------- the papers' numbers


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
        ("dysample_table9", 12, 12 * 8),
        ("sapa_table4", 6, 6 * 8),
        ("sapa_table5", 7, 7 * 4),
        ("fade_readme_matting", 10, 10 * 4),
    ],
)
def test_published_tables_are_whole(table, rows, numbers):
    found = BY_NAME[table].rows()
    assert len(found) == rows
    assert {row.config for row in found} <= model_configs().keys()
    values = [value for row in found for value in row.values if value]
    assert len(values) == numbers
    assert all(re.fullmatch(r"\d\d\.\d\d?|0\.\d{3}|0\.0\d{3}", value) for value in values)
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
    (row,) = (row for row in BY_NAME[table].rows() if row.config == config)
    assert row.values[0] == printed


def test_the_gains_that_the_papers_state():
    """DySample, section 4: box AP +1.2 (R50) and +1.1 (R101), mask AP +1.0 and +0.8."""
    for table, name, gains in [
        ("dysample_table6", "faster-rcnn_{}_fpn-p6_{}_1x_coco", {"r50": "+1.2", "r101": "+1.1"}),
        ("dysample_table7_segm", "mask-rcnn_{}_fpn_{}_1x_coco", {"r50": "+1.0", "r101": "+0.8"}),
    ]:
        lines = document.lines_of(BY_NAME[table], BY_NAME[table].rows(), [])
        deltas = {line.row.config: line.cells[0].delta for line in lines}
        for backbone, gain in gains.items():
            assert deltas[name.format(backbone, "dysample-plus")] == gain
            assert deltas[name.format(backbone, "nearest")] == ""


def row_of(table: str, upsampler: str) -> Row:
    (row,) = (row for row in BY_NAME[table].rows() if row.upsampler == upsampler)
    return row


def test_the_gains_in_depth_that_the_paper_states():
    """DySample, section 4.4, whose text has ten times as much: 0.05, 0.04 and 0.09."""
    table = BY_NAME["dysample_table9"]
    lines = document.lines_of(table, table.rows(), [])
    (cells,) = (line.cells for line in lines if line.row.upsampler == "DySample+")
    deltas = dict(zip((metric.key for metric in table.metrics), cells, strict=True))
    stated = [deltas[key].delta for key in ("d1", "abs_rel", "rmse")]
    assert stated == ["+0.005", "-0.004", "-0.009"]


def test_the_baselines_that_were_taken_over():
    """DepthFormer's from its toolbox's log, which has more digits; SAPA's rows in both sets."""
    log = dict(d1=0.87262, d2=0.9778, d3=0.99423, abs_rel=0.1201, rmse=0.4016)
    log |= dict(log10=0.0499, rmse_log=0.1483, sq_rel=0.0712)
    metrics = BY_NAME["dysample_table9"].metrics
    assert row_of("dysample_table9", "Bilinear").values == tuple(
        f"{log[metric.key]:.3f}" for metric in metrics
    )
    for upsampler in ("SAPA-I", "SAPA-B", "SAPA-G"):
        paper, readme = (row_of(t, upsampler) for t in ("sapa_table5", "fade_readme_matting"))
        assert (paper.config, paper.values) == (readme.config, readme.values)
    for upsampler in ("Bilinear", "CARAFE", "IndexNet", "A2U"):
        paper, readme = (row_of(t, upsampler) for t in ("sapa_table5", "fade_readme_matting"))
        assert paper.config == readme.config
        assert all(a != b for a, b in zip(paper.values, readme.values, strict=True))


def test_lines_say_where_their_numbers_are_printed():
    for name, printed_in in (("sapa_table5", "paper"), ("fade_readme_matting", "README")):
        table = BY_NAME[name]
        assert {line.result for line in document.lines_of(table, table.rows(), [])} == {printed_in}
    text = document.markdown([], ROOT / "docs")
    (line,) = (line for line in text.splitlines() if "_fade-lite_1xb16" in line)
    assert "| README | 31.36" in line and "| +27K |" in line


@pytest.mark.parametrize("table", ["sapa_table5", "fade_readme_matting"])
def test_both_sets_of_matting_baselines_in_its_document(table):
    """docs/matting.md prints what published/ has."""
    text = (ROOT / "docs/matting.md").read_text()
    for row in BY_NAME[table].rows():
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {row.upsampler} | "))
        column = 2 if table == "sapa_table5" else 3
        assert line.split("|")[column].split("(")[0].strip() == " / ".join(row.values)


def test_the_gain_in_matting():
    """SAPA's SAD is 3.3% below A2U's, the best of the others."""
    rows = BY_NAME["sapa_table5"].rows()
    best = sorted((float(row.values[0]), row.upsampler) for row in rows)
    assert [name for _, name in best[:3]] == ["SAPA-G", "SAPA-B", "A2U"]
    assert round(100 * (1 - best[0][0] / best[2][0]), 1) == 3.3


# ---------------------------------------------------------------- runs from work dirs


SETTINGS = dict(
    model=dict(width=8, pretrained="hub://r50", neck=dict(scales=[1, 2])),
    train_cfg=dict(type="IterBasedTrainLoop", max_iters=4, val_interval=2),
    optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
    train_dataloader=dict(
        batch_size=2,
        num_workers=2,
        dataset=dict(
            data_root="data/a",
            ann_file="a/train.json",
            data_prefix=dict(fg_path="train/fg", bg_path="../coco/train2014"),
        ),
    ),
    val_evaluator=dict(type="CocoMetric", metric="bbox"),
    auto_scale_lr=dict(enable=False, base_batch_size=16),
    load_from=None,
    resume=False,
    launcher="none",
)


class WorkDirs:
    """Work dirs of trainings as tools/train.py leaves them, of two configs."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "work_dirs"
        self.configs = {}
        for name in ("faster-rcnn_a", "segformer_b", "a2u-matting_c", "depthformer_d"):
            self.configs[name] = directory / f"{name}.py"
            self.configs[name].write_text(f"settings = 0\n{Config(SETTINGS).dump()}")
        self.notices: list[str] = []
        self.starts = 0

    def train(self, work_dir: str, scores: dict[int, float | dict], **changes) -> Path:
        """A start and its evaluations: values of mIoU, or all metrics.

        ``changes`` are of the record or, by a path, of settings.
        """
        self.starts += 1
        start = self.root / work_dir / f"20260101_{self.starts:06d}"
        (start / "vis_data").mkdir(parents=True)
        record = dict(config="faster-rcnn_a", processes=8, resumed_from=None)
        settings = Config(SETTINGS)
        for key, value in changes.items():
            if key in record:
                record[key] = value
            else:
                settings.merge_from_dict({key: value})
        (start / FILE_NAME).write_text(json.dumps(record | dict(settings=settings.to_dict())))
        lines = []
        for step in range(1, 5):
            lines.append(dict(lr=0.1, loss=1.0, step=step, mIoU=99.0))
            if step in scores:
                metrics = scores[step]
                if not isinstance(metrics, dict):
                    metrics = dict(mIoU=metrics, bIoU=float(step))
                lines.append(dict(**metrics, time=0.1, step=step))
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (start / "vis_data" / "scalars.json").write_text(text)
        return start

    def read(self) -> list[Run]:
        self.notices.clear()
        return find_runs(self.root, self.configs, self.notices.append)

    def reason(self) -> str:
        """Why nothing counts."""
        with pytest.raises(UserError, match=r"no training in .* counts"):
            self.read()
        (notice,) = self.notices
        assert " is left out: " in notice
        return notice


@pytest.fixture
def work_dirs(tmp_path) -> WorkDirs:
    return WorkDirs(tmp_path)


def test_a_run_is_its_last_evaluation_and_of_segformer_the_best(work_dirs):
    for name in ("faster-rcnn_a", "segformer_b"):
        work_dirs.train(name, {2: 40, 4: 39}, config=name)
    last, best = work_dirs.read()
    assert last == Run("faster-rcnn_a", "faster-rcnn_a/20260101_000001", 4, dict(mIoU=39, bIoU=4))
    # All metrics are of one evaluation.
    assert (best.step, best.metrics) == (2, dict(mIoU=40, bIoU=2))
    assert not work_dirs.notices


def test_of_matting_the_least_sad_is_the_best_and_of_depth_the_last_evaluation(work_dirs):
    matting = {1: dict(MSE=0.5), 2: dict(SAD=30.5, MSE=0.02), 3: dict(SAD=30.5, MSE=0.01)}
    work_dirs.train("c", matting | {4: dict(SAD=31.0, MSE=0.03)}, config="a2u-matting_c")
    depth = {2: dict(abs_rel=0.1, d1=0.9), 4: dict(abs_rel=0.2, d1=0.8, silog=1.0)}
    work_dirs.train("d", depth, config="depthformer_d")
    best, last = work_dirs.read()
    assert (best.config, best.step, best.metrics) == (
        *("a2u-matting_c", 3),
        dict(SAD=30.5, MSE=0.01),
    )
    assert (last.config, last.step, last.metrics) == (
        *("depthformer_d", 4),
        dict(abs_rel=0.2, d1=0.8),  # no table has silog
    )


def test_resumed_starts_are_one_run_and_others_are_runs_of_their_own(work_dirs):
    work_dirs.train("a", {2: 42, 4: 99}, config="segformer_b")
    work_dirs.train("a", {4: 41}, config="segformer_b", resumed_from="iter_2.pth", load_from="c")
    work_dirs.train("a", {4: 38}, config="segformer_b")
    work_dirs.train("seeds/b", {4: 37}, config="segformer_b")
    assert [(run.name[:1], run.metrics["mIoU"]) for run in work_dirs.read()] == [
        *[("a", 42), ("a", 38), ("b", 37)]
    ]


STOPPED = "it was stopped before the evaluation after the last of its 4"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(config="mine"), "mine is not a config of this project"),
        (dict(resumed_from="iter_2.pth"), "it continues iter_2.pth, whose training is not in"),
        ({"optim_wrapper.optimizer.lr": 0.2}, "optim_wrapper.optimizer.lr is 0.2, not 0.1"),
        # The more evaluations there are, the better is the best.
        ({"train_cfg.val_interval": 1}, "train_cfg.val_interval is 1, not 2"),
        ({"train_cfg.val_begin": 3}, "train_cfg.val_begin is 3, not None"),
        ({"model.neck.scales": [1, 3]}, "model.neck.scales.1 is 3, not 2"),
        ({"model.neck.scales": [1, 2, 2]}, "model.neck.scales.2 is 2, not None"),
        ({"model.neck.scales": [1]}, "model.neck.scales.1 is None, not 2"),
        ({"val_evaluator.metric": "segm"}, "val_evaluator.metric is 'segm', not 'bbox'"),
        ({"model.pretrained": None}, "model.pretrained is None, not 'pretrained weights'"),
        ({"model.pretrained": ""}, "model.pretrained is '', not 'pretrained weights'"),
        (dict(load_from="weights.pth"), "load_from is 'weights.pth', not None"),
        (
            {"train_dataloader.dataset.ann_file": "a/val.json"},
            "train_dataloader.dataset.ann_file is 'val.json', not 'train.json'",
        ),
        (
            {"train_dataloader.dataset.data_prefix.bg_path": "/elsewhere/coco/val2014"},
            "train_dataloader.dataset.data_prefix.bg_path is 'val2014', not 'train2014'",
        ),
        (
            {"train_dataloader.dataset.data_prefix.fg_path": "/elsewhere/train/fg"},
            "data_prefix.fg_path is '/elsewhere/train/fg', not 'train/fg'",
        ),
        (dict(processes=4), "the batch is 2 images on each of 4 GPUs, not 16 in all"),
        ({"train_dataloader.batch_size": "2"}, "the batch is '2' images on each of 8 GPUs"),
        (
            {"auto_scale_lr.enable": True, "auto_scale_lr.base_batch_size": 2},
            "auto_scale_lr.base_batch_size is 2, not 16",
        ),
    ],
)
def test_a_training_that_does_not_count(work_dirs, changes, says):
    work_dirs.train("a", {4: 41}, **changes)
    assert says in work_dirs.reason()


@pytest.mark.parametrize(
    "changes",
    [
        {
            "train_dataloader.dataset.data_root": "/elsewhere",
            "train_dataloader.dataset.ann_file": "/elsewhere/train.json",
            "train_dataloader.dataset.data_prefix.bg_path": "/elsewhere/train2014/",
            "train_dataloader.num_workers": 0,
            "model.pretrained": "/weights/r50.pth",
        },
        {"processes": 4, "train_dataloader.batch_size": 4},
        {"processes": 1, "auto_scale_lr.enable": True},
    ],
)
def test_what_is_free(work_dirs, changes):
    work_dirs.train("a", {4: 41}, **changes)
    assert len(work_dirs.read()) == 1


def test_every_start_of_a_training_has_to_count(work_dirs):
    work_dirs.train("a", {2: 40}, **{"optim_wrapper.optimizer.lr": 0.2})
    work_dirs.train("a", {4: 41}, resumed_from="iter_2.pth")
    assert "optimizer.lr is 0.2" in work_dirs.reason()
    work_dirs.train("a", {2: 40})
    work_dirs.train("a", {4: 41}, resumed_from="iter_2.pth", config="segformer_b")
    work_dirs.train("b", {2: 40})
    work_dirs.train("b", {4: 41}, resumed_from="/elsewhere/iter_2.pth")
    work_dirs.train("c", {4: 42})
    assert len(work_dirs.read()) == 1
    assert "it was resumed with another config, segformer_b" in work_dirs.notices[1]
    assert "it continues /elsewhere/iter_2.pth, whose training is not" in work_dirs.notices[2]


def test_a_training_that_was_stopped(work_dirs):
    start = work_dirs.train("a", {2: 40})
    assert f"{STOPPED} epochs or iterations; the last evaluation was after 2" in work_dirs.reason()
    (start / "vis_data" / "scalars.json").unlink()
    assert "the last evaluation was after none" in work_dirs.reason()


NOT_EVALUATIONS = {
    "cut off": '{"mIoU": 4',
    "a list": "[1, 2]",
    "zeros": "\0\0",
    "nesting": "[" * 100_000,
    "no step": '{"mIoU": 9}',
    "a step in text": '{"mIoU": 9, "step": "4"}',
    "an infinite step": '{"mIoU": 9, "step": 1e999}',
    "text": '{"mIoU": "9", "step": 4}',
    "not a number": '{"mIoU": NaN, "step": 4}',
    "too large": '{"mIoU": 1' + "0" * 400 + ', "step": 4}',
    "another metric": '{"mine": 9, "step": 4}',
    "of training": '{"mIoU": 9, "step": 4, "loss": 1}',
}


@pytest.mark.parametrize("line", NOT_EVALUATIONS.values(), ids=NOT_EVALUATIONS.keys())
def test_a_line_that_is_not_an_evaluation(work_dirs, line):
    start = work_dirs.train("a", {2: 40})
    with (start / "vis_data" / "scalars.json").open("a") as file:
        file.write(line)
    assert "the last evaluation was after 2" in work_dirs.reason()


DAMAGED = {
    "empty": "",
    "a list": "[]",
    "not UTF-8": "\udcff",
    "nesting": "[" * 100_000,
    "keys are missing": '{"config": "faster-rcnn_a"}',
    "config": '{"config": ["a"], "processes": 8, "resumed_from": null, "settings": {}}',
    "settings": '{"config": "a", "processes": 8, "resumed_from": null, "settings": []}',
}


@pytest.mark.parametrize("record", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_record_of_a_start(work_dirs, record):
    start = work_dirs.train("a", {2: 40})
    (start / FILE_NAME).write_text(record, errors="surrogateescape")
    work_dirs.train("a", {4: 41}, resumed_from="iter_2.pth")
    assert f"{start / FILE_NAME} is damaged" in work_dirs.reason()


def test_settings_of_a_stranger_are_data(work_dirs):
    """Whatever JSON holds where settings are looked up."""
    for settings in ({}, {"train_dataloader": 5, "auto_scale_lr": [1], "model": {"a": {"": []}}}):
        start = work_dirs.train("a", {4: 41})
        record = dict(config="faster-rcnn_a", processes=8, resumed_from=None, settings=settings)
        (start / FILE_NAME).write_text(json.dumps(record))
    with pytest.raises(UserError, match="counts"):
        work_dirs.read()
    assert ["None images on each" in notice for notice in work_dirs.notices] == [True, True]


@pytest.mark.slow
def test_what_the_tools_leave(zygote, toy_data, tmp_path):
    """A training of tools/train.py with options that are free, and one with another."""
    short = "\ntrain_cfg.update(max_iters=4, val_begin=1, val_interval=2)\n"
    short += "default_hooks['checkpoint'].update(interval=2)\n"
    short += "auto_scale_lr = dict(base_batch_size=2)\n"
    config = write_config("segmentor", toy_data, tmp_path / "segmentor.py", short)
    for work_dir, option in (("w", "train_dataloader.num_workers=1"), ("v", "randomness.seed=1")):
        command = (TRAIN, config, "--work-dir", work_dir, "--cfg-options", option)
        other = ["optim_wrapper.optimizer.lr=0.5"] if work_dir == "v" else []
        run = zygote.run(*command, *other, cwd=tmp_path)
        assert run.status == 0, run.stderr
    notices: list[str] = []
    (found,) = find_runs(tmp_path, {"segmentor": config}, notices.append)
    (log,) = (tmp_path / "w").glob("*/vis_data/scalars.json")
    last = json.loads(log.read_text().splitlines()[-1])
    assert (found.step, last["step"]) == (4, 4)
    assert found.metrics["mIoU"] == last["mIoU"]
    assert len(notices) == 1 and "optim_wrapper.optimizer.lr is 0.5, not " in notices[0]


# ---------------------------------------------------------------- tables of them


def runs_of(config: str, *scores: float) -> list[Run]:
    return [
        Run(config, f"w/{number}", 4, {"mIoU": score, "coco/bbox_mAP": score / 100})
        for number, score in enumerate(scores)
    ]


def test_mean_and_spread():
    scores = [38.0, 39.0, 40.6]
    result = result_of("a", AP, runs_of("a", *scores) + runs_of("b", 10.0))
    assert result.mean == pytest.approx(sum(scores) / 3)
    assert result.spread == pytest.approx(math.sqrt(statistics.variance(scores)))
    assert result.runs == 3
    assert result_of("a", AP, runs_of("a", 38.0)).spread is None
    assert result_of("b", AP, runs_of("a", 38.0)) is None


ROWS = [
    Row("base", "M", "Nearest", "10.0M", "", ("37.5",)),
    Row("new", "M", "DySample", "+1.0K", "", ("38.6",)),
    Row("other", "N", "Nearest", "20.0M", "", ("39.4",)),
]
TABLE = Table("made_up", "A table", "A paper", (AP,), note="A note.")


def test_deltas_are_ours_over_ours_and_theirs_over_theirs():
    runs = runs_of("base", 36.0) + runs_of("new", 36.5, 37.5) + runs_of("other", 30.0)
    lines = document.lines_of(TABLE, ROWS, runs)
    assert [(line.row.config, line.result) for line in lines] == [
        (name, result) for name in ("base", "new", "other") for result in ("paper", "ours")
    ]
    cells = [line.cells[0] for line in lines]
    assert [cell.value for cell in cells] == ["37.5", "36.0", "38.6", "37.0", "39.4", "30.0"]
    # 38.6 - 37.5 and 37.0 - 36.0; the other model is its own baseline
    assert [cell.delta for cell in cells] == ["", "", "+1.1", "+1.0", "", ""]
    assert [cell.spread for cell in cells] == ["", "", "", "0.7", "", ""]
    assert [cell.runs for cell in cells] == [0, 1, 0, 2, 0, 1]


def test_there_are_no_numbers_of_ours_without_runs():
    lines = document.lines_of(TABLE, ROWS, runs_of("new", 36.5))
    (new,) = (line.cells[0] for line in lines if line.result == "ours")
    assert (new.value, new.delta) == ("36.5", "")
    for _, lines in document.sections([]):
        assert not any(cell.value for line in lines if line.result == "ours" for cell in line.cells)


def test_every_config_is_in_a_table():
    lines = [line for _, lines in document.sections([]) for line in lines]
    assert {line.row.config for line in lines} == model_configs().keys()


ERROR = Metric("error", "error", lower_is_better=True, decimals=4)


def test_a_smaller_error_is_a_negative_difference_below_an_arrow():
    table = Table("", "Errors", "", (MIOU, ERROR))
    rows = [
        Row("base", "M", "Nearest", values=("", "0.120")),
        Row("new", "M", "DySample", values=("", "")),
    ]
    runs = [
        Run(name, "w/1", 4, {"error": value}) for name, value in dict(base=0.1, new=0.08).items()
    ]
    lines = document.lines_of(table, rows, runs)
    assert [line.cells[1][:2] for line in lines] == [
        *[("0.120", ""), ("0.100", "")],  # as many digits as the paper prints
        ("0.0800", "-0.0200"),  # as the metric has, where it prints none
    ]


def test_headings_of_errors_have_an_arrow():
    text = document.markdown([], ROOT / "docs")
    heads = {}
    for section in text.split("\n## "):
        title, _, body = section.partition("\n")
        heads[title] = next(line for line in body.splitlines() if line.startswith("| model"))
    (depth,) = (head for title, head in heads.items() if "(DySample, Table 9)" in title)
    assert "| d1 | d2 | d3 | abs_rel ↓ | rmse ↓ | log10 ↓ | rmse_log ↓ | sq_rel ↓ |" in depth
    (matting,) = (head for title, head in heads.items() if "(SAPA, Table 5)" in title)
    assert "| SAD ↓ | MSE ↓ | Grad ↓ | Conn ↓ |" in matting
    assert not any("↓" in head for title, head in heads.items() if "COCO" in title)


def test_markdown_of_runs_beside_the_paper():
    config = "faster-rcnn_r50_fpn-p6_dysample_1x_coco"
    runs = runs_of(config, 38.0, 39.0) + runs_of(config.replace("dysample", "nearest"), 37.0)
    text = document.markdown(runs, ROOT / "docs")
    section = text.split("(DySample, Table 6)")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("| ")
    ]
    (at,) = (i for i, row in enumerate(rows) if row[1].startswith("[DySample]"))
    paper, ours = rows[at], rows[at + 1]
    assert paper[1] == f"[DySample](../configs/faster_rcnn/{config}.py)"
    assert paper[2:4] == ["paper", "38.6 (+1.1)"] and paper[-2:] == ["+32.7K", ""]
    assert ours == ["", "", "ours", "38.5 ± 0.7 (+1.5)", *[""] * 5, "", "2"]
    assert len({len(row) for row in rows}) == 1


def test_csv_has_the_same_numbers():
    config = "segformer_mit-b1_dysample_8xb2-160k_ade20k-512x512"
    rows = csv.DictReader(io.StringIO(document.comma_separated(runs_of(config, 40.0))))
    table_4 = {
        (row["result"], row["metric"]): (row["value"], row["delta"], row["runs"])
        for row in rows
        if row["config"] == config and row["table"] == "DySample, Table 4"
    }
    assert table_4 == {
        ("paper", "mIoU"): ("43.21", "+1.53", ""),
        ("paper", "bIoU"): ("29.12", "+1.32", ""),
        ("ours", "mIoU"): ("40.00", "", "1"),
    }


def test_kept_runs_come_back(tmp_path):
    runs = runs_of("segformer_x", 40.0, 38.5)
    write_runs(runs, tmp_path / "runs.csv")
    assert read_runs(tmp_path / "runs.csv") == runs
    again = runs[0]._replace(metrics={"mIoU": 50.0})
    assert merge(runs, [again]) == [again, runs[1]]


@pytest.mark.parametrize("text", ["config,run\na,b\n", "{}\n1,2\n", "{}\na,r,end,mIoU,1\n", "\0"])
def test_damaged_kept_runs(text, tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(text.format("config,run,step,metric,value"))
    with pytest.raises(UserError, match=r"runs\.csv is damaged: each line must have config, run"):
        read_runs(path)


# ---------------------------------------------------------------- the tool


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nowhere"], "work dir nowhere does not exist"),
        (["docs"], "docs holds no training of tools/train.py"),
        (["README.md"], "work dir README.md is a file"),
        (["--csv", "--record"], "--record: not allowed with argument --csv"),
    ],
)
def test_mistakes_get_a_sentence(args, says, zygote):
    result = zygote.run(TOOL, *args, cwd=ROOT)
    assert result.status == 2
    assert says in result.stderr and "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def write_run(work_dir: Path, name: str, processes: int, evaluations: dict[int, dict]) -> None:
    """What tools/train.py leaves of a training of one of our configs."""
    start = work_dir / "20260101_000000"
    (start / "vis_data").mkdir(parents=True)
    settings = plain(Config.fromfile(model_configs()[name], import_custom_modules=False))
    record = dict(config=name, processes=processes, resumed_from=None, settings=settings)
    (start / FILE_NAME).write_text(json.dumps(record))
    lines = [json.dumps(dict(step=step, **metrics)) for step, metrics in evaluations.items()]
    (start / "vis_data" / "scalars.json").write_text("\n".join(lines) + "\n")


def test_runs_of_depth_and_matting_are_in_their_tables_and_metafiles(tmp_path):
    """As the tool reads and writes them; the next test runs it."""
    depth = "depthformer_swin-t_dysample-plus_2xb8-38k_nyu-416x544"
    matting = "a2u-matting_r34_sapa-b_1xb16-180k_comp1k-512x512"
    write_run(
        tmp_path / depth,
        *(depth, 2),
        {1600: dict(d1=0.9, abs_rel=0.1), 38_400: dict(d1=0.8786, abs_rel=0.1151, silog=8.0)},
    )
    write_run(
        tmp_path / matting,
        *(matting, 1),
        {6000: dict(SAD=31.04, MSE=0.00781), 180_000: dict(SAD=32.0, MSE=0.0077)},
    )
    notices: list[str] = []
    runs = find_runs(tmp_path, model_configs(), notices.append)
    assert not notices
    ours = [line for line in document.comma_separated(runs).splitlines() if ",ours," in line]
    values = {(line.split(",")[0], *line.split(",ours,")[1].split(",")[:2]) for line in ours}
    assert values == {
        *(('"DySample', "d1", "0.879"), ('"DySample', "abs_rel", "0.115")),
        *(('"SAPA', "SAD", "31.04"), ('"SAPA', "MSE", "0.0078")),
        *(("the code of SAPA and FADE", "SAD", "31.04"),),
        *(("the code of SAPA and FADE", "MSE", "0.0078"),),
    }
    texts = {path.parent.name: text for path, text in metafiles(runs).items()}
    results = {
        directory: [
            model["Results"]
            for model in yaml.safe_load(texts[directory])["Models"]
            if "Results" in model
        ]
        for directory in ("depthformer", "a2u_matting")
    }
    expected = dict(
        depthformer=("Depth Estimation", "NYU Depth V2", dict(d1=0.879, abs_rel=0.115)),
        a2u_matting=("Matting", "Composition-1k", dict(SAD=31.04, MSE=0.0078)),
    )
    for directory, (task, dataset, metrics) in expected.items():
        assert results[directory] == [[dict(Task=task, Dataset=dataset, Metrics=metrics)]]


def test_as_a_user_calls_it(tmp_path, zygote):
    """In a project of a few configs, with a run of one of them of two evaluations."""
    project = tmp_path / "project"
    shutil.copytree(ROOT / "tools" / "model_zoo", project / "tools" / "model_zoo")
    shutil.copytree(ROOT / "configs", project / "configs")
    shutil.copy(TOOL, project / "tools")
    page = project / "docs" / "model_zoo.md"
    page.parent.mkdir()
    page.write_text(f"# By hand\n\n{document.MARKER}\nold\n")
    name = "retinanet_r50_fpn_dysample_1x_coco"
    write_run(
        tmp_path / "work_dirs" / name,
        *(name, 8),
        {step: {"coco/bbox_mAP": step / 100 + 0.25} for step in (11, 12)},
    )

    tool = project / "tools" / "results.py"
    shown = zygote.run(tool, "work_dirs", "--csv", cwd=tmp_path)
    assert (shown.status, shown.stderr) == (0, "")
    ours = [line for line in shown.stdout.splitlines() if ",ours," in line]
    assert [line.split(name)[1] for line in ours] == [",ours,AP,37.00,,,1"]
    assert page.read_text().endswith("old\n")

    recorded = zygote.run(tool, "work_dirs", "--record", cwd=tmp_path)
    assert recorded.status == 0, recorded.stderr
    assert recorded.stderr == "note: tools/model_zoo/runs.csv has 1 runs\n"
    text = page.read_text()
    assert text.startswith(f"# By hand\n\n{document.MARKER}\n\n## SegFormer-B1")
    assert "| ours | 37.00 |  | 1 |" in text and "\nold\n" not in text
    metafile = yaml.safe_load((project / "configs" / "retinanet" / "metafile.yml").read_text())
    measured = {model["Name"]: model.get("Results") for model in metafile["Models"]}
    own = measured.pop(name)
    assert own == [dict(Task="Object Detection", Dataset="COCO", Metrics={"box AP": 37.0})]
    assert set(measured.values()) == {None}

    # The work dirs are not needed any more, and what was written stays.
    shutil.rmtree(tmp_path / "work_dirs")
    assert zygote.run(tool, "--record", cwd=tmp_path).status == 0
    assert page.read_text() == text
    page.write_text("something else\n")
    refused = zygote.run(tool, "--record", cwd=tmp_path)
    assert refused.status == 2 and "has no line <!--" in refused.stderr
    assert page.read_text() == "something else\n"
