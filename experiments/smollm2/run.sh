#!/usr/bin/env bash
# SmolLM2-135M as a parent: README.md says how to get it, and which text. How to call it: experiments/study.sh.
. "$(dirname "$0")/../study.sh"

tuning() {
    sweep smollm2_grid
    collect smollm2_grid grid
}

runs() {
    sweep smollm2
    collect smollm2 runs
    report
}

measured() { measure; }

parts tuning runs measured
