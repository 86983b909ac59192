#!/usr/bin/env bash
# SmolLM2-135M as a parent: README.md says how to get it, and which text. About 10 hours on 2 CPU cores with AMX. How to call it:
# experiments/study.sh.
. "$(dirname "$0")/../study.sh"
. experiments/smollm2/memory.sh

tuning() {
    sweep smollm2_grid
    sweep smollm2_grid init=uniform optim.lr=1e-3,2e-3,4e-3
    sweep smollm2_grid init=subclone_no_scaling,principal_no_scaling   # the first is compared at this budget only
    sweep smollm2_grid init=principal_no_scaling optim.lr=1.25e-4,2.5e-4
    collect smollm2_grid grid --keep
}

runs() {
    sweep smollm2
    collect smollm2 runs --keep
    report
}

distilled() {
    sweep smollm2_distilled_grid
    sweep smollm2_distilled_grid init=principal_no_scaling optim.lr=1.25e-4,2.5e-4,5e-4,1e-3   # compared at this budget only
    sweep smollm2_distilled_grid init=subclone optim.lr=5e-4,1e-3,2e-3,4e-3   # compared at this budget only
    collect smollm2_distilled_grid distilled_grid --keep
    sweep smollm2_distilled
    collect smollm2_distilled distilled --keep
}

# At a fifth of the budget; the whole one is made above.
equal_time() {
    sweep equal_time_smollm2_grid
    collect equal_time_smollm2_grid equal_time_grid --keep
    sweep equal_time_smollm2
    sweep equal_time_smollm2 case=fifth_taught init=subclone,principal_no_scaling
    sweep equal_time_smollm2 case=fifth_fading init=principal_no_scaling
    collect equal_time_smollm2 equal_time --keep
}

measured() { measure; }

parts tuning runs distilled equal_time measured
