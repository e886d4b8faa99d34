#!/usr/bin/env bash
# Everything that needs a GPU, in one command: the core's tests on CUDA, then the benchmark.
#
#     bash tools/benchmark/gpu.sh docs/benchmarks/NAME
#
# Needs torch, triton and pytest, and nothing of OpenMMLab. SegFormer-B1's training is measured too
# where mmseg is installed, and a figure is drawn where matplotlib is.
set -euo pipefail

if [[ $# -ne 1 || $1 == -* ]]; then
    echo "usage: bash tools/benchmark/gpu.sh DIR    (for the results; it is made)" >&2
    exit 2
fi
if [[ -e $1/results.csv ]]; then
    echo "error: $1 has results.csv already; choose another directory" >&2
    exit 2
fi
python=${PYTHON:-python}
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "error: PyTorch sees no CUDA GPU here, or torch is not installed" >&2
    exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
export PYTHONPATH=$PWD # nothing need be installed
"$python" -m pytest tests/test_registry.py tests/ops tests/upsamplers 2>&1 | tee "$out/tests.log"
"$python" tools/benchmark/run.py --suite all --device cuda --out "$out" | tee "$out/tables.txt"
if "$python" -c 'import mmseg' 2>/dev/null; then
    "$python" tools/benchmark/training_steps.py --device cuda --out "$out" | tee "$out/training.txt"
else
    echo "mmseg is not installed: SegFormer-B1's training was not measured"
fi
if "$python" -c 'import matplotlib' 2>/dev/null; then
    "$python" tools/benchmark/plot.py "$out"
else
    echo "matplotlib is not installed: to draw, python tools/benchmark/plot.py $1 elsewhere"
fi
