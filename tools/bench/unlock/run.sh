#!/usr/bin/env bash
# Unlocks a second over HTTP, first and repeated, beside the bound of the cryptography alone in the same run.
set -euo pipefail
cd "$(dirname "$0")/../../.."
tools/setup.sh
exec .venv/bin/python tools/bench/unlock/bench.py "$@"
