#!/usr/bin/env bash
# Restoring a 100 MB file in memory, beside AES-256-GCM of the whole file.
set -euo pipefail
cd "$(dirname "$0")/../../.."
tools/setup.sh
exec .venv/bin/python tools/bench/restore_python/bench.py "$@"
