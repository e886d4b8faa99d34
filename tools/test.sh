#!/usr/bin/env bash
# Sets up the environment, checks the code's form and runs all tests.
#
#   bash tools/test.sh [--fast] [arguments of pytest]
#
# --fast, which comes first, leaves out the tests that are marked as slow: three minutes on 2 cores.
# With arguments, pytest runs what they say: bash tools/test.sh tests/ops -k sample
# Without, it runs everything, in several processes (the files of tests are dealt out to them).
# The order is random; --randomly-seed=N, with the N that the output begins with, repeats one.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$(realpath -ms "${MMDYSAMPLE_VENV:-$ROOT/.venv}")
chosen=()
if [[ ${1:-} == --fast ]]; then
    chosen=(-m "not slow")
    shift
fi
bash "$ROOT/tools/setup_env.sh" </dev/null

cd "$ROOT"
unset PYTHONPATH PYTHONHOME
# Threads that spin while they wait make a busy machine many times slower.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
started=$SECONDS
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/shellcheck" -x tools/*.sh tools/benchmark/*.sh .ci/run
if (($#)); then
    "$VENV/bin/python" -m pytest ${chosen[@]+"${chosen[@]}"} "$@" </dev/null
else
    # Each process computes with one thread, as they share the cores.
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} "$VENV/bin/python" -m pytest \
        -n logical --maxprocesses 4 --dist loadfile --durations=15 \
        ${chosen[@]+"${chosen[@]}"} </dev/null
fi
echo "All checks passed in $((SECONDS - started)) s."
