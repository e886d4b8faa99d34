"""The Triton kernels as a GPU of compute capability 9.0 gets them; compiling needs no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ops.triton_cases import needs_triton

pytestmark = [needs_triton, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
# Prints, for the first configuration of every kernel, what it uses and how it accesses memory.
SCRIPT = """
import json, os, re, subprocess, tempfile
from pathlib import Path
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mmdysample.ops.triton import point_sample as points, windows

tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
ACC = dict(ACC=tl.float32, CHANNELS=64, S=2)
BACKWARD = dict(NEED_X=True, NEED_OFFSET=True)

def window(function, leading, tiles, **constants):
    kernel = windows._kernel(function, leading, tiles, 64, constants.get("PARTS", 1))
    return kernel, dict(ACC, K=5, **constants)

CASES = {
    "forward": (points._forward, ACC, {}, "column"),
    "forward channels_last": (points._forward_channels_last, ACC, {}, "channel"),
    "backward": (points._backward, dict(ACC, FIXED=False, **BACKWARD), {}, "column"),
    "deterministic": (
        points._backward, dict(ACC, FIXED=True, **BACKWARD), {"grad_x_ptr": "*i64"}, "column"
    ),
    "weighted_sum": (
        *window(windows._weighted_sum_kernel, "BLOCK_C", windows._TILES), {}, "column"
    ),
    "inner_product": (
        *window(windows._inner_product_kernel, "TAPS", windows._TILES_OF_TAPS), {}, "column"
    ),
    "scattered_sum": (
        *window(windows._scattered_sum_kernel, "BLOCK_C", windows._TILES_OF_PARTS, PARTS=4),
        {}, "column",
    ),
}
result = {}
for name, (kernel, constants, types, contiguous) in CASES.items():
    function, config = kernel.function, kernel.default
    constants = {**constants, **config.kwargs}
    signature, attributes = {}, {}
    for index, argument in enumerate(function.arg_names):
        if argument.endswith("_" + contiguous) and "_" in argument:
            constants[argument] = 1
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument.endswith("_ptr"):
            signature[argument] = types.get(argument, "*fp32")
        else:
            signature[argument] = "i32"
        if argument.endswith(("_ptr", "_image", "_channel", "_row", "_column")):
            attributes[(index,)] = [["tt.divisibility", 16]]
    names = function.arg_names
    source = ASTSource(
        fn=function,
        signature=signature,
        constexprs={(names.index(key),): value for key, value in constants.items()},
        attrs={key: value for key, value in attributes.items() if names[key[0]] not in constants},
    )
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", 90, 32),
        options=dict(num_warps=config.num_warps, num_stages=config.num_stages),
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [tools / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True
        ).stdout
    registers, stack = re.search(r"REG:(\\d+) STACK:(\\d+)", usage).groups()
    ptx = compiled.asm["ptx"]
    result[name] = dict(
        registers=int(registers),
        stack=int(stack),
        exchanges=len(re.findall("bar.sync", ptx)),
        loads=sorted(set(re.findall(r"ld\\.global[\\w.]*", ptx))),
        stores=sorted(set(re.findall(r"st\\.global[\\w.]*", ptx))),
        atomics=sorted(set(re.findall(r"(?:atom|red)\\.global[\\w.]*", ptx))),
        layouts=re.findall(
            r"#blocked\\d* = .*?threadsPerWarp = (\\[.*?\\])", compiled.asm["ttgir"]
        ),
    )
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> dict[str, dict]:
    triton = pytest.importorskip("triton")
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    if (
        tuple(map(int, triton.__version__.split(".")[:2])) < (3, 4)
        or not (tools / "cuobjdump").exists()
    ):
        pytest.skip("needs Triton >= 3.4 with cuobjdump, as its Linux wheels have it")
    script = tmp_path_factory.mktemp("script") / "compile.py"
    script.write_text(SCRIPT)
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    environment["PYTHONPATH"] = str(ROOT)
    result = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_no_registers_are_spilled(compiled):
    assert {name: values["stack"] for name, values in compiled.items() if values["stack"]} == {}
    assert max(values["registers"] for values in compiled.values()) <= 168


@pytest.mark.parametrize("name", ["forward", "weighted_sum", "inner_product"])
def test_nothing_is_exchanged_between_threads(compiled, name):
    """No layout is converted: values stay in the registers of the thread that loaded them."""
    assert compiled[name]["exchanges"] == 0


def test_accesses_of_a_warp_lie_side_by_side(compiled):
    """A warp lies along pixels, where these are contiguous, else along channels, four a thread."""
    assert compiled["forward"]["layouts"][0] == "[32, 1]"
    assert compiled["weighted_sum"]["layouts"][0] == "[32, 1]"
    assert compiled["inner_product"]["layouts"][0] == "[32, 1]"
    assert "st.global.v4.b32" in compiled["forward channels_last"]["stores"]
    assert "ld.global.v4.b32" in compiled["forward channels_last"]["loads"]
    # pairs of neighbors
    assert compiled["weighted_sum"]["stores"] == ["st.global.v2.b32"]


def test_only_the_gradient_of_sampling_has_atomics(compiled):
    having = {name for name, values in compiled.items() if values["atomics"]}
    assert having == {"backward", "deterministic"}
    assert all("u64" in name for name in compiled["deterministic"]["atomics"])
