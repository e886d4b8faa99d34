"""A pickle machine in which nothing can run, for the pickles in checkpoints.

A pickle is a program: it names functions, has them called, and sets attributes of what they return.
Here it can name only what `_NAMES` holds, has of these only the functions of this file called, and
sets nothing but the contents of arrays and of mmengine's logged scalars. Each function checks the
types and sizes that it is given; no class of numpy, torch or mmengine is handed out.
"""

from __future__ import annotations

import math
import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable
from types import FunctionType
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

# What uses a number may convert it to a float or to text, and neither takes any whole number.
_MAX_INTEGER = 2**128
# An expanded tensor is larger than its storage, by any factor that a file claims.
_MAX_EXPANDED = 2**28
_KEYS = (str, int, float, bool, bytes, type(None))


class Refused(pickle.UnpicklingError):
    """A pickle asks for something that no checkpoint of weights needs."""


def require(condition: bool, what: str) -> None:
    """Raise UnpicklingError, which names what is wrong in the file, unless ``condition`` holds."""
    if not condition:
        raise pickle.UnpicklingError(what)


def is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


# ------------------------------------------------- what a pickle may have called


def _tensor(
    storage, offset, size, stride, requires_grad=None, hooks=None, flags=None
) -> torch.Tensor:
    """A view of a storage."""
    require(type(storage) is torch.Tensor, "a tensor without a storage")
    require(not flags, "a tensor that is a conjugate or negative view: resolve_conj() it first")
    require(all(map(is_count, (offset, *size, *stride))) and len(size) <= 64, "a tensor's size")
    require(math.prod(size) <= max(storage.numel(), _MAX_EXPANDED), "a tensor's size")
    # It refuses to reach beyond the storage.
    return storage.as_strided(size, stride, offset)


def _parameter(data, requires_grad, *_) -> torch.nn.Parameter:
    require(isinstance(data, torch.Tensor), "a parameter without a tensor")
    return torch.nn.Parameter(data, bool(requires_grad))


def _ordered_dict(pairs=()) -> OrderedDict:
    made = OrderedDict()
    for key, value in pairs:
        _set_item(made, key, value)
    return made


def _counter(counts=None) -> Counter:
    require(counts is None or type(counts) is dict, "a counter")
    return Counter(counts)


def _bytes() -> bytes:
    """Empty ones: others are text, encoded."""
    return b""


def _encode(text, encoding) -> bytes:
    require(type(text) is str and encoding in ("latin1", "latin-1"), "bytes")
    return text.encode("latin1")


def _array(kind, *_) -> np.ndarray:
    """An empty one, whose contents are set later."""
    require(kind == _NDARRAY, "an array of another class")
    return np.zeros(0)


def _dtype(name, *_) -> np.dtype:
    require(name in _ARRAY_DTYPES, f"arrays of dtype {name!r:.20}")
    return np.dtype(name)


def _scalar(dtype, data) -> np.generic:
    require(isinstance(dtype, np.dtype) and type(data) is bytes, "a number's type")
    require(len(data) == dtype.itemsize, "a number's size")
    return np.frombuffer(data, dtype)[0]


def _statistic(owner, name) -> None:
    """What mmengine's logged scalars have in their state, where nothing reads it."""
    if owner != _HISTORY or name not in _STATISTICS:
        raise Refused(f"getattr(..., {name!r:.40})")


_HISTORY = "mmengine.logging.history_buffer.HistoryBuffer"
_STATISTICS = ("min", "max", "current", "mean")
_NDARRAY = "numpy.ndarray"
_ARRAY_DTYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
_NAMES: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "collections.OrderedDict": _ordered_dict,
    "collections.Counter": _counter,
    "builtins.bytes": _bytes,
    "_codecs.encode": _encode,
    # numpy 2 renamed numpy.core, and checkpoints of either version load under either.
    "numpy.core.multiarray._reconstruct": _array,
    "numpy._core.multiarray._reconstruct": _array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.dtype": _dtype,
    # Classes are their own names, for the functions above and below to know them by.
    _NDARRAY: _NDARRAY,
    _HISTORY: _HISTORY,
    # Its methods; pickle's protocols from 4 on name them directly.
    "builtins.getattr": _statistic,
    **{f"{_HISTORY}.{name}": None for name in _STATISTICS},
}


# ------------------------------------------------- what a pickle may set


def _set_item(target: dict, key: Any, value: Any) -> None:
    # Python hashes a tuple nested a million times on the machine's stack, which overflows.
    require(isinstance(target, dict) and type(key) in _KEYS, "a dict's key")
    target[key] = value


def _set_history(history: HistoryBuffer, state: Any) -> None:
    """From arrays and a length alone, whatever else the state holds."""
    log, counts = state["_log_history"], state["_count_history"]
    longest = state.get("max_length", 1_000_000)
    require(all(type(each) is np.ndarray and each.ndim == 1 for each in (log, counts)), "a log")
    require(is_count(longest) and len(log) == len(counts) <= longest, "a log's length")
    history.__init__(log, counts, longest)


def _set_array(array: np.ndarray, state: Any) -> None:
    version, shape, dtype, column_major, data = state
    require(version == 1 and type(shape) is tuple and all(map(is_count, shape)), "an array")
    require(isinstance(dtype, np.dtype) and type(data) is bytes, "an array's type")
    require(len(shape) <= 32 and math.prod(shape) * dtype.itemsize == len(data), "an array's size")
    array.__setstate__((1, shape, dtype, bool(column_major), data))


def _check_dtype(dtype: np.dtype, state: Any) -> None:
    """Refuse any state but the one of a plain dtype, which says its byte order alone."""
    require(state[1] in ("|", "<") and state[2:5] == (None, None, None), "a dtype")


def _set_versions(mapping: OrderedDict, state: Any) -> None:
    """The versions of modules, which ``state_dict`` puts there, and nothing else."""
    if type(state) is dict and isinstance(state.get("_metadata"), dict):
        mapping._metadata = OrderedDict(
            (module, dict(version=local["version"]))
            for module, local in state["_metadata"].items()
            if type(module) is str and type(local) is dict and type(local.get("version")) is int
        )


_SETTERS: dict[type, Callable[[Any, Any], None]] = {
    HistoryBuffer: _set_history,
    np.ndarray: _set_array,
    OrderedDict: _set_versions,
}


class Unpickler(pickle._Unpickler):
    """Python's machine, in Python, with fewer instructions; the one in C sets any attribute.

    Args:
        file: where the pickle begins.
        read_storage: gives the bytes of a tensor's storage, (n,) uint8, by its name and n, what the
            pickle says of it.
    """

    def __init__(
        self, file: BinaryIO, read_storage: Callable[[str, int], torch.Tensor] | None = None
    ):
        super().__init__(file, encoding="utf-8")
        self._read_storage = read_storage

    def find_class(self, module: str, name: str) -> Any:
        # torch.save writes pickles that Python 2 could read.
        module = "builtins" if module == "__builtin__" else module
        if f"{module}.{name}" not in _NAMES:
            raise Refused(f"{module}.{name}")
        return _NAMES[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """A storage as a flat tensor of its dtype."""
        require(type(pid) is tuple and self._read_storage is not None, "a storage")
        kind, dtype, key, _, count, *view = pid
        require(kind == "storage" and type(dtype) is torch.dtype, "a storage's type")
        require(type(key) is str and is_count(count) and not any(view), "a storage's size")
        content = self._read_storage(key, count * dtype.itemsize)
        require(len(content) == count * dtype.itemsize, "a storage's size")
        return content.view(dtype)

    def load_long1(self) -> None:
        super().load_long1()
        require(abs(self.stack[-1]) < _MAX_INTEGER, "a number of more than 128 bits")

    def load_long4(self) -> None:
        raise pickle.UnpicklingError("a number of more than 128 bits")  # of more than 2,040

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        # The only functions that a pickle can name are those of this file.
        require(type(function) is FunctionType and type(arguments) is tuple, "a call")
        self.append(function(*arguments))

    def load_newobj(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        require(kind == _HISTORY and arguments == (), "a new object")
        self.append(HistoryBuffer())

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        setter = _check_dtype if isinstance(target, np.dtype) else _SETTERS.get(type(target))
        require(setter is not None, "a state")
        setter(target, state)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _set_item(self.stack[-1], key, value)

    def load_setitems(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            _set_item(self.stack[-1], key, value)

    # Left out are protocol 0, what makes instances and sets, persistent ids as text and extension
    # codes. Of what can be made here only lists have the methods that APPEND and APPENDS call.
    dispatch = {  # noqa: RUF012
        code[0]: pickle._Unpickler.dispatch[code[0]]
        for code in (
            *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK),
            *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
            *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.BINFLOAT),
            *(pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8),
            *(pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8),
            *(pickle.BINSTRING, pickle.SHORT_BINSTRING),
            *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
            *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT),
            *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.BINGET, pickle.LONG_BINGET),
            *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.BINPERSID),
        )
    }
    dispatch |= {
        pickle.LONG1[0]: load_long1,
        pickle.LONG4[0]: load_long4,
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
    }
