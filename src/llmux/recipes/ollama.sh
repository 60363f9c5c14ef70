#!/bin/sh
# wake MODEL | sleep MODEL | alive MODEL: a model of the Ollama on 127.0.0.1:$LLMUX_PORT, or at $BACKEND_URL
# Start Ollama with OLLAMA_KEEP_ALIVE=-1, or it unloads models by itself.
set -eu
action=$1
model=$2
case $model in *:*) ;; *) model=$model:latest ;; esac
url=${BACKEND_URL:-http://127.0.0.1:$LLMUX_PORT}

keep() {  # -1: load the model and keep it; 0: unload it
    answer=$(curl -sS --fail-with-body "$url/api/generate" \
        -d "{\"model\": \"$model\", \"keep_alive\": $1, \"stream\": false}") || { printf "%s\n" "$answer" >&2; return 1; }
}

loaded() {  # 0: yes; 1: no; 2: nobody can tell
    list=$(curl -sf -m 5 "$url/api/ps") || {
        [ $? -eq 7 ] && [ -z "${BACKEND_URL:-}" ] && return 1  # nobody listens here: nothing is loaded
        return 2
    }
    printf %s "$list" | tr -d ' \n' | grep -qF "\"name\":\"$model\""
}

case $action in
wake)
    keep -1
    until loaded; do sleep 0.2; done
    ;;
sleep)
    state=0
    loaded || state=$?
    if [ $state -ne 1 ]; then keep 0; fi
    while [ $state -ne 1 ]; do  # it answers before the memory is free
        sleep 0.2
        state=0
        loaded || state=$?
    done
    ;;
alive)
    loaded
    ;;
esac
