#!/usr/bin/env bash
# Locking a 1 GB checkpoint and a 400 MB .pte, beside one SHA-256 pass over the same file; memory of verify --full and restore with a
# 2 GB file; start-up times of the command.
set -euo pipefail
cd "$(dirname "$0")/../../.."
tools/setup.sh
exec .venv/bin/python tools/bench/lock/bench.py "$@"
