#!/usr/bin/env bash
# Where no image can be pulled: makes the operating system below the CPU flavour and below the base python311,
# llm-bench/os:cpu, from Debian packages, with this machine's certificates. Does nothing where a base image is at hand or can be had.
# usage: docker/local-os.sh      (needs root and debootstrap to make one)
set -euo pipefail
cd "$(dirname "$0")/.."
tag=llm-bench/os:cpu
public=debian:bookworm-slim

docker info >/dev/null 2>&1 || exit 0                                  # no engine: the process launcher's turn
[ -z "${BENCH_CPU_BASE_IMAGE:-}" ] || exit 0                           # somebody has chosen
for image in "$tag" "$public"; do
    if docker image inspect "$image" >/dev/null 2>&1; then exit 0; fi
done
if timeout 120 docker pull --quiet "$public" >/dev/null 2>&1; then exit 0; fi

echo "$public cannot be pulled here: making $tag from Debian packages"
if ! command -v debootstrap >/dev/null; then
    if [ "$(id -u)" -ne 0 ] || ! { apt-get update -qq && apt-get install -y -qq debootstrap; } >/dev/null 2>&1; then
        echo "error: debootstrap is missing: install it, or name an image by BENCH_CPU_BASE_IMAGE" >&2
        exit 2
    fi
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
debootstrap --variant=minbase --include=ca-certificates,libgomp1,python3,python3-venv bookworm "$folder" >/dev/null
cp -a /etc/ssl/certs "$folder/etc/ssl/"
if [ -d /usr/local/share/ca-certificates ]; then
    cp -a /usr/local/share/ca-certificates "$folder/usr/local/share/"
fi
tar -C "$folder" -c . | docker import - "$tag" >/dev/null
for name in BENCH_CPU_BASE_IMAGE BENCH_PYTHON311_BASE_IMAGE; do
    if ! grep -qs "^$name=" .env; then
        echo "$name=$tag" >> .env                     # for docker compose; the driver finds the image by itself
    fi
done
echo "$tag is made, and .env names it for docker compose"
