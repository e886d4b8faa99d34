"""tools/analysis/sampling_points.py: where it says that DySample samples, and what it refuses."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")
pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import cv2
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmdysample import DySample
from mmdysample.engine.errors import run_tool
from mmdysample.ops import point_sample
from tests.utils import DYSAMPLE_VARIANTS, randomize
from tools.analysis import sampling_points as tool

CONFIGS = Path(__file__).parents[2] / "configs" / "shapes"
DETECTOR = CONFIGS / "faster-rcnn_r18_fpn_dysample_shapes.py"
SEGMENTOR = CONFIGS / "segformer_mit-b0_dysample_shapes.py"


def coordinates(height: int, width: int) -> torch.Tensor:
    """(1, 2, H, W): the column and the row of each pixel."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack((columns, rows)).double()[None]


def as_result(points: np.ndarray) -> torch.Tensor:
    """(g, H, W, i, j, xy) -> (1, g * xy, H * i, W * j), as an upsampled map of coordinates."""
    g, height, width, s = points.shape[:4]
    points = points.transpose(0, 5, 1, 3, 2, 4).reshape(1, 2 * g, height * s, width * s)
    return torch.from_numpy(points)


@pytest.mark.parametrize("scale_factor", [1, 2, 3])
@pytest.mark.parametrize("variant", DYSAMPLE_VARIANTS)
def test_points_are_what_sampling_a_map_of_coordinates_gives(variant, scale_factor):
    """Bilinear sampling of coordinates returns the position sampled at."""
    module = DySample(72, scale_factor, **DYSAMPLE_VARIANTS[variant]).double()
    randomize(module, std=0.3)
    x = torch.randn(1, 72, 5, 7, dtype=torch.float64)
    g = module.groups
    expected = point_sample(
        coordinates(5, 7).repeat(1, g, 1, 1), module.sampling_offset(x), scale_factor, g
    )
    points = tool.sampling_points(module, x)
    torch.testing.assert_close(as_result(points.end), expected, rtol=0, atol=1e-9)
    assert np.abs(points.move).max() > 0.05


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_points_start_where_interpolation_reads(mode):
    module = DySample(8, initial_position=mode)
    points = tool.sampling_points(module, torch.randn(1, 8, 4, 6))
    size = dict(scale_factor=2, mode=mode)
    read = F.interpolate(coordinates(4, 6), **size).repeat(1, module.groups, 1, 1)
    torch.testing.assert_close(as_result(points.start), read)


def points_that_move(at: tuple[int, int], height: int = 10, width: int = 12) -> tool.Points:
    start = np.zeros((2, height, width, 2, 2, 2))
    end = start + 0.2  # all over: does not count
    end[0] += 1
    end[1, at[1], at[0]] = 0.5
    return tool.Points(start, end)


def test_the_zoom_holds_what_moves_unlike_the_rest():
    for at in [(0, 0), (11, 9), (6, 2)]:
        column, row, columns, rows = tool.choose_window(points_that_move(at), 4, None, 8)
        assert (columns, rows) == (4, 4)
        assert column <= at[0] < column + 4 and row <= at[1] < row + 4
        assert 0 <= column <= 8 and 0 <= row <= 6


def test_the_zoom_is_around_the_pixel_asked_for():
    points = points_that_move((0, 0))
    assert tool.choose_window(points, 4, (48, 40), 8) == (4, 3, 4, 4)
    assert tool.choose_window(points, 4, (0, 79), 8) == (0, 6, 4, 4)
    assert tool.choose_window(points, 50, (0, 0), 8) == (0, 0, 12, 10)


def test_the_group_that_varies_most_is_drawn():
    assert tool.choose_group(points_that_move((3, 3)), None) == 1
    assert tool.choose_group(points_that_move((3, 3)), 0) == 0


def save_checkpoint(config: Path, path: Path) -> Path:
    """A checkpoint of random weights whose points move."""
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    for module in model.modules():
        if isinstance(module, DySample):
            randomize(module)
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("sampling_points")
    save_checkpoint(DETECTOR, directory / "detector.pth")
    save_checkpoint(SEGMENTOR, directory / "segmentor.pth")
    image = np.random.default_rng(0).integers(0, 256, (96, 130, 3), np.uint8)
    cv2.imwrite(str(directory / "image.png"), image)
    whole = cv2.imencode(".jpg", image)[1].tobytes()
    (directory / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    return directory


@pytest.fixture
def call(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["sampling_points.py", *map(str, arguments)])
        try:
            status = run_tool(tool.main)
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return call


@pytest.mark.parametrize(
    ("config", "checkpoint", "options"),
    [
        (DETECTOR, "detector.pth", ["--stage", "neck.upsample_modules.2"]),
        pytest.param(
            *(SEGMENTOR, "segmentor.pth", ["--at", "129", "95", "--cells", "5", "--group", "1"]),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_it_draws(call, files, tmp_path, config, checkpoint, options):
    out = tmp_path / "points.png"
    status, stdout, stderr = call(
        config, files / checkpoint, files / "image.png", "--out", out, "--device", "cpu", *options
    )
    assert status == 0, stderr
    assert stdout.splitlines()[-1] == str(out)
    figure = cv2.imread(str(out))
    assert min(figure.shape[:2]) > 500
    for color in tool.SUBPIXEL_COLORS:
        bgr = [int(color[i : i + 2], 16) for i in (5, 3, 1)]
        assert (figure == bgr).all(axis=-1).sum() > 100  # its points, and the legend's


def test_it_lists_stages_in_the_order_of_running(call, files):
    status, stdout, _ = call(DETECTOR, files / "detector.pth", files / "image.png", "--list")
    assert status == 0
    # 96 x 130 is resized to 118 x 160, padded to 128 x 160 and halved five times
    assert [line.split("  ") for line in stdout.splitlines()[-3:]] == [
        ["neck.upsample_modules.2", "4 x 5", "4 groups"],
        ["neck.upsample_modules.1", "8 x 10", "4 groups"],
        ["neck.upsample_modules.0", "16 x 20", "4 groups"],
    ]


NEAREST = CONFIGS / "faster-rcnn_r18_fpn_nearest_shapes.py"
REFUSED = {
    "neither --out nor --list": ([], "either --out FILE or --list"),
    "both": (["--out", "OUT.png", "--list"], "either --out FILE or --list"),
    "no such stage": (
        ["--out", "OUT.png", "--stage", "neck.x"],
        "--stage neck.x: the model has no such stage; it has neck.upsample_modules.2, ",
    ),
    "no such group": (["--out", "OUT.png", "--group", "4"], "--group 4: the stage has 4 groups"),
    "no cells": (["--out", "OUT.png", "--cells", "0"], "--cells must be 1 or more, got 0"),
    "outside": (["--out", "OUT.png", "--at", "500", "3"], "--at 500 3 is outside the image"),
    "format": (["--out", "OUT.doc"], "OUT.doc: the name must end in one of"),
    "directory": (["--out", "no/where.png"], "does not exist or is not writable"),
    "device": (["--out", "OUT.png", "--device", "gpu"], "--device gpu"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_argument_is_one_sentence(call, files, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    options, expected = REFUSED[case]
    status, _, stderr = call(DETECTOR, files / "detector.pth", files / "image.png", *options)
    assert_refused(status, stderr, expected)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("config", "checkpoint", "image", "expected"),
    [
        (DETECTOR, "detector.pth", "cut.jpg", "cut.jpg cannot be read: its end is missing"),
        (DETECTOR, "segmentor.pth", "image.png", "does not fit this model"),
        (CONFIGS / "none.py", "detector.pth", "image.png", "none.py does not exist"),
    ],
)
def test_a_wrong_file_is_one_sentence(call, files, tmp_path, config, checkpoint, image, expected):
    out = tmp_path / "points.png"
    status, _, stderr = call(config, files / checkpoint, files / image, "--out", out)
    assert_refused(status, stderr, expected)
    assert not out.exists()


def test_an_image_is_not_drawn_over(call, files, tmp_path):
    """Nor is anything put among the data."""
    images = tmp_path / "data" / "val2017"
    images.mkdir(parents=True)
    users = tmp_path / "mine.png"
    users.write_bytes((files / "image.png").read_bytes())
    os.symlink("nowhere", tmp_path / "link.png")
    before = sorted(tmp_path.rglob("*"))
    inputs = (DETECTOR, files / "detector.pth", files / "image.png", "--device", "cpu")
    root = ("--cfg-options", f"test_dataloader.dataset.data_root={tmp_path / 'data'}/")
    for out, expected in [
        (users, "exists already"),
        (tmp_path / "link.png", "exists already"),
        (images / "new.png", "holds data of the config"),
    ]:
        status, _, stderr = call(*inputs, "--out", out, *root)
        assert_refused(status, stderr, f"--out {out}")
        assert expected in stderr
    assert sorted(tmp_path.rglob("*")) == before
    assert users.read_bytes() == (files / "image.png").read_bytes()


def test_a_model_without_dysample_is_refused(call, files, tmp_path):
    checkpoint = save_checkpoint(NEAREST, tmp_path / "nearest.pth")
    out = tmp_path / "points.png"
    status, _, stderr = call(NEAREST, checkpoint, files / "image.png", "--out", out)
    assert_refused(status, stderr, "has no DySample upsampler")
    assert not out.exists()


def assert_refused(status: int, stderr: str, expected: str) -> None:
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert status == 2
    assert len(errors) == 1 and expected in errors[0]
    assert "Traceback" not in stderr
