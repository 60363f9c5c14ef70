#!/bin/sh
# wake MODEL [OPTIONS...] | sleep | alive: a vLLM server on 127.0.0.1:$LLMUX_PORT that sleeps and wakes up
set -eu
action=$1
mkdir -p run
lock=run/vllm-$LLMUX_PORT.lock
pid_file=run/vllm-$LLMUX_PORT.pid
log_file=run/vllm-$LLMUX_PORT.log
url=http://127.0.0.1:$LLMUX_PORT

running() { ! flock -n "$lock" true; }  # the server holds the lock for as long as it lives
healthy() { curl -sf -m 5 -o /dev/null "$url/health"; }  # also while it sleeps
sleeping() { curl -sf -m 5 "$url/is_sleeping" | grep -q true; }
awake() { curl -sf -m 5 "$url/is_sleeping" | grep -q false; }

stop() {  # ask, and after 20 seconds use force
    pid=$(cat "$pid_file" 2>/dev/null) || pid=none
    tries=0
    while running; do
        if [ $tries -eq 0 ]; then kill "$pid"; elif [ $tries -eq 200 ]; then kill -9 -- "-$pid"; fi || true
        tries=$((tries + 1))
        sleep 0.1
    done
}

freed() {  # Does every GPU have as much free memory as the next model needs?
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
        VLLM_SERVER_DEV_MODE=1 setsid vllm serve "$model" --host 127.0.0.1 --port "$LLMUX_PORT" \
            --enable-sleep-mode "$@" >"$log_file" 2>&1 </dev/null &
        echo $! >"$pid_file"
    fi
    exec 9>&-
    until healthy; do
        sleep 0.5
        running || { echo "vllm has ended; see $log_file" >&2; exit 1; }
    done
    if sleeping; then curl -sf -o /dev/null -X POST "$url/wake_up"; fi
    awake
    ;;
sleep)
    if running; then
        sleeping || curl -sf -m 60 -o /dev/null -X POST "$url/sleep?level=1&mode=wait" || true
        sleeping || stop  # whatever is wrong with it: once it is gone, its memory is free
        until freed; do sleep 0.5; done  # for as long as hook_timeout_secs allows
    fi
    ;;
alive)
    running && healthy && awake
    ;;
esac
