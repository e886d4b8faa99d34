"""Launching Triton kernels: on which device, and tuned how.

A kernel has a short list of configurations, the first of which is a fair choice anywhere. At the
first call of a kernel for a class of sizes (powers of two) Triton's autotuner times the list, some
30 ms each after compilation, and keeps the fastest for the process; where it can
(``cache_results``) also in Triton's cache on disk, for the next process. Nothing is tuned

- where results must be the same in every run (``torch.use_deterministic_algorithms``): the order
  in which a kernel adds depends on its configuration;
- while a CUDA graph is captured, when nothing can be timed;
- in :func:`untuned`;
- with ``MMDYSAMPLE_AUTOTUNE=0`` in the environment;
- in Triton's interpreter.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import threading
from collections.abc import Callable, Iterator, Sequence

import torch
import triton
from torch import Tensor
from triton.runtime.autotuner import Autotuner
from triton.testing import do_bench

VARIABLE = "MMDYSAMPLE_AUTOTUNE"
WARM_UP_MS, MEASURE_MS = 5, 25

_tunes = os.environ.get(VARIABLE, "1") != "0"
_thread = threading.local()
_autotune_arguments = inspect.signature(triton.autotune).parameters


@contextlib.contextmanager
def untuned() -> Iterator[None]:
    """The first configurations in this thread."""
    _thread.untuned = True
    try:
        yield
    finally:
        _thread.untuned = False


class Kernel:
    """A ``triton.jit`` function with its configurations.

    Args:
        function: takes ``tuning_key``, an integer that stands for the class of sizes, and the
            settings of ``configurations`` as constants.
        configurations: of the same settings each, the first for all cases that are not tuned.
        accumulators: names of arguments that the kernel adds to, which tuning has to clear.
    """

    def __init__(
        self,
        function: triton.runtime.KernelInterface,
        configurations: Sequence[triton.Config],
        accumulators: Sequence[str] = (),
    ) -> None:
        self.function = function
        self.default = configurations[0]
        self.configurations = list(configurations)
        self.accumulators = list(accumulators)
        self._tuner: Autotuner | None = None
        self._lock = threading.Lock()

    def launch(
        self,
        grid: Callable[[dict], tuple[int]],
        *arguments: Tensor | float,
        on: torch.device,
        **constants: object,
    ) -> None:
        """Run on the device ``on``, in its current stream."""
        if on.type != "cuda":
            # The interpreter knows nothing of warps and stages.
            self.function[grid](*arguments, **constants, **self.default.kwargs)
            return
        with torch.cuda.device(on):
            if self._may_tune():
                with self._lock:  # the autotuner keeps the arguments of a call in itself
                    self._tuned()[grid](*arguments, **constants)
            else:
                settings = dict(
                    num_warps=self.default.num_warps, num_stages=self.default.num_stages
                )
                self.function[grid](*arguments, **constants, **self.default.kwargs, **settings)

    def _may_tune(self) -> bool:
        return (
            _tunes
            and not getattr(_thread, "untuned", False)
            and len(self.configurations) > 1
            and not torch.are_deterministic_algorithms_enabled()
            and not torch.cuda.is_current_stream_capturing()
        )

    def _tuned(self) -> Autotuner:
        if self._tuner is None:
            options: dict[str, object] = {}
            if "cache_results" in _autotune_arguments:
                options["cache_results"] = True
            if "do_bench" in _autotune_arguments:
                options["do_bench"] = _time
            self._tuner = triton.autotune(
                self.configurations,
                key=["tuning_key"],
                reset_to_zero=self.accumulators or None,
                **options,
            )(self.function)
        return self._tuner


def _time(call: Callable[[], object], quantiles: Sequence[float]) -> list[float]:
    return do_bench(call, warmup=WARM_UP_MS, rep=MEASURE_MS, quantiles=quantiles)


def tuning_key(*sizes: int) -> int:
    """One integer for sizes that agree in their powers of two, up to 2^63 each."""
    key = 0
    for size in sizes:
        key = key << 6 | int(size).bit_length()
    return key
