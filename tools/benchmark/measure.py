"""Time and memory of two ways to compute the same, and whether they agree."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from operations import Operation, Shape
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

# Relative to the largest value of a result: sums of float32 products in another order, or results
# in half precision that are compared with sums in half precision.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2}


class DisagreementError(Exception):
    """The two ways do not compute the same: there is nothing to compare."""


@dataclass(frozen=True)
class Case:
    """One line of the report."""

    operation: Operation
    shape: Shape
    backward: bool
    memory_format: str
    dtype: torch.dtype
    device: str


@dataclass(frozen=True)
class Measurement:
    """Seconds of each run, which alternated, and peak bytes beside results."""

    ours: list[float]
    rival: list[float]
    ours_bytes: int
    rival_bytes: int

    @property
    def ratio(self) -> float:
        """How many times faster, by the medians."""
        return statistics.median(self.rival) / statistics.median(self.ours)

    @property
    def best_ratio(self) -> float:
        """By the fastest run of each: what other programs' work disturbs least."""
        return min(self.rival) / min(self.ours)

    @property
    def memory_ratio(self) -> float:
        return self.ours_bytes / self.rival_bytes


def measure(case: Case, repeats: int) -> Measurement:
    """Compare results, then take time and memory.

    Raises:
        DisagreementError: a result or a gradient of the two ways differs by more than rounding.
    """
    ours, rival = (
        prepare(case, function) for function in (case.operation.ours, case.operation.rival)
    )
    check_agreement(case, ours(), rival())
    memory = [peak_bytes(run, case.device) for run in (ours, rival)]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for run, taken in zip((ours, rival), times, strict=True):
            taken.append(seconds(run, case.device))
    return Measurement(*times, *memory)


def prepare(case: Case, function: Callable[..., Tensor]) -> Callable[[], list[Tensor]]:
    """A run of ``function`` that returns its result, and the gradients with ``backward``."""
    torch.manual_seed(0)
    first, second = (
        x.to(case.device, case.dtype).contiguous(memory_format=FORMATS[case.memory_format])
        for x in case.operation.inputs(case.shape)
    )
    settings = (case.shape.kernel_size, case.shape.scale_factor)
    if not case.backward:
        return lambda: [function(first, second, *settings)]
    first.requires_grad_()
    second.requires_grad_()
    result = function(first, second, *settings)
    grad = torch.randn(result.shape).to(result.device, result.dtype)
    grad = grad.contiguous(memory_format=FORMATS[case.memory_format])
    del result

    def run() -> list[Tensor]:
        result = function(first, second, *settings)
        return [result, *torch.autograd.grad(result, (first, second), grad.to(result.dtype))]

    return run


def check_agreement(case: Case, ours: list[Tensor], rival: list[Tensor]) -> None:
    names = ("the result", "the first input's gradient", "the second input's gradient")
    for name, actual, expected in zip(names, ours, rival, strict=False):
        actual, expected = actual.detach().float(), expected.detach().float()
        difference = (actual - expected).abs().max() / expected.abs().max()
        if not difference <= TOLERANCES[case.dtype]:  # NaN disagrees too
            raise DisagreementError(
                f"{case.operation.name} at {case.shape}, {case.memory_format}, {case.dtype}: "
                f"{name} differs from {case.operation.rival_name}'s by {difference:.1e} of its "
                f"largest value, accepted is {TOLERANCES[case.dtype]:.0e}"
            )


def seconds(run: Callable[[], object], device: str) -> float:
    synchronize(device)
    start = time.perf_counter()
    result = run()
    synchronize(device)
    taken = time.perf_counter() - start
    del result
    return taken


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def peak_bytes(run: Callable[[], list[Tensor]], device: str) -> int:
    """The most bytes held at a time, as PyTorch's allocator saw it, less those of the results."""
    if device != "cpu":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        results = run()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            results = run()
        events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
        events.sort(key=start_time)
        held = peak = 0
        for event in events:
            held += event.nbytes()
            peak = max(peak, held)
    return peak - sum(x.numel() * x.element_size() for x in results)


def start_time(event) -> int:
    return event.start_ns() if hasattr(event, "start_ns") else event.start_us()
