#!/usr/bin/env bash
# gpt2_books with two thirds of the depth: README.md. Estimated at 7 minutes on an H200, after the parent and the tuning, which
# are those of gpt2_books and are made if need be. How to call it: experiments/study.sh.
JOBS=${JOBS:-3}
. "$(dirname "$0")/../study.sh"

parent() { borrow gpt2_books; }

runs() {
    sweep gpt2_books_depth
    collect gpt2_books_depth runs
    report
}

parts parent runs
