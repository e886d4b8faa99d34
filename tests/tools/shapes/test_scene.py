"""One image: repeatable, and its layers agree with each other."""

import hashlib

import numpy as np
import pytest

from tools.shapes.classes import CATEGORIES, CATEGORY_ID
from tools.shapes.landscape import FAR, NEAR
from tools.shapes.scene import FARTHEST, Scene, draw_scene

GOLDEN = ["c7d5fb6f90c3ce10", "598659bc9f8d39f8", "8895d2dfd69362a5", "9e561f5bd02e0db6"]


def digest(scene: Scene) -> str:
    arrays = [scene.image, scene.semantic, scene.depth]
    arrays += [instance.mask for instance in scene.instances]
    if scene.matte:
        matte = scene.matte
        arrays += [matte.alpha, matte.foreground, matte.background, matte.trimap]
    content = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    return hashlib.sha256(content).hexdigest()[:16]


def test_same_arguments_same_scene():
    first = digest(draw_scene(1, 0, 5, 64, 96))
    assert first == digest(draw_scene(1, 0, 5, 64, 96))
    others = [(2, 0, 5, 64, 96), (1, 1, 5, 64, 96), (1, 0, 6, 64, 96), (1, 0, 5, 64, 97)]
    assert first not in [digest(draw_scene(*other)) for other in others]


def test_scenes_are_the_same_everywhere():
    """Guards the promise that a seed means the same images on every machine.

    If drawings were changed on purpose, raise VERSION in files.py and renew these values.
    """
    assert [digest(draw_scene(0, 0, index, 96, 128)) for index in range(4)] == GOLDEN


def test_layers_agree():
    for index in range(25):
        check_layers(draw_scene(0, 0, index, 64, 80), 64, 80)


def check_layers(scene: Scene, height: int, width: int) -> None:
    assert scene.image.shape == (height, width, 3)
    assert (scene.image.dtype, scene.semantic.dtype, scene.depth.dtype) == (
        np.uint8,
        np.uint8,
        np.uint16,
    )

    things = np.zeros((height, width), bool)
    for instance in scene.instances:
        assert not (things & instance.mask).any(), "a pixel shows one thing"
        things |= instance.mask
        assert (scene.semantic[instance.mask] == instance.category_id).all()
        assert instance.mask.sum() >= 9
    is_thing = np.array([False] + [category.is_thing for category in CATEGORIES])
    np.testing.assert_array_equal(is_thing[scene.semantic], things)

    # who is drawn later hides who was drawn before, and is nearer, everywhere
    for farther, nearer in zip(scene.instances, scene.instances[1:], strict=False):
        assert scene.depth[farther.mask].min() > scene.depth[nearer.mask].max()
    background = ~things & (scene.semantic > 0)
    assert (
        scene.depth[background].min() >= NEAR > FARTHEST >= scene.depth[~background].max(initial=0)
    )
    assert (scene.depth[scene.semantic == CATEGORY_ID["sky"]] == FAR).all()


def test_matting_equation():
    for index in range(25):
        check_matte(draw_scene(0, 0, index, 64, 80))


def check_matte(scene: Scene) -> None:
    matte = scene.matte
    if not scene.instances:
        assert matte is None
        return
    alpha = matte.alpha.astype(np.float64)[..., None] / 255.0
    expected = alpha * matte.foreground + (1.0 - alpha) * matte.background
    assert np.abs(scene.image - expected).max() <= 0.5 + 1e-9
    np.testing.assert_array_equal(scene.instances[-1].mask, matte.alpha >= 128)

    assert (matte.alpha[matte.trimap == 255] == 255).all()
    assert (matte.alpha[matte.trimap == 0] == 0).all()
    assert set(np.unique(matte.trimap)) <= {0, 128, 255}
    assert (matte.trimap == 128).any()


def test_variety():
    """Every class, groups, slivers without a label, blurred and sharp mattes do occur."""
    scenes = [draw_scene(0, 0, index, 96, 96) for index in range(120)]
    seen = set(np.unique(np.concatenate([np.unique(scene.semantic) for scene in scenes])))
    assert seen == {0, *CATEGORY_ID.values()}
    crowds = [any(instance.is_crowd for instance in scene.instances) for scene in scenes]
    assert 0.03 < np.mean(crowds) < 0.2
    assert any(not scene.instances for scene in scenes)
    assert np.mean([len(scene.instances) for scene in scenes]) > 4
    void = np.mean([np.mean(scene.semantic == 0) for scene in scenes])
    assert 0 < void < 0.005
    partly = [
        np.mean((scene.matte.alpha > 0) & (scene.matte.alpha < 255))
        for scene in scenes
        if scene.matte
    ]
    assert max(partly) > 4 * np.median(partly) > 0


@pytest.mark.parametrize("size", [(32, 32), (33, 250), (301, 47)], ids=str)
def test_other_sizes(size):
    for index in range(12):
        scene = draw_scene(0, 0, index, *size)
        assert scene.semantic.shape == size
        assert all(instance.mask.any() for instance in scene.instances)


def test_bars_are_thin():
    """2 to 4 pixels across, at the size that the data set has by default."""
    widths = []
    for index in range(60):
        for instance in draw_scene(0, 0, index, 160, 160).instances:
            if CATEGORIES[instance.category_id - 1].name == "bar" and not instance.is_crowd:
                rows, columns = np.nonzero(instance.mask)
                length = np.hypot(np.ptp(rows) + 1, np.ptp(columns) + 1)
                widths.append(len(rows) / length)
    assert len(widths) > 20
    assert 1.5 < np.median(widths) < 4.0
    assert max(widths) < 5.0
