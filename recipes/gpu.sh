#!/usr/bin/env bash
# Measures abd-hub on the accelerator of this machine, unattended, in under ten minutes.
#
#   recipes/gpu.sh OUT [TEACHERS CIFAR10 TRIGGERS]
#
# OUT receives one JSON file a step and its output. The other folders are those of purify_teachers.py; without
# them no student is distilled. A step that fails or takes too long leaves the others alone, and the last line
# names it. ABD_HUB_TINY=1 runs every step with tiny settings, to try the script on any machine.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python}
out=$1
mkdir -p "$out"
failed=()

step() { # name, seconds, command
  local name=$1 limit=$2
  shift 2
  echo "== $name"
  timeout "$limit" "$@" > "$out/$name.log" 2>&1 || failed+=("$name")
  tail -n 3 "$out/$name.log"
}

only=() size=() zskt=() turns=3 seconds=30 rounds=170 backend=cudagraphs
if [ "${ABD_HUB_TINY:-}" ]; then
  only=(--only zskt --precisions float32)
  size=(--teacher wrn_10_1 --student wrn_10_1 --image-size 8 --batch-size 4 --synthesis-batch-size 4
    --student-steps 2 --retrospective-steps 1 --cmi-generator-steps 1 --fast-generator-steps 1
    --bank-student-steps 1 --negatives 8 --workers 1)
  zskt=(--teacher wrn_10_1 --student wrn_10_1 --image-size 8 --batch-size 4 --rounds 20 --late-rounds 8)
  turns=1 seconds=0.1 rounds=2 backend=aot_eager
fi

step benchmark 240 "$python" recipes/benchmark.py --turns "$turns" "${only[@]}" "${size[@]}" \
  --output "$out/benchmark.json"
for precision in no bf16; do
  step "long_zskt_$precision" 120 "$python" recipes/long_zskt.py --seconds "$seconds" "${zskt[@]}" \
    --mixed-precision "$precision" --output "$out/long_zskt_$precision.json"
done
step long_zskt_compiled 150 "$python" recipes/long_zskt.py --seconds "$seconds" "${zskt[@]}" \
  --mixed-precision bf16 --dynamo-backend "$backend" --trace "$out/trace.json.gz" \
  --output "$out/long_zskt_compiled.json"
if [ $# -ge 4 ]; then
  step student 300 "$python" recipes/defenses.py "$2" --data "cifar10=$3" --triggers "$4" --teachers badnets_8 \
    --rows auto --rounds "auto=$rounds" --seeds 0 --mixed-precision bf16 \
    --output-dir "$out/runs" --results "$out/students"
fi
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}"
  exit 1
fi
echo "all steps are done; their figures are in $out"
