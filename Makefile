# Every target installs what it needs; `make` alone lists them.
.PHONY: help setup demo test examples packaging fuzz chaos cluster lint pictures audit lock generated release bench clean python demo-python
.NOTPARALLEL:
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

setup: python ## install everything that tests and benchmarks need
	@scripts/setup-test-tools.sh

demo: demo-python ## run the bridge on simulated data, no Kafka or account needed: make demo ARGS="--seconds 20"
	@exec .venv/bin/digifinex-bridge demo $(ARGS)

test: setup lint ## check style and types, then run all tests with fixed seeds: make test ARGS="tests/unit -k depth"
	@.venv/bin/pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

examples: setup ## run the examples against real Kafka, Flink and others, and check what they print: make examples ARGS="-k kafka_streams"
	@scripts/setup-examples.sh
	@.venv/bin/pytest examples $(ARGS)

packaging: setup ## build a release with its image twice, and start compose.yaml: takes minutes, so it is not part of `make test`
	@.venv/bin/pytest tests/packaging $(ARGS)

fuzz: setup ## look for failing inputs at random, and keep them: make fuzz ARGS="--seconds 600 --seed 7"
	@.venv/bin/python -m tests.fuzz $(ARGS)

chaos: setup ## let everything go wrong that can, and account for every update: make chaos ARGS="--seed 7 --seconds 600"
	@.venv/bin/python -m tests.chaos $(ARGS)

cluster: setup ## install and upgrade the chart on a real API server, which takes ten minutes to build: make cluster ARGS="-k upgrade"
	@scripts/setup-cluster.sh
	@.venv/bin/pytest tests/cluster $(ARGS)

lint: python ## check style and types
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

pictures: setup ## draw the dashboard in five scenes; needs npm and chromium: make pictures ARGS="/tmp/scenes"
	@.venv/bin/python -m tests.monitoring.pictures $(or $(ARGS),.cache/pictures/scenes)

audit: python ## look for known vulnerabilities of the pinned requirements; needs the network, not part of `make test`
	@.venv/bin/python scripts/audit.py $(ARGS)

lock: python ## update requirements*.txt to the newest versions that pyproject.toml allows
	@scripts/lock.sh

generated: python ## regenerate what scripts write: documents, the dashboard, the chart's schema and README
	@scripts/generate.sh

release: python ## build what a release publishes, from the last commit, into dist/: make release ARGS="--base IMAGE@sha256:DIGEST"
	@scripts/build-chart-tools.sh
	@.venv/bin/python scripts/release.py $(ARGS)

bench: setup ## run the benchmarks: make bench ARGS="--help"
	@.venv/bin/python -m benchmarks $(ARGS)

clean: ## remove everything that the other targets made
	@rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis dist *.egg-info
	@find . -name __pycache__ -prune -exec rm -rf {} +

python:
	@scripts/setup-python.sh dev

demo-python:
	@scripts/setup-python.sh demo
