#!/bin/sh
# wake CONTAINER | sleep CONTAINER | alive CONTAINER: a container whose server answers on 127.0.0.1:$LLMUX_PORT
# Make it first (docker create --gpus all -p ..., docker compose create), without a restart policy.
# ENGINE=podman takes podman. HEALTH is the path that answers with 200 once it serves; the default is /health.
set -eu
action=$1
name=$2
engine=${ENGINE:-docker}
url=${BACKEND_URL:-http://127.0.0.1:$LLMUX_PORT}

state() { "$engine" inspect -f '{{.State.Status}}' "$name"; }
healthy() { curl -sf -m 5 -o /dev/null "$url${HEALTH:-/health}"; }

tell() {  # what the container has printed until this second, or $1 later; of much, the last lines
    now=$(($(date +%s) + ${1:-0}))
    [ "$now" -gt "$told" ] || return 0
    "$engine" logs --since "$told" --until "$now" --tail 5 "$name" >&2 || true
    told=$now
}

case $action in
wake)
    told=$(date +%s)
    case $(state) in
    paused) "$engine" unpause "$name" >/dev/null ;;
    running) ;;
    *) "$engine" start "$name" >/dev/null ;;
    esac
    waited=no
    until healthy; do
        sleep 0.5
        tell
        if [ "$(state)" != running ]; then
            echo "$name has ended; the end of $engine logs $name:" >&2
            "$engine" logs --tail 20 "$name" >&2
            exit 1
        fi
        waited=yes
    done
    if [ "$waited" = yes ]; then tell 1; fi
    ;;
sleep)  # a pause would keep the memory of the GPU
    "$engine" stop -t "${STOP_SECS:-30}" "$name" >/dev/null
    now=$(state)
    case $now in
    exited | created | configured | dead | stopped) ;;
    *) echo "$name is $now after its stop" >&2; exit 1 ;;
    esac
    ;;
alive)
    [ "$(state)" = running ] && healthy
    ;;
esac
