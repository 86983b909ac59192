#!/usr/bin/env bash
# SmolLM2-135M as a parent: README.md says how to get it, and which text. About 4 hours on 2 CPU cores with AMX. How to call it:
# experiments/study.sh.
. "$(dirname "$0")/../study.sh"

tuning() {
    sweep smollm2_grid
    sweep smollm2_grid init=uniform optim.lr=1e-3,2e-3,4e-3
    collect smollm2_grid grid --keep
}

runs() {
    sweep smollm2
    collect smollm2 runs --keep
    report
}

measured() { measure; }

parts tuning runs measured
