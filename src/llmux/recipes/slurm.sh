#!/bin/sh
# wake JOB SBATCH-ARGUMENTS... | sleep JOB | alive JOB: a Slurm job of that name, which runs the server
# The server listens on port $LLMUX_PORT of the node that Slurm chooses; the job has that variable, too. Once it serves,
# llmux is told which node that is. With BACKEND_URL it is always there, which is the model's url then.
# HEALTH is the path that answers with 200 once it serves; the default is /health.
set -eu
action=$1
job=$2
shift 2

queue() { squeue --noheader --user "$(id -un)" --name "$job" "$@"; }
states() { queue --format %T; }  # all that is left of it. A job that is completing still has its GPU.

place() {  # sets url; fails while there is none
    url=${BACKEND_URL:-}
    [ -z "$url" ] || return 0
    node=$(queue --states RUNNING --format %B) && [ -n "$node" ] && url=http://$node:${LLMUX_PORT:?}
}
healthy() { place && curl -sf -m 5 -o /dev/null "$url${HEALTH:-/health}"; }

case $action in
wake)
    now=$(states)
    case $now in
    *RUNNING* | *PENDING* | *CONFIGURING*) ;;
    *) sbatch --parsable --job-name "$job" "$@" >&2 ;;
    esac
    until healthy; do
        sleep "${POLL_SECS:-2}"
        now=$(states)
        case $now in
        *RUNNING* | *PENDING* | *CONFIGURING*) ;;
        *) echo "the job $job has ended${now:+, it is $now}" >&2; exit 1 ;;
        esac
    done
    [ -n "${BACKEND_URL:-}" ] || echo "$url" >"${LLMUX_BACKEND_FILE-/dev/null}"
    ;;
sleep)
    while true; do  # scontrol suspend would leave it in memory
        now=$(states)
        [ -n "$now" ] || break
        scancel --user "$(id -un)" --name "$job"
        sleep "${POLL_SECS:-2}"
    done
    ;;
alive)
    now=$(states)
    [ "$now" = RUNNING ] && healthy
    ;;
esac
