#!/usr/bin/env bash
# Sets the environment up, then trains and compares small models with and without DySample.
#
#   bash tools/demo.sh [--work-dir DIR] [--quick]
#
#   --work-dir DIR  where everything goes (else work_dirs/demo)
#   --quick         a few images and iterations: does it run here?
#
# What an earlier call has finished is kept; to start over, choose another DIR or remove it.
#
# Under ten minutes on two CPU cores after the set-up (about 15 minutes the first time); a GPU is used
# where there is one.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

for argument in "$@"; do
    case $argument in
    -h | --help)
        sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    esac
done

bash "$ROOT/tools/setup_env.sh"
unset PYTHONPATH PYTHONHOME
exec "${MMDYSAMPLE_VENV:-$ROOT/.venv}/bin/python" "$ROOT/tools/demo.py" "$@"
