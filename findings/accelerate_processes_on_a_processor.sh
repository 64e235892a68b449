#!/usr/bin/env bash
# accelerate 1.15.0: `accelerate launch --cpu --num_processes 2` starts one process and does not say so.
#
# Expected: two processes on the processor, as torchrun --nproc_per_node 2 starts them, or an error that says how to get
# them.
# Found: one process, exit code 0, and no word about the other. A script that divides its batch by the number of
# processes it was told then takes steps of half the size.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 accelerate==1.15.0 numpy
cat > "$folder/script.py" <<'PYTHON'
from accelerate import PartialState

print("processes:", PartialState(cpu=True).num_processes, flush=True)
PYTHON
export HF_HOME="$folder/home"
"$folder/venv/bin/accelerate" launch --cpu --num_processes 2 "$folder/script.py" > "$folder/accelerate.txt" 2> "$folder/said.txt"
"$folder/venv/bin/torchrun" --nproc_per_node 2 "$folder/script.py" > "$folder/torchrun.txt" 2> /dev/null
echo "accelerate launch:"; cat "$folder/accelerate.txt" "$folder/said.txt"
echo "torchrun:"; cat "$folder/torchrun.txt"
[ "$(sort -u "$folder/accelerate.txt")" = "processes: 1" ] || { echo "the behavior has changed"; exit 1; }
[ "$(sort -u "$folder/torchrun.txt")" = "processes: 2" ] || { echo "the behavior has changed"; exit 1; }
