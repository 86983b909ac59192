#!/usr/bin/env bash
# GPT-2 on the source code of this project's dependencies: README.md. Hours on 2 CPU cores with AVX2: parent 2
# (measured), tuning 2, runs 1, budgets 5, equal_time 2, longest 12. How to call it: experiments/study.sh.
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

# Compiling takes half a minute, which only long runs pay back.
budgets() {
    sweep budgets_gpt2_packages_grid case=tokens_600k
    sweep budgets_gpt2_packages_grid case=tokens_10m optim.lr=1e-3,2e-3,4e-3 compile=true
    collect budgets_gpt2_packages_grid budgets_grid
    sweep budgets_gpt2_packages case=tokens_600k
    sweep budgets_gpt2_packages case=tokens_10m compile=true
    collect budgets_gpt2_packages budgets
    cost
}

# With the parent as a teacher.
equal_time() {
    sweep equal_time_gpt2_packages_grid compile=true
    collect equal_time_gpt2_packages_grid equal_time_grid
    sweep equal_time_gpt2_packages compile=true
    collect equal_time_gpt2_packages equal_time
}

# 39 M tokens, at the learning rates of 10 M.
longest() {
    sweep budgets_gpt2_packages case=tokens_40m compile=true
    collect budgets_gpt2_packages budgets
    sweep equal_time_gpt2_packages case=tokens_40m_taught compile=true
    collect equal_time_gpt2_packages equal_time
}

measured() { measure; }

parts parent tuning runs budgets equal_time longest measured
