"""Reads the two formats of torch.save; nothing in a file can run, and no byte becomes a pointer.

Both hold one pickle, which `Unpickler` goes through, and the bytes of tensors, which stand beside
it; all sizes are compared with the bytes that are there.

Why not ``torch.load(weights_only=True)``: it cannot be told what else is allowed before torch 2.6;
since then the list is of the whole process, for every thread and every other user of torch.load; it
lets numpy's own constructors be called, which take pointers for data; and it verifies no checksum.
This reader needs no private name of torch and is the same for all of its versions.
"""

from __future__ import annotations

import io
import sys
import zipfile
from typing import Any, BinaryIO

import torch

from mmdysample.engine.unpickler import Unpickler, require

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_DEPTH = 100
_MAX_ITEMS = 10_000_000


def read(file: BinaryIO, size: int) -> Any:
    """What a file of torch.save holds.

    Args:
        file: an open file.
        size: its bytes; nothing in it may claim to be larger.

    Raises:
        Refused: it asks for something else than data.
        Exception: of nearly any class, if it is damaged or no such file.
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


def _read_archive(file: BinaryIO, size: int) -> Any:
    """torch >= 1.6: a zip archive of ``NAME/data.pkl`` and the storages ``NAME/data/KEY``.

    Each entry is read once, and zipfile compares its checksum.
    """
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        # Entries that overlap could hold more than the file.
        require(sum(e.file_size for e in entries.values()) <= size, "the sizes of its entries")
        require(all(e.compress_type == zipfile.ZIP_STORED for e in entries.values()), "an entry")
        pickles = [name for name in entries if name.endswith("/data.pkl")]
        require(len(pickles) == 1, "its entries")
        root = pickles[0].removesuffix("data.pkl")
        require(f"{root}constants.pkl" not in entries, "a TorchScript program, not a checkpoint")
        order = archive.read(f"{root}byteorder") if f"{root}byteorder" in entries else b"little"
        require(order == sys.byteorder.encode(), "its byte order")

        storages: dict[str, torch.Tensor] = {}

        def read_storage(key: str, _length: int) -> torch.Tensor:
            if key not in storages:
                storages[key] = _tensor_of(archive.read(f"{root}data/{key}"))
            return storages[key]

        return Unpickler(io.BytesIO(archive.read(pickles[0])), read_storage).load()


def _read_legacy(file: BinaryIO, size: int) -> Any:
    """torch < 1.6: pickles of a magic number, a version, the machine, the content and the names of
    the storages; then for each storage its number of elements and its bytes."""
    # In memory: a file would allocate whatever length a pickle claims.
    file = io.BytesIO(file.read())
    storages: dict[str, torch.Tensor] = {}
    total = 0

    def read_storage(key: str, length: int) -> torch.Tensor:
        """Zeros, in whose place the bytes come later."""
        nonlocal total
        if key not in storages:
            total += length
            require(total <= size, "the sizes of its storages")
            storages[key] = torch.zeros(length, dtype=torch.uint8)
        return storages[key]

    if Unpickler(file).load() != _LEGACY_MAGIC or Unpickler(file).load() != _LEGACY_PROTOCOL:
        raise ValueError("it is not a file of torch.save")
    require(Unpickler(file).load()["little_endian"] is True, "its byte order")
    loaded = Unpickler(file, read_storage).load()
    keys = Unpickler(file).load()
    require(keys == sorted(storages), "its storages")
    for key in keys:
        require(len(file.read(8)) == 8, "a storage's size")
        data = file.read(len(storages[key]))
        require(len(data) == len(storages[key]), "a storage's size")
        storages[key].copy_(_tensor_of(data))
    return loaded


def _tensor_of(data: bytes) -> torch.Tensor:
    # frombuffer takes no empty buffer, and warns of one that cannot be written to.
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(0).byte()


def _check_depth(loaded: Any) -> None:
    """Refuse what is nested too deep for recursive code, such as ``copy.deepcopy``, or refers to
    the same containers so often that a walk through it would hardly end."""
    level, total = [loaded], 0
    for _ in range(_MAX_DEPTH):
        containers = [x for x in level if isinstance(x, (dict, list, tuple))]
        total += sum(map(len, containers))
        if not containers:
            return
        require(total <= _MAX_ITEMS, "it holds too many values")
        level = [item for x in containers for item in (x.values() if isinstance(x, dict) else x)]
    require(False, "it is nested too deeply")
