# Two commands matter: `make demo` and `make test`. Both set up what they need.
SHELL := /bin/bash
PYTHON := .venv/bin/python

.PHONY: help demo test test-python test-pythons thorough exports test-cpp soak test-android test-apple lint workflows bench fuzz vectors setup setup-cpp setup-android setup-apple clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## the Python environment in .venv
	@tools/setup.sh

setup-cpp: setup ## compilers and libraries for the C++ layer (Debian packages, needs root)
	@tools/setup-cpp.sh

setup-apple: ## Swift for Linux in a chroot (Debian trixie, needs root)
	@tools/setup-apple.sh

setup-android: setup ## the Kotlin compiler and libraries for the Android layer
	@tools/setup-android.sh

demo: setup ## lock a real model, unlock it through the service, and show what each tier is worth
	@$(PYTHON) -m tools.demo_model.demo

test: setup ## every test and gate
	@tools/test.sh

test-python: setup ## Python tests alone
	@$(PYTHON) -m pytest -n auto --dist loadfile

thorough: setup ## the long forms of Python tests that `make test` runs in short
	@$(PYTHON) -m pytest -n auto -m thorough

test-pythons: setup ## the wheel without extras under each declared Python
	@tools/test-pythons.sh

test-cpp: setup-cpp ## C++ tests: host, sanitizers, arm64, cross-compile gates
	@tools/test-cpp.sh

soak: setup-cpp ## C++ threads and the fuzz target for long (CORELOCKER_ROUNDS, SECONDS_EACH)
	@tools/soak-cpp.sh

test-android: setup-android ## Android gates without Gradle: Kotlin, JNI, Keystore code, ExecuTorch end to end
	@tools/test-android.sh

test-apple: setup setup-apple ## Swift package: build and tests on Linux, in a chroot (needs root)
	@tools/test-apple.sh

lint: setup ## ruff and mypy
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

workflows: ## the GitHub workflows, by actionlint (needs Go)
	@tools/check-workflows.sh

bench: setup ## benchmarks; each prints ratios measured in one run
	@for bench in tools/bench/*/run.sh; do echo "== $$bench"; $$bench || exit 1; done

fuzz: setup ## every fuzz target for SECONDS seconds (default 60)
	@for target in tests/fuzz/fuzz_*.py; do echo "== $$target"; $(PYTHON) $$target -max_total_time=$${SECONDS_EACH:-60} || exit 1; done

vectors: setup ## make tests/vectors again
	@for maker in tools/vectors/make_*.py; do $(PYTHON) $$maker; done

exports: setup ## make tests/data/exports and tests/data/demo_exports again
	@for maker in exports demo_exports; do PYTHONPATH=sdk/python:tests/python:. $(PYTHON) -m support.models.$$maker || exit 1; done

clean: ## remove what the other targets made
	rm -rf .venv .build .cache dist build
