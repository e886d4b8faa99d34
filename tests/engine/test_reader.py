"""What reader.py takes from a file and what it refuses; test_checkpoint_fuzz.py has many more."""

from __future__ import annotations

import io
import pickle
import struct
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")

from mmengine.logging import HistoryBuffer

from mmdysample.engine.reader import read
from mmdysample.engine.unpickler import Refused
from tests.engine.mutations import Asm, archive, pickle_of, saved

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["archive", "before-1.6"])


def read_bytes(content: bytes) -> Any:
    return read(io.BytesIO(content), len(content))


def reread(content: Any, zipped: bool = True) -> Any:
    return read_bytes(saved(content, _use_new_zipfile_serialization=zipped))


@FORMATS
def test_tensors_of_every_kind(zipped):
    dtypes = (torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.complex64)
    tensors = [torch.tensor([[0, 1, 1], [1, 0, 1]], dtype=dtype) for dtype in dtypes]
    tensors += [torch.zeros(0, 3), torch.tensor(3), torch.arange(6).view(2, 3).t()[1:]]
    loaded = reread(tensors, zipped)
    assert [each.dtype for each in loaded] == [each.dtype for each in tensors]
    assert all(torch.equal(a, b) for a, b in zip(loaded, tensors, strict=True))


@FORMATS
def test_what_is_shared_stays_so(zipped):
    """Also a parameter, which is one afterwards."""
    whole = torch.nn.Parameter(torch.arange(4.0))
    part, loaded = reread([whole.detach()[1:], whole], zipped)
    assert part.tolist() == [1, 2, 3] and isinstance(loaded, torch.nn.Parameter)
    part[0] = 7
    assert loaded.tolist() == [0, 7, 2, 3]


@FORMATS
def test_containers(zipped):
    content = dict(a=[1, (2.5, None)], b={3: True, "c": Counter({5: 1})}, d=b"", e=b"\xff", f="é")
    loaded = reread(content, zipped)
    assert loaded == content and isinstance(loaded["b"]["c"], Counter)


@FORMATS
def test_numbers_up_to_128_bits(zipped):
    numbers = [0, -1, 2**31, 2**63, -(2**63), 2**128 - 1, -(2**128) + 1, True]
    assert reread(numbers, zipped) == numbers


@FORMATS
@pytest.mark.parametrize("bits", [128, 1000, 20_000])
def test_large_numbers(bits, zipped):
    """Beyond 1024 bits they are no floats, beyond 2040 written in another way, and beyond 14,284
    Python does not write them as text."""
    for value in (2**bits, -(2**bits), {2**bits: 1}):
        with pytest.raises(pickle.UnpicklingError, match="more than 128 bits"):
            reread(value, zipped)


@pytest.mark.parametrize("pickled", [b"I3\n.", b"L3L\n.", b"\x93.", b"(i\n\n.", b"\x8f."])
def test_instructions_that_torch_does_not_write(pickled):
    with pytest.raises((KeyError, IndexError)):
        read_bytes(archive(pickled, saved({})))


@pytest.mark.parametrize("value", [torch.float32, torch.Size([1]), {1}, 1j, torch.device("cpu")])
def test_what_no_checkpoint_holds(value):
    with pytest.raises(Refused):
        reread([value])


@FORMATS
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


@pytest.mark.parametrize("value", [0, (), {}], ids=str)
def test_nesting(value):
    shallow = deep = value
    for _ in range(90):
        shallow = [shallow]
    for _ in range(110):
        deep = {"a": (deep,)}
    assert reread(shallow) == shallow
    with pytest.raises(pickle.UnpicklingError, match="nested too deeply"):
        reread(deep)


def test_the_same_containers_many_times():
    value = [0] * 1000
    for _ in range(5):
        value = [value] * 1000
    with pytest.raises(pickle.UnpicklingError, match="too many values"):
        reread(value)


def test_other_byte_orders():
    legacy = saved({}, _use_new_zipfile_serialization=False)
    assert legacy.count(b"little_endian") == 1
    at = legacy.index(b"\x88", legacy.index(b"little_endian"))  # True
    with pytest.raises(pickle.UnpicklingError, match="its byte order"):
        read_bytes(legacy[:at] + b"\x89" + legacy[at + 1 :])


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a"]),
        np.array([b"a"]),
        np.array([None]),
        np.array([1], ">i4"),
        np.array(["2020-01-01"], "M8[s]"),
        np.zeros(1, [("a", "f8")]),
        np.array([1j]),
    ],
    ids=lambda array: str(array.dtype),
)
def test_arrays_of_other_kinds(array):
    with pytest.raises(pickle.UnpicklingError, match="dtype"):
        reread(array)


@pytest.mark.parametrize("shape", [(3,), (2**32, 2**32)], ids=str)
def test_arrays_larger_than_their_bytes(shape):
    pickled = pickle.dumps(np.zeros((2, 2)), 2)
    before = b"K\x02K\x02\x86"  # (2, 2)
    assert pickled.count(before) == 1
    with pytest.raises(pickle.UnpicklingError, match="an array's size"):
        read_bytes(archive(pickled.replace(before, Asm.value(shape)), saved({})))


def test_numbers_of_another_size():
    pickled = pickle.dumps(np.float64(1), 2)
    with pytest.raises(pickle.UnpicklingError, match="a number's size"):
        read_bytes(archive(pickled.replace(b"f8", b"f4"), saved({})))


@pytest.mark.parametrize("log", [[1.0], np.zeros((1, 1)), "a", np.zeros(2)], ids=repr)
def test_logged_scalars_that_are_none(log):
    history = HistoryBuffer([1.0], [1])
    history._log_history = log
    with pytest.raises(pickle.UnpicklingError, match="a log"):
        reread(history)


@FORMATS
def test_storages_larger_than_the_file(zipped):
    content = saved(torch.zeros(300, dtype=torch.uint8), _use_new_zipfile_serialization=zipped)
    pickled = pickle_of(content) if zipped else content
    count = Asm.value(300)
    assert pickled.count(count) == 2  # of the storage and of the tensor
    pickled = pickled.replace(count, Asm.value(60_000))
    says = "a storage's size" if zipped else "the sizes of its storages"
    with pytest.raises(pickle.UnpicklingError, match=says):
        read_bytes(archive(pickled, content) if zipped else pickled)


def test_entries_larger_than_the_file():
    """As those that overlap are."""
    content = bytearray(saved(torch.zeros(300)))
    entry = content.rindex(b"PK\x01\x02")
    struct.pack_into("<II", content, entry + 20, 2**20, 2**20)
    with pytest.raises(pickle.UnpicklingError, match="the sizes of its entries"):
        read_bytes(bytes(content))


def test_storages_under_other_names():
    legacy = saved([torch.zeros(2), torch.ones(2)], _use_new_zipfile_serialization=False)
    # The names stand in order, behind the pickle of the content.
    start = legacy.rindex(b"\x80\x02]q\x00(X")
    name = legacy[start + 11 : start + 13]
    at = legacy.index(name, start)
    with pytest.raises(pickle.UnpicklingError, match="its storages"):
        read_bytes(legacy[:at] + b"zz" + legacy[at + 2 :])
