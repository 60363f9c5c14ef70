#!/bin/sh
# wake MODEL [OPTIONS...] | sleep | alive | verify: a vLLM server on 127.0.0.1:$LLMUX_PORT that sleeps and wakes up
# SLEEP_LEVEL of sleep: 1 keeps the weights in host memory, which is the default; 2 drops them, and wake reads them anew.
# FREE_MIB: sleep waits until each GPU of the model has so much free memory, and verify asks for that. Its GPUs are GPUS,
# or else CUDA_VISIBLE_DEVICES, or else LLMUX_DEVICES where that has names such as gpu0, or else all.
set -eu
action=$1
mkdir -p run
lock=run/vllm-$LLMUX_PORT.lock
pid_file=run/vllm-$LLMUX_PORT.pid
log_file=run/vllm-$LLMUX_PORT.log
level_file=run/vllm-$LLMUX_PORT.level  # at which it sleeps
url=http://127.0.0.1:$LLMUX_PORT
told=0

running() { ! flock -n "$lock" true; }  # the server holds the lock for as long as it lives
health() { curl -s -m 5 -o /dev/null -w '%{http_code}' "$url/health" || true; }  # 000: no answer
healthy() { [ "$(health)" = 200 ]; }  # also while it sleeps
sleeping() { curl -sf -m 5 "$url/is_sleeping" | grep -q true; }
awake() { curl -sf -m 5 "$url/is_sleeping" | grep -q false; }
asleep() { sleeping && healthy; }  # and not dead, which may look the same
dead() { case $(health) in 000 | 200) return 1 ;; esac; }  # it answers nothing before it has loaded
post() { path=$1; shift; curl -sf -o /dev/null -X POST "$@" "$url/$path"; }

tell() {  # what the server has printed since the last time; of much, the last lines
    size=$(wc -c <"$log_file")
    [ "$size" -gt "$told" ] || return 0
    tail -c "+$((told + 1))" "$log_file" | head -c "$((size - told))" | tr '\r' '\n' | tail -n 5 >&2
    told=$size
}

ended() {
    echo "vllm has ended; the end of $log_file:" >&2
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

wake_up() {
    case $(cat "$level_file" 2>/dev/null) in
    2)  # its weights are gone, and what it has cached was made of others
        post 'wake_up?tags=weights' &&
            post collective_rpc -H 'Content-Type: application/json' -d '{"method": "reload_weights"}' &&
            post 'wake_up?tags=kv_cache' &&
            post reset_prefix_cache
        ;;
    *) post wake_up ;;
    esac
}

case $action in
wake)
    model=$2
    shift 2
    if running && dead; then stop; fi
    exec 9>"$lock"
    if flock -w 0.2 9; then  # nobody has it; the server inherits it from here
        rm -f "$level_file"
        : >"$log_file"
        VLLM_SERVER_DEV_MODE=1 setsid vllm serve "$model" --host 127.0.0.1 --port "$LLMUX_PORT" \
            --enable-sleep-mode "$@" >>"$log_file" 2>&1 </dev/null &
        echo $! >"$pid_file"
    else
        told=$(wc -c <"$log_file")
    fi
    exec 9>&-
    until healthy; do
        sleep 0.5
        tell
        running || ended
    done
    if sleeping && ! wake_up; then
        tell
        echo "vllm does not wake up; it is stopped, and started anew the next time" >&2
        stop
        exit 1
    fi
    awake
    ;;
sleep)
    if running; then
        if ! asleep; then
            echo "${SLEEP_LEVEL:-1}" >"$level_file"
            # Without mode=wait it would break off what is under way.
            post "sleep?level=${SLEEP_LEVEL:-1}&mode=wait" -m 60 || true
        fi
        asleep || stop  # whatever is wrong with it: once it is gone, its memory is free
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
    running && healthy && awake
    ;;
verify)
    : "${FREE_MIB:?}"
    freed
    ;;
esac
