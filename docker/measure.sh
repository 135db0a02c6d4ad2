#!/bin/sh
# Measures one engine with Docker alone, and leaves nothing of it but the run's folder.
# usage: docker/measure.sh SERVICE [OPTION...]
#   docker/measure.sh vllm --batch-size 16           closed batches
#   docker/measure.sh vllm-serve --concurrency 16    the engine's own server under a load
#   docker/measure.sh vllm-serve --help
# DEVICE=cpu or DEVICE=cuda where it is not to be what this machine has. compose.yaml lists services and variables.
set -eu
if [ "$#" -eq 0 ]; then
    sed -n '2,7s/^# //p' "$0" >&2
    exit 2
fi
cd "$(dirname "$0")/.."

files=compose.yaml
device=${DEVICE:-$(if nvidia-smi -L >/dev/null 2>&1; then echo cuda; else echo cpu; fi)}
[ "$device" = cuda ] || files=compose.yaml:compose.cpu.yaml
# A project of its own: what is removed in the end is this call's, whoever else measures from this folder.
export COMPOSE_FILE="$files" COMPOSE_PATH_SEPARATOR=: COMPOSE_PROJECT_NAME="llm-bench-$$" COMPOSE_PROFILES=engine
export BENCH_THEN=
# Compose orders builds by contexts that the classic builder refuses; it needs none (docker/compose.builder-0.yaml).
docker buildx version >/dev/null 2>&1 || export DOCKER_BUILDKIT=0

trap 'docker compose down --remove-orphans >/dev/null 2>&1' EXIT
trap : INT TERM # compose is told as well: it ends the container, and this script goes on to clear away
code=0
docker compose run --rm "$@" || code=$?
case $code in
0 | 2 | 130 | 143) ;; # done, refused in words of its own, stopped on request
*)
    echo "exit code $code; what the containers beside it said last:" >&2
    docker compose logs --tail 20 >&2 || true
    ;;
esac
exit "$code"
