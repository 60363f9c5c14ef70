#!/bin/sh
# wake MODEL | sleep MODEL | alive MODEL: a model of the TabbyAPI on 127.0.0.1:$LLMUX_PORT, or at $BACKEND_URL
# TABBY_ADMIN_KEY is its admin key.
set -eu
action=$1
model=$2
url=${BACKEND_URL:-http://127.0.0.1:$LLMUX_PORT}

ask() {  # the key by way of stdin: others can see a command line
    printf 'x-admin-key: %s\n' "${TABBY_ADMIN_KEY:?}" | curl -s -H @- -H 'Content-Type: application/json' "$@"
}

loaded() {  # 0: yes; 1: no; 2: nobody can tell
    answer=$(ask -m 5 -w ' %{http_code}' "$url/v1/model") || {
        [ $? -eq 7 ] && [ -z "${BACKEND_URL:-}" ] && return 1  # nobody listens here: nothing is loaded
        return 2
    }
    case $answer in
    *' 200') printf %s "$answer" | tr -d ' \n' | grep -qF "\"id\":\"$model\"" ;;
    *' 401' | *' 403' | *' 5'??) return 2 ;;
    *) return 1 ;;  # no model is loaded
    esac
}

case $action in
wake)
    if ! loaded; then
        # The answer is a stream of progress; the model is there at its end, and an error is part of it.
        ask -N "$url/v1/model/load" -d "{\"model_name\": \"$model\"}" | tail -n 3 >&2
    fi
    loaded
    ;;
sleep)
    state=0
    loaded || state=$?
    while [ $state -ne 1 ]; do
        ask -f -o /dev/null -X POST "$url/v1/model/unload"
        state=0
        loaded || state=$?
        if [ $state -ne 1 ]; then sleep 0.5; fi
    done
    ;;
alive)
    loaded
    ;;
esac
