#!/usr/bin/env bash
# ViT on CIFAR-10, on a CPU: README.md. About 14 hours on 2 CPU cores, of which minutes: parent 17, tuning 30, runs 45,
# controls 21, measured 2, parents 125, budgets 585. With CIFAR10=FOLDER and data=cifar10_folder from a copy.
# How to call it: experiments/study.sh.
. "$(dirname "$0")/../study.sh"

parent() {
    train vit_cifar10_cpu_parent
    collect vit_cifar10_cpu_parent parent
}

tuning() {
    sweep vit_cifar10_cpu_grid
    # The lower weight decay, at each arm's best learning rate.
    sweep vit_cifar10_cpu_grid init=random optim.weight_decay=0.01
    local others=subclone,subclone_no_scaling,subclone_no_reordering,uniform,random_subset
    sweep vit_cifar10_cpu_grid init=$others optim.lr=2e-3 optim.weight_decay=0.01
    sweep vit_cifar10_cpu_grid init=subclone optim.lr=1e-3 optim.weight_decay=0.01
    collect vit_cifar10_cpu_grid grid
}

runs() {
    sweep vit_cifar10_cpu
    collect vit_cifar10_cpu runs
    report
}

controls() {
    sweep controls_vit_cifar10_cpu_grid optim.lr=5e-4,1e-3,2e-3,4e-3,8e-3
    sweep controls_vit_cifar10_cpu_grid optim.lr=4e-3 optim.weight_decay=0.01
    collect controls_vit_cifar10_cpu_grid controls_grid
    sweep controls_vit_cifar10_cpu
    collect controls_vit_cifar10_cpu controls
}

measured() { measure; }

# Longer training, from a parent at its plateau; 80 epochs at the learning rates of 20.
budgets() {
    train vit_cifar10_cpu_long_parent
    collect vit_cifar10_cpu_long_parent long_parent
    sweep budgets_vit_cifar10_cpu_grid
    collect budgets_vit_cifar10_cpu_grid budgets_grid
    sweep budgets_vit_cifar10_cpu
    collect budgets_vit_cifar10_cpu budgets
    cost
}

# Other parents by the same recipe, and children with a seed of their own; tuned on two parents more.
parents() {
    local i
    sweep parents_vit_cifar10_cpu_drawn
    collect parents_vit_cifar10_cpu_drawn parents_drawn
    for i in 100 101; do
        sweep parents_vit_cifar10_cpu_grid case=parent$i seed=$i
        sweep parents_vit_cifar10_cpu_grid case=parent$i seed=$i init=principal optim.lr=8e-3 # 4e-3 was its best
    done
    collect parents_vit_cifar10_cpu_grid parents_grid
    for i in 0 1 2 3; do sweep parents_vit_cifar10_cpu case=parent$i seed=$i; done
    collect parents_vit_cifar10_cpu parents
}

parts parent tuning runs controls measured budgets parents
