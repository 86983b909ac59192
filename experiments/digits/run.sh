#!/usr/bin/env bash
# ViT on digits: README.md. About 12 hours on 2 CPU cores, of which minutes: parent 1, tuning 60, runs 5, bigger 11,
# controls 86, cases 69, distilled 5, map 12, weights 12, parents 70, budgets 160, rates 10, equal_time 125,
# measured 2. How to call it: experiments/study.sh.
. "$(dirname "$0")/../study.sh"

parent() {
    train digits_parent
    collect digits_parent parent
}

tuning() {
    sweep digits_grid
    collect digits_grid grid
}

runs() {
    sweep digits
    collect digits runs
    report
}

bigger() {
    train digits_big_parent
    collect digits_big_parent bigger_parent
    sweep fig13_digits_grid
    collect fig13_digits_grid bigger_grid
    sweep fig13_digits
    collect fig13_digits bigger
}

controls() {
    sweep controls_digits_grid
    # Arms whose best learning rate was at an edge.
    local low=subclone,random_subset,important_head_only,important_hidden_only,score_taylor,score_activation,score_branch
    low+=,score_variance,score_normalised,subclone_no_scaling,subclone_refit,principal_refit,principal_taylor_refit
    local high=uniform,shuffled,spread_only,blocks_only,principal,principal_activation
    sweep controls_digits_grid init=$low optim.lr=5e-4
    sweep controls_digits_grid init=$high optim.lr=8e-3,1.6e-2
    sweep controls_digits_grid init=principal_taylor optim.lr=8e-3
    sweep controls_digits_grid init=principal_taylor_refit optim.lr=2.5e-4
    collect controls_digits_grid controls_grid
    sweep controls_digits
    collect controls_digits controls
}

cases() {
    train digits_parent name=digits_parent_early optim.epochs=10
    collect digits_parent_early early_parent
    local shapes=third_width,half_width,two_thirds_width,half_width_half_depth,quarter_budget
    shapes+=,two_thirds_width_3_blocks,five_sixths_width_2_blocks
    local blocks=lose_first_blocks,lose_last_blocks,lose_uniform_blocks,lose_least_blocks,principal_uniform_blocks
    local kept=uniform,inconsistent,embeddings_only,shuffled,spread_only,principal_spread_only
    local edge=optim.lr=1.6e-2 all=optim.lr=1e-3,2e-3,4e-3,8e-3,1.6e-2

    tune() { sweep cases_digits_grid "case=$1" "${@:2}"; }
    tune third_width,two_thirds_width,half_width_half_depth,two_thirds_width_3_blocks,early_parent,random_parent
    tune five_sixths_width_2_blocks,quarter_budget
    tune third_width,two_thirds_width,half_width_half_depth,early_parent init=subclone,principal $edge
    tune two_thirds_width_3_blocks,five_sixths_width_2_blocks,quarter_budget $edge
    tune half_width_half_depth init=$blocks $all
    tune half_width init=$kept $all
    tune half_width init=random optim.lr=1e-3,2e-3,4e-3
    # On more seeds, since one chose badly.
    tune half_width init=subclone,principal optim.lr=2e-3
    tune half_width init=subclone,principal optim.lr=4e-3,8e-3,1.6e-2 seed=100,101,102,103
    tune half_width init=principal optim.lr=3.2e-2 seed=100,101,102,103
    tune random_parent init=spread_only,principal_spread_only $all
    collect cases_digits_grid cases_grid
    sweep cases_digits case=$shapes
    sweep cases_digits case=half_width_half_depth init=$blocks
    sweep cases_digits case=half_width init=$kept
    sweep cases_digits case=early_parent,random_parent init=subclone,principal
    sweep cases_digits case=random_parent init=spread_only,principal_spread_only
    collect cases_digits cases
}

distilled() {
    sweep distill_digits_grid
    collect distill_digits_grid distilled_grid
    sweep distill_digits
    collect distill_digits distilled
}

map() {
    sweep map_digits
    collect map_digits map
}

# With a parent and a tuning of its own: all four arms on one machine.
weights() {
    sweep weights_digits_grid
    collect weights_digits_grid weights_grid
    sweep weights_digits
    collect weights_digits weights
}

measured() { measure; }

# Other parents by the same recipe, and children with seeds of their own; tuned on three parents more.
parents() {
    local i
    sweep parents_digits_drawn
    collect parents_digits_drawn parents_drawn
    for i in 100 101 102; do sweep parents_digits_grid case=parent$i seed=$i; done
    collect parents_digits_grid parents_grid
    for i in 0 1 2 3 4; do sweep parents_digits case=parent$i seed=$((3 * i)),$((3 * i + 1)),$((3 * i + 2)); done
    collect parents_digits parents
}

# Longer training; at 400 epochs with steps of four, on one seed.
budgets() {
    sweep budgets_digits_grid case=epochs_6,epochs_25
    sweep budgets_digits_grid case=epochs_6,epochs_25 optim.lr=1.6e-2
    sweep budgets_digits_grid case=epochs_100 optim.lr=2.5e-4,5e-4,1e-3,2e-3,4e-3,8e-3,1.6e-2
    sweep budgets_digits_grid case=epochs_400 optim.lr=1e-3,4e-3,1.6e-2 seed=100
    collect budgets_digits_grid budgets_grid
    sweep budgets_digits
    collect budgets_digits budgets
    cost
}

# Of parents whose own learning rate ended at zero, or did not.
rates() {
    sweep rates_digits_parents
    collect rates_digits_parents rates_parents
    sweep rates_digits
    collect rates_digits rates
}

equal_time() {
    recipes 1e-3,2e-3,4e-3,8e-3,1.6e-2 optim.lr=1e-3,2e-3,4e-3,8e-3 seed=100
}

parts parent tuning runs bigger controls cases distilled map weights parents budgets rates equal_time measured
