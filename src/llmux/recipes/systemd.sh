#!/bin/sh
# wake UNIT | sleep UNIT | alive UNIT: a unit whose server answers on 127.0.0.1:$LLMUX_PORT
# Whoever runs llmux must be allowed to start and stop it. SYSTEMD_SCOPE=--user takes the user's own units.
# Starting and stopping end after 90 s unless the unit sets TimeoutStartSec and TimeoutStopSec.
# HEALTH is the path that answers with 200 once it serves; the default is /health.
set -eu
action=$1
unit=$2
url=${BACKEND_URL:-http://127.0.0.1:$LLMUX_PORT}

ctl() { systemctl ${SYSTEMD_SCOPE:+"$SYSTEMD_SCOPE"} "$@"; }
state() { ctl show --property=ActiveState --value "$unit"; }
healthy() { curl -sf -m 5 -o /dev/null "$url${HEALTH:-/health}"; }

case $action in
wake)
    if [ "$(state)" = failed ]; then ctl reset-failed "$unit"; fi  # or its start limit may refuse the start
    ctl start "$unit"
    until healthy; do
        sleep 0.5
        case $(state) in
        active | activating | reloading) ;;
        *) echo "$unit has ended; see journalctl -u $unit" >&2; exit 1 ;;
        esac
    done
    ;;
sleep)
    ctl stop "$unit"
    now=$(state)
    case $now in
    inactive | failed) ;;  # failed: it had to be killed, but it is gone
    *) echo "$unit is $now after its stop" >&2; exit 1 ;;
    esac
    ;;
alive)
    [ "$(state)" = active ] && healthy
    ;;
esac
