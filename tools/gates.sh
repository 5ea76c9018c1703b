# Runs gates one after another and says at the end what passed, was skipped and failed. For scripts that source it and define
# logs (a folder), gate_NAME for each gate, and obstacle, which prints why a gate cannot run and nothing when it can.

# run_gates TITLE SETUP GATE..: fails when a gate fails, and with CI=true when one is skipped. SETUP installs what gates need.
run_gates() {
  local title=$1 setup=$2 gate passed=() skipped=() failed=()
  shift 2
  mkdir -p "$logs"
  for gate in "$@"; do run_gate "$gate"; done
  echo "$title gates: ${#passed[@]} passed, ${#skipped[@]} skipped, ${#failed[@]} failed"
  [ ${#failed[@]} -eq 0 ] && { [ "${CI:-}" != true ] || [ ${#skipped[@]} -eq 0 ]; }
}

run_gate() {
  local gate=$1 reason start=$SECONDS
  reason=$(obstacle "$gate" | head -n 1)
  if [ -n "$reason" ]; then
    echo "SKIPPED $gate: $reason; $setup installs what is missing"
    skipped+=("$gate")
  elif "gate_$gate" >"$logs/$gate.log" 2>&1; then
    echo "PASSED $gate ($((SECONDS - start)) s)"
    passed+=("$gate")
  else
    echo "FAILED $gate ($((SECONDS - start)) s), the end of ${logs#"$PWD"/}/$gate.log:"
    tail -n 40 "$logs/$gate.log"
    failed+=("$gate")
  fi
}
