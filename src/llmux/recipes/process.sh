#!/bin/sh
# wake COMMAND... | sleep | alive: any server on 127.0.0.1:$LLMUX_PORT, one process per model
# HEALTH is the path that answers with 200 once it serves; the default is /health.
set -eu
action=$1
shift
mkdir -p run
lock=run/process-$LLMUX_PORT.lock
pid_file=run/process-$LLMUX_PORT.pid
log_file=run/process-$LLMUX_PORT.log
told=0

running() { ! flock -n "$lock" true; }  # the server holds the lock for as long as it lives
healthy() { curl -sf -m 5 -o /dev/null "http://127.0.0.1:$LLMUX_PORT${HEALTH:-/health}"; }

tell() {  # what the server has printed since the last time; of much, the last lines
    size=$(wc -c <"$log_file")
    [ "$size" -gt "$told" ] || return 0
    tail -c "+$((told + 1))" "$log_file" | head -c "$((size - told))" | tr '\r' '\n' | tail -n 5 >&2
    told=$size
}

ended() {
    echo "the server has ended; the end of $log_file:" >&2
    tail -n 20 "$log_file" >&2
    exit 1
}

case $action in
wake)
    exec 9>"$lock"
    if flock -w 0.2 9; then  # nobody has it; the server inherits it from here
        : >"$log_file"
        setsid "$@" >>"$log_file" 2>&1 </dev/null &
        echo $! >"$pid_file"
    else
        told=$(wc -c <"$log_file")
    fi
    exec 9>&-
    until healthy; do
        sleep 0.2
        tell
        running || ended
    done
    ;;
sleep)
    pid=$(cat "$pid_file" 2>/dev/null) || pid=none
    tries=0
    while running; do  # ask, and after 20 seconds use force
        if [ $tries -eq 0 ]; then kill "$pid"; elif [ $tries -eq 200 ]; then kill -9 -- "-$pid"; fi || true
        tries=$((tries + 1))
        sleep 0.1
    done
    ;;
alive)
    running && healthy
    ;;
esac
