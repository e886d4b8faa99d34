#!/usr/bin/env bash
# Sets up the environment, checks the code's form and runs the tests.
#
#   bash tools/test.sh [--fast] [arguments of pytest]
#
# --fast, which comes first, leaves out the tests that are marked as slow: five minutes on 2 cores.
# With arguments, pytest runs what they say: bash tools/test.sh tests/ops -k sample
# Without, it runs everything, in several processes (the files of tests are dealt out to them).
# The order is random; --randomly-seed=N, with the N that the output begins with, repeats the order
# in every file, and runs everything where it is the only argument.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
chosen=()
if [[ ${1:-} == --fast ]]; then
    chosen=(-m "not slow")
    shift
fi
bash tools/setup_env.sh </dev/null

bin=$(realpath -ms "${MMDYSAMPLE_VENV:-.venv}")/bin
unset PYTHONPATH PYTHONHOME
# Threads that spin while they wait make a busy machine many times slower.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
started=$SECONDS
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/shellcheck" -x tools/*.sh tools/benchmark/*.sh .ci/run
everything=1
for argument in "$@"; do
    [[ $argument == --randomly-seed=* ]] || everything=
done
if [[ $everything ]]; then
    # Each process computes with one thread, as they share the cores.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    set -- -n logical --maxprocesses 4 --dist loadfile --durations=15 "$@"
fi
"$bin/python" -m pytest "${chosen[@]}" "$@" </dev/null
echo "All checks passed in $((SECONDS - started)) s."
