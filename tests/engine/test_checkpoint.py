"""Checkpoints load without running code, from files, addresses and lists."""

from __future__ import annotations

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
    check_checkpoint_file,
    install_safe_loading,
    load_checkpoint,
    load_checkpoint_file,
)
from tests.engine.mutations import Asm, archive, saved


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


@pytest.mark.parametrize(
    "settings",
    [{}, dict(_use_new_zipfile_serialization=False), dict(pickle_protocol=4)],
    ids=["archive", "before-1.6", "newer-pickle"],
)
def test_loads_what_mmengine_writes(tmp_path, settings):
    path = tmp_path / "checkpoint.pth"
    torch.save(mmengine_checkpoint(), path, **settings)
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
    content = content.replace(f"numpy.{other}.".encode(), f"numpy.{written}.".encode())
    path = tmp_path / "numpy.pth"
    path.write_bytes(archive(content, saved({})))
    loaded = load_checkpoint_file(path)
    assert loaded["scalar"] == 0.5
    assert loaded["array"].tolist() == [0, 1, 2]


class Call:
    """Has a function called by whoever unpickles it."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def getattr_of(owner: str, name: str) -> bytes:
    """Pickle of ``getattr(owner, name)``, as a checkpoint may contain for HistoryBuffer."""
    return b"\x80\x02" + Asm.call(Asm.name("builtins getattr"), Asm.name(owner), Asm.value(name))


HISTORY = "mmengine.logging.history_buffer HistoryBuffer"
ATTACKS = {
    "system": pickle.dumps(Call(os.system, "touch hacked"), 2),
    "eval": pickle.dumps(Call(eval, "open('hacked', 'w')"), 2),
    "exec-in-state": pickle.dumps(dict(meta=dict(x=Call(exec, "open('hacked', 'w')"))), 2),
    "write-text": pickle.dumps(Call(Path.write_text, Path("hacked"), "x"), 2),
    "numpy-loader": pickle.dumps(Call(np.lib.npyio.NpzFile, "hacked"), 2),
    "torch-load": b"\x80\x02ctorch\nload\nX\x01\x00\x00\x00x\x85R.",
    "nested-name": b"\x80\x04\x8c\x08builtins\x94\x8c\x0cgetattr.call\x94\x93.",
    "getattr-globals": getattr_of(f"{HISTORY}.update", "__globals__") + b".",
    "getattr-private": getattr_of(HISTORY, "__init_subclass__") + b".",
    "getattr-init": getattr_of(HISTORY, "__init__") + b".",
    "getattr-of-ndarray": getattr_of("numpy ndarray", "tofile") + b".",
    "getattr-of-dict": getattr_of("collections OrderedDict", "__init__") + b".",
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("kind", ["archive", "bare-pickle"])
def test_attacks_run_nothing(attack, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickled = ATTACKS[attack]
    Path("bad.pth").write_bytes(archive(pickled, saved({})) if kind == "archive" else pickled)
    asked = r"['\"](posix|builtins|mmengine|pathlib|numpy\.lib\._?npyio.*|torch|getattr)\W"
    says = rf"checkpoint bad\.pth was refused and nothing in it was run: it asks for {asked}"
    with pytest.raises(CheckpointError, match=says) as caught:
        load_checkpoint_file("bad.pth")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["bad.pth"]


def test_the_attacks_would_work_on_plain_pickle(tmp_path, monkeypatch):
    """Else the test above would prove nothing."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(ATTACKS["system"])
    assert (tmp_path / "hacked").exists()
    assert pickle.loads(ATTACKS["getattr-of-ndarray"]) is np.ndarray.tofile


@pytest.mark.parametrize("cut", [0, 1, 10, 500, -1])
def test_truncated(tmp_path, cut):
    path = tmp_path / "checkpoint.pth"
    torch.save(mmengine_checkpoint(), path)
    path.write_bytes(path.read_bytes()[:cut])
    for check in (check_checkpoint_file, load_checkpoint_file):
        with pytest.raises(CheckpointError, match=r"checkpoint\.pth is (empty|cut off|not a file)"):
            check(path)


def test_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    places = {
        "nowhere": "does not exist",
        "loop": "does not exist",
        ".": "is a directory",
        "pipe": "is not a regular file",
        "a" * 300: "cannot be read: file name too long",
    }
    for name, says in places.items():
        with pytest.raises(CheckpointError, match=says):
            check_checkpoint_file(tmp_path / name)


def test_changed_weight(tmp_path):
    """A checksum tells."""
    weight = struct.pack("<8f", *[1.5] * 8)
    content = saved(dict(weight=torch.full((8,), 1.5)))
    assert content.count(weight) == 1
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(content.replace(weight, weight[:-1] + b"\x00"))
    with pytest.raises(CheckpointError, match=r"no checkpoint: BadZipFile, .Bad CRC"):
        load_checkpoint_file(path)


def test_torchscript_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as script:
        script.writestr("script/data.pkl", b"\x80\x02}.")
        script.writestr("script/constants.pkl", b"\x80\x02).")
    with pytest.raises(CheckpointError, match="TorchScript"):
        load_checkpoint_file(tmp_path / "script.pt")


def test_no_dict(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        load_checkpoint_file(tmp_path / "list.pth")


def test_an_archive_that_leads_before_its_start(tmp_path):
    """Its directory says that it lies later than it does: the first entry's place is negative."""
    content = bytearray(saved(dict(state_dict=dict(weight=torch.zeros(3)))))
    place = content.rindex(b"PK\x06\x06") + 48  # of the 64-bit record that torch writes
    (offset,) = struct.unpack_from("<Q", content, place)
    struct.pack_into("<Q", content, place, offset + 2**40)
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read, it is damaged or no checkpoint"):
        load_checkpoint_file(tmp_path / "a.pth")


@pytest.fixture
def loaders():
    """mmengine's loaders, put back afterwards."""
    before = dict(CheckpointLoader._schemes)
    install_safe_loading()
    yield CheckpointLoader
    CheckpointLoader._schemes.clear()
    CheckpointLoader._schemes.update(before)


def test_threads_load_at_once(loaders, tmp_path):
    """And torch.load, with its list of allowed names, stays as strict as it was."""
    torch.save(mmengine_checkpoint(), tmp_path / "checkpoint.pth")
    before = torch.load

    def load(_):
        return load_checkpoint(str(tmp_path / "checkpoint.pth"))["meta"]["iter"]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(load, range(40))) == [2] * 40
    assert torch.load is before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "checkpoint.pth", weights_only=True)


def test_every_place_of_mmengine_is_ours(loaders):
    """None of mmengine's own loaders, which end in torch.load, is left."""
    assert set(loaders._schemes.values()) == {checkpoint.load_from_mmdysample}


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


@pytest.mark.parametrize(
    "content", [dict(state_dict=[1]), {1: torch.zeros(1)}, dict(model=5), dict(model={1: 2})]
)
def test_pretrained_weights_without_names(loaders, tmp_path, content):
    """As a backbone's init_cfg loads them, by functions of mmengine."""
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match="holds no weights"):
        PretrainedInit(str(tmp_path / "bad.pth"))(nn.Linear(1, 1))


def test_http(loaders, tmp_path, monkeypatch):
    """A downloaded checkpoint is loaded as carefully as a local one."""
    served = tmp_path / "served"
    served.mkdir()
    torch.save(mmengine_checkpoint(), served / "good.pth")
    (served / "bad.pth").write_bytes(archive(ATTACKS["system"], saved({})))
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
            with pytest.raises(CheckpointError, match=r"cannot be downloaded .*: download it "):
                loaders.load_checkpoint(f"{url}/missing.pth", "cpu", logger=None)
        finally:
            server.terminate()
    assert not (served / "hacked").exists()


RESNET = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
SHUFFLENET = "https://download.openmmlab.com/mmclassification/v0/shufflenet_v1/"


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("torchvision://resnet50", RESNET),
        ("modelzoo://resnet50", RESNET),
        ("open-mmlab://resnet50_v1c", "https://download.openmmlab.com/pretrain/third_party/resn"),
        ("openmmlab://regnetx_400mf", "https://download.openmmlab.com/pretrain/third_party/regn"),
        ("mmcls://shufflenet_v1", SHUFFLENET),
    ],
)
def test_names_of_lists(loaders, name, url, tmp_path, monkeypatch):
    """The backbones of mmdet's configs are named torchvision://resnet50 and so on."""
    asked = []
    weights = {"backbone.weight": torch.ones(1), "head.weight": torch.zeros(1)}
    torch.save(dict(state_dict=weights), tmp_path / "a.pth")
    monkeypatch.setattr(checkpoint, "_download", lambda u: asked.append(u) or tmp_path / "a.pth")
    loaded = loaders.load_checkpoint(name, logger=None)["state_dict"]
    assert len(asked) == 1 and asked[0].startswith(url)
    assert list(loaded) == (["weight"] if name.startswith("mmcls") else list(weights))


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("torchvision://resnet5", "torchvision://resnet5 .*did you mean 'resnet50'"),
        ("open-mmlab://resnet50_caffe", "did you mean 'detectron2?/resnet50_caffe"),
        ("pavi://model", "pavi://model: download the checkpoint, and give the file's path"),
        ("petrel://bucket/a.pth", "petrel://bucket/a.pth: download"),
        ("s3://bucket/a.pth", "s3://bucket/a.pth: download"),
        ("https://localhost/", "https://localhost/ names no file"),
    ],
)
def test_places_without_a_checkpoint(loaders, place, says):
    with pytest.raises(CheckpointError, match=says):
        loaders.load_checkpoint(place, logger=None)
