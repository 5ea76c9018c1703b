#!/usr/bin/env bash
# Bytes that silence a model, and what is left of it, for each way to lock.
set -euo pipefail
cd "$(dirname "$0")/../../.."
tools/setup.sh
exec .venv/bin/python tools/bench/strength/bench.py "$@"
