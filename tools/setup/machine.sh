# Sourced by tools/setup_env.sh: what this machine has to build with.
# shellcheck shell=bash

PROBE='
import sys
if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    sys.exit("is Python %d.%d" % sys.version_info[:2])
try:
    import ensurepip, venv
except ImportError:
    sys.exit("lacks the modules venv and ensurepip; on Debian and Ubuntu install python3-venv")
# of a virtual environment, which may be the one that is made anew: the interpreter that made it
print(getattr(sys, "_base_executable", sys.executable))
'
MINOR='import sys; print("%d.%d" % sys.version_info[:2])'

# Prints the interpreter's real path, or why it will not do. A name on the PATH may be a version
# manager's shim with no interpreter behind it, so only running it tells.
probe_python() { # name or path
    local answer
    if ! command -v "$1" >/dev/null; then
        printf 'was not found'
        return 1
    elif answer=$("$1" -I -c "$PROBE" 2>&1); then
        printf '%s' "$answer"
    else
        case $answer in
        'is Python'* | 'lacks the modules'*) printf '%s' "$answer" ;;
        *) printf 'does not run' ;;
        esac
        return 1
    fi
}

find_python() {
    local name answer tried=
    if [[ -n ${PYTHON:-} ]]; then
        answer=$(probe_python "$PYTHON") ||
            fail 2 "PYTHON=$PYTHON $answer; needed is Python 3.10, 3.11 or 3.12 with venv."
        printf '%s' "$answer"
        return
    fi
    for name in python3.11 python3.12 python3.10 python3; do
        if answer=$(probe_python "$name"); then
            printf '%s' "$answer"
            return
        fi
        tried+="${tried:+; }$name $answer"
    done
    fail 1 "no Python 3.10, 3.11 or 3.12 with venv was found ($tried): install one or set PYTHON=/path/to/python."
}

free_mb() { # directory, which need not exist yet
    local dir=$1
    while [[ ! -d $dir ]]; do dir=$(dirname "$dir"); done
    df -Pm "$dir" | awk 'NR == 2 { print $4 }'
}

need_space() { # directory, MB, what for
    local free
    free=$(free_mb "$1")
    ((free >= $2)) ||
        fail 1 "the disk is too full: $3 needs about $2 MB in $1, and $free MB are free."
}

need_writable() { # directory to make, variable that moves it
    mkdir -p "$1" 2>/dev/null && [[ -w $1 ]] ||
        fail 1 "cannot write to $1: set $2 to a folder that can be written."
}

need_compiler() { # python
    local cxx include dir
    cxx=${CXX:-g++}
    include=$("$1" -I -c 'import sysconfig; print(sysconfig.get_path("include"))')
    # The variable may hold a launcher and flags (ccache g++).
    command -v "${cxx%% *}" >/dev/null ||
        fail 1 "no C++ compiler was found ($cxx), and mmcv has to be compiled: install one (Debian and Ubuntu: build-essential), or set CXX and CC."
    [[ -f $include/Python.h ]] ||
        fail 1 "the headers of $1 are missing ($include/Python.h), and mmcv has to be compiled: install them (Debian and Ubuntu: python3-dev), or use another Python with PYTHON=."
    dir=$(mktemp -d)
    printf '#include <Python.h>\n#include <optional>\nint main() { return std::optional<int>(0).value(); }\n' >"$dir/a.cpp"
    # shellcheck disable=SC2086
    if ! $cxx -std=c++17 -fPIC -shared -I"$include" "$dir/a.cpp" -o "$dir/a.so" >>"$log" 2>&1; then
        rm -rf "$dir"
        fail 1 "the C++ compiler ($cxx) cannot compile a C++17 extension of Python: install a newer one, or set CXX and CC."
    fi
    rm -rf "$dir"
}

# Prints "<version> <CUDA version or None>" of the environment's torch without importing it.
torch_build() { # python
    "$1" -I -c '
import importlib.util, pathlib, runpy
spec = importlib.util.find_spec("torch")
build = runpy.run_path(str(pathlib.Path(spec.origin).with_name("version.py")))
print(build["__version__"], build["cuda"])'
}

# A folder with nvcc of the given major version of CUDA and the headers of its libraries.
find_cuda_home() { # major version
    local home nvcc
    nvcc=$(command -v nvcc || true)
    for home in "${CUDA_HOME:-}" ${nvcc:+"$(dirname "$(dirname "$(readlink -f "$nvcc")")")"} \
        /usr/local/cuda /usr/local/cuda-"$1"*; do
        if [[ -f $home/include/cuda_runtime.h && -f $home/include/cusparse.h ]] &&
            "$home/bin/nvcc" --version 2>/dev/null | grep "release $1\." >/dev/null; then
            printf '%s' "$home"
            return
        fi
    done
    return 1
}

# Decides which operators mmcv gets: sets ops, and ops_why for cpu, or cuda_home and cuda_arch.
choose_ops() { # version of torch's CUDA, or None
    ops=cpu ops_why='' cuda_home='' cuda_arch=''
    local choice=${MMDYSAMPLE_OPS:-auto}
    if [[ $choice == cpu ]]; then
        ops_why='MMDYSAMPLE_OPS=cpu'
        return
    elif [[ $1 == None ]]; then
        ops_why='this PyTorch is a CPU build'
    elif ! cuda_home=$(find_cuda_home "${1%%.*}"); then
        ops_why="no CUDA ${1%%.*} toolkit with nvcc and headers was found"
    else
        cuda_arch=${TORCH_CUDA_ARCH_LIST:-$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null |
            sort -u | paste -sd ';' || true)}
        if [[ -n $cuda_arch ]]; then
            ops=cuda
        else
            ops_why='no GPU is visible; TORCH_CUDA_ARCH_LIST=9.0, say, names one to compile for'
        fi
    fi
    [[ $choice != cuda || $ops == cuda ]] ||
        fail 2 "MMDYSAMPLE_OPS=cuda is not possible here: $ops_why."
}
