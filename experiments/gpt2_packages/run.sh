#!/usr/bin/env bash
# GPT-2 on the source code of this project's dependencies: README.md. Estimated at 25 hours on 2 CPU cores, of which hours:
# parent 3, tuning 2, runs 2, budgets 18. How to call it: experiments/study.sh.
. "$(dirname "$0")/../study.sh"

parent() {
    "$python" -m subcloning.data.text.packages "$OUT/$study/packages.csv" > "$OUT/$study/overlap.json"
    train gpt2_packages_parent
    collect gpt2_packages_parent parent
}

tuning() {
    sweep gpt2_packages_grid
    collect gpt2_packages_grid grid
}

runs() {
    sweep gpt2_packages
    collect gpt2_packages runs
    report
}

budgets() {
    sweep budgets_gpt2_packages_grid
    collect budgets_gpt2_packages_grid budgets_grid
    sweep budgets_gpt2_packages
    collect budgets_gpt2_packages budgets
    "$python" experiments/budgets/cost.py gpt2_packages "${overrides[@]}" > "$OUT/$study/cost.csv"
}

measured() { measure; }

parts parent tuning runs budgets measured
