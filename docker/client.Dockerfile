# The client of cells under load: sends requests to an engine's server in another container, and keeps the times.
ARG BASE_IMAGE=llm-bench/base:cuda
FROM ${BASE_IMAGE}

ARG PIP_FIND_LINKS
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_NO_INDEX

COPY docker/requirements.client.txt /opt/bench/docker/
RUN pip install --no-cache-dir -r /opt/bench/docker/requirements.client.txt

COPY bench_core/__init__.py /opt/bench/bench_core/
COPY bench_core/contract /opt/bench/bench_core/contract
COPY bench_core/system /opt/bench/bench_core/system
COPY bench_core/client /opt/bench/bench_core/client
RUN python -m bench_core.client --help > /dev/null
ENTRYPOINT ["python", "-m", "bench_core.client"]
