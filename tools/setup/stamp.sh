# Sourced by tools/setup_env.sh: is the environment there, complete and up to date?
# shellcheck shell=bash

environment_hash() {
    { printf '%s %s\n' "$SETUP_VERSION" "$VENV" && cat "$LOCK" "$ROOT/requirements/mmcv1.txt"; } |
        sha256sum | cut -c 1-16
}

project_hash() {
    { printf '%s\n' "$ROOT" && cat "$ROOT"/{setup.py,pyproject.toml,mmdysample/version.py} &&
        cat "$ROOT"/requirements/{mmdet,mmseg,triton,dev}.txt; } | sha256sum | cut -c 1-16
}

stamped() { # key
    awk -v key="$1" '$1 == key { print $2 }' "$STAMP"
}

write_stamp() { # ops
    printf 'environment %s\nops %s\nproject %s\n' "$(environment_hash)" "$1" "$(project_hash)" \
        >"$STAMP.new"
    mv "$STAMP.new" "$STAMP"
}

# Does the environment have to be made? Sets reason.
must_make() {
    local version wanted build
    if [[ $recreate && -e $VENV ]]; then
        reason='as asked'
    elif [[ ! -f $STAMP ]]; then
        reason='there is none yet'
    elif [[ $(stamped environment) != "$(environment_hash)" ]]; then
        reason='the requirements have changed'
    elif ! version=$("$VENV/bin/python" -I -c "$MINOR" 2>/dev/null); then
        reason='its Python does not run any more'
    elif [[ -n ${PYTHON:-} ]] && wanted=$("$python" -I -c "$MINOR") && [[ $wanted != "$version" ]]; then
        reason="it has Python $version"
    elif [[ $(stamped ops) == cpu ]] && build=$(torch_build "$VENV/bin/python") &&
        choose_ops "${build##* }" && [[ $ops == cuda ]]; then
        reason='operators for the GPU can be built now'
    else
        return 1
    fi
}

refuse_foreign() {
    if compgen -G "$VENV/lib/python*/site-packages/onedl_*.dist-info" >/dev/null; then
        fail 2 "$VENV holds onedl-* packages, and the two families of OpenMMLab packages must not be mixed: choose another place with MMDYSAMPLE_VENV."
    fi
    [[ -e $VENV && ! -f $STAMP && ! -f $INCOMPLETE ]] || return 0
    if [[ -d $VENV && -z $(ls -A "$VENV") ]]; then
        return 0
    elif [[ ! -f $VENV/pyvenv.cfg ]]; then
        fail 2 "$VENV exists and is not a virtual environment: choose another place with MMDYSAMPLE_VENV."
    elif [[ ! $recreate ]]; then
        fail 2 "$VENV was not made by this script: move it away, choose another place with MMDYSAMPLE_VENV, or replace it with: bash tools/setup_env.sh --recreate"
    fi
}
