"""tools/analysis/feature_maps.py: what it draws of a stage, and what it refuses."""

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
import matplotlib.pyplot as plt
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from sheets.stages import Run, Stage
from sheets.zoom import WHOLE, Window

from mmdysample import FADE, SAPA, DySample, Nearest, Upsampler, build_upsampler
from mmdysample.engine.errors import run_tool
from mmdysample.errors import UserError
from mmdysample.ops import reassemble
from tests.utils import randomize
from tools.analysis import feature_maps as tool

CONFIGS = Path(__file__).parents[2] / "configs" / "shapes"
DETECTOR = CONFIGS / "faster-rcnn_r18_fpn_dysample_shapes.py"
SEGMENTOR = CONFIGS / "upernet_r18_dysample_shapes.py"
GUIDED = """
_base_ = "{}"
model = dict(decode_head=dict(upsample_cfg=dict(_delete_=True, type="FADE")))
"""
SETTINGS = {"IndexNet": [dict(), dict(variant="m2o")], "FADE": [dict(), dict(gating=False)]}


def make_stage(module: Upsampler, guide: bool = True) -> tuple[Run, Stage]:
    """Maps of 6 x 8 cells of which 5 x 7 are of an image of 20 x 28 pixels."""
    module = randomize(module.eval())
    x = torch.randn(1, module.in_channels, 6, 8)
    y = torch.randn(1, module.guide_channels, 12, 16) if guide else None
    with torch.no_grad():
        stage = Stage("stage", module, x, y, module(x, y))
    image = np.random.default_rng(0).integers(0, 256, (20, 28, 3), np.uint8)
    return Run(image, (24, 32), [stage]), stage


def stretched(values: torch.Tensor) -> np.ndarray:
    """(3, h, w): loops over channels."""
    channels = [(v - v.min()) / (v.max() - v.min()) for v in values.double()]
    return torch.stack(channels, dim=2).numpy()


def test_each_column_shows_its_map_without_padding():
    run, stage = make_stage(SAPA(32))
    row = tool.make_row("SAPA", run, stage, [2, 0, 5])
    image, guide, x, kernel, out, bilinear = row.panels
    assert (image.colors == run.image / 255).all() and image.stride == 1
    channels = [2, 0, 5]
    assert np.allclose(guide.colors, stretched(stage.guide[0, channels, :10, :14]))
    assert np.allclose(x.colors, stretched(stage.x[0, channels, :5, :7]))
    assert np.allclose(out.colors, stretched(stage.out[0, channels, :10, :14]))
    enlarged = F.interpolate(stage.x, size=(12, 16), mode="bilinear")[0, channels, :10, :14]
    assert np.allclose(bilinear.colors, stretched(enlarged), atol=1e-6)
    assert [p.stride for p in row.panels] == [1, 2, 4, 2, 2, 2]
    assert [p.note for p in (guide, x, out)] == ["32 x 12 x 16", "32 x 6 x 8", "32 x 12 x 16"]

    weights = stage.module.kernel(stage.x, stage.guide)[0].detach()
    # The window of SAPA is 5 x 5, its first weight is that of two rows and two columns before.
    top_left = weights[0, :10, :14]
    first, last = top_left.double().quantile(torch.tensor([0.01, 0.99]).double())
    expected = ((top_left - first) / (last - first)).clamp(0, 1)
    assert np.allclose(kernel.colors, expected, atol=1e-6)
    low, high = top_left.min(), top_left.max()
    assert low < first and high > last
    assert kernel.note == f"kernel, top left of 5x5: {low:.2g} to {high:.2g}"


def test_the_first_weight_is_that_of_the_top_left_neighbor():
    """A map with a single pixel that is not zero comes out two rows and columns below."""
    _, stage = make_stage(SAPA(32))
    x = torch.zeros(1, 32, 6, 8)
    x[0, :, 1, 2] = 1
    kernel = tool.maps_of(stage)["kernel"]
    out = reassemble(x, kernel, 5)
    assert torch.allclose(out[0, 0, 6:8, 8:10], kernel[0, 0, 6:8, 8:10])


@pytest.mark.parametrize(
    ("name", "settings", "note", "stride"),
    [
        ("CARAFE", {}, "kernel, top left of 5x5: ", 2),
        ("CARAFE", dict(up_group=2, up_kernel=3), "kernel, top left of 3x3: ", 2),
        ("A2U", {}, "kernel, top left of 3x3: ", 2),
        ("IndexNet", {}, "index: ", 2),
        ("IndexNet", dict(variant="m2o"), "index 0 of 32: ", 2),
        ("FADE", {}, "gate: ", 4),
        ("FADE", dict(gating=False), "kernel, top left of 5x5: ", 2),
        ("DySample", {}, "offset less its mean, group ", 2),
    ],
)
def test_the_computed_map_of_each_upsampler(name, settings, note, stride):
    run, stage = make_stage(build_upsampler(dict(type=name, **settings), 32, 2))
    panel = tool.make_row("", run, stage, None).panels[3]
    assert panel.note.startswith(note)
    assert panel.stride == stride
    assert panel.colors.shape[:2] == (20 / stride, 28 / stride)
    assert panel.colors.min() >= 0 and panel.colors.max() == 1


def test_a_gate_is_drawn_before_a_kernel_unless_another_map_is_wanted():
    run, stage = make_stage(FADE(32))
    assert tool.make_row("", run, stage, None, "kernel").panels[3].note.startswith("kernel")
    assert tool.make_row("", run, stage, None, "index").panels[3].note.startswith("gate")


def test_offsets_are_drawn_less_the_mean_of_their_sub_pixel():
    run, stage = make_stage(DySample(8, groups=2))
    with torch.no_grad():
        stage.module.offset.bias += 3  # all over: does not count
        stage.module.offset.weight.view(2, 2, 4, 8)[:, 0] *= 0.1
    offset = stage.module.sampling_offset(stage.x)[0].detach().view(2, 2, 2, 2, 6, 8)
    moves = offset[:, 1, :, :, :5, :7]  # the second group varies more
    moves = moves - moves.mean(dim=(3, 4), keepdim=True)
    lengths = moves.square().sum(dim=0).sqrt()
    length = lengths.double().quantile(0.99).item()
    panel = tool.make_row("", run, stage, None).panels[3]
    assert panel.note == f"offset less its mean, group 1: up to {lengths.max():.2g}"
    assert length < lengths.max()
    assert panel.longest == pytest.approx(length, rel=1e-5)
    strength = 1 - panel.colors.min(axis=2)
    expected = (lengths / length).clamp(max=1).permute(2, 0, 3, 1).reshape(10, 14)
    assert np.allclose(strength, expected, atol=1e-5)


def test_what_is_not_there_is_said():
    run, stage = make_stage(Nearest(8), guide=False)
    panels = tool.make_row("", run, stage, None).panels
    assert panels[1] == "none is given\nto the upsampler"
    assert panels[3] == "none is\ncomputed"


def test_maps_of_one_channel_are_gray_and_channels_that_are_missing_are_named():
    run, stage = make_stage(Nearest(1))
    x = tool.make_row("", run, stage, None).panels[2]
    assert (x.colors == x.colors[..., :1]).all()
    with pytest.raises(UserError, match=r"--channels 0 1 0: .* only the channels 0 to 0"):
        tool.make_row("", run, stage, [0, 1, 0])


def test_the_zoom_holds_the_strongest_edge():
    run, stage = make_stage(Nearest(2))
    values = torch.zeros(1, 2, 6, 8)
    values[0, :, 3, 5] = 1
    values[0, :, :, 0] = 0.2
    run = run._replace(image=np.zeros((24, 32, 3), np.uint8))
    row = tool.make_row("", run, stage._replace(x=values), None)
    window = tool.choose_window([row], 4, None)
    # The difference is counted at the pixel above or left of an edge.
    assert window.left < 5 / 8 < window.left + 0.25 and window.top < 3 / 6 < window.top + 0.25
    assert tool.choose_window([row], 4, (0, 1)) == Window(0, 0.75, 0.25)


@pytest.mark.parametrize("zoom", [True, False])
def test_a_sheet_has_equal_cells_and_no_empty_column(zoom):
    guided = make_stage(SAPA(32))
    plain = make_stage(Nearest(32), guide=False)
    rows = [tool.make_row("A", *guided, None), tool.make_row("B", *plain, None)]
    window = Window(0.25, 0.5, 0.25) if zoom else None
    figure = tool.draw(rows, window)
    figure.canvas.draw()
    cells = figure.axes
    assert len(cells) == 6 * (4 if zoom else 2)
    assert tuple(axes.get_title() for axes in cells[:6]) == tool.COLUMNS
    sizes = np.array([axes.get_window_extent().size for axes in cells])
    assert np.ptp(sizes, axis=0).max() < 1.5  # pixels
    boxes = [axes.get_tightbbox() for axes in cells]
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])
    assert [axes.get_ylabel() for axes in cells if axes.get_ylabel()] == (
        ["A", "zoom x4", "B", "zoom x4"] if zoom else ["A", "B"]
    )
    for axes in cells:
        assert axes.get_xlim() in ((-0.5, 27.5), (6.5, 13.5))
    plt.close(figure)
    figure = tool.draw(rows[1:], None)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [tool.COLUMNS[n] for n in (0, 2, 4, 5)]
    assert WHOLE.side == 1
    plt.close(figure)


def test_labels_tell_models_of_one_upsampler_apart():
    stage = [make_stage(DySample(8))[1], make_stage(DySample(8))[1], make_stage(Nearest(8))[1]]
    configs = ["a/x_r18_dysample_s.py", "x_r18_dysample-plus_s.py", "b/x_r18_nearest_s.py"]
    assert tool.labels(stage[1:], configs[1:]) == ["DySample", "Nearest"]
    assert tool.labels(stage, configs) == ["dysample", "dysample-plus", "nearest"]
    assert tool.labels(stage[:2], ["x_a.py", "x.py"]) == ["DySample", "DySample"]


def save_checkpoint(config: Path, path: Path) -> Path:
    """A checkpoint of random weights."""
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("feature_maps")
    (directory / "fade.py").write_text(GUIDED.format(SEGMENTOR))
    save_checkpoint(SEGMENTOR, directory / "dysample.pth")
    save_checkpoint(directory / "fade.py", directory / "fade.pth")
    save_checkpoint(DETECTOR, directory / "detector.pth")
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    cv2.imwrite(str(directory / "image.png"), image)
    whole = cv2.imencode(".jpg", image)[1].tobytes()
    (directory / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    return directory


@pytest.fixture
def call(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["feature_maps.py", *map(str, arguments)])
        try:
            status = run_tool(tool.main)
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def models(files) -> tuple[Path, ...]:
    return SEGMENTOR, files / "dysample.pth", files / "fade.py", files / "fade.pth"


@pytest.mark.slow
def test_it_draws_models_of_different_upsamplers(call, files, models, tmp_path):
    out = tmp_path / "sheet.png"
    options = ["--image", files / "image.png", "--out", out, "--device", "cpu"]
    stages = ["--stage", "decode_head.upsample_modules.1"]
    options += [*stages, "--stage", "decode_head.upsample_modules.0", "--at", "3", "40"]
    status, stdout, stderr = call(*models, *options, "--map", "kernel", "--names", "A", "B")
    assert status == 0, stderr
    assert stdout.splitlines()[-1] == str(out)
    drawn = cv2.imread(str(out))
    assert drawn.shape[0] > 800 and drawn.shape[1] > 1200


@pytest.mark.slow
def test_it_draws_a_detector(call, files, tmp_path):
    out = tmp_path / "sheet.pdf"
    image = ["--image", files / "image.png", "--zoom", "0", "--channels", "5", "5", "63"]
    status, _, stderr = call(DETECTOR, files / "detector.pth", *image, "--out", out)
    assert status == 0, stderr
    assert out.read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_it_lists_stages(call, files, models):
    status, stdout, _ = call(*models, "--image", files / "image.png", "--list")
    assert status == 0
    # 48 x 64 is resized to 120 x 160; the pyramid's coarsest level is of a stride of 32
    lines = stdout.splitlines()[-8:]
    assert lines[0] == str(models[0]) and lines[4] == str(models[2])
    name = "  decode_head.upsample_modules"
    assert lines[2:4] == [
        f"{name}.1  DySample  64x8x10 to 64x15x20  guide 64x15x20  offset",
        f"{name}.0  DySample  64x15x20 to 64x30x40  guide 64x30x40  offset",
    ]
    assert lines[7].endswith("  FADE  64x15x20 to 64x30x40  guide 64x30x40  kernel, gate")


REFUSED = {
    "neither --out nor --list": ([], "either --out FILE or --list"),
    "both": (["--out", "OUT.png", "--list"], "either --out FILE or --list"),
    "half a pair": (["config.py", "--out", "OUT.png"], "pairs of CONFIG CHECKPOINT, got 3 arg"),
    "names": (["--out", "OUT.png", "--names", "A", "B"], "--names gives 2 labels, there are 1"),
    "no such stage": (
        ["--out", "OUT.png", "--stage", "neck.x"],
        "has no such stage; it has decode_head.upsample_modules.2, ",
    ),
    "no such map": (["--out", "OUT.png", "--map", "gate"], "computes such a map, but offset"),
    "unknown map": (["--out", "OUT.png", "--map", "grid"], "invalid choice: 'grid'"),
    "channel": (["--out", "OUT.png", "--channels", "0", "1", "64"], "only the channels 0 to 63"),
    "no channel": (["--out", "OUT.png", "--channels", "-1", "1", "2"], "--channels count from 0"),
    "zoom": (["--out", "OUT.png", "--zoom", "0.5"], "--zoom must be 0, or above 1"),
    "endless": (["--out", "OUT.png", "--zoom", "nan"], "--zoom must be 0, or above 1"),
    "outside": (["--out", "OUT.png", "--at", "500", "3"], "--at 500 3 is outside the image"),
    "format": (["--out", "OUT.doc"], "OUT.doc: the name must end in one of"),
    "directory": (["--out", "no/where.png"], "does not exist or is not writable"),
    "device": (["--out", "OUT.png", "--device", "gpu"], "--device gpu"),
    "trimap": (
        ["--out", "OUT.png", "--trimap", "t.png"],
        "the trimap t.png is for a matting model",
    ),
    "option": (
        ["--out", "OUT.png", "--cfg-options", "model.decode_head.upsample_cf.x=1"],
        "upsample_cf",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_argument_is_one_sentence(call, files, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    options, expected = REFUSED[case]
    image = ["--image", files / "image.png"]
    status, _, stderr = call(SEGMENTOR, files / "dysample.pth", *options, *image)
    assert_refused(status, stderr, expected)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("config", "checkpoint", "image", "expected"),
    [
        (SEGMENTOR, "dysample.pth", "cut.jpg", "cut.jpg cannot be read: its end is missing"),
        (SEGMENTOR, "dysample.pth", "none.jpg", "none.jpg cannot be read: no such file"),
        (SEGMENTOR, "fade.pth", "image.png", "does not fit this model"),
        (SEGMENTOR, "image.png", "image.png", "image.png"),
    ],
)
def test_a_wrong_file_is_one_sentence(call, files, tmp_path, config, checkpoint, image, expected):
    out = tmp_path / "sheet.png"
    image = ["--image", files / image]
    status, _, stderr = call(config, files / checkpoint, *image, "--out", out)
    assert_refused(status, stderr, expected)
    assert not out.exists()


def test_the_configs_of_all_models_are_read_first(call, files, tmp_path):
    models = (SEGMENTOR, "no checkpoint", CONFIGS / "none.py", "no checkpoint")
    out = tmp_path / "sheet.png"
    status, _, stderr = call(*models, "--image", files / "image.png", "--out", out)
    assert_refused(status, stderr, "none.py does not exist")


@pytest.mark.parametrize("name", ["mine.png", "link.png", ""], ids=["file", "link", "directory"])
def test_nothing_is_drawn_over(call, files, tmp_path, name):
    users = tmp_path / "mine.png"
    users.write_bytes((files / "image.png").read_bytes())
    os.symlink("nowhere", tmp_path / "link.png")
    before = sorted(tmp_path.iterdir())
    model = SEGMENTOR, files / "dysample.pth"
    status, _, stderr = call(*model, "--image", files / "image.png", "--out", tmp_path / name)
    assert_refused(status, stderr, f"--out {tmp_path / name}")
    assert sorted(tmp_path.iterdir()) == before
    assert users.read_bytes() == (files / "image.png").read_bytes()


def test_a_model_without_upsamplers_is_refused(call, files, tmp_path):
    config = tmp_path / "plain.py"
    config.write_text(
        f'_base_ = "{SEGMENTOR}"\n'
        "head = dict(_delete_=True, type='FCNHead', in_channels=256, channels=8, num_classes=12)\n"
        "model = dict(decode_head=head, auxiliary_head=None)\n"
    )
    checkpoint = save_checkpoint(config, tmp_path / "plain.pth")
    out = tmp_path / "sheet.png"
    status, _, stderr = call(config, checkpoint, "--image", files / "image.png", "--out", out)
    assert_refused(status, stderr, f"the model of {config} has no upsampler of mmdysample")
    assert not out.exists()


def assert_refused(status: int, stderr: str, expected: str) -> None:
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert status == 2
    assert len(errors) == 1 and expected in errors[0]
    assert "Traceback" not in stderr
