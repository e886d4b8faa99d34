"""Reads the files of torch.save; nothing in them can run, and no byte of them becomes a pointer.

A pickle is a program: it names functions and has them called, and sets attributes of what they
return. Here it can name only what `_NAMES` holds. These are constructors of our own for dense
tensors, plain numpy arrays, mmengine's logged scalars and a few containers; each checks the types
and sizes of what it is given against the bytes that are there. No class of numpy, torch or mmengine
is handed out to be called or built upon.

Why not ``torch.load(weights_only=True)``: it cannot be told what else is allowed before torch 2.6;
since then the list is of the whole process, for every thread and every other user of torch.load; it
lets numpy's own constructors be called, which take pointers for data; and it verifies no checksum.
This reader needs no private name of torch and is the same for all of its versions.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
import sys
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from types import FunctionType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_DEPTH = 100
_MAX_ITEMS = 10_000_000
# What uses a number may convert it to a float or to text, and neither takes any whole number.
_MAX_INTEGER = 2**128
# An expanded tensor is larger than its storage, by as much as a file likes to say.
_MAX_EXPANDED = 2**28
_KEYS = (str, int, float, bool, bytes, type(None))
_ARRAY_DTYPES = ("b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)))
_ARRAY_DTYPES += ("f2", "f4", "f8", "c8", "c16")
_STATISTICS = ("min", "max", "current", "mean")

#: What malformed bytes make a parser raise.
PARSE_ERRORS = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, struct.error, NotImplementedError),
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, RuntimeError),
    *(OSError, TypeError, ValueError),  # an archive may lead to a place before its file's start
)


class Refused(pickle.UnpicklingError):
    """A pickle asks for something that no checkpoint of weights needs."""


def read(file: BinaryIO, size: int) -> Any:
    """What a file of torch.save holds.

    Args:
        file: an open file.
        size: its bytes; nothing in it may claim to be larger.

    Raises:
        Refused: it asks for something else than data.
        PARSE_ERRORS: it is damaged or no such file.
    """
    head = file.read(4)
    file.seek(0)
    if head == b"PK\x03\x04":
        loaded = _read_archive(file, size)
    elif head[:1] == b"\x80":
        loaded = _read_legacy(file, size)
    else:
        raise ValueError("it is not a file of torch.save")
    _check_depth(loaded)
    return loaded


class _Storage(NamedTuple):
    """The bytes of tensors, which may share them."""

    data: torch.Tensor  # (bytes,), uint8
    dtype: torch.dtype


class _Marker(NamedTuple):
    """A class that a pickle names, where it is an argument; of no use otherwise."""

    name: str


_HISTORY = _Marker("HistoryBuffer")
_NDARRAY = _Marker("ndarray")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise pickle.UnpicklingError(what)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _rebuild_tensor(
    storage, offset, size, stride, grad=None, hooks=None, flags=None
) -> torch.Tensor:
    """A view of a storage, which is neither conjugated nor negated in passing."""
    _require(type(storage) is _Storage, "a tensor without a storage")
    _require(not flags, "a tensor that is a conjugate or negative view: resolve_conj() it first")
    return _view(storage.data.view(storage.dtype), offset, size, stride)


def _rebuild_tensor_v3(
    storage, offset, size, stride, grad, hooks, dtype, flags=None
) -> torch.Tensor:
    _require(type(storage) is _Storage and type(dtype) is torch.dtype, "a tensor without a dtype")
    storage = _Storage(storage.data, dtype)
    return _rebuild_tensor(storage, offset, size, stride, grad, hooks, flags)


def _view(flat: torch.Tensor, offset: Any, size: Any, stride: Any) -> torch.Tensor:
    numbers = [offset, *size, *stride]
    _require(all(map(_is_count, numbers)) and len(size) == len(stride) <= 64, "a tensor's size")
    # as_strided refuses to reach beyond the storage. A stride of 0 reaches nowhere.
    _require(math.prod(size) <= max(flat.numel(), _MAX_EXPANDED), "a tensor's size")
    return flat.as_strided(size, stride, offset)


def _rebuild_parameter(data, requires_grad, *_) -> torch.nn.Parameter:
    _require(isinstance(data, torch.Tensor), "a parameter without a tensor")
    return torch.nn.Parameter(data, bool(requires_grad))


def _size(numbers=()) -> torch.Size:
    _require(all(map(_is_count, numbers)), "a size")
    return torch.Size(numbers)


def _device(kind: str, index: int | None = None) -> torch.device:
    return torch.device(kind) if index is None else torch.device(kind, index)


def _ndarray(kind, *_) -> np.ndarray:
    _require(kind is _NDARRAY, "an array of another class")
    return np.zeros(0)


def _dtype(name, *_) -> np.dtype:
    _require(type(name) is str and name in _ARRAY_DTYPES, f"arrays of dtype {name!r:.20}")
    return np.dtype(name)


def _scalar(dtype, data) -> np.generic:
    _require(isinstance(dtype, np.dtype) and type(data) is bytes, "a number's type")
    _require(len(data) == dtype.itemsize, "a number's size")
    return np.frombuffer(data, dtype)[0]


def _ordered_dict(pairs=()) -> OrderedDict:
    made = OrderedDict()
    for key, value in pairs:
        _set_item(made, key, value)
    return made


def _counter(counts=None) -> Counter:
    _require(counts is None or type(counts) is dict, "a counter")
    return Counter(counts)


def _set(items=()) -> set:
    _require(all(type(item) in _KEYS for item in items), "a set's items")
    return set(items)


def _complex(real, imaginary) -> complex:
    return complex(real, imaginary)


def _bytes() -> bytes:
    """Empty ones: others are text, encoded."""
    return b""


def _encode(text, encoding) -> bytes:
    _require(type(text) is str and encoding in ("latin1", "latin-1"), "bytes")
    return text.encode("latin1")


def _statistic(owner, name) -> Callable:
    """The part of ``getattr`` that mmengine's logged scalars need."""
    if owner is not _HISTORY or name not in _STATISTICS:
        owner = owner.name if type(owner) is _Marker else type(owner).__name__
        raise Refused(f"getattr({owner}, {name!r:.40})")
    return getattr(HistoryBuffer, name)


_CONSTRUCTORS: dict[str, FunctionType] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.Size": _size,
    "torch.device": _device,
    "numpy.dtype": _dtype,
    "collections.OrderedDict": _ordered_dict,
    "collections.Counter": _counter,
    "builtins.set": _set,
    "builtins.complex": _complex,
    "builtins.bytes": _bytes,
    "builtins.getattr": _statistic,
    "_codecs.encode": _encode,
    # numpy 2 renamed numpy.core, and checkpoints of either version load under either.
    **{f"numpy.{core}.multiarray._reconstruct": _ndarray for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
}
_STORAGES = dict(
    Double="float64",
    Float="float32",
    Half="float16",
    BFloat16="bfloat16",
    Long="int64",
    Int="int32",
    Short="int16",
    Char="int8",
    Byte="uint8",
    Bool="bool",
    ComplexFloat="complex64",
    ComplexDouble="complex128",
)
_NAMES: dict[str, Any] = {
    **_CONSTRUCTORS,
    "mmengine.logging.history_buffer.HistoryBuffer": _HISTORY,
    "numpy.ndarray": _NDARRAY,
    "torch.storage.UntypedStorage": torch.uint8,
    **{f"torch.{name}Storage": getattr(torch, dtype) for name, dtype in _STORAGES.items()},
    # Those of plain numbers; not all are in every version of torch.
    **{
        f"torch.{name}": value
        for name, value in vars(torch).items()
        if isinstance(value, torch.dtype)
        and re.fullmatch(r"bool|(u?int|b?float|complex)(8|16|32|64|128|8_\w+)", name)
    },
    # As protocols from 4 on name them.
    **{
        f"mmengine.logging.history_buffer.HistoryBuffer.{name}": getattr(HistoryBuffer, name)
        for name in _STATISTICS
    },
}


def _set_item(target: dict, key: Any, value: Any) -> None:
    # Python hashes a tuple nested a million times on the machine's stack, which overflows.
    _require(type(target) in (dict, OrderedDict, Counter), "an item of something else than a dict")
    _require(type(key) in _KEYS, "a dict's key")
    target[key] = value


def _build_history(history: HistoryBuffer, state: Any) -> None:
    """From arrays and a length alone, whatever else the state holds."""
    log, counts = state["_log_history"], state["_count_history"]
    longest = state.get("max_length", 1_000_000)
    for values in (log, counts):
        _require(type(values) is np.ndarray and values.ndim == 1, "logged scalars")
        _require(values.dtype.kind in "biuf", "logged scalars")
    _require(_is_count(longest) and len(log) == len(counts) <= longest, "logged scalars")
    history.__init__(log, counts, longest)


def _build_array(array: np.ndarray, state: Any) -> None:
    version, shape, dtype, column_major, data = state
    _require(version == 1 and type(shape) is tuple and all(map(_is_count, shape)), "an array")
    _require(isinstance(dtype, np.dtype) and type(data) is bytes, "an array's type")
    _require(len(shape) <= 32 and math.prod(shape) * dtype.itemsize == len(data), "an array's size")
    array.__setstate__((1, shape, dtype, bool(column_major), data))


def _build_dtype(dtype: np.dtype, state: Any) -> None:
    """The state of a plain dtype says nothing but its byte order."""
    native = ("|", "=", "<" if sys.byteorder == "little" else ">")
    _require(state[1] in native and state[2:5] == (None, None, None), "a dtype")


def _build_ordered_dict(mapping: OrderedDict, state: Any) -> None:
    """The versions of modules, which ``state_dict`` puts there, and nothing else."""
    if type(state) is dict and isinstance(state.get("_metadata"), dict):
        mapping._metadata = OrderedDict(
            (module, dict(version=told["version"]))
            for module, told in state["_metadata"].items()
            if type(module) is str and type(told) is dict and type(told.get("version")) is int
        )


class _Unpickler(pickle._Unpickler):
    """The machine that runs a pickle, with fewer instructions than Python's.

    Python's own, in Python: that in C sets attributes of whatever a pickle points at.
    """

    def __init__(self, file: BinaryIO, storages: Callable[..., _Storage] | None = None):
        super().__init__(file, encoding="utf-8")
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        # torch.save writes pickles that Python 2 could read.
        module = "builtins" if module == "__builtin__" else module
        try:
            return _NAMES[f"{module}.{name}"]
        except KeyError:
            raise Refused(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> _Storage:
        _require(type(pid) is tuple and self._storages is not None, "a storage")
        kind, dtype, key, _, count, *view = pid
        _require(kind == "storage" and type(dtype) is torch.dtype, "a storage's type")
        _require(type(key) is str and _is_count(count), "a storage's size")
        return self._storages(dtype, key, count, view[0] if view else None)

    def load_int(self) -> None:
        super().load_int()
        self._check_integer()

    def load_long(self) -> None:
        super().load_long()
        self._check_integer()

    def load_long1(self) -> None:
        super().load_long1()
        self._check_integer()

    def load_long4(self) -> None:
        super().load_long4()
        self._check_integer()

    def _check_integer(self) -> None:
        _require(-_MAX_INTEGER < self.stack[-1] < _MAX_INTEGER, "a number of more than 128 bits")

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        known = type(function) is FunctionType and function in _CONSTRUCTORS.values()
        _require(known and type(arguments) is tuple, "a call")
        self.stack[-1] = function(*arguments)

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        _require(self.stack.pop() is _HISTORY and type(arguments) is tuple, "a new object")
        self.append(HistoryBuffer())

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, np.dtype):
            _build_dtype(target, state)
        elif type(target) is np.ndarray:
            _build_array(target, state)
        elif type(target) is HistoryBuffer:
            _build_history(target, state)
        elif type(target) is OrderedDict:
            _build_ordered_dict(target, state)
        else:
            raise pickle.UnpicklingError("a state")

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _set_item(self.stack[-1], key, value)

    def load_setitems(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            _set_item(self.stack[-1], key, value)

    def load_append(self) -> None:
        value = self.stack.pop()
        _require(type(self.stack[-1]) is list, "an item of something else than a list")
        self.stack[-1].append(value)

    def load_appends(self) -> None:
        values = self.pop_mark()
        _require(type(self.stack[-1]) is list, "an item of something else than a list")
        self.stack[-1].extend(values)

    # Left out are those that make instances and sets, take persistent ids as text or go by
    # extension codes.
    dispatch = {  # noqa: RUF012
        ord(code): pickle._Unpickler.dispatch[ord(code)]
        for code in (
            *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK),
            *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT),
            *(pickle.BININT1, pickle.BININT2),
            *(pickle.FLOAT, pickle.BINFLOAT, pickle.UNICODE, pickle.BINUNICODE),
            *(pickle.SHORT_BINUNICODE, pickle.BINUNICODE8, pickle.BINBYTES, pickle.SHORT_BINBYTES),
            *(pickle.BINBYTES8, pickle.BINSTRING, pickle.SHORT_BINSTRING),
            *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
            *(pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.GET, pickle.PUT, pickle.BINPUT),
            *(pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.BINGET, pickle.LONG_BINGET),
            *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.BINPERSID),
        )
    }
    dispatch[ord(pickle.INT)] = load_int
    dispatch[ord(pickle.LONG)] = load_long
    dispatch[pickle.LONG1[0]] = load_long1
    dispatch[pickle.LONG4[0]] = load_long4
    dispatch[ord(pickle.REDUCE)] = load_reduce
    dispatch[ord(pickle.NEWOBJ)] = load_newobj
    dispatch[ord(pickle.BUILD)] = load_build
    dispatch[ord(pickle.SETITEM)] = load_setitem
    dispatch[ord(pickle.SETITEMS)] = load_setitems
    dispatch[ord(pickle.APPEND)] = load_append
    dispatch[ord(pickle.APPENDS)] = load_appends


def _read_archive(file: BinaryIO, size: int) -> Any:
    """torch >= 1.6: a zip archive of ``NAME/data.pkl`` and the storages ``NAME/data/KEY``.

    Each record is read once, and zipfile compares its checksum.
    """
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        # Entries that overlap could hold more than the file.
        _require(sum(e.file_size for e in entries.values()) <= size, "the sizes of its entries")
        _require(all(e.compress_type == zipfile.ZIP_STORED for e in entries.values()), "an entry")
        pickles = [name for name in entries if name.endswith("/data.pkl")]
        _require(len(pickles) == 1, "its entries")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}constants.pkl" in entries:
            raise ValueError("it is a TorchScript program, not a checkpoint")
        order = archive.read(f"{root}byteorder") if f"{root}byteorder" in entries else b"little"
        _require(order == sys.byteorder.encode(), "its byte order")

        storages: dict[str, torch.Tensor] = {}

        def storage(dtype: torch.dtype, key: str, count: int, view: Any) -> _Storage:
            if key not in storages:
                storages[key] = _tensor_of(archive.read(f"{root}data/{key}"))
            _require(storages[key].numel() == count * dtype.itemsize, "a storage's size")
            return _Storage(storages[key], dtype)

        return _Unpickler(io.BytesIO(archive.read(pickles[0])), storage).load()


def _read_legacy(file: BinaryIO, size: int) -> Any:
    """torch < 1.6: four pickles (magic number, version, machine, content), keys, storages."""
    # In memory: a file would allocate whatever length a pickle claims.
    file = io.BytesIO(file.read())
    storages: dict[str, torch.Tensor] = {}
    used = 0

    def storage(dtype: torch.dtype, key: str, count: int, view: Any) -> _Storage:
        nonlocal used
        length = count * dtype.itemsize
        if key not in storages:
            used += length
            _require(used <= size, "the sizes of its storages")
            storages[key] = torch.zeros(length, dtype=torch.uint8)
        flat = storages[key]
        _require(flat.numel() == length, "a storage's size")
        if view is not None:
            _, start, count = view
            _require(_is_count(start) and _is_count(count), "a storage's size")
            flat = flat[start * dtype.itemsize : (start + count) * dtype.itemsize]
        return _Storage(flat, dtype)

    magic = _Unpickler(file).load()
    if magic != _LEGACY_MAGIC or _Unpickler(file).load() != _LEGACY_PROTOCOL:
        raise ValueError("it is not a file of torch.save")
    machine = _Unpickler(file).load()
    _require(type(machine) is dict and machine.get("little_endian") is True, "its byte order")
    loaded = _Unpickler(file, storage).load()
    keys = _Unpickler(file).load()
    _require(type(keys) is list and all(type(key) is str for key in keys), "its storages")
    _require(set(keys) == set(storages), "its storages")
    for key in keys:
        flat = storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        data = file.read(flat.numel())
        _require(len(data) == flat.numel() and 0 <= count <= len(data), "a storage's size")
        flat.copy_(_tensor_of(data))
    return loaded


def _tensor_of(data: bytes) -> torch.Tensor:
    # frombuffer takes no empty buffer, and warns of one that cannot be written to.
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(0).byte()


def _check_depth(loaded: Any) -> None:
    """Refuse what is nested too deep for code that calls itself, as ``copy.deepcopy`` does, or
    holds the same containers so often that whoever goes through it comes to no end."""
    level, total = [loaded], 0
    for _ in range(_MAX_DEPTH):
        containers = [x for x in level if isinstance(x, (dict, list, tuple))]
        total += sum(map(len, containers))
        if not containers:
            return
        _require(total <= _MAX_ITEMS, "it holds too many values")
        level = [item for x in containers for item in (x.values() if isinstance(x, dict) else x)]
    raise pickle.UnpicklingError("it is nested too deeply")
