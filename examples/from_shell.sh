#!/usr/bin/env bash
# Train, measure and render from a script; stdout carries paths or JSON, so that steps can be chained.
#   examples/from_shell.sh [RECIPE] [FOLDER]
set -euo pipefail
recipe=${1:-quickstart}
folder=${2:-runs/from-shell}

run=$(hyperkit train nvs --recipe "$recipe" --out "$folder")
hyperkit evaluate "$run" --json > "$run/evaluation.json"
python -c 'import json, sys; print("PSNR", json.load(open(sys.argv[1]))["test"]["all"]["psnr"])' "$run/evaluation.json"
views=$(hyperkit render "$run" --views 8 --weights-out "$run/field.safetensors")
ls "$views"
