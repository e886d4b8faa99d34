"""Configurations of the Triton kernels, and how one is chosen."""

from __future__ import annotations

import pytest
import torch

from mmdysample.ops import local_similarity, point_sample, reassemble
from tests.ops.test_point_sample import make_inputs
from tests.ops.triton_cases import CUDA, FORMATS, needs_triton, on, run
from tests.reference.reassemble import random_inputs
from tests.utils import assert_close

pytestmark = needs_triton

CASES = {
    "point_sample": (point_sample, lambda: make_inputs(1, 6, 3, 5, 2, 2), (2, 2)),
    "reassemble": (reassemble, lambda: random_inputs(1, 6, 3, 5, 3, 2), (3, 2)),
    "local_similarity": (
        local_similarity,
        lambda: (torch.randn(1, 6, 6, 10), torch.randn(1, 6, 3, 5)),
        (3, 2),
    ),
}


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", CASES)
def test_every_configuration_computes_the_same(name, memory_format, monkeypatch):
    """Also after tuning, which runs kernels that add to their results several times."""
    from mmdysample.ops.triton import launch, windows

    function, inputs, settings = CASES[name]
    inputs = on(torch.float32, *(FORMATS[memory_format](t) for t in inputs()))
    expected = run("torch", function, inputs, settings)
    timed = []

    def time(call, quantiles):
        call()
        call()
        timed.append(call)
        return [len(timed)] * 3

    def launch_tuned(self, grid, *arguments, on, **constants):
        self._tuner = None
        tuner = self._tuned()
        tuner[grid](*arguments, **constants)
        assert tuner.best_config == self.configurations[0], "the first was timed as the fastest"
        launched.append((self, grid, arguments, constants))

    launched = []
    monkeypatch.setattr(launch, "_autotune_arguments", {"do_bench"})  # nothing on disk
    windows._kernel.cache_clear()
    monkeypatch.setattr(launch, "_time", time)
    monkeypatch.setattr(launch.Kernel, "launch", launch_tuned)
    for value, wanted in zip(run("triton", function, inputs, settings), expected, strict=True):
        assert_close(value, wanted)
    assert len(timed) == sum(len(kernel.configurations) for kernel, *_ in launched)
    windows._kernel.cache_clear()
    for kernel, *_ in launched:
        kernel._tuner = None

    for turn in range(1, max(len(kernel.configurations) for kernel, *_ in launched)):

        def launch_it(self, grid, *arguments, on, turn=turn, **constants):
            config = self.configurations[turn % len(self.configurations)]
            options = dict(num_warps=config.num_warps) if CUDA else {}
            self.function[grid](*arguments, **constants, **config.kwargs, **options)

        monkeypatch.setattr(launch.Kernel, "launch", launch_it)
        for value, wanted in zip(run("triton", function, inputs, settings), expected, strict=True):
            assert_close(value, wanted)


def test_tuning_is_left_out_where_results_must_be_the_same(monkeypatch):
    from mmdysample.ops.triton import launch, point_sample

    kernel = point_sample._forward
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(launch, "_tunes", True)
    assert kernel._may_tune()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
        assert not kernel._may_tune()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert not kernel._may_tune()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(launch, "_tunes", False)
    assert not kernel._may_tune()


def test_sizes_of_a_class_share_their_tuning():
    from mmdysample.ops.triton.launch import tuning_key

    assert tuning_key(2, 1000, 64) == tuning_key(3, 600, 100)
    keys = {tuning_key(2, size, 64) for size in (2**20 - 1, 2**20, 2**21)}
    assert len(keys) == 3
    assert tuning_key(1, 2**40) != tuning_key(2**40, 1)
