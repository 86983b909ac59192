#!/usr/bin/env bash
# GPT-2 on books and Wikipedia: README.md. Estimated at 21 minutes on an H200: parent 6, tuning 8, runs 7.
# Of its parent, blocks and units are measured last. How to call it: experiments/study.sh.
JOBS=${JOBS:-3}
. "$(dirname "$0")/../study.sh"

parent() {
    train gpt2_books_parent
    collect gpt2_books_parent parent
}

tuning() {
    sweep gpt2_books_grid
    collect gpt2_books_grid grid
}

runs() {
    sweep gpt2_books
    collect gpt2_books runs
    report
}

measured() { measure; }

parts parent tuning runs measured
