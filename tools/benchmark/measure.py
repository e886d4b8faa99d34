"""Time and memory of an operation's implementations, and whether they agree."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from operations import Operation, Place, Shape, Work
from torch import Tensor

from mmdysample.ops.backend import use_backend

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler, which counts memory, is chatty
from torch.profiler import ProfilerActivity, profile

# Root mean square of the differences, relative to the naive implementation's. In float64 the two
# agree to rounding. In the case's own precision a point that rounding moves across the edge of a
# pixel has other gradients, and summed up over a map they differ by more.
TOLERANCES = {
    torch.float64: 1e-6,
    torch.float32: 3e-2,
    torch.float16: 6e-2,
    torch.bfloat16: 2e-1,
}
FLUSH_BYTES = 512 * 2**20
"""Written before each run on a GPU: empties its caches, and lets launches run ahead."""
CHECKED_SIDE = 24
COPIED_BYTES = {"cpu": 128 * 2**20, "cuda": 2**30}


class DisagreementError(Exception):
    """Two implementations do not compute the same: there is nothing to compare."""


@dataclass(frozen=True)
class Case:
    """An operation at a shape, as it is run."""

    suite: str
    operation: Operation
    shape: Shape
    backward: bool
    place: Place


@dataclass
class Measurement:
    """Seconds of each run, which alternated with the other implementations', and peak bytes."""

    peak_bytes: int
    """Held at a time, beside inputs and results."""
    seconds: list[float] = field(default_factory=list)

    def percentile(self, percent: int) -> float:
        """With linear interpolation between the two nearest values."""
        if len(self.seconds) == 1:
            return self.seconds[0]
        return statistics.quantiles(self.seconds, n=100, method="inclusive")[percent - 1]


def measure(case: Case, repeats: int) -> tuple[Work, dict[str, Measurement]]:
    """Compare results, then take memory and time of each implementation, in turn.

    Raises:
        DisagreementError: a result or a gradient of ours and of the naive implementation differ
            by more than rounding.
    """
    check_agreement(case)
    work = case.operation.build(case.shape, case.place)
    device = case.place.device
    with torch.no_grad():
        work.result_bytes = work.implementations["ours"]().nbytes
    runs = {name: prepare(case, work, call) for name, call in work.implementations.items()}
    if "torch" in runs:
        runs["torch"] = without_kernels(runs["torch"])
    measured = {name: Measurement(peak_bytes(run, device)) for name, run in runs.items()}
    for _ in range(repeats):
        for name, run in runs.items():
            measured[name].seconds.append(seconds(run, device))
    return work, measured


def prepare(case: Case, work: Work, call: Callable[[], Tensor]) -> Callable[[], list[Tensor]]:
    """A run that returns the result, and the gradients if the case has a backward pass."""
    if not case.backward:

        def forward() -> list[Tensor]:
            with torch.no_grad():
                return [call()]

        return forward

    wanted = [*work.inputs, *work.parameters]
    for tensor in wanted:
        tensor.requires_grad_()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        result = call()
    grad = torch.randn(result.shape, generator=generator)
    grad = case.place._replace(dtype=result.dtype).put(grad)
    del result

    def forward_and_backward() -> list[Tensor]:
        result = call()
        # bilinear interpolation knows neither guide nor weights
        grads = torch.autograd.grad(result, wanted, grad, allow_unused=True)
        return [result, *(g for g in grads if g is not None)]

    return forward_and_backward


def without_kernels(run: Callable[[], list[Tensor]]) -> Callable[[], list[Tensor]]:
    """Forward and backward by PyTorch's operators alone."""

    def run_by_torch() -> list[Tensor]:
        with use_backend("torch"):
            return run()

    return run_by_torch


def check_agreement(case: Case) -> None:
    """Ours against naive: both in float64, and ours as the case has it against float64.

    On a part of the map, of at most ``CHECKED_SIDE`` pixels per side: in float64 and unfolded a
    large one would fill a machine's memory.
    """
    height, width = min(case.shape.height, CHECKED_SIDE), min(case.shape.width, CHECKED_SIDE)
    shape = case.shape._replace(batch=1, height=height, width=width)
    rounded = case.place._replace(dtype=torch.float64, rounded_to=case.place.dtype)
    reference = case.operation.build(shape, rounded)
    if "naive" not in reference.implementations:
        return
    naive = prepare(case, reference, reference.implementations["naive"])()
    for place in (rounded, case.place):
        work = case.operation.build(shape, place)
        compare(case, place.dtype, prepare(case, work, work.implementations["ours"])(), naive)


def compare(case: Case, dtype: torch.dtype, ours: list[Tensor], naive: list[Tensor]) -> None:
    """Raise DisagreementError unless results and gradients agree within the dtype's tolerance."""
    if len(ours) != len(naive):
        raise DisagreementError(
            f"{case.operation.name}: {len(ours) - 1} gradients reach the inputs and weights, "
            f"{len(naive) - 1} in the naive implementation"
        )
    for index, (actual, expected) in enumerate(zip(ours, naive, strict=True)):
        actual, expected = actual.detach().double(), expected.detach().double()
        difference = (actual - expected).norm() / expected.norm().clamp(min=1e-12)
        if not difference <= TOLERANCES[dtype]:  # NaN disagrees too
            what = "the result" if not index else f"gradient {index} of {len(ours) - 1}"
            raise DisagreementError(
                f"{case.operation.name} at {case.shape}, {case.place.memory_format}, {dtype}: "
                f"{what} differs from the naive implementation's by {difference:.1e} (root mean "
                f"square), accepted is {TOLERANCES[dtype]:.0e}"
            )


def seconds(run: Callable[[], object], device: str) -> float:
    if device == "cpu":
        start = time.perf_counter()
        result = run()
        taken = time.perf_counter() - start
        del result
        return taken
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)
    torch.cuda.synchronize()
    flush.zero_()
    flush.zero_()
    events[0].record()
    result = run()
    events[1].record()
    torch.cuda.synchronize()
    del result
    return events[0].elapsed_time(events[1]) / 1000


def copy_bandwidth(device: str, repeats: int = 20) -> float:
    """Bytes a second, read and written, of a copy too large for the caches."""
    source = torch.ones(COPIED_BYTES[device] // 4, device=device)
    target = torch.empty_like(source)
    taken = [seconds(lambda: target.copy_(source), device) for _ in range(repeats)]
    return 2 * source.nbytes / statistics.median(taken)


def least_bytes(work: Work, backward: bool) -> int:
    """What must move: inputs and weights read and the result written once.

    With the backward pass, also: the result's gradient and the inputs and weights read again, and
    their gradients written.
    """
    read = sum(x.nbytes for x in (*work.inputs, *work.parameters))
    written = work.result_bytes
    return 3 * read + 2 * written if backward else read + written


def peak_bytes(run: Callable[[], list[Tensor]], device: str) -> int:
    """The most bytes held at a time, as PyTorch's allocator saw it, less those of the results."""
    if device != "cpu":
        torch.cuda.synchronize()
        run()  # what libraries keep from a first call on is not the operation's
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
    return peak - sum(x.nbytes for x in results)


def start_time(event) -> int:
    return event.start_ns() if hasattr(event, "start_ns") else event.start_us()
