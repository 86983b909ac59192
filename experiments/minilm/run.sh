#!/usr/bin/env bash
# all-MiniLM-L6-v2 as a parent: README.md says how to get it, and which text. About 60 minutes on 2 CPU cores with AMX, and
# 100 for equal_time. How to call it: experiments/study.sh.
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

# The whole budget with a teacher is made above.
equal_time() {
    sweep equal_time_minilm_grid
    sweep equal_time_minilm_grid case=twentieth optim.lr=1.25e-4 # the lowest rate was best
    collect equal_time_minilm_grid equal_time_grid --keep
    sweep equal_time_minilm
    collect equal_time_minilm equal_time --keep
}

measured() { measure; }

parts tuning runs equal_time measured
