"""The inferencer of matting: pairs of files or arrays in, alphas out."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")

import cv2
import numpy as np

from mmdysample.errors import UserError
from mmdysample.inference import open_inferencer
from tests.mmseg.matting.toy import (
    HEIGHT,
    WIDTH,
    draw_data,
    save_checkpoint,
    write,
    write_config,
)
from tests.panels import count, panel


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("matting")
    draw_data(directory / "data")
    return directory


@pytest.fixture(scope="module")
def inferencer(place):
    config = write_config(place / "config.py")
    checkpoint = save_checkpoint(place / "good.pth")
    return open_inferencer(str(config), str(checkpoint), device="cpu")


def pair(place: Path, number: int) -> tuple[str, str]:
    name = f"{number:03d}.png"
    return str(place / "data/images" / name), str(place / "data/matting/trimap" / name)


def pixels(path: str) -> np.ndarray:
    return cv2.imread(path, cv2.IMREAD_UNCHANGED)


def test_files_and_arrays(place, inferencer):
    """The toy model predicts the trimap."""
    pairs = [pair(place, number) for number in (0, 1)]
    trimaps = [pixels(trimap).astype(int) for _, trimap in pairs]
    one = inferencer(pairs[0])["predictions"]
    assert one.dtype == np.uint8
    assert np.abs(one - trimaps[0]).max() <= 1
    arrays = (pixels(pairs[1][0]), pixels(pairs[1][1]))
    for inputs in (pairs, [pairs[0], arrays], [list(pairs[0]), (Path(pairs[1][0]), arrays[1])]):
        both = inferencer(inputs)["predictions"]
        assert len(both) == 2
        for alpha, trimap in zip(both, trimaps, strict=True):
            assert np.abs(alpha - trimap).max() <= 1
    assert np.array_equal(inferencer(list(arrays))["predictions"], both[1])


def test_written_and_drawn(place, inferencer, tmp_path):
    (tmp_path / "other").mkdir()
    image, trimap = pair(place, 0)
    same_name = tmp_path / "other/000.png"
    write(same_name, pixels(image))
    arrays = (pixels(image), pixels(trimap))
    results = inferencer(
        [(image, trimap), (str(same_name), trimap), arrays],
        out_dir=str(tmp_path / "out"),
        return_vis=True,
    )
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    stems = ("000", "000_2", "00000002")
    assert names == {f"{kind}/{stem}.png" for kind in ("pred", "vis") for stem in stems}
    written = pixels(str(tmp_path / "out/pred/000.png"))
    assert np.array_equal(written, results["predictions"][0])
    drawn = pixels(str(tmp_path / "out/vis/000.png"))
    assert count(drawn, HEIGHT, WIDTH) == 4  # there is no true alpha
    assert np.array_equal(panel(drawn, 0, HEIGHT, WIDTH), pixels(image))
    assert np.array_equal(drawn[..., ::-1], results["visualization"][0])


def test_samples(place, inferencer):
    sample = inferencer(pair(place, 0), return_datasamples=True)
    assert sample.pred_alpha.data.shape == (1, HEIGHT, WIDTH)
    assert "gt_alpha" not in sample


BAD = {
    "image-alone": (lambda root, image, trimap: image, "a pair of an image and its trimap"),
    "not-a-pair": (lambda root, image, trimap: [(image, trimap), image], "each input must be"),
    "three": (lambda root, image, trimap: [(image, trimap, image)], "each input must be a pair"),
    "no-trimap-file": (
        lambda root, image, trimap: (image, str(root / "none.png")),
        r"the trimap .*none\.png cannot be read: no such",
    ),
    "no-image-file": (
        lambda root, image, trimap: (root / "none.png", trimap),
        r"the image .*none\.png cannot be read: no such",
    ),
    "directory": (
        lambda root, image, trimap: str(root),
        "takes a pair of an image and its trimap, or a list of such pairs, got '",
    ),
    "no-trimap": (lambda root, image, trimap: (image, None), "trimap must be a path or an array"),
    "trimap-of-another-size": (
        lambda root, image, trimap: (image, pixels(trimap)[1:]),
        r"array is 39x48",
    ),
    "trimap-is-a-mask": (
        lambda root, image, trimap: (image, np.full((HEIGHT, WIDTH), 255, np.uint8)),
        "no unknown",
    ),
    "trimap-from-0-to-1": (
        lambda root, image, trimap: (image, pixels(trimap) / 255),
        r"uint8, got .*float64",
    ),
    "trimap-with-channels": (
        lambda root, image, trimap: (image, pixels(image)),
        r"\(H, W\) of uint8, got \(40, 48, 3\)",
    ),
    "gray-array": (
        lambda root, image, trimap: (pixels(trimap), trimap),
        r"3\) of uint8, got \(40, 48\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_inputs(name, place, inferencer):
    make, says = BAD[name]
    with pytest.raises(UserError, match=says):
        inferencer(make(place, *pair(place, 0)))


def test_the_second_of_two_pairs_is_looked_at_first(place, inferencer, tmp_path):
    image, trimap = pair(place, 0)
    predicted = []
    hook = inferencer.model.layer.register_forward_hook(lambda *_: predicted.append(1))
    with pytest.raises(UserError, match="no unknown pixel"):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        inferencer([(image, trimap), (image, mask)], out_dir=str(tmp_path / "out"))
    hook.remove()
    assert not predicted
    assert not (tmp_path / "out").exists()


def test_a_truncated_image(place, inferencer, tmp_path):
    image, trimap = pair(place, 0)
    (tmp_path / "cut.png").write_bytes(Path(image).read_bytes()[:-30])
    with pytest.raises(UserError, match=r"image .*cut\.png cannot be read: its end is missing"):
        inferencer((str(tmp_path / "cut.png"), trimap))
    (tmp_path / "cut.png").write_bytes(Path(trimap).read_bytes()[:-30])
    with pytest.raises(UserError, match=r"trimap .*cut\.png cannot be read: its end is missing"):
        inferencer((image, str(tmp_path / "cut.png")))


def test_predictions_do_not_replace_inputs(place, inferencer, tmp_path):
    image, trimap = pair(place, 0)
    (tmp_path / "pred").mkdir()
    copy = tmp_path / "pred/000.png"
    copy.write_bytes(Path(trimap).read_bytes())
    with pytest.raises(UserError, match="predictions would replace input"):
        inferencer([(image, str(copy))], out_dir=str(tmp_path))


def test_batches_of_one(place, inferencer):
    with pytest.raises(UserError, match="batch_size=2"):
        inferencer(pair(place, 0), batch_size=2)


def test_drawing_needs_its_visualizer(place, tmp_path):
    config = write_config(
        tmp_path / "config.py", extra='visualizer = dict(type="SegLocalVisualizer")'
    )
    plain = open_inferencer(str(config), str(save_checkpoint(tmp_path / "good.pth")), device="cpu")
    assert plain(pair(place, 0))["predictions"].shape == (HEIGHT, WIDTH)
    with pytest.raises(UserError, match="MattingLocalVisualizer"):
        plain(pair(place, 0), return_vis=True)
