"""Predictions of a whole test in one file that is there whole or not at all."""

from __future__ import annotations

from mmdet.evaluation import DumpDetResults
from mmdet.registry import METRICS

from mmdysample.atomic import replacing


@METRICS.register_module()
class DumpWholeDetResults(DumpDetResults):
    """mmdet's DumpDetResults, which would leave half a pickle when it is interrupted."""

    def compute_metrics(self, results: list) -> dict:
        # The suffix is one that mmdet accepts.
        with replacing(self.out_file_path, suffix=".tmp.pkl") as draft:
            self.out_file_path = str(draft)
            return super().compute_metrics(results)
