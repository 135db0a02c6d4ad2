# Prepares a model and a workload where no driver has done so: the first step of `docker compose run`.
# The only container with a network and a hub token (HF_TOKEN), and the only one that writes /data and /models.
ARG BASE_IMAGE=llm-bench/base:cuda
FROM ${BASE_IMAGE}

ARG PIP_FIND_LINKS
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_NO_INDEX

COPY docker/requirements.prepare.txt /opt/bench/docker/
RUN pip install --no-cache-dir -r /opt/bench/docker/requirements.prepare.txt

ENV HF_HUB_DISABLE_TELEMETRY=1

COPY bench_core/__init__.py /opt/bench/bench_core/
COPY bench_core/contract /opt/bench/bench_core/contract
COPY bench_core/system /opt/bench/bench_core/system
COPY bench_core/prepare /opt/bench/bench_core/prepare
RUN python -c "import datasets, huggingface_hub, numpy, safetensors, tokenizers" \
    && python -m bench_core.prepare --help > /dev/null

# The defaults ./data and ./models are the mounts /data and /models.
WORKDIR /
ENTRYPOINT ["python", "-m", "bench_core.prepare"]
