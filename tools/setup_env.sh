#!/usr/bin/env bash
# Makes the virtual environment that everything in this project runs in.
#
#   bash tools/setup_env.sh
#
# The versions come from requirements/lock.txt, by pip and its settings (pip config list). mmcv is
# compiled once; its wheel stays in the user's cache. With nothing to do the script returns at once
# and needs no network. An environment that is incomplete, or made from other lists, is emptied and
# made again. To start over, remove it. Settings are variables:
#
#   PYTHON            interpreter, 3.10 to 3.12 (else python3.11, 3.12, 3.10 or python3)
#   MMDYSAMPLE_VENV   where the environment goes (else .venv in the project)
#   MMDYSAMPLE_CACHE  where wheels of mmcv are kept (else ~/.cache/mmdysample)
#   MAX_JOBS          compilers to run at once; TORCH_CUDA_ARCH_LIST: GPUs to compile for
#
# Exit status: 0 done, 1 something failed or is missing, 2 an argument is wrong.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$(realpath -ms "${MMDYSAMPLE_VENV:-$ROOT/.venv}")
CACHE=$(realpath -ms "${MMDYSAMPLE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/mmdysample}")
LOCK=$ROOT/requirements/lock.txt
MMCV=$(grep '^mmcv==' "$LOCK")
MMCV1=$(grep '^mmcv==' "$ROOT/requirements/mmcv1.txt")
KEPT1=$CACHE/wheels/${MMCV1}_without-operators
# To be raised when a change of this script must make existing environments again.
SETUP_VERSION=2
# Tells an environment of this script. Once it is complete it holds two lines: what the environment
# was made from, and what mmdysample was installed from. Where only the second differs from what is
# wanted, only mmdysample is installed again.
STAMP=$VENV/mmdysample-setup.txt
ENVIRONMENT=$({ echo "$SETUP_VERSION $VENV $MMCV1" && cat "$LOCK"; } | sha256sum)
PROJECT=$({ echo "$ROOT" && cat "$ROOT"/{setup.py,mmdysample/version.py}; } | sha256sum)

# Settings that would lead pip or Python away from the environment.
unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_USER PIP_REQUIRE_VIRTUALENV
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

fail() { # exit status, sentence
    printf 'error: %s\n' "$2" >&2
    exit "$1"
}

step() { # of 5, what is done
    doing=$2
    echo "[$1/5] $2"
}

finish() {
    # What still runs, if only this script was stopped, ends without its files.
    rm -rf "$TMPDIR" || true
    [[ -z $doing ]] || echo "Stopped at: $doing. The same command starts the set-up again." >&2
}

pip() { "$VENV/bin/python" -m pip "$@"; }

# Whether the environment is made from the present lists, with the Python that PYTHON names.
environment_is_current() {
    local version
    [[ -f $STAMP && $(head -n 1 "$STAMP") == "$ENVIRONMENT" ]] || return
    version=$("$VENV/bin/python" -V 2>/dev/null) || return
    [[ -z ${PYTHON:-} || $("$PYTHON" -V 2>&1) == "$version" ]]
}

exit_if_complete() {
    if environment_is_current && [[ $(<"$STAMP") == "$ENVIRONMENT"$'\n'"$PROJECT" ]]; then
        echo "The environment is complete: $VENV"
        exit
    fi
}

# Prints the interpreter itself: the one found may belong to the environment that is emptied.
probe_python() { # name or path
    "$1" -I -c '
import ensurepip, os, sys, sysconfig, venv
assert (3, 10) <= sys.version_info[:2] <= (3, 12)
assert os.path.isfile(os.path.join(sysconfig.get_path("include"), "Python.h"))
print(getattr(sys, "_base_executable", sys.executable))' 2>/dev/null
}

# Sets `python`. What makes a set-up impossible is found before anything is emptied.
check_machine() {
    local free held name names=(python3.11 python3.12 python3.10 python3)
    [[ ! -L $VENV ]] || fail 2 "$VENV is a symbolic link, which is not followed: remove it, or set \
MMDYSAMPLE_VENV to the directory that it leads to."
    # The second file marks what an earlier version of this script did not finish.
    if [[ ! -f $STAMP && ! -f ${STAMP%.txt}.incomplete && -e $VENV && -n $(ls -A "$VENV") ]]; then
        fail 2 "$VENV was not made by this script: move it away, or choose another place \
with MMDYSAMPLE_VENV."
    fi
    [[ -z ${PYTHON:-} ]] || names=("$PYTHON")
    for name in "${names[@]}"; do
        if python=$(probe_python "$name"); then break; fi
    done
    [[ -n $python ]] || fail 1 "no Python 3.10, 3.11 or 3.12 with venv and headers was found as \
${names[*]}: install one (Debian and Ubuntu: python3-venv, python3-dev), or set PYTHON."
    compgen -G "$CACHE/wheels/${MMCV}_*/*.whl" >/dev/null || command -v "${CXX:-g++}" >/dev/null ||
        fail 1 "no C++ compiler (${CXX:-g++}) was found, and mmcv has to be compiled: install one \
(Debian and Ubuntu: build-essential), or set CXX and CC."
    mkdir -p "$VENV"
    free=$(df -Pm "$VENV" | awk 'NR == 2 { print $4 }')
    held=$(du -sm "$VENV" | cut -f 1)
    ((free + held >= 3000)) || fail 1 "the disk is too full: $VENV needs 3000 MB (9000 with CUDA), \
$free are free, and emptying it gives $held."
}

# Compiles for CUDA where nvcc of PyTorch's major version and a GPU are there. Sets `operators`, and
# `kept` to the directory of wheels for the same mmcv, PyTorch, Python, system and operators.
choose_operators() {
    local facts cuda gpu key nvcc
    facts=$("$VENV/bin/python" -I -c '
import platform, sys, sysconfig, torch
gpu = torch.cuda.is_available() and "%d.%d" % torch.cuda.get_device_capability()
key = ["torch" + torch.__version__, "cp%d%d" % sys.version_info[:2], sysconfig.get_platform()]
print(torch.version.cuda, gpu or "none", "_".join([*key, *platform.libc_ver()]))')
    read -r cuda gpu key <<<"$facts"
    gpu=${TORCH_CUDA_ARCH_LIST:-$gpu}
    nvcc=$(PATH=${CUDA_HOME:+$CUDA_HOME/bin:}$PATH:/usr/local/cuda/bin command -v nvcc || echo false)
    if [[ $gpu != none && $("$nvcc" --version) == *"release ${cuda%%.*}."* ]]; then
        operators=cuda-${gpu//[^0-9A-Za-z.]/-}
        export FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST=$gpu
    else
        operators=cpu
        # mmcv would compile for CUDA wherever it sees a GPU.
        export FORCE_CUDA=0 CUDA_VISIBLE_DEVICES=
    fi
    kept=$CACHE/wheels/${MMCV}_${key}_$operators
}

# Not by pip's cache, whose wheel of mmcv may have been compiled against another PyTorch.
build_wheel() { # arguments of pip wheel
    pip wheel --no-deps --no-build-isolation --no-binary mmcv --no-cache-dir -w "$TMPDIR" "$@"
}

keep_wheel() { # directory
    mkdir -p "$1"
    mv "$TMPDIR"/mmcv-*.whl "$1"
}

compile_mmcv() {
    local log=$CACHE/mmcv-build.log
    echo "      Compiling it: 5 to 15 minutes on 2 cores, an hour for CUDA. The log is $log"
    # Without Python's -g, which doubles the time. ninja's [37/77] are shown.
    MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(nproc)} CFLAGS="${CFLAGS:-} -g0" PATH=$VENV/bin:$PATH \
        build_wheel -v "$MMCV" 2>&1 |
        tee "$log" | sed -unE 's/^ *(\[[0-9]+\/[0-9]+\]).*/      \1/p' ||
        fail 1 "compiling mmcv failed: $(grep -m 1 -E 'rror: |No space|Killed' "$log" ||
            tail -n 1 "$log")"
    keep_wheel "$kept"
}

make_environment() {
    local wanted_pip
    wanted_pip=$(grep '^pip==' "$LOCK")
    echo "Making $VENV: about 15 minutes on 2 cores, or two where mmcv has been compiled before."
    step 1 "virtual environment with $("$python" -V) ($python)"
    echo 'not complete' >"$STAMP"
    find "$VENV/" -mindepth 1 -maxdepth 1 ! -name "${STAMP##*/}" -exec rm -rf {} +
    "$python" -m venv "$VENV"
    pip install --retries 1 "$wanted_pip" || fail 1 "$wanted_pip could not be installed: see above, \
and check the network, the proxy and the package index (pip config list)."

    step 2 'PyTorch, OpenMMLab and the rest; a minute or two (0.5 GB, or 3 GB with CUDA)'
    # The list is complete, so --no-deps: else mmengine would bring the OpenCV that needs libGL.
    # Only a CUDA build of torch asks for more: its libraries, and a Triton of its own.
    pip install --no-deps --only-binary :all: -r <(grep -v '^mmcv==' "$LOCK")
    pip install "$(grep '^torch==' "$LOCK")"

    choose_operators
    step 3 "$MMCV with operators for $operators; for one test $MMCV1, in $VENV/opt/mmcv1"
    compgen -G "$kept/*.whl" >/dev/null || compile_mmcv
    pip install --no-deps "$kept"/*.whl
    "$VENV/bin/python" -I -c 'import mmcv.ops' ||
        fail 1 "the wheel in $kept does not work: remove it."
    if ! compgen -G "$KEPT1/*.whl" >/dev/null; then
        MMCV_WITH_OPS=0 build_wheel "$MMCV1"
        keep_wheel "$KEPT1"
    fi
    pip install --no-deps --target "$VENV/opt/mmcv1" "$KEPT1"/*.whl
}

case ${1:-} in
'') ;;
-h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit
    ;;
*) fail 2 "unknown argument $1; accepted is --help." ;;
esac
exit_if_complete
mkdir -p "$CACHE"
exec 9>>"$CACHE/lock"
flock -n 9 || { echo 'Another set-up is running; waiting for it to end.' && flock 9; }
exit_if_complete

doing=
export TMPDIR=$CACHE/mmdysample-setup.tmp
trap finish EXIT
rm -rf "$TMPDIR" # of a set-up that was killed
mkdir "$TMPDIR"
if environment_is_current; then
    echo "$ENVIRONMENT" >"$STAMP"
else
    check_machine
    make_environment
fi

step 4 'mmdysample itself, editable'
pip install --no-deps --no-build-isolation --no-index -e "$ROOT"

step 5 'seeing that all of it imports'
"$VENV/bin/python" -I -c '
import importlib.util
import cv2, matplotlib, onnx, onnxruntime, onnxscript, pycocotools.mask
import mmengine, mmcv, mmdet, mmseg, mmdysample
assert not importlib.util.find_spec("torchvision"), "torchvision has got in"'
printf '%s\n' "$ENVIRONMENT" "$PROJECT" >"$STAMP"
doing=
echo "Done in $((SECONDS / 60)) min $((SECONDS % 60)) s. The environment is $VENV"
