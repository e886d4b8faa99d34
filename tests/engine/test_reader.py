"""What reader.py takes from a file and what it refuses; test_checkpoint_fuzz.py has many more."""

from __future__ import annotations

import io
import pickle
from typing import Any

import pytest
import torch

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")

from mmdysample.engine.reader import read
from tests.engine.mutations import archive


def reread(content: Any, zipped: bool = True) -> Any:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    file.seek(0)
    return read(file, len(file.getvalue()))


@pytest.mark.parametrize("bits", [128, 1000, 3000, 20_000])
@pytest.mark.parametrize("zipped", [True, False])
def test_large_numbers(bits, zipped):
    """Beyond 1024 bits they are no floats, beyond 2040 written in another way, and beyond 14,284
    Python does not write them as text."""
    for value in (2**bits, -(2**bits), {2**bits: 1}):
        with pytest.raises(pickle.UnpicklingError, match="more than 128 bits"):
            reread(value, zipped)


@pytest.mark.parametrize("code", ["I{}\n", "L{}L\n"])
def test_large_numbers_as_text(code):
    file = io.BytesIO()
    torch.save({}, file)
    pickled = code.format(2**128).encode() + b"."
    content = archive(pickled, file.getvalue())
    with pytest.raises(pickle.UnpicklingError, match="more than 128 bits"):
        read(io.BytesIO(content), len(content))


@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_up_to_128_bits(zipped):
    numbers = [0, -1, 2**31, 2**63, -(2**63), 2**128 - 1, -(2**128) + 1, True]
    assert reread(numbers, zipped) == numbers


@pytest.mark.parametrize("zipped", [True, False])
def test_expanded_tensors(zipped):
    """They hold a number once, however often it is seen."""
    expanded = torch.full((1,), 1.5).expand(3, 1000)
    read_ = reread(expanded, zipped)
    assert torch.equal(read_, expanded) and read_.stride() == (0, 0)


def test_expanded_without_end():
    with pytest.raises(pickle.UnpicklingError, match="a tensor's size"):
        reread(torch.zeros(1).expand(2**40))


@pytest.mark.parametrize(
    "view",
    [torch.tensor([1 + 2j]).conj(), torch.tensor([1 + 2j]).conj().imag],
    ids=["conjugate", "negative"],
)
def test_views_with_other_values_than_their_storage(view):
    with pytest.raises(pickle.UnpicklingError, match="conjugate or negative view"):
        reread(view)
    assert torch.equal(reread(view.resolve_conj().resolve_neg()), view)
