#!/usr/bin/env bash
# Checks the GitHub workflows by actionlint, and what their steps run by ShellCheck. actionlint comes as a Go module.
#
# Without Go it prints "SKIPPED workflows: <reason>"; with CI=true that fails.
set -uo pipefail
cd "$(dirname "$0")/.."
version=v1.7.12
tool=$PWD/.cache/actionlint-$version/actionlint

skip() {
  echo "SKIPPED workflows: $1"
  [ "${CI:-}" != true ]
  exit
}

tools/debian.sh shellcheck || skip "no ShellCheck"
if [ ! -x "$tool" ]; then
  command -v go >/dev/null || skip "no go; install Go 1.21 or newer"
  GOBIN=$(dirname "$tool") go install "github.com/rhysd/actionlint/cmd/actionlint@$version" || skip "actionlint $version could not be built"
fi
workflows=(.github/workflows/*.yml)
"$tool" "${workflows[@]}" && echo "workflows: ${#workflows[@]} are clean"
