# The client of cells under load: sends requests to an engine's server in another container, and keeps the times.
ARG BASE_IMAGE=llm-bench/base:cuda
FROM ${BASE_IMAGE}

COPY bench_core/__init__.py /opt/bench/bench_core/
COPY bench_core/contract /opt/bench/bench_core/contract
COPY bench_core/system /opt/bench/bench_core/system
COPY bench_core/client /opt/bench/bench_core/client
# A container may not write beside it: without this, each start would compile the suite anew.
RUN python -m compileall -q /opt/bench
RUN python -m bench_core.client --help > /dev/null
ENTRYPOINT ["python", "-m", "bench_core.client"]
