#!/bin/sh
# wake MODEL [OPTIONS...] | sleep | alive | verify: an SGLang server on 127.0.0.1:$LLMUX_PORT that sleeps and wakes up
# FREE_MIB: sleep waits until each GPU of the model has so much free memory, and verify asks for that. Its GPUs are GPUS,
# or else CUDA_VISIBLE_DEVICES, or else LLMUX_DEVICES where that has names such as gpu0, or else all.
set -eu
action=$1
mkdir -p run
lock=run/sglang-$LLMUX_PORT.lock
pid_file=run/sglang-$LLMUX_PORT.pid
asleep=run/sglang-$LLMUX_PORT.asleep  # SGLang has no route that tells
log_file=run/sglang-$LLMUX_PORT.log
url=http://127.0.0.1:$LLMUX_PORT
told=0

running() { ! flock -n "$lock" true; }  # the server holds the lock for as long as it lives
healthy() { curl -sf -m 5 -o /dev/null "$url/model_info"; }  # /health says 503 around transitions
order() { curl -sf -m 100 -o /dev/null -H 'Content-Type: application/json' -d '{}' "$url/$1"; }

tell() {  # what the server has printed since the last time; of much, the last lines
    size=$(wc -c <"$log_file")
    [ "$size" -gt "$told" ] || return 0
    tail -c "+$((told + 1))" "$log_file" | head -c "$((size - told))" | tr '\r' '\n' | tail -n 5 >&2
    told=$size
}

ended() {
    echo "sglang has ended; the end of $log_file:" >&2
    tail -n 20 "$log_file" >&2
    exit 1
}

stop() {  # ask, and after 20 seconds use force
    pid=$(cat "$pid_file" 2>/dev/null) || pid=none
    tries=0
    while running; do
        if [ $tries -eq 0 ]; then kill "$pid"; elif [ $tries -eq 200 ]; then kill -9 -- "-$pid"; fi || true
        tries=$((tries + 1))
        sleep 0.1
    done
}

gpus() {  # the model's own, as nvidia-smi takes them; nothing for all
    names=$(echo "${LLMUX_DEVICES:-}" | sed -En '/^((gpu|cuda:?)?[0-9]+,?)+$/s/[a-z:]//gp')
    echo "${GPUS:-${CUDA_VISIBLE_DEVICES:-$names}}"
}

freed() {  # Does each of them have as much free memory as the next model needs?
    [ -n "${FREE_MIB:-}" ] || return 0
    own=$(gpus)
    least=$(nvidia-smi ${own:+-i "$own"} --query-gpu=memory.free --format=csv,noheader,nounits | sort -n | head -n 1)
    [ "${least:-0}" -ge "$FREE_MIB" ]
}

case $action in
wake)
    model=$2
    shift 2
    exec 9>"$lock"
    if flock -w 0.2 9; then  # nobody has it; the server inherits it from here
        rm -f "$asleep"
        : >"$log_file"
        # Without the backup in host memory the weights are random after waking up.
        setsid python3 -m sglang.launch_server --model-path "$model" --host 127.0.0.1 --port "$LLMUX_PORT" \
            --enable-memory-saver --enable-weights-cpu-backup "$@" >>"$log_file" 2>&1 </dev/null &
        echo $! >"$pid_file"
    else
        told=$(wc -c <"$log_file")
    fi
    exec 9>&-
    if [ -e "$asleep" ]; then
        order resume_memory_occupation
        rm "$asleep"
    fi
    until healthy; do
        sleep 0.5
        tell
        running || ended
    done
    ;;
sleep)
    if running; then
        if [ ! -e "$asleep" ]; then
            if order release_memory_occupation; then : >"$asleep"; else stop; fi  # once it is gone, its memory is free
        fi
        waits=0
        until freed; do  # for as long as hook_timeout_secs allows
            # Some say that they sleep, and keep their memory.
            if [ "$waits" -eq "${FREE_TRIES:-40}" ]; then stop; fi
            waits=$((waits + 1))
            sleep 0.5
        done
    fi
    ;;
alive)
    running && [ ! -e "$asleep" ] && healthy
    ;;
verify)
    : "${FREE_MIB:?}"
    freed
    ;;
esac
