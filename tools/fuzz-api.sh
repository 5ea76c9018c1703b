#!/usr/bin/env bash
# schemathesis against the unlock service for SECONDS_EACH seconds (default 600): all checks, all phases.
set -euo pipefail
cd "$(dirname "$0")/.."
tools/setup.sh
CORELOCKER_SCHEMATHESIS_SECONDS=${SECONDS_EACH:-600} exec .venv/bin/python -m pytest tests/python/service/test_openapi.py
