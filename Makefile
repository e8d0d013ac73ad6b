# Trainyard's verbs; `make help` lists them. Each sets up all that it needs by itself: a virtual environment in .venv with
# the versions of constraints.txt, made anew only when those or pyproject.toml change. With PIP_FIND_LINKS and
# PIP_INDEX_URL, pip takes torch from elsewhere than PyPI (which has the CUDA build, 3 GB with its libraries).
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
PROMETHEUS := .venv/prometheus
DEBIAN := .venv/debian
# Two for a core: almost half of what tests do is to wait for processes that they have started. In their order: by default
# the files with the fewest tests come last, and those are the longest ones. Threads that wait for others of their process let
# other processes run: four ranks of two threads on two cores, each waiting busily, take ten times as long.
TESTS_AT_ONCE ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) * 2)))
BENCHMARKS := checkpoint plan throughput simulate goodput collecting preferred_share rewarded overlap kind_latency recovery

.PHONY: help setup demo test test-kind test-vllm bench lint generate images kind-up kind-down prometheus chromium postgresql

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## .venv with everything, pinned

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: needs Python 3.11 or newer; name one: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null; } || \
	  { echo "make: this Python lacks its venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[operator,cli,s3,trainer,dev]'
	@touch $@

demo: $(INSTALLED) ## the whole pipeline on this machine, one worker killed on the way
	$(BIN)/trainyard demo

lint: $(INSTALLED) ## formatting, lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint prometheus chromium postgresql ## lint, unit, property, simulation, local, chart, rules; no cluster
	OMP_NUM_THREADS=1 GOMP_SPINCOUNT=0 $(BIN)/pytest --ignore tests/kind -n $(TESTS_AT_ONCE) --dist loadfile --no-loadscope-reorder

test-kind: $(INSTALLED) ## a kind cluster, Helm install, real runs, faults; leaves nothing behind
	images/cluster.sh up && $(BIN)/pytest tests/kind; code=$$?; images/cluster.sh down; exit $$code

test-vllm: .venv/vllm/installed ## what draws with vLLM, on a CPU, in an environment of its own: its versions are not ours
	OMP_NUM_THREADS=1 GOMP_SPINCOUNT=0 .venv/vllm/bin/pytest tests/with_vllm

.venv/vllm/installed: pyproject.toml tests/with_vllm/requirements.txt $(INSTALLED)
	$(PYTHON) -m venv .venv/vllm
	.venv/vllm/bin/pip install --quiet --disable-pip-version-check --no-deps -r tests/with_vllm/requirements.txt -e .
	@touch $@

bench: $(INSTALLED) ## benchmarks, one figure a line; the last two need make kind-up
	@code=0; for each in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$each || code=1; done; exit $$code

generate: $(INSTALLED) ## CRD, reference, dashboard and install.yaml from their sources
	$(BIN)/python -m trainyard_api.crd --write
	$(BIN)/python -m trainyard_api.reference --write
	$(BIN)/python charts/dashboard.py
	$(BIN)/python charts/install_manifest.py

images: ## build both images, push them to a registry on this machine
	images/build.sh

kind-up: ## kind cluster with registry, images, storage and chart; repeat it to bring up the working tree
	images/cluster.sh up

kind-down: ## remove all that kind-up made
	images/cluster.sh down

# The tests ask a real Prometheus. Debian's package will do unpacked, without installing it.
prometheus: $(INSTALLED)
	@command -v prometheus >/dev/null || [ -x $(PROMETHEUS)/usr/bin/prometheus ] || { \
	  mkdir -p $(PROMETHEUS) && cd $(PROMETHEUS) && \
	  { apt-get download -qq prometheus 2>/dev/null || { apt-get update -qq && apt-get download -qq prometheus; }; } && \
	  dpkg -x prometheus_*.deb . && rm prometheus_*.deb; } || \
	  echo "make: no Prometheus here and none to be downloaded with apt-get; tests/rules will ask for it" >&2

# The tests of the annotators' page ask a real Chromium and a real PostgreSQL. Those too will do unpacked, with what they need
# that isn't installed; whoever isn't root can fetch them just as well.
chromium: $(INSTALLED)
	@command -v chromium >/dev/null || [ -x $(DEBIAN)/chromium/usr/lib/chromium/chromium ] || \
	  tests/unpack.sh $(DEBIAN)/chromium chromium fonts-dejavu-core || \
	  echo "make: no Chromium here and none to be downloaded with apt-get; tests of the page will be skipped" >&2

postgresql: $(INSTALLED)
	@[ -n "$$(ls -d /usr/lib/postgresql/*/bin/postgres $(DEBIAN)/postgresql/usr/lib/postgresql/*/bin/postgres 2>/dev/null)" ] || \
	  command -v postgres >/dev/null || tests/unpack.sh $(DEBIAN)/postgresql postgresql || \
	  echo "make: no PostgreSQL here and none to be downloaded with apt-get; its tests will be skipped" >&2
