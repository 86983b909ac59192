# What experiments/STUDY/run.sh is made of: it sources this, defines a function for each part, and ends with `parts`.
#
#   experiments/STUDY/run.sh [PART...] [overrides of every run, such as trainer=default compile=false]
#
# Without a PART, all in order. What is done is not done again: stopped at any point, the same command goes on where it
# was; so on a machine that is lent for a few minutes at a time, call `timeout 480 experiments/STUDY/run.sh` until it ends
# by itself. Data, tables and figures go to $OUT/STUDY (default: experiments), from where winners of grids are read, too.
# JOBS runs at a time (default: one per GPU, or core); PYTHON is the interpreter.
set -eo pipefail # not -u: the bash of macOS takes an empty list for an unset one
study=$(basename "$(cd "$(dirname "$0")" && pwd)")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p "${OUT:=experiments}/$study"
OUT=$(cd "$OUT" && pwd)
export OUT SUBCLONING_EXPERIMENTS=$OUT PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH}
python=${PYTHON:-python}
chosen=() overrides=()
for word; do
    if [[ $word == *=* ]]; then overrides+=("$word"); else chosen+=("$word"); fi
done

# EXPERIMENT [overrides]: one run.
train() { "$python" -m subcloning.train "experiment=$1" logger=csv "${@:2}" "${overrides[@]}"; }

# EXPERIMENT [overrides]: all combinations of listed values, those of the experiment's config included.
sweep() {
    "$python" -m subcloning.train -m hydra/launcher=local ${JOBS:+"hydra.launcher.n_jobs=$JOBS"} \
        "experiment=$1" logger=csv "${@:2}" "${overrides[@]}"
    local name=$1 word
    for word in "${@:2}" "${overrides[@]}"; do
        if [[ $word == name=* ]]; then name=${word#name=}; fi
    done
    # Of finished runs: a checkpoint is three times its model.
    find "${SUBCLONING_RUNS:-runs}/$name" -name summary.json -execdir rm -f last.ckpt ";"
}

# NAME STEM [--keep]: the finished runs of an experiment, into STEM.csv of this study; and what is there already.
collect() { "$python" -m subcloning.collect "$1" --into "$OUT/$study" --stem "$2" "${@:3}"; }

# Table and figure of this study.
report() { "$python" -m subcloning.analysis "$study" --folder "$OUT/$study"; }

# What blocks and units of this study's parent are worth (Fig. 2, 3, 5, 6, 8).
measure() {
    for figure in fig02 fig03; do
        "$python" -m subcloning.analysis "$figure" "experiment=$study" "${overrides[@]}" --folder "$OUT/$study"
    done
}

# What this study's parent costs, and filling a child, in the child's own time.
cost() {
    local file=$OUT/$study/cost.csv
    "$python" experiments/budgets/cost.py "$study" "${overrides[@]}" > "$file.new"
    mv "$file.new" "$file"
}

# RATES [overrides of tuning with four times the budget]: this study's recipes at equal time, teachers' passes counted.
# With `fewer=yes` before it, only those that matter most at four times the budget.
recipes() {
    local rates=$1 case name=equal_time_$study untaught=random,subclone,uniform,principal,principal_taylor
    local taught=random,subclone,principal
    shift
    tune() { # CASE [overrides]
        sweep "${name}_grid" "case=$1" init=$untaught "${@:2}"
        sweep "${name}_grid" "case=${1}_taught" init=$taught "${@:2}"
        sweep "${name}_grid" "case=${1}_fading" init=principal "${@:2}"
    }
    for case in quarter whole; do tune $case "optim.lr=$rates"; done
    tune fourfold "$@"
    collect "${name}_grid" equal_time_grid
    for case in quarter whole fourfold; do
        if [[ $case == fourfold && ${fewer:-} ]]; then untaught=random,subclone,principal taught=subclone,principal; fi
        sweep "$name" "case=$case" init=$untaught
        sweep "$name" "case=${case}_taught" init=$taught
        sweep "$name" "case=${case}_fading" init=principal
    done
    collect "$name" equal_time
}

# STUDY: another one's parent, and its grid where that is not there.
borrow() {
    "experiments/$1/run.sh" parent "${overrides[@]}"
    if [[ ! -e $OUT/$1/grid.csv ]]; then "experiments/$1/run.sh" tuning "${overrides[@]}"; fi
}

# PART...: run those that the command line chose, or all.
parts() {
    local part
    for part in "${chosen[@]}"; do
        if [[ " $* " != *" $part "* ]]; then
            echo "$part: $study has no such part, only $*" >&2
            exit 2
        fi
    done
    for part in "$@"; do
        if [[ ${#chosen[@]} == 0 || " ${chosen[*]} " == *" $part "* ]]; then
            echo "== $study: $part"
            "$part"
        fi
    done
}
