#!/usr/bin/env bash
# Sets the environment up, then trains and compares small models with and without DySample.
#
#   bash tools/demo.sh [--work-dir DIR] [--fresh] [--quick]
#
# A few minutes on two CPU cores after the set-up (about 15 minutes the first time); a GPU is used
# where there is one. `bash tools/demo.sh --help` tells the arguments.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

bash "$ROOT/tools/setup_env.sh"
exec "${MMDYSAMPLE_VENV:-$ROOT/.venv}/bin/python" "$ROOT/tools/demo.py" "$@"
