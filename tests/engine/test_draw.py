"""The files of drawings; what is drawn is tested with the visualizers and through tools/test.py."""

from __future__ import annotations

import resource
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import cv2
import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmdysample.engine.draw import SegDrawingHook
from mmdysample.engine.errors import sentence_of
from mmdysample.mmseg.depth import DepthLocalVisualizer
from mmdysample.mmseg.matting import MattingLocalVisualizer

VISUALIZERS = dict(depth=DepthLocalVisualizer, matting=MattingLocalVisualizer)


def draw(kind: str, paths: list[Path], out: Path) -> None:
    """Draws random depths or alphas of images."""
    samples = []
    for path in paths:
        height, width = cv2.imread(str(path)).shape[:2]
        data = torch.rand(1, height, width)
        sample = SegDataSample(metainfo=dict(img_path=str(path)))
        fields = dict(
            depth=dict(pred_depth_map=PixelData(data=data + 1)),
            matting=dict(pred_alpha=PixelData(data=(255 * data).byte())),
        )
        sample.set_data(fields[kind])
        samples.append(sample)
    VISUALIZERS[kind].get_instance(f"{kind}-{out}")  # which the hook takes
    hook = SegDrawingHook(str(out), draw=True, interval=1)
    hook.after_test_iter(SimpleNamespace(work_dir="unused", timestamp="now"), 0, None, samples)


def write_image(path: Path, value: int = 100, size: int = 24) -> Path:
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), np.full((size, size, 3), value, np.uint8))
    return path


@pytest.mark.parametrize("kind", VISUALIZERS)
def test_images_of_one_name(kind, tmp_path):
    values = {"a/x.png": 30, "b/x.png": 60, "b/x_2.png": 120, "c/x.png": 210}
    paths = [write_image(tmp_path / name, value) for name, value in values.items()]
    draw(kind, [*paths, paths[0]], tmp_path / "out")  # a sampler may give an image twice
    drawn = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert sorted(drawn) == ["x.png", "x_2.png", "x_2_2.png", "x_3.png"]
    names = ("x.png", "x_2.png", "x_2_2.png", "x_3.png")
    for name, value in zip(names, values.values(), strict=True):
        pixels = cv2.imread(str(drawn[name]))
        assert (pixels == value).all(axis=2).mean() > 0.1, name


@pytest.mark.parametrize("kind", VISUALIZERS)
def test_a_full_disk_leaves_no_part_of_a_drawing(kind, tmp_path):
    path = write_image(tmp_path / "a" / "x.png", size=160)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        with pytest.raises(OSError, match=r"x\.png") as caught:
            draw(kind, [path], tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sentence_of(caught.value) == f"no space left to write {tmp_path / 'out' / 'x.png'}"
    assert not list((tmp_path / "out").iterdir())
