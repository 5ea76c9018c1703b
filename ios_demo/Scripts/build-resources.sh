#!/bin/bash
# Build phase: exports and locks the model and puts what the app needs into its resources. Xcode's settings come as variables.
set -euo pipefail
cd "$SRCROOT/.."
[ -x "$CORELOCKER_PYTHON" ] || {
  echo "error: $CORELOCKER_PYTHON is missing. Run: python3 -m venv .venv && .venv/bin/pip install '.[export,service]'" >&2
  exit 1
}
export PYTHONPATH=$PWD/sdk/python:$PWD
exec "$CORELOCKER_PYTHON" ios_demo/Scripts/resources.py --configuration "$CONFIGURATION" \
  --app-config "${CORELOCKER_APP_CONFIG:-}" --keystore "${CORELOCKER_KEYSTORE:-}" \
  --out "$TARGET_BUILD_DIR/$UNLOCALIZED_RESOURCES_FOLDER_PATH"
