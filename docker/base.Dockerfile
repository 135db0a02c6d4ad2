# What every image shares: Python in a virtual environment and what bench_core's contract and worker need.
# One base for all engines of a flavour, so that none gains or loses by it.
# CPU flavour: --build-arg BASE_IMAGE=debian:bookworm-slim --build-arg FLAVOUR=cpu
ARG BASE_IMAGE=nvidia/cuda:13.0.2-runtime-ubuntu24.04
FROM ${BASE_IMAGE}

ARG FLAVOUR=cuda
ARG PIP_FIND_LINKS
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_NO_INDEX

# A system imported from a host's folders may lack it. Docker would make it for root alone, and runc gives the tmpfs of
# measuring containers the mode of the folder below it.
RUN install -d -m 1777 /tmp

# libgomp1: the OpenMP run time that CPU kernels of several engines link to. An operating system that already brings
# it, and Python with venv or /opt/venv itself (an environment that sees a cluster's own torch, say), is taken as it is,
# without a network.
RUN if ! { { test -x /opt/venv/bin/pip || python3 -c "import ensurepip, venv"; } \
            && ldconfig -p | grep -q libgomp.so.1; }; then \
        apt-get update \
        && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends libgomp1 python3 python3-venv \
        && rm -rf /var/lib/apt/lists/*; \
    fi

# Containers run as the caller's uid, which no passwd file knows, on a read-only root with a tmpfs on /tmp. LOGNAME
# answers getpass.getuser(), which torch asks for the name of its caches.
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONPATH=/opt/bench \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    LOGNAME=bench
LABEL llm-bench.flavour=${FLAVOUR}

COPY docker/constraints.txt docker/requirements.base.txt /opt/bench/docker/
RUN if [ ! -x /opt/venv/bin/pip ]; then python3 -m venv /opt/venv; fi \
    && pip install --no-cache-dir -c /opt/bench/docker/constraints.txt -r /opt/bench/docker/requirements.base.txt

COPY docker/as-owner.sh /opt/bench/as-owner
RUN chmod 755 /opt/bench/as-owner && python -c "import pydantic, pynvml, yaml"
