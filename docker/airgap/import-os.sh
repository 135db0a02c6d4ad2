#!/usr/bin/env bash
# Imports this host's own system, with a Python environment that holds torch, as the image below the CUDA base: for GPU
# hosts that reach no registry of images (docs/airgap.md). What is made is named by BENCH_CUDA_BASE_IMAGE.
# usage: import-os.sh TAG PYTHON [package...]
#        PYTHON is the environment's interpreter; packages are folders of its site-packages to leave out.
# needs: root, Docker
set -euo pipefail
tag=$1
python=$2
shift 2

# The images' virtual environment. It sees the packages of the host's environment behind its own, so that torch is not
# installed twice, and pip puts what an image asks for before them.
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -m venv --clear --without-pip /opt/venv
own=$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
printf '%s\n' "$site" > "$own/host.pth"
# pip is the host environment's, and installs into the one that it is run by.
printf '#!/bin/sh\nexec /opt/venv/bin/python -m pip "$@"\n' > /opt/venv/bin/pip
chmod 755 /opt/venv/bin/pip
/opt/venv/bin/pip --version
# An image that compiles its engine takes this for its building system.
[ -e /opt/build ] || ln -s /opt/venv /opt/build
# CUDA's libraries lie in torch's packages: torch finds them by itself, an engine that is no part of torch by this.
# First in the list: the toolkit, which is left out below, may be named there too, and the first entry is taken.
if compgen -G "$site/nvidia/*/lib" > /dev/null; then
    printf '%s\n' "$site"/nvidia/*/lib > /etc/ld.so.conf.d/000-cuda-of-torch.conf
    ldconfig
fi

folders=(bin lib lib64 sbin usr etc opt)
# The environment itself, and the interpreter that it was made from, where these lie elsewhere.
while read -r prefix; do
    top=${prefix#/}
    case " ${folders[*]} " in *" ${top%%/*} "*) ;; *) folders+=("$top") ;; esac
done < <("$python" -c 'import sys; print(sys.prefix); print(sys.base_prefix)')
left_out=()
for package in "$@"; do left_out+=("--exclude=${site#/}/$package"); done

# Bytecode goes along: a container that may not write would compile all of torch anew at every start. What does not
# compile (a package's templates) is no fault.
skip=$(IFS='|'; echo "${*:-/}")
library=$("$python" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
"$python" -m compileall -q -j 0 -x "/site-packages/(${skip})/" "$library" "$site" > /dev/null 2>&1 || true

# Compilers of CUDA and its profilers are gigabytes that no measuring container uses. The temporary folders come empty.
tar -C / --one-file-system "${left_out[@]}" --exclude='usr/local/cuda*' --exclude=usr/local/nvidia --exclude=opt/nvidia \
    --exclude=usr/share/doc --exclude=usr/share/man -cf - "${folders[@]}" \
    --no-recursion tmp var var/tmp | docker import - "$tag"
# The list of libraries names the toolkit that was left out, and what it names first is what an engine would be given.
printf 'FROM %s\nRUN ldconfig\n' "$tag" | docker build --network none -t "$tag" -
