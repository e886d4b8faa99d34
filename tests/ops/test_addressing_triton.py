"""Addresses beyond 2^31 elements, without the memory for so large maps.

Views with strides of 2^30 stand for them: three steps are more than 32 bits can count. The pages
between the few elements of such a view are never touched, so never exist.
"""

from __future__ import annotations

import math
import mmap

import pytest
import torch
from torch import Tensor

from mmdysample.ops import local_similarity, point_sample, reassemble
from tests.ops.triton_cases import CUDA, needs_triton, run
from tests.utils import assert_close

pytestmark = [
    needs_triton,
    pytest.mark.skipif(
        CUDA, reason="for the interpreter; with a GPU the tests with maps of that size run"
    ),
    pytest.mark.skipif(not hasattr(mmap, "MAP_ANONYMOUS"), reason="needs Linux: sparse memory"),
]

STEP = 2**30
MAP_NORESERVE = 0x4000
# name: function, shapes with at least three of everything that has a stride, settings
CASES = {
    "point_sample": (point_sample, (3, 3, 3, 3), (3, 6, 3, 3), (1, 3)),
    "reassemble": (reassemble, (3, 3, 3, 3), (3, 9, 3, 3), (3, 1, 1)),
    "local_similarity": (local_similarity, (3, 3, 3, 3), (3, 3, 3, 3), (3, 1)),
}


def far_apart(shape: tuple[int, ...], axis: int, dtype=torch.float16) -> Tensor:
    """Zeros whose neighbors along ``axis`` are 2^30 elements apart."""
    strides, step = [0] * 4, 1
    for other in (3, 2, 1, 0):
        if other != axis:
            strides[other], step = step, step * shape[other]
    strides[axis] = STEP
    size = 1 + sum(stride * (length - 1) for stride, length in zip(strides, shape, strict=True))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    memory = mmap.mmap(-1, size * dtype.itemsize, flags=flags)
    return torch.frombuffer(memory, dtype=dtype).as_strided(shape, strides)


@pytest.mark.parametrize("axis", range(4), ids=["image", "channel", "row", "column"])
@pytest.mark.parametrize("name", CASES)
def test_inputs_and_results(name, axis, monkeypatch):
    """The results, and what they are accumulated in, are laid out as far apart as the inputs."""
    from mmdysample.ops import window_autograd
    from mmdysample.ops.triton import point_sample as kernels

    function, *shapes, settings = CASES[name]
    near = [torch.randn(shape, dtype=torch.float16) for shape in shapes]
    far = [far_apart(t.shape, axis).copy_(t).requires_grad_() for t in near]
    near = [t.requires_grad_() for t in near]
    grad = torch.randn(3, 9 if name == "local_similarity" else 3, 3, 3)
    assert max(far[0].stride()) * 2 >= 2**31
    expected = run("triton", function, near, settings, grad)
    made = []

    def layout(like, shape, dtype):
        made.append(far_apart(tuple(shape), axis, dtype).fill_(math.nan))
        return made[-1]

    monkeypatch.setattr(kernels, "like_layout", layout)
    monkeypatch.setattr(window_autograd, "like_layout", layout)
    grad = far_apart(grad.shape, axis).copy_(grad)
    actual = run("triton", function, far, settings, grad)
    assert len(made) == (2 if name == "point_sample" else 3)
    for value, wanted in zip(actual, expected, strict=True):
        assert_close(value, wanted)
