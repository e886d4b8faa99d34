"""Fixtures for all tests. The library core's tests need torch and pytest alone."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys

import pytest

# Before anything imports pip, which switches off setuptools' stand-in for the distutils that
# torch.compile needs on Python < 3.12. (Where setuptools is missing nothing is switched off.)
with contextlib.suppress(ImportError):
    import setuptools  # noqa: F401

import torch

# Where there is no GPU the Triton kernels run in Triton's interpreter, which has to be said before
# Triton is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from tests.utils import DEVICES

# TF32 keeps 10 bits of the mantissa: convolutions would not be comparable with references.
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

# What a shell starts in the background ignores interrupts, and what nohup starts a lost terminal;
# so would every tool that the tests start and send these signals to. A handler is not passed on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda number, frame: None)


@pytest.fixture(params=DEVICES)
def device(request) -> str:
    """'cpu', and 'cuda' on a machine with a CUDA GPU."""
    return request.param


def pytest_configure(config) -> None:
    # pytest-randomly shuffles the tests. It also seeds each of them with a number of its own,
    # again between fixtures and test; see `_same_start`.
    if config.pluginmanager.hasplugin("randomly"):
        config.option.randomly_reset_seed = False


@pytest.fixture(autouse=True)
def _same_start() -> None:
    """What a test draws and finds does not depend on those before it."""
    random.seed(0)
    torch.manual_seed(0)
    if "numpy" in sys.modules:  # which torch does not need
        sys.modules["numpy"].random.seed(0)
    if "mmengine.registry" in sys.modules:  # a Runner sets its default scope for the whole process
        sys.modules["mmengine.registry"].DefaultScope._instance_dict.clear()
