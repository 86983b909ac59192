#!/usr/bin/env bash
# ViT on CIFAR-10: README.md. Estimated at 22 minutes on an H200: parent 6, tuning 7, runs 6.
# Of its parent, blocks and units are measured last. How to call it: experiments/study.sh.
JOBS=${JOBS:-6}
. "$(dirname "$0")/../study.sh"

parent() {
    train vit_cifar10_parent
    collect vit_cifar10_parent parent
}

tuning() {
    sweep vit_cifar10_grid
    collect vit_cifar10_grid grid
}

runs() {
    sweep vit_cifar10
    collect vit_cifar10 runs
    report
}

measured() { measure; }

parts parent tuning runs measured
