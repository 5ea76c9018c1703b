#!/usr/bin/env bash
# Sets up the Python side in .venv, idempotently. Package mirrors come from the machine's own pip configuration.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3.11}
command -v "$python" >/dev/null || python=python3
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
  echo "setup: needs Python 3.11; set PYTHON to one" >&2
  exit 1
}

stamp=.venv/.set-up
wanted=$(cat pyproject.toml tools/setup.sh tools/constraints.txt | sha256sum)
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  pip() { .venv/bin/python -m pip --quiet --disable-pip-version-check "$@"; }
  # torch first: a package that asks for "torch" alone would pull a CUDA build of several gigabytes.
  pip install 'torch==2.13.0'
  pip install --constraint tools/constraints.txt --editable '.[export,service,aws,audit,dev]'
  echo "$wanted" >"$stamp"
fi
# As pip does for a package that is not editable: without it, where PYTHONDONTWRITEBYTECODE is set every command compiles it all.
.venv/bin/python -m compileall -q sdk/python
