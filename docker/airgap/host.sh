#!/usr/bin/env bash
# Makes a GPU host without a network ready while its wheels are still arriving: imports its system (import-os.sh),
# installs the driver, and builds each image as soon as everything of it is there.
#
#   docker/airgap/receive.sh PARTS FOLDER & docker/airgap/host.sh FOLDER PYTHON IMAGE...
#
# PYTHON is the interpreter that holds torch. FOLDER/built/IMAGE appears when an image is built, FOLDER/failed/IMAGE with
# the build's words when it cannot be; `. FOLDER/env.sh` makes a shell ready to call the driver, which is there once
# FOLDER/installed is. Ends with 1 if any failed.
# needs: root, Docker. HOST_WITHOUT: packages to leave out of the system ("jax jaxlib"). BENCH_CUDA_BASE_IMAGE: a system
# that is there already. BUILDS: at a time (3).
set -euo pipefail
mkdir -p "$1/built" "$1/failed"
folder=$(realpath "$1")
python=$2
shift 2
here=$(realpath "$(dirname "$0")")

cat > "$folder/env.sh" <<END
export PYTHONPATH=$folder/driver-site:$(realpath "$here/../..") PYTHONDONTWRITEBYTECODE=1
export BENCH_CUDA_BASE_IMAGE=${BENCH_CUDA_BASE_IMAGE:-host-os:cuda}
export BENCH_CUDA_BUILD_IMAGE=${BENCH_CUDA_BUILD_IMAGE:-${BENCH_CUDA_BASE_IMAGE:-host-os:cuda}} PIP_NO_INDEX=1 PIP_FIND_LINKS=$folder/airgap/wheels
END
system=
if [ -z "${BENCH_CUDA_BASE_IMAGE:-}" ]; then
    # shellcheck disable=SC2086  # a list of words
    "$here/import-os.sh" host-os:cuda "$python" ${HOST_WITHOUT:-} > "$folder/import-os.log" 2>&1 &
    system=$!
fi
ready() { # waits until everything of it is there; fails where the last part came without it
    until [ -e "$folder/airgap/ready/$1" ]; do
        if [ -e "$folder/airgap/received" ] && [ ! -e "$folder/airgap/ready/$1" ]; then
            echo "$1 is not in what was packed: pack.py --images names what is" >&2
            return 1
        fi
        sleep 0.3
    done
}
build() { # IMAGE; builds of one temporary folder wait for each other, so each has its own
    local log=$folder/failed/.$1 own
    if ! ready "$1" 2> "$log"; then mv "$log" "$folder/failed/$1" && return; fi
    own=$(mktemp -d)
    if TMPDIR=$own "$python" -m bench_core.drive --images "$1" --device cuda --launcher docker --build-only \
        > "$log" 2>&1; then
        mv "$log" "$folder/built/$1"
    else
        mv "$log" "$folder/failed/$1"
    fi
    rm -rf "$own"
}

ready driver
"$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$folder/driver-site" \
    "$folder"/airgap/driver/*.whl
touch "$folder/installed"
[ -z "$system" ] || wait "$system"
. "$folder/env.sh"
ready prepare
build "$1" # alone: it makes the bases that the others stand on
for image in "${@:2}"; do
    while [ "$(jobs -rp | wc -l)" -ge "${BUILDS:-3}" ]; do sleep 0.3; done
    build "$image" &
done
wait
[ -z "$(ls "$folder/failed")" ]
