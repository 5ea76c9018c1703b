# Runs gates and says at the end what passed, was skipped and failed. For scripts that source it and define logs (a folder), gate_NAME
# for each gate, and obstacle, which prints why a gate cannot run and nothing when it can.
#
# Gates run one after another. Those that the array beside names do so at the same time as the others.
beside=()

# run_gates TITLE SETUP GATE..: fails when a gate fails, and with CI=true when one is skipped. SETUP installs what gates need.
run_gates() {
  local title=$1 setup=$2 gate main=() side=() side_pid
  shift 2
  mkdir -p "$logs"
  results=$logs/results
  : >"$results"
  for gate in "$@"; do
    if [[ " ${beside[*]} " == *" $gate "* ]]; then side+=("$gate"); else main+=("$gate"); fi
  done
  # A process group of its own: whoever stops this script stops the gates of both.
  set -m
  { set +m && run_each "${side[@]}"; } </dev/null &
  side_pid=$!
  set +m
  trap "kill -- -$side_pid 2>/dev/null; echo '$title gates: stopped before the end'" EXIT
  run_each "${main[@]}"
  wait "$side_pid"
  trap - EXIT
  echo "$title gates: $(count PASSED) passed, $(count SKIPPED) skipped, $(count FAILED) failed"
  [ $(($(count PASSED) + $(count SKIPPED))) -eq $# ] && { [ "${CI:-}" != true ] || [ "$(count SKIPPED)" -eq 0 ]; }
}

count() { grep -c "^$1 " "$results"; }

run_each() {
  local gate
  for gate in "$@"; do run_gate "$gate"; done
}

run_gate() {
  local gate=$1 reason start=$SECONDS
  reason=$(obstacle "$gate" | head -n 1)
  if [ -n "$reason" ]; then
    report SKIPPED "$gate: $reason; $setup installs what is missing"
  elif ("gate_$gate") >"$logs/$gate.log" 2>&1; then
    report PASSED "$gate ($((SECONDS - start)) s)"
  else
    report FAILED "$gate ($((SECONDS - start)) s), from ${logs#"$PWD"/}/$gate.log:" "$(excerpt "$logs/$gate.log")"
  fi
}

# excerpt LOG: the lines that tell of failures, which may lie far from its end, and its end.
excerpt() {
  grep -nE '✘|[Ee]rror:|FAIL' "$1" | head -n 20
  echo "[…]"
  tail -n 30 "$1"
}

# report RESULT TEXT [LOG]: at once, so that the lines of two gates do not mix.
report() {
  echo "$1 $2" >>"$results"
  printf '%s\n' "$1 $2" ${3:+"$3"} | flock "$results" cat
}
