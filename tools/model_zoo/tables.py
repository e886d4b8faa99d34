"""The papers' tables: data in published/, and here what the numbers in them are."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

PUBLISHED = Path(__file__).parent / "published"
DESCRIBING = ("config", "model", "upsampler", "params", "gflops")


class Metric(NamedTuple):
    """A column; ``key`` is its name in our logs, ``factor`` makes percent of what is logged."""

    heading: str
    key: str
    factor: float = 1.0


class Row(NamedTuple):
    """What a paper prints of a model, each number as printed; empty where it prints none."""

    config: str
    model: str
    upsampler: str
    params: str = ""
    gflops: str = ""
    values: tuple[str, ...] = ()


class Table(NamedTuple):
    """A table of a paper.

    Args:
        name: of its file in published/.
        title: what was measured.
        source: paper and number of the table.
        metrics: columns of values.
        has_baseline: whether the first row of each model is what the others are compared with.
        note: what a reader has to know, a sentence or more.
    """

    name: str
    title: str
    source: str
    metrics: tuple[Metric, ...]
    has_baseline: bool = True
    note: str = ""

    def rows(self) -> list[Row]:
        with (PUBLISHED / f"{self.name}.csv").open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            names = (*DESCRIBING, *(metric.heading for metric in self.metrics))
            if tuple(reader.fieldnames or ()) != names:
                raise ValueError(f"columns of {file.name} must be {', '.join(names)}")
            return [
                Row(
                    *(row[name] for name in DESCRIBING),
                    values=tuple(row[metric.heading] for metric in self.metrics),
                )
                for row in reader
            ]


def coco(kind: str) -> tuple[Metric, ...]:
    """Average precisions as CocoMetric logs them, from 0 to 1."""
    parts = {"AP": "", "AP50": "_50", "AP75": "_75", "APS": "_s", "APM": "_m", "APL": "_l"}
    return tuple(Metric(heading, f"coco/{kind}_mAP{end}", 100.0) for heading, end in parts.items())


PANOPTIC = tuple(
    Metric(heading, f"coco_panoptic/{key}")
    for heading, key in dict(PQ="PQ", PQth="PQ_th", PQst="PQ_st", SQ="SQ", RQ="RQ").items()
)
MIOU = Metric("mIoU", "mIoU")
BIOU = Metric("bIoU", "bIoU")
AP = coco("bbox")[0]
MASK_AP = coco("segm")[0]._replace(heading="mask AP")
SEGFORMER_NOTE = (
    "The authors report the best of SegFormer's evaluations, which are 16,000 iterations apart."
)
MASK_RCNN_NOTE = (
    "The paper's text counts three upsampling stages, the caption of its table the parameters of "
    "four; the configs have the three of the usual FPN."
)
ABLATION_NOTE = (
    "The table names no models: its rows with four groups have the results of Tables 4 and 6, so "
    "the models are theirs. Rows that are settings of an existing config have none of their own."
)

TABLES = (
    Table(
        "dysample_table4",
        "SegFormer-B1 on ADE20K",
        "DySample, Table 4",
        (MIOU, BIOU),
        note=SEGFORMER_NOTE + " The paper does not say how it averages bIoU.",
    ),
    Table("dysample_table5", "MaskFormer on ADE20K", "DySample, Table 5", (MIOU,)),
    Table(
        "dysample_table6",
        "Faster R-CNN on COCO, 1x",
        "DySample, Table 6",
        coco("bbox"),
        note="These models have four upsampling stages (`fpn-p6`).",
    ),
    Table(
        "dysample_table7_bbox",
        "Mask R-CNN on COCO, 1x: boxes",
        "DySample, Table 7",
        coco("bbox"),
        note=MASK_RCNN_NOTE + " The README of the authors' code prints other numbers for R50 with "
        "DySample+: AP50 60.6, APS 23.5, APM 43.1, APL 50.8.",
    ),
    Table(
        "dysample_table7_segm",
        "Mask R-CNN on COCO, 1x: masks",
        "DySample, Table 7",
        coco("segm"),
        note=MASK_RCNN_NOTE + " The README of the authors' code prints other numbers for R50 with "
        "DySample+: AP50 57.4, AP75 38.1, APS 17.6, APM 38.5, APL 51.5.",
    ),
    Table("dysample_table8", "Panoptic FPN on COCO, 1x", "DySample, Table 8", PANOPTIC),
    Table(
        "sapa_table2",
        "Semantic segmentation on ADE20K",
        "SAPA, Table 2",
        (MIOU,),
        note=SEGFORMER_NOTE + " For MaskFormer and Mask2Former neither paper says which evaluation "
        "it reports.",
    ),
    Table(
        "sapa_table3",
        "Faster R-CNN on COCO, 1x",
        "SAPA, Table 3",
        coco("bbox"),
        note="The usual FPN with three upsampling stages.",
    ),
    Table(
        "dysample_table1",
        "Where the points start",
        "DySample, Table 1",
        (MIOU, AP),
        has_baseline=False,
        note="One group, offsets without a scope factor. The models are those of Table 3.",
    ),
    Table(
        "dysample_table2",
        "Static scope factor",
        "DySample, Table 2",
        (MIOU, AP),
        has_baseline=False,
        note="One group. The models are those of Table 3.",
    ),
    Table(
        "dysample_table3",
        "Groups and dynamic scope factor",
        "DySample, Table 3",
        (MIOU, AP),
        has_baseline=False,
        note=ABLATION_NOTE,
    ),
    Table(
        "dysample_figure5",
        "Number of groups",
        "DySample, Fig. 5",
        (MIOU, AP),
        has_baseline=False,
        note="The figure prints no numbers; those shown are in the paper's text. The models are "
        "those of Table 3.",
    ),
    Table(
        "sapa_table6",
        "Similarity, embedding, normalization and kernel size of SAPA",
        "SAPA, Table 6",
        (MIOU,),
        has_baseline=False,
        note="SAPA-B with kernel size 5, embedding dimension 32 and exp, but for what a row names.",
    ),
)

METRICS = tuple(dict.fromkeys(metric for table in TABLES for metric in table.metrics))
# Metrics of the configs in a directory that no table has.
FURTHER = {
    "faster_rcnn": (AP,),
    "mask2former": (MIOU, BIOU),
    "mask_rcnn": (AP, MASK_AP),
    "maskformer": (MIOU, BIOU),
    "panoptic_fpn": (PANOPTIC[0],),
    "retinanet": (AP,),
    "segformer": (MIOU, BIOU),
    "shapes": (AP, MASK_AP, PANOPTIC[0], MIOU),
    "upernet": (MIOU, BIOU),
}
