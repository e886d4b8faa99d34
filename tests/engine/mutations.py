"""Changed checkpoints, each made from a good one: by a fault or on purpose."""

from __future__ import annotations

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

from mmdysample.engine import unpickler
from mmdysample.engine.reader import read
from tests.engine.witness import CANARY

#: What the reader knows, and some of what it does not, as "module name".
NAMES = [
    *(" ".join(name.rsplit(".", 1)) for name, value in unpickler._NAMES.items() if value),
    *("os system", "builtins eval", "builtins setattr", "functools partial", "numpy load"),
    *("numpy.core.multiarray frombuffer", "torch load", "torch.storage UntypedStorage"),
    *("torch._utils _rebuild_wrapper_subclass", "mmengine.config.config Config"),
]


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


def saved(content: Any, **settings) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **settings)
    return file.getvalue()


def archive(pickled: bytes, base: bytes) -> bytes:
    """The archive of torch.save with another pickle in it, all checksums being right."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(base)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("/data.pkl") else old.read(name))
    return made.getvalue()


def pickle_of(base: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(base)) as archived:
        (name,) = (name for name in archived.namelist() if name.endswith("/data.pkl"))
        return archived.read(name)


def flipped(base: bytes, rng: random.Random) -> Iterator[bytes]:
    """Bits of the file, and of the pickle in it, behind which the checksums are right again."""
    pickled = pickle_of(base)
    legacy = saved(read(io.BytesIO(base), len(base)), _use_new_zipfile_serialization=False)
    for _ in range(40):
        yield _flip(base, rng)
        yield _flip(legacy, rng)
        for _ in range(3):
            yield archive(_flip(pickled, rng), base)
    for content in (base, legacy):
        for _ in range(10):
            yield content[: rng.randrange(len(content))]


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def swapped_names(base: bytes, rng: random.Random) -> Iterator[bytes]:
    """One name in the pickle is another's."""
    pickled = pickle_of(base)
    places = [
        (position, argument)
        for code, argument, position in pickletools.genops(pickled)
        if code.name == "GLOBAL"
    ]
    for new in 3 * NAMES:
        start, name = rng.choice(places)
        end = start + 1 + len(name) + 1
        yield archive(pickled[:start] + Asm.name(new) + pickled[end:], base)


def calls_and_states(base: bytes, rng: random.Random) -> Iterator[bytes]:
    """Everything is called, made and built upon, with arguments and states of all kinds."""
    command = f"touch {CANARY}"
    arguments = [(command,), (), ("O8", False, True), (1 << 62,), ([("a", 1)],), ("a", "latin1")]
    states = [
        dict(a=1),
        [],
        (None, dict(__class__=1, mean=command)),
        (1, (1 << 40,), None, False, b"\x41" * 8),
        (3, "|", None, ("a",), {}, 8, 1, 0),
        dict(_metadata={"": command, command: dict(version=command)}),
        dict(_log_history=command, _count_history=None, statistics_methods=dict(mean=command)),
    ]
    for name in NAMES:
        called = Asm.call(Asm.name(name), *map(Asm.value, rng.choice(arguments)))
        for target in (Asm.name(name), called, Asm.name(name) + b")\x81"):
            yield archive(Asm.file(target, Asm.value(rng.choice(states)), b"b"), base)


def huge(base: bytes, rng: random.Random) -> Iterator[bytes]:
    """Tensors, storages and archive entries that claim to be larger than the file."""
    pickled = pickle_of(base)
    length = dict(BININT1=2, BININT2=3, BININT=5)
    numbers = [(at, code) for code, _, at in pickletools.genops(pickled) if code.name in length]
    for _ in range(60):
        start, code = rng.choice(numbers)
        value = rng.choice((-1, -(2**31), 2**16, 2**31 - 1, 2**40, 2**62, 2**63, 10**400))
        end = start + length[code.name]
        yield archive(pickled[:start] + Asm.value(value) + pickled[end:], base)
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
    depth = 100_000
    for shell in (b"]" * depth + b"a" * (depth - 1), b")" + b"\x85" * depth):
        yield archive(Asm.file(shell), base)
        yield archive(Asm.file(b"}" + shell + Asm.value(1) + b"s"), base)
        pairs = b"](" + shell + Asm.value(1) + b"ta"
        yield archive(Asm.file(Asm.call(Asm.name("collections OrderedDict"), pairs)), base)
    yield archive(Asm.file(b"}" + (Asm.value("a") + b"}") * depth + b"s" * depth), base)
    # Of a few bytes, a tree of 2**60 leaves.
    twice = b"".join(b"q%ch%c\x86" % (i, i) for i in range(60))
    yield archive(Asm.file(Asm.value(1) + twice), base)


VALUES = (
    *(None, True, -1, 10**30, 10**400, 10**5000, 1e308, float("inf"), float("nan"), 1j),
    *("text", f"{CANARY}/x", b"bytes", (), [], {}, [[1]], {"a": {"b": 1}}, {1: 1}, {10**5000: 1}),
    *(torch.zeros(0), torch.ones(3, 3), np.arange(3), np.float64(1), np.int64(1)),
    *(Counter({1: 1, 3: 10**13}), Counter({1: "text"}), Counter({"text": -1})),
    *(HistoryBuffer([1.0], [1]), HistoryBuffer(), OrderedDict(x=HistoryBuffer())),
)


def wrong_types(base: bytes, rng: random.Random) -> Iterator[bytes]:
    """Values of other types, from the top of the checkpoint to its leaves, for a run to take."""
    for path in _paths(read(io.BytesIO(base), len(base))):
        yield replaced(base, *path, value=rng.choice(VALUES))


def _paths(value: Any, above: tuple = ()) -> Iterator[tuple]:
    steps = value if isinstance(value, dict) else ()
    for key in range(len(value)) if isinstance(value, list) else steps:
        yield (*above, key)
        yield from _paths(value[key], (*above, key))


def replaced(base: bytes, *path: Any, value: Any) -> bytes:
    """The checkpoint with another value at a place of it."""
    content = read(io.BytesIO(base), len(base))
    owner = content
    for step in path[:-1]:
        owner = owner[step]
    owner[path[-1]] = value
    return saved(content)


KINDS = (flipped, swapped_names, calls_and_states, huge)
