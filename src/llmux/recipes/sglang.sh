#!/bin/sh
# wake MODEL [OPTIONS...] | sleep | alive: an SGLang server on 127.0.0.1:$LLMUX_PORT that sleeps and wakes up
# FREE_MIB: sleep waits until every GPU has so much free memory, since the server answers before its own is.
set -eu
action=$1
mkdir -p run
lock=run/sglang-$LLMUX_PORT.lock
pid_file=run/sglang-$LLMUX_PORT.pid
asleep=run/sglang-$LLMUX_PORT.asleep  # SGLang has no route that tells
log_file=run/sglang-$LLMUX_PORT.log
url=http://127.0.0.1:$LLMUX_PORT

running() { ! flock -n "$lock" true; }  # the server holds the lock for as long as it lives
healthy() { curl -sf -m 5 -o /dev/null "$url/model_info"; }  # /health says 503 around transitions
order() { curl -sf -m 100 -o /dev/null -H 'Content-Type: application/json' -d '{}' "$url/$1"; }

stop() {  # ask, and after 20 seconds use force
    pid=$(cat "$pid_file" 2>/dev/null) || pid=none
    tries=0
    while running; do
        if [ $tries -eq 0 ]; then kill "$pid"; elif [ $tries -eq 200 ]; then kill -9 -- "-$pid"; fi || true
        tries=$((tries + 1))
        sleep 0.1
    done
}

freed() {
    [ -n "${FREE_MIB:-}" ] || return 0
    least=$(nvidia-smi --query-gpu=memory.free --format=csv,noheader,nounits | sort -n | head -n 1)
    [ "$least" -ge "$FREE_MIB" ]
}

case $action in
wake)
    model=$2
    shift 2
    exec 9>"$lock"
    if flock -w 0.2 9; then  # nobody has it; the server inherits it from here
        rm -f "$asleep"
        # Without the backup in host memory the weights are random after waking up.
        setsid python3 -m sglang.launch_server --model-path "$model" --host 127.0.0.1 --port "$LLMUX_PORT" \
            --enable-memory-saver --enable-weights-cpu-backup "$@" >"$log_file" 2>&1 </dev/null &
        echo $! >"$pid_file"
    fi
    exec 9>&-
    if [ -e "$asleep" ]; then
        order resume_memory_occupation
        rm "$asleep"
    fi
    until healthy; do
        sleep 0.5
        running || { echo "sglang has ended; see $log_file" >&2; exit 1; }
    done
    ;;
sleep)
    if running; then
        if [ ! -e "$asleep" ]; then
            if order release_memory_occupation; then : >"$asleep"; else stop; fi  # once it is gone, its memory is free
        fi
        until freed; do sleep 0.5; done  # for as long as hook_timeout_secs allows
    fi
    ;;
alive)
    running && [ ! -e "$asleep" ] && healthy
    ;;
esac
