#!/bin/sh
# wake DEPLOYMENT LABEL | sleep DEPLOYMENT LABEL | alive DEPLOYMENT LABEL: a deployment of no pod or one
# LABEL, such as app=llama, selects its pods. BACKEND_URL is its service, as in the model's url.
# KUBE_NAMESPACE is the namespace, HEALTH the path that answers with 200 once it serves; the default is /health.
set -eu
action=$1
deployment=$2
label=$3

kube() { kubectl ${KUBE_NAMESPACE:+--namespace="$KUBE_NAMESPACE"} "$@"; }
healthy() { curl -sf -m 5 -o /dev/null "${BACKEND_URL:?}${HEALTH:-/health}"; }

case $action in
wake)
    kube scale "deployment/$deployment" --replicas=1 >/dev/null
    kube rollout status "deployment/$deployment" --timeout="${ROLLOUT_TIMEOUT:-590s}" >&2
    until healthy; do sleep 0.5; done  # the service follows its pods a moment later
    ;;
sleep)
    kube scale "deployment/$deployment" --replicas=0 >/dev/null
    while true; do  # a pod that terminates still has its GPU
        pods=$(kube get pods -l "$label" -o name)
        [ -n "$pods" ] || break
        kube wait --for=delete pod -l "$label" --timeout=10s >/dev/null 2>&1 || sleep 0.5
    done
    ;;
alive)
    replicas=$(kube get "deployment/$deployment" -o 'jsonpath={.spec.replicas}')
    [ "$replicas" != 0 ] && healthy
    ;;
esac
