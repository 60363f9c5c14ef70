#!/bin/sh
# wake CONTAINER | sleep CONTAINER | alive CONTAINER: a podman container that sleeps as a checkpoint on disk
# Needs root, CRIU, and for a GPU its CUDA plugin. The server answers on 127.0.0.1:$LLMUX_PORT, with 200 at HEALTH.
set -eu
action=$1
name=$2
url=${BACKEND_URL:-http://127.0.0.1:$LLMUX_PORT}

state() { podman inspect -f '{{.State.Status}}' "$name"; }
healthy() { curl -sf -m 5 -o /dev/null "$url${HEALTH:-/health}"; }

case $action in
wake)
    if [ "$(state)" != running ]; then
        # --keep: or the restore would use the checkpoint up
        if [ "$(podman inspect -f '{{.State.Checkpointed}}' "$name")" = true ]; then
            podman container restore --keep --tcp-established "$name" >/dev/null
        else
            podman start "$name" >/dev/null
        fi
    fi
    until healthy; do
        sleep 0.2
        if [ "$(state)" != running ]; then
            echo "$name has ended; see podman logs $name" >&2
            exit 1
        fi
    done
    ;;
sleep)
    if [ "$(state)" = running ]; then
        podman container checkpoint --keep --tcp-established "$name" >/dev/null ||
            podman stop -t "${STOP_SECS:-30}" "$name" >/dev/null  # a cold start next time, but the memory is free
    fi
    now=$(state)
    if [ "$now" = running ]; then echo "$name is still running" >&2; exit 1; fi
    ;;
alive)
    [ "$(state)" = running ] && healthy
    ;;
esac
