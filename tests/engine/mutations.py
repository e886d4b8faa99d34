"""Changed checkpoints, each made from a good one: what a fault or a stranger could make of it."""

from __future__ import annotations

import copy
import io
import pickle
import pickletools
import random
import struct
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from mmdysample.engine.reader import read
from tests.engine.witness import CANARY

HOSTILE = (
    "os system",
    "posix system",
    "builtins eval",
    "builtins exec",
    "builtins getattr",
    "builtins setattr",
    "builtins __import__",
    "subprocess Popen",
    "pathlib Path",
    "shutil rmtree",
    "numpy ndarray",
    "numpy dtype",
    "numpy load",
    "numpy memmap",
    "numpy.core.multiarray frombuffer",
    "numpy.core.multiarray _reconstruct",
    "numpy.core.multiarray scalar",
    "numpy._core.multiarray _reconstruct",
    "torch load",
    "torch Tensor",
    "torch._utils _rebuild_qtensor",
    "torch._utils _rebuild_sparse_tensor",
    "torch._utils _rebuild_wrapper_subclass",
    "torch._utils _rebuild_device_tensor_from_numpy",
    "torch._tensor _rebuild_from_type_v2",
    "torch.storage UntypedStorage",
    "torch.nn.parameter Parameter",
    "torch FloatStorage",
    "torch float32",
    "torch Size",
    "torch device",
    "collections OrderedDict",
    "collections Counter",
    "mmengine.logging.history_buffer HistoryBuffer",
    "mmengine.logging.message_hub MessageHub",
    "mmengine.config.config Config",
    "_codecs encode",
    "codecs open",
    "copyreg _reconstructor",
    "functools partial",
    "operator attrgetter",
    "types CodeType",
)


def archive(pickled: bytes, base: bytes, **changed: bytes) -> bytes:
    """The archive of torch.save with another pickle in it, all checksums being right."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(base)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            end = name.partition("/")[2]
            content = pickled if end == "data.pkl" else changed.get(end, old.read(name))
            new.writestr(name, content)
    return made.getvalue()


def pickle_of(base: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(base)) as archived:
        (name,) = (name for name in archived.namelist() if name.endswith("/data.pkl"))
        return archived.read(name)


def flipped(base: bytes, rng: random.Random) -> Iterator[bytes]:
    """Bits of the file, and of the pickle in it, behind which the checksums are right again."""
    legacy = io.BytesIO()
    good = read(io.BytesIO(base), len(base))
    torch.save(good, legacy, _use_new_zipfile_serialization=False)
    for content in (base, legacy.getvalue()):
        for _ in range(40):
            yield _flip(content, rng)
    pickled = pickle_of(base)
    for _ in range(120):
        yield archive(_flip(pickled, rng), base)
    for _ in range(20):
        yield base[: rng.randrange(len(base))]


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def swapped_globals(base: bytes, rng: random.Random) -> Iterator[bytes]:
    """One name in the pickle is another's."""
    pickled = pickle_of(base)
    places = [
        (position, argument)
        for code, argument, position in pickletools.genops(pickled)
        if code.name == "GLOBAL"
    ]
    for number in range(3 * len(HOSTILE)):
        start, name = rng.choice(places)
        new = HOSTILE[number % len(HOSTILE)].replace(" ", "\n")
        after = start + 1 + len(name) + 1
        yield archive(pickled[: start + 1] + new.encode() + b"\n" + pickled[after:], base)


class Asm:
    """Pickles written by hand."""

    @staticmethod
    def name(name: str) -> bytes:
        module, attribute = name.split(" ")
        return f"c{module}\n{attribute}\n".encode()

    @staticmethod
    def value(value: Any) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    @staticmethod
    def call(function: bytes, *arguments: bytes) -> bytes:
        return function + b"(" + b"".join(arguments) + b"tR"

    @staticmethod
    def file(*parts: bytes) -> bytes:
        """A dict under whose key 'meta' there are the parts."""
        return b"\x80\x02}X\x04\x00\x00\x00meta(" + b"".join(parts) + b"ts."


def calls_and_states(base: bytes, rng: random.Random) -> Iterator[bytes]:
    """Everything is called, made and built upon, with arguments and states of all kinds."""
    command = f"touch {CANARY}"
    arguments = [
        (command,),
        (),
        (f"open('{CANARY}', 'w')",),
        ("O8", False, True),
        (1 << 62,),
        ("a", "__globals__"),
    ]
    states = [
        dict(a=1),
        (None, dict(__class__=1, mean=command)),
        (1, (1 << 40,), None, False, b"\x41" * 8),
        dict(_log_history=command, _count_history=None, statistics_methods=dict(mean=command)),
        ("|O", 3, None),
    ]
    for number in range(2 * len(HOSTILE)):
        target = Asm.name(HOSTILE[number // 2])
        if number % 2:
            target = Asm.call(target, *map(Asm.value, rng.choice(arguments)))
        yield archive(Asm.file(target, Asm.value(rng.choice(states)), b"b"), base)
    for owner in ("mmengine.logging.history_buffer HistoryBuffer", "numpy ndarray"):
        for attribute in ("__init__", "__globals__", "mean", "__reduce__", "__class__.__base__"):
            once = Asm.call(Asm.name("builtins getattr"), Asm.name(owner), Asm.value(attribute))
            twice = Asm.call(Asm.name("builtins getattr"), once, Asm.value("__globals__"))
            yield archive(Asm.file(once), base)
            yield archive(Asm.file(twice), base)
    history = Asm.name("mmengine.logging.history_buffer HistoryBuffer") + b")\x81"
    for state in (
        dict(_log_history=np.arange(3.0), _count_history=np.arange(2.0), max_length=9),
        dict(_log_history=np.arange(3.0), _count_history=np.arange(3.0), max_length=1),
        dict(_log_history=[1], _count_history=[1], max_length=9),
        dict(_log_history=np.array(["a"]), _count_history=np.array(["a"]), max_length=9),
        dict(update=1),
        [],
    ):
        yield archive(Asm.file(history + Asm.value(state) + b"b"), base)


def objects_of_numpy(base: bytes, rng: random.Random) -> Iterator[bytes]:
    """Bytes that numpy would take for pointers, and arrays larger than their bytes."""
    del rng

    def plain(name: str) -> bytes:
        return Asm.call(Asm.name("numpy dtype"), *map(Asm.value, (name, False, True)))

    def dtype(name: str, flags: int = 0) -> bytes:
        """Without its flags numpy's dtype of objects takes bytes for pointers."""
        return plain(name) + Asm.value((3, "|", None, None, None, -1, -1, flags)) + b"b"

    def field(flags: int) -> bytes:
        """Eight bytes that have become an object."""
        fields = b"}" + Asm.value("a") + plain("O") + Asm.value(0) + b"\x86s"
        state = [Asm.value(v) for v in (3, "|", None, ("a",))] + [fields]
        state += [Asm.value(v) for v in (8, 1, flags)]
        return plain("V8") + b"(" + b"".join(state) + b"tb"

    def array(shape: tuple, kind: bytes, content: bytes) -> bytes:
        empty = Asm.call(
            Asm.name("numpy.core.multiarray _reconstruct"),
            Asm.name("numpy ndarray"),
            Asm.value((0,)),
            Asm.value(b"b"),
        )
        bytes_ = Asm.call(
            Asm.name("_codecs encode"), Asm.value(content.decode("latin1")), Asm.value("latin1")
        )
        state = b"(" + Asm.value(1) + Asm.value(shape) + kind + Asm.value(False) + bytes_ + b"t"
        return empty + state + b"b"

    pointer = struct.pack("<Q", 0x4141414141414141)
    for flags in (0, 16, 63):
        yield archive(Asm.file(array((1,), field(flags), pointer)), base)
        yield archive(Asm.file(array((1,), dtype("O8", flags), pointer)), base)
    for name in ("O8", "O", "V8", "S8", "U2", "M8[s]", "f8", "i8", "f16", "c16"):
        for shape, content in (((1,), pointer), ((1 << 40,), pointer), ((-1,), pointer)):
            yield archive(Asm.file(array(shape, dtype(name), content)), base)
        text = Asm.call(Asm.name("_codecs encode"), Asm.value("A" * 8), Asm.value("latin1"))
        scalar = Asm.call(Asm.name("numpy.core.multiarray scalar"), dtype(name), text)
        yield archive(Asm.file(scalar), base)


def huge(base: bytes, rng: random.Random) -> Iterator[bytes]:
    """Tensors, storages and archive entries that claim to be larger than the file."""
    pickled = pickle_of(base)
    numbers = [
        (position, code)
        for code, _, position in pickletools.genops(pickled)
        if code.name in ("BININT1", "BININT2", "BININT")
    ]
    length = dict(BININT1=2, BININT2=3, BININT=5)
    for _ in range(60):
        start, code = rng.choice(numbers)
        value = rng.choice((-1, -(2**31), 2**16, 2**31 - 1, 2**40, 2**62, 2**63, 10**400))
        after = start + length[code.name]
        yield archive(pickled[:start] + Asm.value(value) + pickled[after:], base)
    for _ in range(20):
        # Sizes in the directory at the end of the archive.
        changed = bytearray(base)
        entries = [i for i in range(len(base)) if base[i : i + 4] == b"PK\x01\x02"]
        at = rng.choice(entries) + rng.choice((20, 24, 28, 42))
        changed[at : at + 4] = struct.pack("<I", rng.choice((0, 2**31, 2**32 - 1, 2**32 - 2)))
        yield bytes(changed)


def deep(base: bytes, rng: random.Random) -> Iterator[bytes]:
    """Nested a hundred thousand times, also where Python hashes what is nested."""
    del rng
    for depth in (200, 100_000):
        for shell in (b"]" * depth + b"a" * (depth - 1), b")" + b"\x85" * depth):
            yield archive(Asm.file(shell), base)
            yield archive(Asm.file(b"}" + shell + Asm.value(1) + b"s"), base)
            yield archive(Asm.file(Asm.call(Asm.name("builtins set"), b"]" + shell + b"a")), base)
        yield archive(Asm.file(b"}" + (Asm.value("a") + b"}") * depth + b"s" * depth), base)
    # Of a few bytes, a tree of 2**60 leaves.
    yield archive(Asm.file(Asm.value(1) + b"2\x86" * 60), base)
    yield archive(
        Asm.file(Asm.value(1) + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60))), base
    )


VALUES = (
    *(None, True, -1, 10**30, 10**400, 10**5000, 1e308, float("inf"), float("nan"), 1j),
    *("text", f"{CANARY}/x", b"bytes", (), [], {}, [[1]], {"a": {"b": 1}}, {1: 1}, {10**5000: 1}),
    *(torch.zeros(0), torch.ones(3, 3), np.arange(3), np.float64(1), np.int64(1)),
    *(Counter({1: 1, 3: 10**13}), Counter({1: "text"}), Counter({"text": -1})),
    *(HistoryBuffer([1.0], [1]), HistoryBuffer(), OrderedDict(x=HistoryBuffer())),
)


def wrong_types(base: bytes, rng: random.Random) -> Iterator[bytes]:
    """Values of other types, from the top of the checkpoint to its leaves, for a run to take."""
    good = read(io.BytesIO(base), len(base))
    paths = list(_paths(good))
    for number in range(150):
        changed = copy.deepcopy(good)
        *above, key = paths[number % len(paths)]
        owner = changed
        for step in above:
            owner = owner[step]
        owner[key] = rng.choice(VALUES)
        made = io.BytesIO()
        torch.save(changed, made)
        yield made.getvalue()


def _paths(value: Any, above: tuple = ()) -> Iterator[tuple]:
    steps = value if isinstance(value, dict) else ()
    for key in range(len(value)) if isinstance(value, list) else steps:
        yield (*above, key)
        yield from _paths(value[key], (*above, key))


#: and how many there are of each
KINDS = {
    flipped: 220,
    swapped_globals: 126,
    calls_and_states: 110,
    objects_of_numpy: 46,
    huge: 80,
    deep: 16,
    wrong_types: 150,
}
