#!/usr/bin/env bash
# gpt2_stdlib with two thirds of the depth: README.md. 6 minutes on 2 CPU cores, after the parent and the tuning, which
# are those of gpt2_stdlib and are made if need be. How to call it: experiments/study.sh.
. "$(dirname "$0")/../study.sh"

parent() { borrow gpt2_stdlib; }

runs() {
    sweep gpt2_stdlib_depth
    collect gpt2_stdlib_depth runs
    report
}

parts parent runs
