#!/bin/sh
# Makes the endpoints rig-state and rig-forecast of models/zoo anew, from simulated rigs and fixed seeds. Five minutes on one core.
set -eu
export TIDEGATE_CREATED=2026-11-24 TIDEGATE_AUTHOR="The Tidegate authors" TIDEGATE_LICENCE="MIT OR Apache-2.0"
cd "$(dirname "$0")"
zoo=../../models/zoo
mkdir -p build
cargo run --release -p tidegate-models --example rig_csv > build/rigs.csv
python sklearn_forest.py --out "$zoo" --algorithm forest --version 1.0.0 --window 1
python sklearn_forest.py --out "$zoo" --algorithm forest --version 1.1.0 --window 8
python sklearn_forest.py --out "$zoo" --algorithm extra-trees --version 1.0.0 --window 8
python torch_gru.py --out "$zoo" --form native --version 1.0.0
python torch_gru.py --out "$zoo" --form onnx --version 1.0.0
