#!/usr/bin/env bash
# The books study from text to table, on one GPU. Stopped at any point, the same command goes on where it was; so on a
# machine that is lent for a few minutes at a time, call it as `timeout 480 experiments/gpt2_books/run.sh OUT`.
#
#   TEXTS=folder with *train*.txt.xz and *valid*.txt.xz  GPT2_BPE=folder with vocab.json and merges.txt \
#       experiments/gpt2_books/run.sh OUT [overrides of every run, such as trainer=default compile=false]
#
# OUT gets the grid and the runs of both pairs as .csv, with provenance. Set PYTHON to the interpreter to use.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$1 && shift
python=${PYTHON:-python}
export PYTHONPATH=$PWD/src
sweep() {
    "$python" -m subcloning.train -m hydra/launcher=local hydra.launcher.n_jobs="${JOBS:-3}" logger=csv "$@"
    find "${SUBCLONING_RUNS:-runs}"/gpt2_books* -name last.ckpt -delete  # of finished runs: half a gigabyte each
}
collect() { "$python" -m subcloning.collect "$1" --into "$out/$2" --stem "$3"; }

"$python" -m subcloning.prepare data=books
"$python" -m subcloning.train experiment=gpt2_books_parent logger=csv "$@"
sweep experiment=gpt2_books_grid "$@"
collect gpt2_books_grid gpt2_books grid
tuned=$("$python" -m subcloning.tuned gpt2_books --folder "$out/gpt2_books")
for study in gpt2_books gpt2_books_depth; do
    # shellcheck disable=SC2086  # one override per word
    sweep experiment=$study $tuned "$@"
    collect $study $study runs
    "$python" -m subcloning.analysis $study --folder "$out/$study"
done
