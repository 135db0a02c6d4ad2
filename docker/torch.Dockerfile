# The base with torch, once for all images that need it, so that a disk holds that layer once.
ARG BASE_IMAGE=llm-bench/base:cuda
FROM ${BASE_IMAGE}

ARG FLAVOUR=cuda
ARG PIP_FIND_LINKS
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_NO_INDEX

# Triton, which torch.compile and kernels of several engines use on a GPU, builds its launchers with a C compiler and
# Python's headers at first use.
RUN if [ "${FLAVOUR}" = cuda ] \
        && ! { command -v gcc && test -f "$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"; }; then \
        apt-get update \
        && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev \
        && rm -rf /var/lib/apt/lists/*; \
    fi

COPY docker/requirements.torch.${FLAVOUR}.txt /opt/bench/docker/
RUN pip install --no-cache-dir -c /opt/bench/docker/constraints.txt \
        -r /opt/bench/docker/requirements.torch.${FLAVOUR}.txt \
    && python -c "import torch; print('torch', torch.__version__)"
