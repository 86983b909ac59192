#!/usr/bin/env bash
# all-MiniLM-L6-v2 as a parent: README.md says how to get it, and which text. About 60 minutes on 2 CPU cores with AMX. How to
# call it: experiments/study.sh.
. "$(dirname "$0")/../study.sh"

tuning() {
    sweep minilm_temperature
    collect minilm_temperature temperature --keep
    sweep minilm_grid
    collect minilm_grid grid --keep
}

runs() {
    sweep minilm
    collect minilm runs --keep
    report
}

measured() { measure; }

parts tuning runs measured
