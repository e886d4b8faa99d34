# Sourced by tools/setup_env.sh: mmcv, compiled once and kept in the cache.
# shellcheck shell=bash

mmcv_key() { # version of torch
    "$VENV/bin/python" -I -c '
import platform, sys, sysconfig
key = [sys.argv[1], "torch" + sys.argv[2], "cp%d%d" % sys.version_info[:2]]
print("_".join([*key, sysconfig.get_platform(), *filter(None, platform.libc_ver())]))' \
        "$MMCV" "$1"
}

use_mmcv() { # wheel
    pip install --no-deps --force-reinstall "$1" && run "$VENV/bin/python" -I -c 'import mmcv.ops'
}

compile_mmcv() { # folder for the wheel
    local jobs=${MAX_JOBS:-} memory
    if [[ -z $jobs ]]; then
        # A compiler takes up to 1 GB, and 3 GB for CUDA.
        memory=$(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo)
        jobs=$((memory / ($([[ $ops == cuda ]] && echo 3 || echo 1))))
        jobs=$((jobs < 1 ? 1 : jobs < $(nproc) ? jobs : $(nproc)))
    fi
    # Python would compile with -g, which takes twice as long and makes the wheel many times as large.
    local settings=(MMCV_WITH_OPS=1 MAX_JOBS="$jobs" PATH="$VENV/bin:$PATH" CFLAGS="${CFLAGS:-} -g0")
    if [[ $ops == cuda ]]; then
        settings+=(FORCE_CUDA=1 CUDA_HOME="$cuda_home" TORCH_CUDA_ARCH_LIST="$cuda_arch")
    else
        # mmcv would compile for CUDA wherever it sees a GPU.
        settings+=(FORCE_CUDA=0 CUDA_VISIBLE_DEVICES=)
    fi
    # Without pip's own cache, whose wheels of mmcv may have been built with other settings.
    TMPDIR=$1 run env "${settings[@]}" "$VENV/bin/python" -m pip wheel "$MMCV" --no-deps \
        --no-build-isolation --no-binary mmcv --no-cache-dir -v -w "$1"
}

# The wheel of mmcv from the cache, or compiled and, once it has been seen to work, kept there.
install_mmcv() {
    local build torch dir wheel
    build=$(torch_build "$VENV/bin/python")
    torch=${build%% *}
    choose_ops "${build##* }"
    wanted_ops=$ops
    while true; do
        dir=$CACHE/wheels/$(mmcv_key "$torch")_$ops${cuda_arch:+-${cuda_arch//[^0-9A-Za-z.]/-}}
        need_writable "$dir" MMDYSAMPLE_CACHE
        exec 8>>"$dir/lock"
        take_lock 8 'compiling mmcv'
        # Under the lock these can only be left from a set-up that was killed.
        rm -rf "$dir"/build.*
        wheel=$(compgen -G "$dir/*.whl" || true)
        if [[ -n $wheel ]]; then
            step 4 "$MMCV with $ops operators from $dir; some seconds"
            if use_mmcv "$wheel"; then return; fi
            in_log 'No space left on device' && explain 'installing mmcv'
            say '      The kept wheel does not work; compiling it again.'
            rm -f "$wheel"
        fi
        need_compiler "$VENV/bin/python"
        need_space "$dir" 1000 'compiling mmcv'
        step 4 "$MMCV, compiled once and kept in $dir; 5 to 15 minutes on 2 cores, an hour for CUDA"
        say "      It gets operators for $ops${cuda_arch:+ $cuda_arch}${ops_why:+ ($ops_why)}."
        local kept=$scratch
        scratch=$dir/build.$$
        mkdir "$scratch"
        if compile_mmcv "$scratch"; then
            wheel=$(compgen -G "$scratch/*.whl")
            if use_mmcv "$wheel"; then
                mv "$wheel" "$dir/"
                rm -rf "$scratch"
                scratch=$kept
                return
            fi
        fi
        if [[ $ops == cuda && ${MMDYSAMPLE_OPS:-auto} == auto ]] && ! in_log 'No space left on device'; then
            say "      mmcv's CUDA operators could not be compiled (the log is $log); compiling those for the CPU."
            keep_log=1
            rm -rf "$scratch"
            scratch=$kept
            ops=cpu ops_why="the CUDA operators could not be compiled" cuda_arch=''
        else
            explain 'compiling mmcv'
        fi
    done
}

install_mmcv1() {
    local requirement dir wheel target=$VENV/opt/mmcv1
    requirement=$(grep '^mmcv==' "$ROOT/requirements/mmcv1.txt")
    step 5 "$requirement without operators, for one test, in $target; some seconds"
    dir=$CACHE/wheels/${requirement}_without-operators
    need_writable "$dir" MMDYSAMPLE_CACHE
    exec 8>>"$dir/lock"
    take_lock 8 'building mmcv 1.x'
    rm -rf "$dir"/build.*
    wheel=$(compgen -G "$dir/*.whl" || true)
    if [[ -z $wheel ]]; then
        local kept=$scratch
        scratch=$dir/build.$$
        mkdir "$scratch"
        TMPDIR=$scratch run env MMCV_WITH_OPS=0 "$VENV/bin/python" -m pip wheel "$requirement" \
            --no-deps --no-build-isolation --no-binary mmcv --no-cache-dir -w "$scratch" ||
            explain 'building mmcv 1.x'
        wheel=$(compgen -G "$scratch/*.whl")
        mv "$wheel" "$dir/"
        rm -rf "$scratch"
        scratch=$kept
        wheel=$dir/${wheel##*/}
    fi
    pip install --no-deps --target "$target" "$wheel" || explain 'installing mmcv 1.x'
    cat >"$target/torchvision.py" <<'STAND_IN'
"""Stands in for torchvision, which mmcv 1.x imports and uses only to list pretrained models."""
STAND_IN
    exec 8>&-
}
