#!/usr/bin/env bash
# A study from its parent to its table. Stopped at any point, the same command goes on where it was; so on a machine that
# is lent for a few minutes at a time, call it as `timeout 480 experiments/run.sh ...` until it ends by itself.
#
#   experiments/run.sh STUDY[,STUDY...] OUT [overrides of every run, such as trainer=default compile=false]
#
# Trains experiment=STUDY_parent, tunes by STUDY_grid, and runs STUDY, and those after it, at the settings found.
# OUT/STUDY gets grid and runs as records, table and figure. JOBS runs at a time (default 3); set PYTHON to
# the interpreter to use.
set -euo pipefail
cd "$(dirname "$0")/.."
IFS=, read -ra studies <<< "$1"
out=$2
shift 2
python=${PYTHON:-python}
export PYTHONPATH=$PWD/src
first=${studies[0]}
sweep() {
    "$python" -m subcloning.train -m hydra/launcher=local hydra.launcher.n_jobs="${JOBS:-3}" logger=csv "$@"
    # Of finished runs: a checkpoint is three times its model.
    find "${SUBCLONING_RUNS:-runs}" "(" -path "*/${first}_grid/*" -o -path "*/$first/*" ")" \
        -name summary.json -execdir rm -f last.ckpt ";"
}
collect() { "$python" -m subcloning.collect "$1" --into "$out/$2" --stem "$3"; }

"$python" -m subcloning.train "experiment=${first}_parent" logger=csv "$@"
sweep "experiment=${first}_grid" "$@"
collect "${first}_grid" "$first" grid
tuned=$("$python" -m subcloning.tuned "$first" --folder "$out/$first")
for study in "${studies[@]}"; do
    # shellcheck disable=SC2086  # one override per word
    sweep "experiment=$study" $tuned "$@"
    collect "$study" "$study" runs
    "$python" -m subcloning.analysis "$study" --folder "$out/$study"
done
