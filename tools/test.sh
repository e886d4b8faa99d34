#!/usr/bin/env bash
# Sets up the environment, checks the code's form and runs all tests.
#
#   bash tools/test.sh [arguments of pytest]
#
# With arguments, pytest runs what they say: bash tools/test.sh tests/ops -k sample
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$(realpath -ms "${MMDYSAMPLE_VENV:-$ROOT/.venv}")
bash "$ROOT/tools/setup_env.sh" </dev/null

cd "$ROOT"
unset PYTHONPATH PYTHONHOME
# Threads that spin while they wait make a busy machine many times slower.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
started=$SECONDS
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/shellcheck" -x tools/*.sh tools/benchmark/*.sh .ci/run
"$VENV/bin/python" -m pytest --durations=15 "$@" </dev/null
echo "All checks passed in $((SECONDS - started)) s."
