#!/usr/bin/env bash
# GPT-2 on the standard library: README.md. About 10 hours on 2 CPU cores, of which minutes: parent 15, tuning 35, runs
# 10, bigger 39, controls 59, cases 123, distilled 18, map 12, parents 120, equal_time 155, budgets 6, measured 2. How to
# call it: experiments/study.sh.
. "$(dirname "$0")/../study.sh"

parent() {
    train gpt2_stdlib_parent
    collect gpt2_stdlib_parent parent
}

tuning() {
    sweep gpt2_stdlib_grid init=random,subclone,subclone_head_unscaled,subclone_no_scaling
    sweep gpt2_stdlib_grid init=subclone_no_reordering optim.weight_decay=0.01
    # The weight decay, at each arm's best learning rate.
    sweep gpt2_stdlib_grid init=random optim.lr=2e-3 optim.weight_decay=0.01,0.5
    sweep gpt2_stdlib_grid init=subclone,subclone_head_unscaled,subclone_no_scaling optim.lr=4e-3 optim.weight_decay=0.01,0.5
    sweep gpt2_stdlib_grid init=subclone_no_reordering optim.lr=4e-3 optim.weight_decay=0.1,0.5
    collect gpt2_stdlib_grid grid
}

runs() {
    sweep gpt2_stdlib
    collect gpt2_stdlib runs
    report
}

bigger() {
    train gpt2_stdlib_big_parent
    collect gpt2_stdlib_big_parent bigger_parent
    sweep fig13_gpt2_stdlib_grid
    sweep fig13_gpt2_stdlib_grid optim.lr=4e-3 optim.weight_decay=0.01
    collect fig13_gpt2_stdlib_grid bigger_grid
    sweep fig13_gpt2_stdlib
    collect fig13_gpt2_stdlib bigger
}

controls() {
    sweep controls_gpt2_stdlib_grid
    # Arms whose best learning rate was at an edge, and principal.
    sweep controls_gpt2_stdlib_grid init=principal optim.lr=1e-3,8e-3
    sweep controls_gpt2_stdlib_grid init=spread_only,shuffled optim.lr=8e-3,1.6e-2
    sweep controls_gpt2_stdlib_grid init=embeddings_only,inconsistent,least_important optim.lr=8e-3
    collect controls_gpt2_stdlib_grid controls_grid
    sweep controls_gpt2_stdlib
    collect controls_gpt2_stdlib controls
}

cases() {
    train gpt2_stdlib_parent name=gpt2_stdlib_parent_early optim.tokens=409_600 optim.warmup_tokens=40_960
    collect gpt2_stdlib_parent_early early_parent
    train gpt2_stdlib_parent name=gpt2_stdlib_parent_middle optim.tokens=1_638_400 optim.warmup_tokens=163_840
    collect gpt2_stdlib_parent_middle middle_parent

    local kept=important_residual_only,important_head_only,important_hidden_only,uniform,score_rms,score_variance
    kept+=,score_taylor,score_branch,score_normalised,score_activation,embeddings_only,blocks_only,spread_only
    kept+=,principal_taylor,principal_refit,principal_taylor_refit,principal_no_scaling,subclone_refit
    local blocks=lose_first_blocks,lose_last_blocks,lose_uniform_blocks,lose_least_blocks,principal_uniform_blocks
    local most=random,subclone,principal

    tune() { sweep cases_gpt2_stdlib_grid "case=$1" "${@:2}"; }
    tune quarter_budget optim.lr=1e-3,2e-3,4e-3,8e-3
    tune quarter_budget init=$kept
    tune quarter_budget init=spread_only,blocks_only optim.lr=8e-3,1.6e-2
    tune quarter_budget init=embeddings_only optim.lr=8e-3
    tune quarter_width optim.lr=2e-3,4e-3,8e-3,1.6e-2
    tune quarter_width init=random optim.lr=2e-3,4e-3,8e-3 seed=101,102
    tune three_quarters_width init=subclone,principal
    tune half_width_half_depth init=$most,$blocks
    tune three_quarters_width_2_blocks init=random
    tune three_quarters_width_2_blocks init=subclone,principal optim.lr=1e-3,2e-3,4e-3
    tune full_width_1_block init=random optim.lr=2e-3,4e-3,8e-3
    tune full_width_1_block init=subclone optim.lr=1e-3,2e-3,4e-3
    tune middle_parent init=subclone,principal optim.lr=2e-3,4e-3,8e-3
    tune early_parent init=subclone,principal optim.lr=2e-3,4e-3,8e-3,1.6e-2
    tune random_parent init=principal optim.lr=2e-3,4e-3,8e-3
    tune random_parent init=subclone
    tune fourfold_budget init=subclone
    tune fourfold_budget init=random optim.lr=1e-3,2e-3
    tune fourfold_budget init=principal optim.lr=1e-3,2e-3
    collect cases_gpt2_stdlib_grid cases_grid

    sweep cases_gpt2_stdlib case=quarter_budget init=$most,$kept
    sweep cases_gpt2_stdlib case=quarter_width,three_quarters_width_2_blocks,fourfold_budget
    sweep cases_gpt2_stdlib case=three_quarters_width init=subclone,principal
    sweep cases_gpt2_stdlib case=half_width_half_depth init=$most,$blocks
    sweep cases_gpt2_stdlib case=full_width_1_block init=random,subclone
    sweep cases_gpt2_stdlib case=middle_parent,early_parent,random_parent init=subclone,principal
    collect cases_gpt2_stdlib cases
}

distilled() {
    sweep distill_gpt2_stdlib_grid
    collect distill_gpt2_stdlib_grid distilled_grid
    sweep distill_gpt2_stdlib
    collect distill_gpt2_stdlib distilled
    sweep distill_share_gpt2_stdlib
    # The best share and temperature, on the study's seeds.
    sweep distill_share_gpt2_stdlib init=subclone,principal distill.temperature=2.0 distill.weight=0.9 seed=0,1,2
    sweep distill_share_gpt2_stdlib init=random distill.temperature=1.0 distill.weight=0.9 seed=0,1,2
    collect distill_share_gpt2_stdlib distilled_share
}

map() {
    sweep map_gpt2_stdlib
    collect map_gpt2_stdlib map
}

measured() { measure; }

# Other parents by the same recipe, and children with seeds of their own; tuned on two parents more.
parents() {
    local i
    sweep parents_gpt2_stdlib_drawn
    collect parents_gpt2_stdlib_drawn parents_drawn
    for i in 100 101; do
        sweep parents_gpt2_stdlib_grid case=parent$i seed=$i
        sweep parents_gpt2_stdlib_grid case=parent$i seed=$i init=spread_only optim.lr=1.6e-2 # 8e-3 was its best
    done
    collect parents_gpt2_stdlib_grid parents_grid
    for i in 0 1 2 3; do sweep parents_gpt2_stdlib case=parent$i seed=$((2 * i)),$((2 * i + 1)); done
    collect parents_gpt2_stdlib parents
}

# Not run yet at four times the budget: uniform, principal_taylor, and random with a teacher.
equal_time() { fewer=yes recipes 1e-3,2e-3,4e-3,8e-3 optim.lr=2e-3,4e-3,8e-3; }

# Those at equal time that have no teacher are budgets, too.
budgets() {
    sweep budgets_gpt2_stdlib_grid
    collect budgets_gpt2_stdlib_grid budgets_grid
    sweep budgets_gpt2_stdlib
    collect budgets_gpt2_stdlib budgets
    cost
}

parts parent tuning runs bigger controls cases distilled map parents equal_time budgets measured
