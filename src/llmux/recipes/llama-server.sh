#!/bin/sh
# wake MODEL.gguf [OPTIONS...] | sleep | alive: a llama-server on 127.0.0.1:$LLMUX_PORT
set -eu
action=$1
mkdir -p run
lock=run/llama-$LLMUX_PORT.lock
pid_file=run/llama-$LLMUX_PORT.pid
log_file=run/llama-$LLMUX_PORT.log
told=0

running() { ! flock -n "$lock" true; }  # the server holds the lock for as long as it lives

alive() {  # 503 while it loads
    curl -sf -m 5 -o /dev/null "http://127.0.0.1:$LLMUX_PORT/health"
}

tell() {  # what the server has printed since the last time; of much, the last lines
    size=$(wc -c <"$log_file")
    [ "$size" -gt "$told" ] || return 0
    tail -c "+$((told + 1))" "$log_file" | head -c "$((size - told))" | tr '\r' '\n' | tail -n 5 >&2
    told=$size
}

ended() {
    echo "llama-server has ended; the end of $log_file:" >&2
    tail -n 20 "$log_file" >&2
    exit 1
}

case $action in
wake)
    model=$2
    shift 2
    exec 9>"$lock"
    if flock -w 0.2 9; then  # nobody has it; the server inherits it from here
        : >"$log_file"
        setsid llama-server --host 127.0.0.1 --port "$LLMUX_PORT" --model "$model" "$@" \
            >>"$log_file" 2>&1 </dev/null &
        echo $! >"$pid_file"
    else
        told=$(wc -c <"$log_file")
    fi
    exec 9>&-
    until alive; do
        sleep 0.2
        tell
        running || ended
    done
    ;;
sleep)
    pid=$(cat "$pid_file" 2>/dev/null) || pid=none
    tries=0
    while running; do  # ask, and after 10 seconds use force
        if [ $tries -eq 0 ]; then kill "$pid"; elif [ $tries -eq 100 ]; then kill -9 -- "-$pid"; fi || true
        tries=$((tries + 1))
        sleep 0.1
    done
    ;;
alive)
    running && alive
    ;;
esac
