#!/usr/bin/env bash
# Makes the virtual environment that everything in this project runs in.
#
#   bash tools/setup_env.sh [--recreate]
#
# The versions come from requirements/lock.txt. mmcv is compiled once; its wheel stays in the user's
# cache. A second call with nothing to do returns at once and needs no network. Either the whole
# environment is made or the one that was there before is left as it was.
#
#   --recreate            replace the environment, also one that this script did not make
#   PYTHON                interpreter, 3.10 to 3.12 (else python3.11, 3.12, 3.10 or python3)
#   MMDYSAMPLE_VENV       where the environment goes (else .venv in the project)
#   MMDYSAMPLE_CACHE      where built wheels and logs go (else ~/.cache/mmdysample)
#   MMDYSAMPLE_OPS        mmcv's operators: cpu, cuda, or auto (cuda where it can be built)
#   MMDYSAMPLE_NEEDED_MB  free space to insist on for the environment, in MB
#   MAX_JOBS              compilers to run at once; TORCH_CUDA_ARCH_LIST: GPUs to compile for
#
# Exit status: 0 done, 1 something is missing on this machine, 2 an argument is wrong.

# shellcheck source-path=SCRIPTDIR
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$(realpath -ms "${MMDYSAMPLE_VENV:-$ROOT/.venv}")
CACHE=$(realpath -ms "${MMDYSAMPLE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/mmdysample}")
PREVIOUS=$VENV.before-setup
DISCARDED=$VENV.setup-discarded
STAMP=$VENV/mmdysample-setup.txt
INCOMPLETE=$VENV/mmdysample-setup.incomplete
LOCK=$ROOT/requirements/lock.txt
# To be raised when a change of this script must remake the environments that it made before.
SETUP_VERSION=1
STEPS=7

# Settings that would lead pip or Python away from the environment.
unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_USER PIP_REQUIRE_VIRTUALENV
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off

# shellcheck source=setup/run.sh
source "$ROOT/tools/setup/run.sh"
# shellcheck source=setup/machine.sh
source "$ROOT/tools/setup/machine.sh"
# shellcheck source=setup/stamp.sh
source "$ROOT/tools/setup/stamp.sh"
# shellcheck source=setup/mmcv.sh
source "$ROOT/tools/setup/mmcv.sh"

pip() {
    TMPDIR=$scratch run "$VENV/bin/python" -m pip "$@"
}

make_venv() {
    step 1 "Virtual environment in $VENV with $("$python" -V) ($python); some seconds"
    if [[ -f $INCOMPLETE && ! -f $STAMP ]]; then
        restore_previous
    elif [[ -d $VENV ]]; then
        mv "$VENV" "$PREVIOUS"
    fi
    building=1
    mkdir -p "$VENV"
    : >"$INCOMPLETE"
    scratch=$VENV/tmp
    run "$python" -m venv "$VENV" || explain 'making the virtual environment'
    mkdir -p "$scratch"
    pip install -c "$LOCK" pip || explain 'installing pip'
}

install_torch() {
    step 2 'PyTorch and the tools to build with; 1 to 2 minutes (0.2 GB, or 3 GB for a CUDA build)'
    # A CUDA build of torch brings the Triton that it was made for.
    grep -v '^triton==' "$LOCK" >"$scratch/lock.txt"
    pip install -c "$scratch/lock.txt" torch numpy setuptools wheel ninja psutil ||
        explain 'installing PyTorch'
}

install_packages() {
    step 3 'OpenMMLab packages, test tools and the rest; about a minute'
    local others='^mmcv=='
    ! compgen -G "$VENV/lib/python*/site-packages/triton" >/dev/null || others='^(mmcv|triton)=='
    grep -vE "$others" "$LOCK" >"$scratch/lock.txt"
    # The list is complete, so --no-deps: else mmengine would bring the OpenCV that needs libGL.
    pip install --no-deps --only-binary :all: -r "$scratch/lock.txt" || explain 'installing packages'
}

install_project() {
    pip install --no-deps --no-build-isolation --no-index -e "$ROOT" || explain 'installing mmdysample'
}

check_environment() {
    local complaints
    step 7 'Checking that all of it imports; some seconds'
    run "$VENV/bin/python" -I -c '
import importlib.util
import cv2, matplotlib, onnx, onnxruntime, onnxscript, pycocotools.mask, torch
import mmengine, mmcv.ops, mmdet, mmseg
assert importlib.util.find_spec("mmdysample"), "error: mmdysample is not installed"
assert not importlib.util.find_spec("torchvision"), "error: torchvision has got in"' ||
        explain 'checking the environment'
    # OpenCV is there under the name of its headless build, which pip does not see as the same.
    pip check || true
    complaints=$(tail -c "+$((log_start + 1))" "$log" | grep -aE ' requires | has requirement |not supported' |
        grep -avE 'requires opencv-python, which is not installed' || true)
    [[ -z $complaints ]] || fail 1 "the installed packages do not fit together: ${complaints%%$'\n'*}"
}

recreate=
for argument in "$@"; do
    case $argument in
    --recreate) recreate=1 ;;
    -h | --help)
        sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    *) fail 2 "unknown argument $argument; accepted are --recreate and --help." ;;
    esac
done
case ${MMDYSAMPLE_OPS:-auto} in
auto | cpu | cuda) ;;
*) fail 2 "MMDYSAMPLE_OPS=$MMDYSAMPLE_OPS is not one of auto, cpu, cuda." ;;
esac
[[ ${MMDYSAMPLE_NEEDED_MB:-0} =~ ^[0-9]+$ ]] ||
    fail 2 "MMDYSAMPLE_NEEDED_MB=$MMDYSAMPLE_NEEDED_MB is not a number of MB."
[[ ${MAX_JOBS:-1} =~ ^[1-9][0-9]*$ ]] || fail 2 "MAX_JOBS=$MAX_JOBS is not a number above 0."
for tool in flock setsid sha256sum; do
    command -v "$tool" >/dev/null ||
        fail 1 "the command $tool is missing; it comes with util-linux and coreutils (this script needs Linux)."
done
MMCV=$(grep '^mmcv==' "$LOCK")

python=
[[ -z ${PYTHON:-} ]] || python=$(find_python)
need_writable "$CACHE/locks" MMDYSAMPLE_CACHE
need_writable "$(dirname "$VENV")" MMDYSAMPLE_VENV
exec 9>>"$CACHE/locks/$(printf '%s' "$VENV" | sha256sum | cut -c 1-16)"
take_lock 9 "at work on $VENV"

# What set-ups that were killed outright have left, unless the lock says that one is at work there.
for dir in "$CACHE"/wheels/*/; do
    ! compgen -G "$dir/build.*" >/dev/null || flock -n "$dir/lock" rm -rf "$dir"/build.* || true
done
rm -rf "$DISCARDED"
if [[ -d $PREVIOUS ]]; then
    # Keep what is complete.
    if [[ -f $STAMP ]]; then
        rm -rf "$PREVIOUS"
    elif [[ -f $INCOMPLETE || ! -e $VENV ]]; then
        restore_previous
    fi
fi
refuse_foreign
if must_make; then
    start_log
    python=${python:-$(find_python)}
    say "Making the environment ($reason). With nothing in the cache this takes about 15 minutes on 2"
    say 'cores, else two or three; it can be stopped and started again at any time.'
    need_space "$VENV" "${MMDYSAMPLE_NEEDED_MB:-$(command -v nvidia-smi >/dev/null && echo 12000 || echo 3000)}" \
        'the environment'
    compgen -G "$CACHE/wheels/${MMCV}_*/*.whl" >/dev/null || need_compiler "$python"
    make_venv
    install_torch
    install_packages
    install_mmcv
    exec 8>&-
    install_mmcv1
    step 6 'mmdysample itself, editable; some seconds'
    install_project
    check_environment
    step_done
    rm -rf "$scratch"
    scratch=
    write_stamp "$wanted_ops"
    rm -f "$INCOMPLETE"
    building=
    rm -rf "$PREVIOUS"
    say "Done in $(duration "$SECONDS"). The environment is $VENV"
elif [[ $(stamped project) != "$(project_hash)" ]]; then
    start_log
    say 'Installing mmdysample again, since its metadata has changed; some seconds.'
    scratch=$VENV/tmp
    mkdir -p "$scratch"
    install_project
    write_stamp "$(stamped ops)"
else
    say "The environment is complete: $VENV"
fi
