#!/bin/sh
# wake JOB SBATCH-ARGUMENTS... | sleep JOB | alive JOB: a Slurm job of that name, which runs the server
# Give sbatch --nodelist, so that the server's address is known: BACKEND_URL, as in the model's url.
# HEALTH is the path that answers with 200 once it serves; the default is /health.
set -eu
action=$1
job=$2
shift 2

# All that is left of it. A job that is completing still has its GPU.
states() { squeue --noheader --user "$(id -un)" --name "$job" --format %T; }
healthy() { curl -sf -m 5 -o /dev/null "${BACKEND_URL:?}${HEALTH:-/health}"; }

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
