"""How training samples of matting are made: against loops, closed forms and Shapes' own images."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import colorsys

import cv2
import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile

from mmdysample.errors import InvalidValue
from mmdysample.mmseg.matting import (
    CompositeForeground,
    CropAroundUnknown,
    GenerateTrimap,
    JitterForeground,
    LoadAlphaAnnotations,
    LoadBackground,
    LoadForeground,
    LoadTrimap,
    MergeForegrounds,
    PackMattingInputs,
    RandomForegroundAffine,
    ResizeForeground,
)
from mmdysample.mmseg.matting.compositing import composite, cover, over
from mmdysample.mmseg.matting.loading import read_color, read_gray
from tests.mmseg.matting.toy import HEIGHT, WIDTH, draw_data, write
from tests.test_images import png_header


def maps(seed: int = 0, shape: tuple[int, int] = (20, 30)) -> dict:
    """A sample of random colors, with an opaque disk whose edge is soft."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    distance = np.hypot(rows - shape[0] / 2, columns - shape[1] / 2)
    alpha = (255 * np.clip((shape[0] / 3 - distance) / 3, 0, 1)).round().astype(np.uint8)
    colors = (random.integers(0, 256, (*shape, 3), np.uint8) for _ in range(2))
    trimap = np.where((alpha > 0) & (alpha < 255), 128, alpha)
    return dict(zip(("fg", "bg"), colors, strict=True), alpha=alpha, trimap=trimap)


def files_of(root: Path, number: int) -> dict:
    """Paths of a toy foreground and its alpha."""
    names = dict(fg_path="fg", alpha_path="alpha")
    return {key: str(root / f"matting/{name}/{number:03d}.png") for key, name in names.items()}


def test_composite_by_pixels():
    sample = maps()
    image = CompositeForeground()(dict(sample))["img"]
    assert image.dtype == np.uint8
    for y, x, c in itertools.product(range(20), range(30), range(3)):
        alpha = int(sample["alpha"][y, x])
        exact = (
            alpha * int(sample["fg"][y, x, c]) + (255 - alpha) * int(sample["bg"][y, x, c])
        ) / 255
        assert abs(int(image[y, x, c]) - exact) <= 0.5


@pytest.mark.slow
def test_composite_makes_the_images_of_shapes(tmp_path):
    """tools/make_shapes.py draws image = alpha fg + (1 - alpha) bg by its own code, but in JPEG."""
    from tests.learning import draw_shapes

    draw_shapes(tmp_path / "shapes")
    root = tmp_path / "shapes"
    names = sorted(path.stem for path in (root / "matting/validation/alpha").iterdir())
    assert names
    for name in names:
        paths = {kind: root / f"matting/validation/{kind}/{name}.jpg" for kind in ("fg", "bg")}
        front, back = (cv2.imread(str(paths[kind])) for kind in ("fg", "bg"))
        alpha = cv2.imread(str(root / f"matting/validation/alpha/{name}.png"), 0)
        image = cv2.imread(str(root / f"images/validation/{name}.jpg"))
        error = composite(front, back, alpha).astype(float) - image
        assert np.abs(error).mean() < 2  # of JPEG; with fg and bg exchanged it is above 10


def test_over_is_compositing_twice():
    """The merged foreground in front of a background is the second in front of the first."""
    first, second = maps(0), maps(1)
    second["alpha"] = np.roll(second["alpha"], 9, axis=1) // 2
    color, alpha = over(second["fg"], second["alpha"], first["fg"], first["alpha"])
    one = first["alpha"][..., None] / 255
    two = second["alpha"][..., None] / 255
    assert np.abs(alpha[..., None] / 255 - (1 - (1 - one) * (1 - two))).max() <= 0.5 / 255 + 1e-6
    twice = two * second["fg"] + (1 - two) * (one * first["fg"] + (1 - one) * first["bg"])
    # Color and alpha are each rounded.
    assert np.abs(composite(color, first["bg"], alpha) - twice).max() <= 1.6


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((10, 10), (10, 40)), ((40, 30), (40, 30)), ((7, 33), (20, 30)), ((1, 1), (13, 5))],
    ids=str,
)
def test_cover(size, wanted):
    image = maps(0, size)["fg"]
    covering = cover(image, *wanted)
    assert covering.shape[0] >= wanted[0]
    assert covering.shape[1] >= wanted[1]
    factor = max(wanted[0] / size[0], wanted[1] / size[1])
    if factor <= 1:
        assert covering is image
    else:  # sides in proportion, up to a pixel, and not larger than needed
        assert np.abs(np.array(covering.shape[:2]) - factor * np.array(size)).max() < 1 + 1e-6


def test_unmerged_foregrounds():
    """The second is not even read."""
    sample = dict(maps(), other=dict(fg_path="nowhere.png", alpha_path="nowhere.png"))
    assert MergeForegrounds(prob=0)(dict(sample)) == sample


def test_merged_foregrounds(tmp_path):
    draw_data(tmp_path, 2)
    paths = [files_of(tmp_path, number) for number in (0, 1)]
    alone = LoadForeground()(dict(paths[0], other=paths[1]))
    merged = MergeForegrounds(prob=1)(dict(alone))
    second = LoadForeground()(dict(paths[1]))
    color, alpha = over(second["fg"], second["alpha"], alone["fg"], alone["alpha"])
    assert np.array_equal(merged["alpha"], alpha)
    assert np.array_equal(merged["fg"], color)
    assert merged["alpha"].sum() > alone["alpha"].sum()


def test_an_opaque_second_foreground_is_left_out(tmp_path):
    draw_data(tmp_path, 2)
    write(tmp_path / "matting/alpha/001.png", np.full((HEIGHT, WIDTH), 255))
    paths = [files_of(tmp_path, number) for number in (0, 1)]
    sample = LoadForeground()(dict(paths[0], other=paths[1]))
    merged = MergeForegrounds(prob=1)(dict(sample))
    assert np.array_equal(merged["alpha"], sample["alpha"])


def test_resized_foreground():
    sample = ResizeForeground(size=64, prob=1)(maps())
    assert sample["fg"].shape == (64, 64, 3)
    assert sample["alpha"].shape == (64, 64)
    assert set(np.unique(sample["alpha"])) == set(np.unique(maps()["alpha"]))  # nearest
    assert ResizeForeground(size=64, prob=0)(maps())["fg"].shape == (20, 30, 3)


def test_affine_without_change():
    still = RandomForegroundAffine(0, 0, (1, 1), 0, 0)
    sample = still(maps())
    for key in ("fg", "alpha"):
        assert np.array_equal(sample[key], maps()[key])


def test_affine_flip():
    sample = RandomForegroundAffine(0, 0, (1, 1), 0, 1)(maps())
    for key in ("fg", "alpha"):
        assert np.array_equal(sample[key], maps()[key][::-1, ::-1])


def test_each_axis_is_flipped_on_its_own():
    """All four in equal parts; of 400 draws, within four standard deviations (8.7) of 100."""
    np.random.seed(0)
    original = maps()["alpha"]
    original[:5, :8] = 200  # in one corner
    corners = [0, 0, 0, 0]
    for _ in range(400):
        alpha = original.copy()
        flipped = RandomForegroundAffine(0, 0, (1, 1), 0)(dict(maps(), alpha=alpha))["alpha"]
        images = (original, original[:, ::-1], original[::-1], original[::-1, ::-1])
        (number,) = (n for n, image in enumerate(images) if np.array_equal(flipped, image))
        corners[number] += 1
    assert all(abs(count - 100) < 35 for count in corners), corners


def test_affine_scale():
    """Twice as large about the center: a quarter of the image fills it."""
    size = (40, 60)
    alpha = np.zeros(size, np.uint8)
    alpha[10:30, 15:45] = 255
    sample = dict(fg=np.zeros((*size, 3), np.uint8), alpha=alpha)
    sample = RandomForegroundAffine(0, 0, (2, 2), 0, 0)(sample)
    assert (sample["alpha"] == 255).mean() > 0.9


def test_affine_turns_and_shears():
    """Second moments: a turn keeps a disk a disk, a shear of 45 degrees does not."""
    rows, columns = np.mgrid[:201, :201]
    disk = (255 * (np.hypot(rows - 100, columns - 100) < 40)).astype(np.uint8)
    mark = disk.copy()
    mark[95:106, 110:130] = 128  # at the right
    for angle_limit, shear_limit in ((90, 0), (0, 45)):
        np.random.seed(1)
        draws = np.random.uniform(-1, 1, 2)
        np.random.seed(1)
        sample = RandomForegroundAffine(angle_limit, 0, (1, 1), shear_limit, 0)(
            dict(fg=np.zeros((201, 201, 3), np.uint8), alpha=mark)
        )
        y, x = (each - 100.0 for each in np.nonzero(sample["alpha"] == 255))
        tangent = np.tan(np.deg2rad(shear_limit * draws[1]))
        # x' = x + tangent y of a disk: Var(x') / Var(y') = 1 + tangent^2
        assert np.mean(x**2) / np.mean(y**2) == pytest.approx(1 + tangent**2, rel=0.1)
        y, x = (each.mean() - 100 for each in np.nonzero(sample["alpha"] == 128))
        turned = np.rad2deg(np.arctan2(y, x))
        assert turned == pytest.approx(angle_limit * draws[0], abs=1.5)


def test_short_images_are_not_turned():
    affine = RandomForegroundAffine(90, 31, (1, 1), 0, 0)
    np.random.seed(0)
    assert np.array_equal(affine(maps())["alpha"], maps()["alpha"])
    np.random.seed(0)
    assert not np.array_equal(affine(maps(shape=(20, 31)))["alpha"], maps(shape=(20, 31))["alpha"])


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_trimap_by_loops(size):
    """A pixel is known if every pixel under the ellipse about it is alike, within the image."""
    sample = maps()
    sample["alpha"][0:4, 0:5] = 255  # at the edge of the image
    trimap = GenerateTrimap(kernel_size=(size, size))(dict(sample))["trimap"]
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    places = [(y - size // 2, x - size // 2) for y, x in zip(*np.nonzero(ellipse), strict=True)]
    alpha = sample["alpha"]
    for y, x in itertools.product(range(20), range(30)):
        around = [
            alpha[y + dy, x + dx] for dy, dx in places if 0 <= y + dy < 20 and 0 <= x + dx < 30
        ]
        expected = 128
        if all(value == 255 for value in around):
            expected = 255
        elif all(value == 0 for value in around):
            expected = 0
        assert trimap[y, x] == expected, (y, x)


def test_every_fractional_alpha_is_unknown():
    for seed in range(20):
        np.random.seed(seed)
        trimap = GenerateTrimap()(maps())["trimap"]
        fractional = (maps()["alpha"] > 0) & (maps()["alpha"] < 255)
        assert (trimap[fractional] == 128).all()
        assert set(np.unique(trimap)) <= {0, 128, 255}


def test_the_two_erosions_have_sizes_of_their_own():
    widths = set()
    alpha = np.zeros((80, 80), np.uint8)
    alpha[:, 40:] = 255
    for seed in range(300):
        np.random.seed(seed)
        trimap = GenerateTrimap((1, 29))(dict(alpha=alpha))["trimap"][40]
        widths.add((int((trimap[:40] == 128).sum()), int((trimap[40:] == 128).sum())))
    sides = list(zip(*widths, strict=True))
    assert [max(side) for side in sides] == [14, 14]  # half of an ellipse of 29
    assert any(left != right for left, right in widths)


@pytest.mark.parametrize("seed", range(5))
def test_crop_around_unknown(seed):
    np.random.seed(seed)
    sample = maps(shape=(40, 50))
    sample["alpha"] = np.arange(2000, dtype=np.uint16).reshape(40, 50)  # where it was cropped
    cropped = CropAroundUnknown(11)(dict(sample))
    top, left = divmod(int(cropped["alpha"][0, 0]), 50)
    for key in ("fg", "bg", "alpha", "trimap"):
        assert np.array_equal(cropped[key], sample[key][top : top + 11, left : left + 11])
    # No unknown pixel is within 5 pixels of an edge, so that the center is one.
    assert cropped["trimap"][5, 5] == 128


def test_crops_reach_every_unknown_pixel():
    """Four unknown pixels in the corners: each crop holds one, moved into the image."""
    sample = maps(shape=(30, 30))
    sample["trimap"] = np.zeros((30, 30), np.uint8)
    for y, x in ((0, 0), (0, 29), (29, 0), (29, 29)):
        sample["trimap"][y, x] = 128
    corners = set()
    for seed in range(30):
        np.random.seed(seed)
        trimap = CropAroundUnknown(8)(dict(sample))["trimap"]
        (place,) = zip(*np.nonzero(trimap == 128), strict=True)
        corners.add(tuple(map(int, place)))
    assert corners == {(0, 0), (0, 7), (7, 0), (7, 7)}


def test_small_images_are_scaled_up():
    sample = CropAroundUnknown(60)(maps(shape=(20, 30)))
    assert {sample[key].shape[:2] for key in ("fg", "bg", "alpha", "trimap")} == {(60, 60)}
    # 20x30 became 60x90: 3x3 blocks of equal pixels.
    blocks = sample["trimap"].reshape(20, 3, 60)
    assert (blocks == blocks[:, :1]).all()


def test_crop_without_unknown_pixels():
    sample = maps()
    sample["trimap"] = np.zeros_like(sample["trimap"])
    assert CropAroundUnknown(8)(sample)["fg"].shape == (8, 8, 3)


def test_jitter_by_pixels():
    """colorsys converts each pixel; the steps are drawn as the transform draws them."""
    sample = maps(3)
    np.random.seed(5)
    steps = np.random.uniform(-1, 1, 3)
    np.random.seed(5)
    changed = JitterForeground(hue=40, part=0.1)(dict(sample))["fg"]
    hsv = np.array(
        [colorsys.rgb_to_hsv(*(pixel[::-1] / 255)) for pixel in sample["fg"].reshape(-1, 3)]
    )
    seen = sample["alpha"].ravel() > 0
    for channel in (1, 2):
        headroom = 1 - hsv[seen, channel].mean()
        hsv[:, channel] = np.clip(hsv[:, channel] + steps[channel] * 0.1 * headroom, 0, 1)
    hsv[:, 0] = (hsv[:, 0] + steps[0] * 40 / 360) % 1
    expected = np.array([colorsys.hsv_to_rgb(*pixel)[::-1] for pixel in hsv]) * 255
    # A hue that lies on the border of two sectors may be rounded into either.
    error = np.abs(changed.reshape(-1, 3) - expected)
    assert np.percentile(error, 99) <= 0.6
    assert error.max() < 3


def test_jitter_of_an_invisible_foreground():
    sample = maps()
    sample["alpha"][:] = 0
    assert np.array_equal(JitterForeground()(dict(sample))["fg"], sample["fg"])


def test_packed():
    sample = dict(maps(), img=maps()["fg"], img_path="a.png", ori_shape=(1, 2), other="left out")
    packed = PackMattingInputs()(sample)
    assert packed["inputs"].shape == (3, 20, 30)
    assert packed["inputs"].dtype == torch.uint8
    fields = packed["data_samples"]
    for key, name in (("alpha", "gt_alpha"), ("trimap", "trimap")):
        assert np.array_equal(fields.get(name).data.numpy(), sample[key][None])
    for key, name in (("fg", "gt_fg"), ("bg", "gt_bg")):
        assert np.array_equal(fields.get(name).data.numpy(), sample[key].transpose(2, 0, 1))
        assert fields.get(name).data.dtype == torch.uint8
    assert fields.metainfo == dict(img_path="a.png", ori_shape=(1, 2), img_shape=(20, 30))


def test_loaded_for_testing(tmp_path):
    draw_data(tmp_path, 1)
    sample = dict(
        img_path=str(tmp_path / "images/000.png"),
        trimap_path=str(tmp_path / "matting/trimap/000.png"),
        alpha_path=str(tmp_path / "matting/alpha/000.png"),
    )
    for transform in (LoadImageFromFile(), LoadTrimap(), LoadAlphaAnnotations()):
        sample = transform(sample)
    for key in ("trimap", "alpha"):
        assert np.array_equal(sample[key], cv2.imread(sample[f"{key}_path"], 0))


@pytest.mark.parametrize("read", [lambda path: read_gray(path, "image"), read_color])
def test_more_pixels_than_opencv_takes(read, tmp_path):
    (tmp_path / "wide.png").write_bytes(png_header(60_000, 60_000))
    with pytest.raises(InvalidValue, match=r"the image .*wide\.png cannot be read: OpenCV says"):
        read(str(tmp_path / "wide.png"))


def test_a_gray_alpha_of_three_equal_channels(tmp_path):
    alpha = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 256
    write(tmp_path / "alpha.png", np.stack([alpha] * 3, axis=2))
    write(tmp_path / "fg.png", np.zeros((HEIGHT, WIDTH, 3)))
    paths = dict(fg_path=str(tmp_path / "fg.png"), alpha_path=str(tmp_path / "alpha.png"))
    assert np.array_equal(LoadForeground()(paths)["alpha"], alpha)


def test_background_is_cropped_at_random(tmp_path):
    pixels = np.arange(50 * 60 * 3).reshape(50, 60, 3) % 251
    write(tmp_path / "bg.png", pixels)
    places = set()
    for seed in range(40):
        np.random.seed(seed)
        sample = dict(bg_path=str(tmp_path / "bg.png"), alpha=np.zeros((48, 59), np.uint8))
        found = LoadBackground()(sample)["bg"]
        (place,) = (
            (top, left)
            for top, left in itertools.product(range(3), range(2))
            if np.array_equal(found, pixels[top : top + 48, left : left + 59])
        )
        places.add(place)
    assert places == set(itertools.product(range(3), range(2)))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MergeForegrounds(prob=1.5), "prob must be from 0 to 1, got 1.5"),
        (lambda: ResizeForeground(size=0), "size must be a whole number of pixels"),
        (lambda: CropAroundUnknown(crop_size=0.5), "crop_size must be a whole number"),
        (lambda: CropAroundUnknown(crop_size=99999), "from 1 to 13377, got 99999"),
        (lambda: ResizeForeground(size=13378), "from 1 to 13377, got 13378"),
        (lambda: GenerateTrimap(kernel_size=(0, 3)), r"1 <= low <= high, got \(0, 3\)"),
        (lambda: RandomForegroundAffine(scale_range=(2, 1)), "0 < low <= high"),
        (lambda: RandomForegroundAffine(max_shear=90), "max_shear must be from 0"),
        (lambda: JitterForeground(hue=-1), "hue must be from 0 to 180"),
    ],
)
def test_wrong_arguments(make, says):
    with pytest.raises(InvalidValue, match=says):
        make()


def test_every_random_number_is_numpys(tmp_path):
    """The same seed of numpy, which mmengine sets in each worker, draws the same sample."""
    from tests.mmseg.matting.test_dataset import training_data

    dataset = training_data(draw_data(tmp_path))
    packed = []
    for seed in (3, 3, 4):
        np.random.seed(seed)
        packed.append([dataset[index] for index in range(4)])
    for first, again, other in zip(*packed, strict=True):
        assert torch.equal(first["inputs"], again["inputs"])
        assert not torch.equal(first["inputs"], other["inputs"])
