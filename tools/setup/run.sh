# Sourced by tools/setup_env.sh: what the user sees, and long commands that can be stopped without
# leaving anything half-made.
# shellcheck shell=bash

log=        # of this run; removed when all went well
keep_log=   # 1: keep it nevertheless
step_started=
log_start=0 # size of the log when the last command started
child=      # the process group of the command that runs now
building=   # 1: the environment is not complete yet
scratch=    # folder for temporary files

say() { printf '%s\n' "$*"; }

step() { # number, text
    step_done
    step_started=$SECONDS
    say "[$1/$STEPS] $2"
}

step_done() {
    [[ -z $step_started ]] || say "      $(duration $((SECONDS - step_started)))"
    step_started=
}

fail() { # exit status, sentence
    printf 'error: %s\n' "$2" >&2
    if [[ -n $log && -s $log ]]; then
        printf 'The full log is %s\n' "$log" >&2
    fi
    exit "$1"
}

duration() { # seconds
    if (($1 < 60)); then
        printf '%d s' "$1"
    else
        printf '%d min %02d s' $(($1 / 60)) $(($1 % 60))
    fi
}

take_lock() { # file descriptor, what another set-up would be doing
    if ! flock -n "$1"; then
        say "Another set-up is $2; waiting for it to end."
        # In short waits, so that Ctrl-C is heeded.
        until flock -w 1 "$1"; do :; done
    fi
}

stop_child() {
    [[ -n $child ]] || return 0
    kill -TERM -- "-$child" 2>/dev/null || true
    for _ in {1..50}; do
        kill -0 -- "-$child" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL -- "-$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
    child=
}

# Removes an environment that is not complete and takes the earlier one back, if there is one. It is
# moved before it is removed, so that being killed here leaves no part of it under its name.
restore_previous() {
    rm -rf "$DISCARDED"
    [[ ! -e $VENV ]] || mv "$VENV" "$DISCARDED"
    [[ ! -d $PREVIOUS ]] || mv "$PREVIOUS" "$VENV"
    rm -rf "$DISCARDED"
}

clean_up() {
    local status=$?
    trap '' INT TERM HUP
    stop_child
    [[ -z $scratch ]] || rm -rf "$scratch"
    if [[ -n $building ]]; then
        if [[ -d $PREVIOUS ]]; then
            printf 'The earlier environment is kept as it was.\n' >&2
        fi
        restore_previous
    fi
    if [[ $status == 0 && -n $log && ! $keep_log ]]; then
        rm -f "$log"
    fi
    exit "$status"
}

on_signal() { # name, exit status
    printf '\n' >&2
    trap - "$1"
    fail "$2" "stopped; nothing half-made is left. Run the same command to start again."
}

trap clean_up EXIT
trap 'on_signal INT 130' INT
trap 'on_signal TERM 143' TERM
trap 'on_signal HUP 129' HUP

start_log() {
    log=$CACHE/logs/setup_env-$(date +%Y%m%d-%H%M%S)-$$.log
    mkdir -p "$CACHE/logs"
    : >"$log"
    # The newest ten are enough.
    find "$CACHE/logs" -name "setup_env-*.log" | sort -r | tail -n +11 | xargs -r -d "\n" rm -f
}

heartbeat() { # seconds since the command started
    local progress
    # ninja counts its objects as [37/77].
    progress=$(tail -c "+$((log_start + 1))" "$log" | grep -aoE '^ *\[[0-9]+/[0-9]+\]' | tail -n 1 | tr -d ' ' || true)
    say "      ... ${progress:+$progress objects, }$(duration "$1")"
}

# Runs a command with its output in the log, in a process group of its own so that it can be stopped
# as a whole. (It inherits the locks: while it lives, no other set-up touches what it works on.)
run() {
    local started=$SECONDS status=0 next=30 pause=0.03
    log_start=$(stat -c %s "$log")
    printf '\n$ %s\n' "$*" >>"$log"
    setsid "$@" </dev/null >>"$log" 2>&1 &
    child=$!
    while kill -0 "$child" 2>/dev/null; do
        sleep "$pause"
        pause=0.2
        if ((SECONDS - started >= next)); then
            heartbeat $((SECONDS - started))
            next=$((next + 30))
        fi
    done
    wait "$child" || status=$?
    child=
    return "$status"
}

in_log() { # extended regular expression: does the last command's output have it?
    # Not grep -q, which would leave at the first hit and let the pipe fail.
    tail -c "+$((log_start + 1))" "$log" | grep -aE "$1" >/dev/null
}

# Says in one sentence why the last command failed.
explain() { # what was being done
    local line
    if in_log 'No space left on device|Errno 28|Disk quota exceeded|Errno 122'; then
        fail 1 "the disk is full ($1): free some space, or set MMDYSAMPLE_VENV and MMDYSAMPLE_CACHE to places on another disk."
    elif in_log 'Python\.h: No such file'; then
        fail 1 "the headers of Python are missing ($1): install them (Debian and Ubuntu: python3-dev), or use another Python with PYTHON=."
    elif in_log 'Killed signal|cc1plus.*Killed|Cannot allocate memory|MemoryError|virtual memory exhausted'; then
        fail 1 "the memory did not suffice ($1): close other programs or run again with MAX_JOBS=1."
    elif in_log 'NewConnectionError|Failed to establish|name resolution|Name or service not known|Network is unreachable|No route to host|Max retries exceeded|ConnectTimeout|ReadTimeout|ProxyError|SSLError|Connection (refused|reset|aborted|timed out)|IncompleteRead'; then
        fail 1 "the package index cannot be reached ($1): check the network, the proxy or pip's settings (pip config list), then run the same command again."
    elif in_log 'No matching distribution found'; then
        line=$(grep -ao 'No matching distribution found for [^ ]*' "$log" | tail -n 1)
        fail 1 "the package index has no ${line##* } for this Python and platform ($1)."
    fi
    line=$(tail -c "+$((log_start + 1))" "$log" | grep -aE '(^| )([A-Za-z]*Error|error|ERROR):' | head -n 1 || true)
    fail 1 "$1 failed${line:+ with: $(printf '%s' "$line" | cut -c 1-200)}."
}
