"""What a swapped model runs: compared with its upsamplers called one by one."""

from __future__ import annotations

import concurrent.futures
import copy
import inspect
import io
import pickle
import re
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.distributed as group
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmdysample import Bilinear, swap_upsampling
from mmdysample.errors import InvalidValue
from mmdysample.swap import redirect
from tests.utils import assert_close, needs_compiler

KINDS = ["DySample", "CARAFE", "FADE", "Bilinear"]
every_kind = pytest.mark.parametrize("kind", KINDS)


class Refine(nn.Module):
    """Calls `F.interpolate`, but upsamples nothing: its call is not its caller's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, size=x.shape[2:]))


class Merge(nn.Module):
    """One call; its guide is the second argument."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(24, 8, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([F.interpolate(x, scale_factor=2), skip], dim=1))


class Net(nn.Module):
    """All kinds of sites, and an upsampler that is there before."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Conv2d(*channels, 3, stride=2, padding=1) for channels in ((3, 8), (8, 16), (16, 16))
        )
        self.refine = Refine()
        self.merge = Merge()
        self.up = nn.Upsample(scale_factor=2)
        self.own = Bilinear(8)
        self.shared = nn.Upsample(scale_factor=2, mode="bilinear")
        self.head = nn.Conv2d(19, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        images, one, two, three = maps
        two = self.refine(two) + F.interpolate(three, size=two.shape[2:], mode="bilinear")
        merged = self.merge(two, one)
        wide = torch.cat([self.shared(two), one], dim=1).mean(dim=1, keepdim=True)
        y = torch.cat([self.up(merged), images], dim=1)
        narrow = torch.cat([self.shared(merged * wide), images], dim=1)
        return self.head(torch.cat([y, narrow[:, :8] + self.own(one)], dim=1))


SITES = ["upsampling.0", "merge.upsampling.0", "shared.16", "up", "shared.8"]


def expected(net: Net, images: Tensor) -> Tensor:
    """What a swapped `Net` computes, written with its upsamplers; no hook of a call is met."""

    def up(upsampler: nn.Module, x: Tensor, guide: Tensor) -> Tensor:
        return upsampler.forward(x, guide=guide if upsampler.guided else None)

    one = net.stages[0](images)
    two = net.stages[1](one)
    refined = net.refine.conv(two)
    two = refined + up(net.upsampling["0"], net.stages[2](two), refined)
    merged = net.merge.conv(torch.cat([up(net.merge.upsampling["0"], two, one), one], dim=1))
    wide = torch.cat([up(net.shared["16"], two, one), one], dim=1).mean(dim=1, keepdim=True)
    y = torch.cat([up(net.up, merged, images), images], dim=1)
    narrow = up(net.shared["8"], merged * wide, images)
    own = F.interpolate(one, scale_factor=2, mode="bilinear")
    return net.head(torch.cat([y, narrow + own], dim=1))


def images(height: int = 32, width: int = 48, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width)


def swapped(kind: str, net: Net | None = None) -> Net:
    return swap_upsampling(net or Net(), dict(type=kind), images())


def gradients(net: Net, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*net.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@every_kind
def test_values_gradients_and_copies(kind):
    net = swapped(kind)
    x = images()
    assert_close(net(x), expected(net, x))
    wanted = gradients(net, expected(net, x).square().mean())
    for name, gradient in gradients(net, net(x).square().mean()).items():
        assert_close(gradient, wanted[name])

    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    copies = [
        copy.deepcopy(net),
        pickle.loads(pickle.dumps(copy.deepcopy(net))),
        torch.load(file, weights_only=False),
        swapped(kind),
        torch.optim.swa_utils.AveragedModel(net).module,
        swapped(kind, Net().to("meta")).to_empty(device="cpu"),
    ]
    for other in copies:
        other.load_state_dict(net.state_dict())
        assert torch.equal(other(x), net(x))
        assert type(other) is type(net)
    # a copy is not entangled with its original
    with torch.no_grad():
        copies[0].head.bias += 1
    assert_close(copies[0](x), net(x) + 1)
    halved = {name: value / 2 for name, value in net.named_parameters()}
    copies[1].load_state_dict(halved, strict=False)
    assert_close(torch.func.functional_call(net, halved, (x,)), expected(copies[1], x))


@every_kind
def test_lower_precision(kind):
    net = swapped(kind)
    x = images()
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(net(x), expected(net, x), torch.bfloat16)
        assert (net(x) - expected(net.float(), x)).abs().max() < 0.1
    net = net.bfloat16()
    assert_close(net(x.bfloat16()), expected(net, x.bfloat16()))

    def forward(net: Net, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return net(x)

    net = swap_upsampling(Net(), dict(type=kind), x, forward=forward)
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", ["DySample", "FADE"])
def test_threads_and_replicas(kind):
    """Frames are each thread's own, also where two run the same model."""
    nets = [swapped(kind), swapped(kind)]
    nets.append(nets[0])
    inputs = [images(height) for height in (32, 48, 64)]
    with torch.no_grad():
        wanted = [expected(net, x) for net, x in zip(nets, inputs, strict=True)]
        wrong = []

        def run(number: int) -> None:
            with torch.no_grad():
                for _ in range(5):
                    if not torch.allclose(nets[number](inputs[number]), wanted[number], atol=1e-5):
                        wrong.append(number)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        # as nn.DataParallel makes for each device
        replica = nets[0]._replicate_for_data_parallel()
        assert_close(replica(inputs[0]), wanted[0])


@pytest.mark.parametrize("kind", ["DySample", "FADE"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint_of_the_whole_model(kind, use_reentrant):
    net = swapped(kind)
    x = images().requires_grad_()
    loss = checkpoint(net, x, use_reentrant=use_reentrant).square().mean()
    loss.backward()
    wanted = gradients(net, expected(net, x).square().mean())
    for name, parameter in net.named_parameters():
        assert_close(parameter.grad, wanted[name])


def test_arguments_keep_their_names():
    """Exporters and trainers read them."""
    assert str(inspect.signature(swapped("DySample").forward)) == str(
        inspect.signature(Net().forward)
    )


def test_classes():
    net = swapped("FADE")
    assert type(net).__name__ == "UpsampledNet"
    assert isinstance(net, Net)
    assert [type(m).__name__ for m in (net.refine, net.merge)] == [
        "UpsampledRefine",
        "UpsampledMerge",
    ]
    assert type(net.up).__name__ == "FADE"
    assert "Upsampled" not in repr(net.up) + repr(net.own)


class Run(nn.Module):
    """A call between convolutions, run by a function that a test may set."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 2, stride=2)
        self.side = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 2, 1)
        self.run = usual

    def forward(self, images: Tensor) -> Tensor:
        return self.run(self, images)


def double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2)


def sides_in(kind: Callable[[int], object]):
    def run(model: Run, images: Tensor) -> Tensor:
        size = kind(images.shape[2])
        return model.last(F.interpolate(model.first(images), size=size) + model.side(images))

    return run


@pytest.mark.parametrize("kind", [int, np.int64, lambda n: [n, n], lambda n: (np.int64(n),) * 2])
def test_sizes_are_given_in_many_ways(kind):
    net = Run()
    net.run = sides_in(kind)
    net = swap_upsampling(net, dict(type="DySample"), images(16, 16))
    x = images(16, 16)
    assert_close(net(x), net.last(net.upsampling["0"](net.first(x)) + net.side(x)))


def usual(model: Run, images: Tensor) -> Tensor:
    side = model.side(images)
    return model.last(double(model.first(images)) + side)


def twice(model: Run, images: Tensor) -> Tensor:
    return usual(model, images) + double(usual(model, images[:, :, ::2, ::2]))


def never(model: Run, images: Tensor) -> Tensor:
    return model.last(model.side(images))


def wider(model: Run, images: Tensor) -> Tensor:
    x = model.first(images)
    return double(torch.cat([x, x], dim=1))


def unreachable(model: Run, images: Tensor) -> Tensor:
    return F.interpolate(model.first(images), size=images.shape[3])


def tripled(model: Run, images: Tensor) -> Tensor:
    return F.interpolate(model.first(images), scale_factor=3)


def without_guide(model: Run, images: Tensor) -> Tensor:
    return model.last(double(model.first(images)) + model.side(images))


def checkpointed(use_reentrant: bool, part):
    def run(model: Run, images: Tensor) -> Tensor:
        return checkpoint(part, model, images.requires_grad_(), use_reentrant=use_reentrant)

    return run


def checkpointed_guide(use_reentrant: bool):
    def run(model: Run, images: Tensor) -> Tensor:
        side = checkpoint(model.side, images.requires_grad_(), use_reentrant=use_reentrant)
        return model.last(double(model.first(images)) + side)

    return run


@pytest.mark.parametrize(
    ("kind", "run", "sentence"),
    [
        ("DySample", twice, "Run called F.interpolate 3 times, but 1 times with the example"),
        ("DySample", never, "Run called F.interpolate 0 times, but 1 times with the example"),
        (
            "DySample",
            wider,
            "Run calls F.interpolate (call 0) as it did not with the example: DySample: x must be "
            "(B, 8, H, W), got (1, 16, 8, 12)",
        ),
        (
            "DySample",
            unreachable,
            "Run calls F.interpolate (call 0) as it did not with the example: DySample: cannot "
            "reach size (24, 24) from (8, 12)",
        ),
        (
            "DySample",
            tripled,
            "Run calls F.interpolate (call 0) as it did not with the example: DySample: cannot "
            "reach size (24, 36) from (8, 12)",
        ),
        (
            "FADE",
            without_guide,
            "upsampling.0 has met no guide: the module that computes it has not run",
        ),
        (
            "DySample",
            checkpointed(True, usual),
            "Run calls F.interpolate where no gradient is recorded, as reentrant activation "
            "checkpointing does; checkpoint the whole module",
        ),
        (
            "FADE",
            checkpointed_guide(True),
            "the guide of upsampling.0 is computed where no gradient is recorded",
        ),
    ],
)
def test_another_path_than_with_the_example(kind, run, sentence):
    net = swap_upsampling(Run(), dict(type=kind), images())
    wanted = net(images(16, 24, 1)).shape
    net.run = run
    with pytest.raises(InvalidValue, match=re.escape(sentence)):
        net(images(16, 24, 1))
    net.run = usual  # nothing is left of the forward that has failed
    assert net(images(16, 24, 1)).shape == wanted
    assert redirect._frames.stack == []


@pytest.mark.parametrize("kind", ["DySample", "FADE", "PixelShuffle"])
def test_a_part_in_a_checkpoint_raises(kind):
    """Its second run, in the backward pass, is in no forward: torch notes what it has not saved."""
    net = swap_upsampling(Run(), dict(type=kind), images())
    net.run = checkpointed(False, usual)
    loss = net(images()).sum()
    with pytest.raises(RuntimeError, match="number of tensors"):
        loss.backward()


@pytest.mark.parametrize("kind", ["DySample", "FADE"])
def test_a_guide_in_a_checkpoint(kind):
    net = swap_upsampling(Run(), dict(type=kind), images())
    x = images()
    wanted = gradients(net, net(x).square().mean())
    net.run = checkpointed_guide(False)
    for name, gradient in gradients(net, net(x).square().mean()).items():
        assert_close(gradient, wanted[name])


@pytest.mark.parametrize("kind", ["DySample", "FADE"])
def test_threads_in_the_same_forward(kind):
    """Both are inside the same module when either of them calls `F.interpolate`."""
    net = swap_upsampling(Run(), dict(type=kind), images())
    inputs = [images(32), images(48)]
    wanted = [net(x) for x in inputs]
    both = threading.Barrier(2)

    def meeting(model: Run, images: Tensor) -> Tensor:
        side = model.side(images)
        both.wait(timeout=30)
        y = double(model.first(images))
        both.wait(timeout=30)
        return model.last(y + side)

    net.run = meeting
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for result, expected in zip(pool.map(net, inputs), wanted, strict=True):
            assert_close(result, expected)


class NamesItsClass(Run):
    """As classes that are made again from their settings when they are copied."""

    def __reduce__(self):
        return NamesItsClass, (), self.__dict__


class NamesItsType(Run):
    def __reduce__(self):
        return type(self), (), self.__dict__


class Arguments(Run):
    def __getnewargs_ex__(self):
        return (), {}


@pytest.mark.parametrize("cls", [NamesItsClass, NamesItsType, Arguments, Run])
def test_copies_of_classes_that_say_how_they_are_made(cls):
    net = swap_upsampling(cls(), dict(type="DySample"), images())
    x = images()
    protocols = range(2, pickle.HIGHEST_PROTOCOL + 1) if cls is Arguments else range(6)
    pickled = [pickle.loads(pickle.dumps(net, protocol)) for protocol in protocols]
    for other in (copy.deepcopy(net), *pickled):
        assert type(other) is type(net)
        assert torch.equal(other(x), net(x))


def test_a_guide_that_is_passed_in_another_manner():
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.side = nn.Conv2d(3, 8, 2, stride=2), nn.Conv2d(3, 8, 1)
            self.merge = Merge()
            self.merge.conv = nn.Conv2d(16, 8, 1)
            self.by_name = True

        def forward(self, images: Tensor) -> Tensor:
            x, skip = self.first(images), self.side(images)
            return self.merge(x, skip=skip) if self.by_name else self.merge(x, skip)

    net = swap_upsampling(Skip(), dict(type="FADE"), images())
    net(images())
    net.by_name = False
    sentence = "with the example it was an argument of merge, which is not passed now, or not in"
    with pytest.raises(InvalidValue, match=sentence):
        net(images())


def in_place(model: Run, images: Tensor) -> Tensor:
    side = model.side(images)
    side += double(model.first(images))
    return model.last(side)


def test_a_guide_that_is_overwritten():
    """`side += up(x)` as `side + up(x)`, also in the backward pass."""
    net = Run()
    net.run = in_place
    net = swap_upsampling(net, dict(type="FADE"), images())
    x = images()
    overwriting = gradients(net, net(x).square().mean())
    side = net.side(x)
    y = net.last(side + net.upsampling["0"].forward(net.first(x), guide=side))
    for name, gradient in gradients(net, y.square().mean()).items():
        assert_close(overwriting[name], gradient)


def test_a_module_that_guides_two_calls():
    """Each call has what the module has returned last."""

    class TopDown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.ModuleList(nn.Conv2d(c, 8, 3, stride=2, padding=1) for c in (3, 8, 8))
            self.lateral = nn.Conv2d(8, 8, 1)

        def forward(self, images: Tensor) -> Tensor:
            one = self.stages[0](images)
            two = self.stages[1](one)
            x = self.stages[2](two)
            for side in (two, one):
                skip = self.lateral(side)
                x = F.interpolate(x, size=side.shape[2:]) + skip
            return x

    net = swap_upsampling(TopDown(), dict(type="FADE"), images())
    x = images()
    one = net.stages[0](x)
    two = net.stages[1](one)
    wanted = net.stages[2](two)
    for number, side in (("0", two), ("1", one)):
        skip = net.lateral(side)
        wanted = net.upsampling[number].forward(wanted, guide=skip) + skip
    assert_close(net(x), wanted)


def test_parts_of_a_copy_of_itself_give_no_guide():
    """As of a teacher, whose features a forward compares with its own."""
    net = swap_upsampling(Run(), dict(type="FADE"), images())
    x = images()
    wanted = net(x)
    teacher = copy.deepcopy(net)
    nn.init.normal_(teacher.side.weight)

    def with_teacher(model: Run, images: Tensor) -> Tensor:
        side = model.side(images)
        teacher.side(images)
        return model.last(double(model.first(images)) + side)

    net.run = with_teacher
    assert torch.equal(net(x), wanted)


class Ratio(nn.Module):
    """Says how many times larger a map has to be, as some exported models do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.first(images)
        coarse = self.second(fine)
        ratio = [fine.shape[axis] / coarse.shape[axis] for axis in (2, 3)]
        return fine + F.interpolate(coarse, scale_factor=ratio)


@pytest.mark.parametrize("height", [29, 30, 31, 33])
def test_odd_sizes(height):
    """Of maps that become larger by a row or a column than the other one these are left out."""
    net = swap_upsampling(Ratio(), dict(type="CARAFE"), images())
    for x in (images(height, 37, batch=3), images(64, height)):
        fine = net.first(x)
        coarse = net.upsampling["0"](net.second(fine))
        assert_close(net(x), fine + coarse[:, :, : fine.shape[2], : fine.shape[3]])


class Small(nn.Module):
    """A module, and a call whose guide is another module's output."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(4, 8, 2, stride=2)
        self.skip = nn.Conv2d(4, 8, 1)
        self.up = nn.Upsample(scale_factor=2)

    def forward(self, images: Tensor) -> Tensor:
        skip = self.skip(images)
        x = self.down(images)
        return torch.cat([skip, F.interpolate(x, size=skip.shape[2:]), self.up(x)], dim=1)


def small(kind: str) -> Small:
    return swap_upsampling(Small(), dict(type=kind), torch.randn(1, 4, 16, 16)).eval()


def expected_small(net: Small, x: Tensor) -> Tensor:
    skip, y = net.skip(x), net.down(x)
    guide = skip if net.up.guided else None
    return torch.cat([skip, net.upsampling["0"].forward(y, guide), net.up.forward(y, guide)], 1)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace")
def test_trace_of_upsamplers_by_width():
    both = redirect.UpsamplersByWidth({"4": Bilinear(4), "8": Bilinear(8)})
    x = torch.randn(1, 8, 5, 6)
    assert_close(torch.jit.trace(both, x)(x), F.interpolate(x, scale_factor=2, mode="bilinear"))


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["DySample", "FADE"])
def test_compile(kind):
    net = small(kind)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=False)
    for size in ((16, 16), (12, 20)):
        x = torch.randn(2, 4, *size)
        loss, wanted = compiled(x).square().mean(), expected_small(net, x).square().mean()
        assert_close(loss, wanted)
        for one, other in zip(
            gradients(net, loss).values(), gradients(net, wanted).values(), strict=True
        ):
            assert_close(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_export(strict, tmp_path):
    reason = "needs ONNX: pip install onnx onnxscript onnxruntime"
    pytest.importorskip("onnxscript", reason=reason)
    onnxruntime = pytest.importorskip("onnxruntime", reason=reason)
    net = small("DySample")
    sides = [2 * torch.export.Dim(name, min=4, max=16) for name in ("height", "width")]
    shapes = {"images": {2: sides[0], 3: sides[1]}}
    example = torch.randn(1, 4, 16, 16)
    program = torch.export.export(net, (example,), dynamic_shapes=shapes, strict=strict)
    for x in (example, torch.randn(1, 4, 12, 20)):
        assert_close(program.module()(x), expected_small(net, x))
    scaled = swap_upsampling(Run(), dict(type="DySample"), images()).eval()
    other = torch.export.export(scaled, (images(16, 16),), dynamic_shapes=shapes, strict=strict)
    x = images(12, 20)
    assert_close(other.module()(x), scaled(x))
    if not strict:
        path = str(tmp_path / "net.onnx")
        torch.onnx.export(program, dynamo=True, verbose=False).save(path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        x = torch.randn(1, 4, 12, 20)
        (result,) = session.run(None, {"images": x.numpy()})
        assert_close(torch.from_numpy(result), expected_small(net, x))


@pytest.mark.parametrize("kind", ["DySample", "FADE"])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace")
def test_trace(kind):
    net = small(kind)
    traced = torch.jit.trace(net, torch.randn(1, 4, 16, 16))
    for x in (torch.randn(1, 4, 16, 16), torch.randn(1, 4, 12, 20)):
        assert_close(traced(x), expected_small(net, x))
    net = swap_upsampling(Run(), dict(type=kind), images())
    assert_close(torch.jit.trace(net, images())(x[:, :3]), net(x[:, :3]))


def train_in_a_group(rank: int, file: str, kind: str) -> None:
    """One of two processes: gradients of DDP, then of FSDP2."""
    from torch.distributed import device_mesh, fsdp

    torch.manual_seed(0)
    net, x = swapped(kind), images()
    wanted = gradients(net, expected(net, x).square().mean())
    group.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    try:
        copied = copy.deepcopy(net)
        parallel = nn.parallel.DistributedDataParallel(copied, find_unused_parameters=False)
        for _ in range(2):  # the second finds out whether all gradients of the first have come
            copied.zero_grad()
            parallel(x[rank : rank + 1]).square().mean().backward()
        for name, parameter in copied.named_parameters():
            assert_close(parameter.grad, wanted[name])
        if rank == 0:
            assert {"upsampling.0", "merge.upsampling.0"} <= {n for n, _ in copied.named_modules()}
        if not hasattr(fsdp, "fully_shard"):
            return  # torch < 2.6
        mesh = device_mesh.init_device_mesh("cpu", (2,))
        for module in (net.merge, net.refine, net):
            fsdp.fully_shard(module, mesh=mesh)
        net(x[rank : rank + 1]).square().mean().backward()
        for name, parameter in net.named_parameters():
            assert_close(parameter.grad.full_tensor(), wanted[name])
    finally:
        group.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["FADE"])
def test_parallel_training(tmp_path, kind):
    """Two processes have the gradients of one that has both halves of the batch."""
    torch.multiprocessing.spawn(train_in_a_group, (str(tmp_path / "group"), kind), nprocs=2)
