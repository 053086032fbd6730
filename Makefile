# Every target does the set-up that it needs; `make` alone lists them.
.PHONY: help setup demo test lint lock generated bench clean python demo-python
.NOTPARALLEL:
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

setup: python ## install all that tests and benchmarks need
	@scripts/setup-test-tools.sh

demo: demo-python ## show the bridge at work, no Kafka or account needed: make demo ARGS="--seconds 20"
	@exec .venv/bin/digifinex-bridge demo $(ARGS)

test: setup lint ## check style and types, run the tests: make test ARGS="tests/unit -k depth"
	@.venv/bin/pytest -n 2 --dist loadfile $(ARGS)

lint: python ## check style and types
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

lock: python ## write requirements*.txt anew, with the newest versions that pyproject.toml allows
	@scripts/lock.sh

generated: python ## write anew what scripts write: documents, the dashboard, the chart's schema and README
	@scripts/generate.sh

bench: setup ## run the benchmarks: make bench ARGS="--help"
	@.venv/bin/python -m benchmarks $(ARGS)

clean: ## remove all that the other targets made
	@rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis dist *.egg-info
	@find . -name __pycache__ -prune -exec rm -rf {} +

python:
	@scripts/setup-python.sh dev

demo-python:
	@scripts/setup-python.sh demo
