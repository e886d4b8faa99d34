"""Checkpoints load without running code, and fit the model or not."""

from __future__ import annotations

import importlib.util
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")

import numpy as np
from mmengine.logging import MessageHub
from mmengine.model import PretrainedInit
from mmengine.runner.checkpoint import CheckpointLoader, load_state_dict
from torch import nn

from mmdysample.engine import checkpoint
from mmdysample.engine.checkpoint import (
    CheckpointError,
    install_safe_loading,
    load_checkpoint,
    load_checkpoint_file,
    load_weights,
)


def mmengine_checkpoint() -> dict:
    """What mmengine writes: tensors, the message hub's buffers, meta of many kinds."""
    hub = MessageHub("test_checkpoint")
    hub.update_scalar("train/loss", torch.tensor(1.5))
    hub.update_scalar("train/lr", 0.1)
    hub.update_info("float64", np.float64(2.5))
    hub.update_info("int64", np.int64(3))
    hub.update_info("palette", np.arange(6, dtype=np.uint8).reshape(2, 3))
    weight = torch.arange(4.0).reshape(2, 2)
    return dict(
        meta=dict(epoch=1, iter=2, seed=3, dataset_meta=dict(classes=("a", "b"))),
        state_dict=OrderedDict(weight=weight, half=weight.half(), brain=weight.bfloat16()),
        message_hub=hub.state_dict(),
        optimizer=dict(state={0: dict(step=torch.tensor(1.0))}, param_groups=[dict(lr=0.1)]),
        param_schedulers=[dict(last_step=1, base_values=[0.1])],
    )


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "before-1.6"])
def test_loads_what_mmengine_writes(tmp_path, zipped):
    path = tmp_path / "checkpoint.pth"
    torch.save(mmengine_checkpoint(), path, _use_new_zipfile_serialization=zipped)
    loaded = load_checkpoint_file(path)
    assert loaded["meta"] == dict(epoch=1, iter=2, seed=3, dataset_meta=dict(classes=("a", "b")))
    assert torch.equal(loaded["state_dict"]["weight"], torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    assert loaded["state_dict"]["brain"].dtype is torch.bfloat16
    scalars = loaded["message_hub"]["log_scalars"]
    assert scalars["train/loss"].current() == 1.5
    assert scalars["train/lr"].statistics("mean") == 0.1
    info = loaded["message_hub"]["runtime_info"]
    assert info["float64"] == 2.5 and info["int64"] == 3
    assert info["palette"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(("written", "other"), [("_core", "core"), ("core", "_core")])
def test_numpy_names_of_either_version(tmp_path, written, other):
    """numpy 2 writes numpy._core.multiarray.scalar, numpy 1 numpy.core.multiarray.scalar."""
    content = pickle.dumps(dict(scalar=np.float64(0.5), array=np.arange(3)), 2)
    for module in ("numpy.core", "numpy._core"):
        content = content.replace(f"c{module}.multiarray".encode(), b"cnumpy.MODULE.multiarray")
    path = tmp_path / "numpy.pth"
    write_archive(path, content.replace(b"MODULE", written.encode()))
    loaded = load_checkpoint_file(path)
    assert loaded["scalar"] == 0.5
    assert loaded["array"].tolist() == [0, 1, 2]


def write_archive(path: Path, pickled: bytes) -> None:
    """A file of torch.save with a pickle of our own in it."""
    buffer = io.BytesIO()
    torch.save({}, buffer)
    with zipfile.ZipFile(buffer) as template, zipfile.ZipFile(path, "w") as archive:
        for name in template.namelist():
            content = template.read(name)
            archive.writestr(name, pickled if name.endswith("/data.pkl") else content)


class Call:
    """Has a function called by whoever unpickles it."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def getattr_of(owner: str, name: str) -> bytes:
    """Pickle of ``getattr(owner, name)``, as a checkpoint may contain for HistoryBuffer."""
    module, _, attribute = owner.rpartition(".")
    return (
        b"\x80\x02cbuiltins\ngetattr\n"
        + f"c{module}\n{attribute}\n".encode()
        + b"X"
        + struct.pack("<I", len(name))
        + name.encode()
        + b"\x86R."
    )


ATTACKS = {
    "system": pickle.dumps(Call(os.system, "touch hacked"), 2),
    "eval": pickle.dumps(Call(eval, "open('hacked', 'w')"), 2),
    "exec-in-state": pickle.dumps(dict(meta=dict(x=Call(exec, "open('hacked', 'w')"))), 2),
    "write-text": pickle.dumps(Call(Path.write_text, Path("hacked"), "x"), 2),
    "numpy-loader": pickle.dumps(Call(np.lib.npyio.NpzFile, "hacked"), 2),
    "torch-load": b"\x80\x02ctorch\nload\nX\x01\x00\x00\x00x\x85R.",
    "nested-name": b"\x80\x04\x8c\x08builtins\x94\x8c\x0cgetattr.call\x94\x93.",
    "getattr-globals": getattr_of(
        "mmengine.logging.history_buffer.HistoryBuffer.update", "__globals__"
    ),
    "getattr-private": getattr_of(
        "mmengine.logging.history_buffer.HistoryBuffer", "__init_subclass__"
    ),
    "getattr-init": getattr_of("mmengine.logging.history_buffer.HistoryBuffer", "__init__"),
    "getattr-of-ndarray": getattr_of("numpy.ndarray", "tofile"),
    "getattr-of-dict": getattr_of("collections.OrderedDict", "__init__"),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("kind", ["archive", "bare-pickle"])
def test_attacks_run_nothing(attack, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if kind == "archive":
        write_archive(tmp_path / "bad.pth", ATTACKS[attack])
    else:
        (tmp_path / "bad.pth").write_bytes(ATTACKS[attack])
    with pytest.raises(CheckpointError, match=r"bad\.pth") as caught:
        load_checkpoint_file("bad.pth")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["bad.pth"]


def test_the_attacks_would_work_on_plain_pickle(tmp_path, monkeypatch):
    """Else the test above would prove nothing."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(ATTACKS["system"])
    assert (tmp_path / "hacked").exists()
    assert pickle.loads(ATTACKS["getattr-of-ndarray"]) is np.ndarray.tofile


def test_refusal_names_what_was_asked_for(tmp_path):
    write_archive(tmp_path / "bad.pth", ATTACKS["eval"])
    with pytest.raises(CheckpointError, match=r"was refused .*\beval\b"):
        load_checkpoint_file(tmp_path / "bad.pth")


def test_nothing_is_allowed_to_others(tmp_path):
    """Other users of torch.load find it, and its list of allowed names, as they were."""
    load = torch.load
    torch.save(mmengine_checkpoint(), tmp_path / "checkpoint.pth")
    load_checkpoint_file(tmp_path / "checkpoint.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    assert torch.load is load


@pytest.mark.parametrize("cut", [0, 1, 10, 500, -1])
def test_truncated(tmp_path, cut):
    path = tmp_path / "checkpoint.pth"
    torch.save(mmengine_checkpoint(), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pth"):
        load_checkpoint_file(path)


def test_changed_weight(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save(dict(weight=torch.full((8,), 1.5)), path)
    weight = struct.pack("<8f", *[1.5] * 8)
    content = path.read_bytes()
    assert content.count(weight) == 1
    path.write_bytes(content.replace(weight, weight[:-1] + b"\x00"))
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint_file(path)


def test_torchscript_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/data.pkl", b"\x80\x02}.")
        archive.writestr("script/constants.pkl", b"\x80\x02).")
    with pytest.raises(CheckpointError, match="TorchScript"):
        load_checkpoint_file(tmp_path / "script.pt")


def test_no_dict(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        load_checkpoint_file(tmp_path / "list.pth")


def test_threads_load_at_once(tmp_path):
    """Neither takes the other's names away, and torch.load stays as strict as it was."""
    torch.save(mmengine_checkpoint(), tmp_path / "checkpoint.pth")
    before = torch.load
    install_safe_loading()

    def load(_):
        return load_checkpoint(str(tmp_path / "checkpoint.pth"))["meta"]["iter"]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(load, range(40))) == [2] * 40
    assert torch.load is before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "checkpoint.pth", weights_only=True)


def test_every_byte_is_read_once(tmp_path, monkeypatch):
    """Checksums are compared while the contents are read, not before."""
    path = tmp_path / "checkpoint.pth"
    torch.save(dict(weight=torch.zeros(10_000)), path)
    amounts = []

    class Counting(io.FileIO):
        def read(self, size=-1):
            content = super().read(size)
            amounts.append(len(content))
            return content

    monkeypatch.setattr(checkpoint, "open", lambda p, mode: Counting(p, "rb"), raising=False)
    load_checkpoint_file(path)
    # The directory of the archive is looked for at its end, in small steps.
    assert 40_000 < sum(amounts) < path.stat().st_size + 2_000


class Block(nn.Module):
    """Two layers whose parameters have names and shapes in common."""

    def __init__(self, outputs: int = 3):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, outputs)


def without(state: dict, start: str) -> dict:
    return {name: value for name, value in state.items() if not name.startswith(start)}


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        (lambda state: without(state, "second."), "2 of its 10 .* such as second.weight"),
        (lambda state: without(state, "norm.running"), "2 of its 10 .* such as norm.running_mean"),
        (lambda state: {**state, "head.bias": torch.zeros(5)}, "1 of its 10 .* such as head.bias"),
        (lambda state: {}, "10 of its 10"),
    ],
    ids=["a-layer", "statistics", "another-shape", "all"],
)
def test_what_does_not_fit(change, lost):
    """A layer of the same names and shapes elsewhere is no substitute."""
    state = change(Block().state_dict())
    with pytest.raises(CheckpointError, match=rf"x\.pth does not fit this model: {lost}"):
        load_weights(Block(), dict(state_dict=state), "x.pth", logger=None)


def test_what_fits(capsys):
    """Whatever wraps the names, and what the model has no use for."""
    source, model = Block(), Block()
    state = {f"module.{name}": value for name, value in source.state_dict().items()}
    del state["module.norm.num_batches_tracked"]
    state["module.other.weight"] = torch.zeros(1)
    load_weights(model, dict(state_dict=state), "x.pth", logger=None)
    loaded = zip(model.parameters(), source.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in loaded)
    assert capsys.readouterr().out == "checkpoint x.pth, of no use: 'other.weight'\n"


def test_names_of_a_file_are_not_printed_as_they_are(capsys):
    """Else they could clear the terminal or hide a line of the log."""
    state = {**Block().state_dict(), "\x1b[2Jother\n": torch.zeros(1)}
    load_weights(Block(), dict(state_dict=state), "x.pth", logger=None)
    assert capsys.readouterr().out == "checkpoint x.pth, of no use: '\\x1b[2Jother\\n'\n"


def test_fine_tuning_with_other_classes(capsys):
    source, model = Block(3), Block(7)
    head = model.head.weight.detach().clone()
    load_weights(model, source.state_dict(), "x.pth", partly=True, logger=None)
    assert torch.equal(model.first.weight, source.first.weight)
    assert torch.equal(model.head.weight, head)
    said = capsys.readouterr().out
    assert said == "checkpoint x.pth, of another shape: 'head.weight', 'head.bias'\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (dict(model=Block().state_dict(), epoch=1), "'model' is a OrderedDict"),
        (dict(state_dict=dict(a=Block().state_dict())), "'a' is a OrderedDict"),
        (dict(state_dict=[1]), "holds no weights by name, but 'state_dict'"),
        (dict(state_dict={1: torch.zeros(1)}), "holds no weights by name"),
        (dict(state_dict=dict(a="text")), "'a' is a str"),
    ],
)
def test_odd_checkpoints(content, says):
    with pytest.raises(CheckpointError, match=says) as caught:
        load_weights(Block(), content, "x.pth", partly=True)
    assert "\n" not in str(caught.value)


@pytest.fixture
def loaders():
    """mmengine's loaders, put back afterwards."""
    before = dict(CheckpointLoader._schemes)
    install_safe_loading()
    yield CheckpointLoader
    CheckpointLoader._schemes.clear()
    CheckpointLoader._schemes.update(before)


def test_mmengine_loads_its_own(loaders, tmp_path):
    torch.save(mmengine_checkpoint(), tmp_path / "checkpoint.pth")
    loaded = loaders.load_checkpoint(str(tmp_path / "checkpoint.pth"), "cpu", logger=None)
    assert loaded["message_hub"]["log_scalars"]["train/loss"].current() == 1.5


def test_pretrained_weights_are_weights(loaders, tmp_path):
    """As a backbone's init_cfg loads them, by functions of mmengine."""
    torch.save(dict(state_dict=[1]), tmp_path / "bad.pth")
    init = PretrainedInit(str(tmp_path / "bad.pth"))
    with pytest.raises(CheckpointError, match="holds no weights"):
        init(Block())


@pytest.mark.parametrize("key", ["state_dict", "model", None])
@pytest.mark.parametrize("versions", [{"0": dict(version="two")}, {"0": 5}, {1: {}}])
def test_versions_of_pretrained_weights(loaders, tmp_path, key, versions):
    """What is no version is left out; mmengine takes what is there as it comes."""
    source, model = nn.Sequential(nn.BatchNorm1d(3)), nn.Sequential(nn.BatchNorm1d(3))
    nn.init.normal_(source[0].weight)
    state = source.state_dict()
    state._metadata.update(versions)
    torch.save(state if key is None else {key: state}, tmp_path / "weights.pth")
    loaded = loaders.load_checkpoint(str(tmp_path / "weights.pth"), logger=None)
    load_state_dict(model, loaded if key is None else loaded[key], strict=True)
    assert torch.equal(model[0].weight, source[0].weight)


@pytest.mark.parametrize("content", [{1: torch.zeros(1)}, dict(model=5), dict(model={1: 2})])
def test_pretrained_weights_without_names(loaders, tmp_path, content):
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match="holds no weights"):
        PretrainedInit(str(tmp_path / "bad.pth"))(Block())


def test_every_place_of_mmengine_is_ours(loaders):
    """None of mmengine's own loaders, which end in torch.load, is left."""
    assert {loader.__module__ for loader in loaders._schemes.values()} == {checkpoint.__name__}


def test_installing_twice_is_installing_once(loaders):
    once = dict(loaders._schemes)
    install_safe_loading()
    assert loaders._schemes == once


def test_http(loaders, tmp_path, monkeypatch):
    """A downloaded checkpoint is loaded as carefully as a local one."""
    served = tmp_path / "served"
    served.mkdir()
    torch.save(mmengine_checkpoint(), served / "good.pth")
    write_archive(served / "bad.pth", ATTACKS["system"])
    call = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(
        call, cwd=served, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            port = server.stdout.readline().split("port ")[1].split()[0]
            url = f"http://127.0.0.1:{port}"
            monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
            loaded = loaders.load_checkpoint(f"{url}/good.pth", "cpu", logger=None)
            assert loaded["message_hub"]["log_scalars"]["train/loss"].current() == 1.5
            with pytest.raises(CheckpointError, match="refused"):
                loaders.load_checkpoint(f"{url}/bad.pth", "cpu", logger=None)
        finally:
            server.terminate()
    assert not (served / "hacked").exists()


@pytest.fixture
def without_torchvision(loaders, monkeypatch) -> list[str]:
    """The addresses that are asked for, on a machine without torchvision."""
    fetched: list[str] = []

    def fetch(filename, map_location=None):
        fetched.append(filename)
        return dict(weight=torch.zeros(1))

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torchvision" else find(name)
    )
    loaders.register_scheme(("http://", "https://"), loader=fetch, force=True)
    return fetched


@pytest.mark.parametrize("scheme", ["modelzoo", "torchvision"])
def test_backbones_of_torchvision_without_it(scheme, without_torchvision):
    """The backbones of mmdet's configs are named torchvision://resnet50 and so on."""
    assert CheckpointLoader.load_checkpoint(f"{scheme}://resnet50").keys() == {"weight"}
    assert without_torchvision == ["https://download.pytorch.org/models/resnet50-0676ba61.pth"]


def test_unknown_backbone_of_torchvision(without_torchvision):
    with pytest.raises(CheckpointError, match=r"torchvision://resnet5.*did you mean 'resnet50'"):
        CheckpointLoader.load_checkpoint("torchvision://resnet5")
    assert without_torchvision == []


def test_an_archive_that_leads_before_its_start(tmp_path):
    """Its directory says that it lies later than it does: the first entry's place is negative."""
    path = tmp_path / "a.pth"
    torch.save(dict(state_dict=dict(weight=torch.zeros(3))), path)
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\x06\x06") + 48  # of the 64-bit record that torch writes
    (offset,) = struct.unpack_from("<Q", content, place)
    struct.pack_into("<Q", content, place, offset + 2**40)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read, it is damaged or no checkpoint"):
        load_checkpoint_file(path)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.bool], ids=str)
def test_numbers_of_another_kind_do_not_fit(dtype):
    model = torch.nn.Linear(3, 2)
    state = dict(weight=torch.ones(2, 3, dtype=dtype), bias=torch.zeros(2))
    with pytest.raises(CheckpointError, match=f"'weight' is {dtype} there and torch.float32 here"):
        load_weights(model, dict(state_dict=state), "a.pth")


def test_another_precision_fits():
    model = torch.nn.Linear(3, 2)
    state = dict(weight=torch.ones(2, 3).half(), bias=torch.zeros(2, dtype=torch.float64))
    load_weights(model, dict(state_dict=state), "a.pth")
    assert model.weight.dtype == torch.float32 and (model.weight == 1).all()
