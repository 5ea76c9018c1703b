#!/usr/bin/env bash
# Restoring a ~100 MB and a ~1 GB .pte: time, memory and inference, as ratios measured in one run.
#
# RUNS is how often each model runs (default 200; 0 measures restoring alone). MODELS limits the models (100MB, 1GB). HUGE=off
# measures a system without huge pages. The first run makes the models: some minutes, and 6 GB in .cache/bench-restore for both.
set -euo pipefail
cd "$(dirname "$0")/../../.."
tools/setup.sh
tools/setup-cpp.sh
python=$PWD/.venv/bin/python
models=$PWD/.cache/bench-restore
[ -f "$models/rows.txt" ] || PYTHONPATH=sdk/python "$python" tools/bench/restore/make_models.py "$models" ${MODELS:-}
CORELOCKER_EXECUTORCH_DIR=$("$python" -c 'import importlib.util as u; print(*u.find_spec("executorch").submodule_search_locations)')/share/cmake
export CORELOCKER_EXECUTORCH_DIR
(cd sdk/cpp && cmake --preset host >/dev/null && cmake --build --preset host --target restore_bench >/dev/null)
.build/cpp/host/bench/restore_bench "$models/rows.txt" "${RUNS:-200}" ${HUGE:+no-huge-pages}
