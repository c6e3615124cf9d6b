#!/usr/bin/env bash
# The paper's comparison in small, on any machine: see usage() below, or run with --help.
set -euo pipefail

usage() {
    cat <<'EOF'
usage: bash tools/quickstart.sh [options]

Makes mini-LVIS, a small data set with LVIS's long tail and its gaps in the annotation; trains Mask
R-CNN on it with sigmoid BCE and with DropLoss; tests both, and writes a report that compares them:

  work_dirs/quickstart/report.html

It takes less than half an hour on 2 CPU cores, after tools/setup_env.sh has set the environment up
(done here as well, if it is missing). GPUs are used if there are any. It can be stopped at any time
with Ctrl-C; the same command goes on where it was.

  --seed N         seed of both trainings (0)
  --work-dir DIR   where everything but the data goes (work_dirs/quickstart)
  --data DIR       where mini-LVIS is or is to be made (data/mini_lvis)
  --processes N    processes to train and test with: 1, 2, 4 or 8 (2); an iteration has 8 images in
                   any case
  --iterations N   length of each training (800); the schedule scales with it
  --images N       training images to make (2000)
  --val-images N   validation images to make (400)
  -h, --help       this text

Another --seed, --iterations and so on need another --work-dir: what is there is never mixed.
EOF
}

# ---- small helpers -------------------------------------------------------------------------------

say() { printf 'quickstart: %s\n' "$*"; }

die() {
    printf 'quickstart: %s\n' "$@" >&2
    exit 1
}

on_interrupt() {
    trap - INT TERM
    printf '\nquickstart: stopped. The same command goes on where it was:\n\n  %s\n' "$command_line" >&2
    exit 130
}

# clock SECONDS: as minutes:seconds
clock() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

# step TITLE EXPECTED NEXT: announce a step.
step_number=0
readonly num_steps=7
step() {
    step_number=$((step_number + 1))
    printf '\n==== [%d/%d] %s (%s elapsed; %s; next: %s) ====\n' \
        "$step_number" "$num_steps" "$1" "$(clock $((SECONDS - start)))" "$2" "$3"
}

whole_number() {
    [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] || die "$1 must be a whole number, but it is '$2'"
    ((10#$2 >= $3)) || die "$1 must be at least $3, but it is $2"
}

# Folders are the caller's, but the configs name theirs from the root of the repository.
from_root() {
    if [[ $1 == /* || $PWD == "$root" ]]; then
        printf '%s\n' "${1%/}"
    else
        printf '%s\n' "$PWD/${1%/}"
    fi
}

# ---- options -------------------------------------------------------------------------------------

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
command_line="bash tools/quickstart.sh"
[[ $# -eq 0 ]] || command_line+=$(printf ' %q' "$@")
seed=0 work_dir=$root/work_dirs/quickstart data=$root/data/mini_lvis
processes=2 iterations=800 images=2000 val_images=400
while [[ $# -gt 0 ]]; do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --seed | --work-dir | --data | --processes | --iterations | --images | --val-images)
            [[ $# -ge 2 && -n $2 ]] || die "$1 needs a value (see --help)"
            case $1 in
                --seed) seed=$2 ;;
                --work-dir) work_dir=$(from_root "$2") ;;
                --data) data=$(from_root "$2") ;;
                --processes) processes=$2 ;;
                --iterations) iterations=$2 ;;
                --images) images=$2 ;;
                --val-images) val_images=$2 ;;
            esac
            shift
            ;;
        *) die "unknown option $1 (see --help)" ;;
    esac
    shift
done
whole_number --seed "$seed" 0
whole_number --iterations "$iterations" 1
whole_number --images "$images" 1
whole_number --val-images "$val_images" 1
[[ $processes =~ ^[1248]$ ]] || die "--processes must be 1, 2, 4 or 8, but it is '$processes'"
cd "$root"
# Shorter in the report, and it does not tell where the repository lies.
work_dir=${work_dir#"$root/"}
data=${data#"$root/"}

trap on_interrupt INT TERM
start=$SECONDS
say "stop with Ctrl-C at any time; the same command goes on where it was"

# ---- 1: environment ------------------------------------------------------------------------------

step "environment" "about 10 min the first time, to compile mmcv; else seconds" "the data set"
# shellcheck source=tools/setup_env.sh
source tools/setup_env.sh
export MPLBACKEND=Agg

gpus=$(python -c 'import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)')
while ((gpus > 0 && processes > gpus)); do
    processes=$((processes / 2))
    say "$gpus GPUs, so $processes processes"
done

# ---- 2: data set ---------------------------------------------------------------------------------

step "data set $data" "about 1 min, if it is not there yet" "training with sigmoid BCE"
data_options=()
[[ $images == 2000 ]] || data_options+=(--train-images "$images")
if [[ $val_images != 400 ]]; then
    # 7.5 objects an image: what 60 categories can have each, at most the default.
    each=$((val_images * 7 / 60 - 1))
    data_options+=(--val-images "$val_images" --val-min-instances $((each < 0 ? 0 : each > 20 ? 20 : each)))
fi
python tools/dataset_converters/make_mini_lvis.py "$data" "${data_options[@]}"

# ---- nothing of another run is mixed in ----------------------------------------------------------

stamp=$work_dir/quickstart.options
options=$(printf '%s\n' "seed=$seed" "iterations=$iterations" "processes=$processes" "data=$data" \
    "images=$images" "val-images=$val_images" "data-stamp=$(cksum <"$data/mini_lvis.json")")
mkdir -p "$work_dir"
if [[ ! -e $stamp ]]; then
    for name in sigmoid droploss; do
        [[ ! -e $work_dir/$name ]] ||
            die "$work_dir/$name exists, but not from this program; give another --work-dir"
    done
    printf '%s\n' "$options" >"$stamp.new"
    mv "$stamp.new" "$stamp"
elif [[ $(<"$stamp") != "$options" ]]; then
    printf 'quickstart: %s was made with other options (< there, > now):\n' "$work_dir" >&2
    diff "$stamp" <(printf '%s\n' "$options") | grep '^[<>]' >&2 || true
    die "give another --work-dir, or delete $work_dir to start over"
fi

# ---- 3 to 6: train and test ----------------------------------------------------------------------

# What differs from the configs. The overrides of lists go by index.
common_options=(
    "model.roi_head.bbox_head.loss_cls.class_freq=$data/annotations/lvis_v1_train.json"
    "train_dataloader.dataset.data_root=$data/"
    "train_dataloader.dataset.metainfo.classes=$data/annotations/classes.txt"
)
for part in val test; do
    common_options+=(
        "${part}_dataloader.dataset.data_root=$data/"
        "${part}_dataloader.dataset.metainfo.classes=$data/annotations/classes.txt"
        "${part}_evaluator.ann_file=$data/annotations/lvis_v1_val.json"
    )
done
at_least_1() { echo $(($1 > 1 ? $1 : 1)); }
train_options=(
    "randomness.seed=$seed"
    "train_dataloader.batch_size=$((8 / processes))"
    # With one, a stop while saving leaves none: the old is deleted before the new is written.
    default_hooks.checkpoint.max_keep_ckpts=2
)
if [[ $iterations != 800 ]]; then
    train_options+=(
        "max_iters=$iterations"
        "train_cfg.max_iters=$iterations"
        "train_cfg.val_interval=$(at_least_1 $((iterations / 2)))"
        "default_hooks.checkpoint.interval=$(at_least_1 $((iterations / 12)))"
        "default_hooks.logger.interval=$(at_least_1 $((iterations / 60)))"
        "param_scheduler.0.end=$(at_least_1 $((iterations / 12)))"
        "param_scheduler.1.end=$iterations"
        "param_scheduler.1.milestones=[$((iterations * 3 / 4)),$((iterations * 11 / 12))]"
    )
fi

sigmoid_config=configs/mini_lvis/mask_rcnn_r18_fpn_sigmoid_mini_lvis.py
droploss_config=configs/mini_lvis/mask_rcnn_r18_fpn_mini_lvis.py

checkpoint_of() { printf '%s/%s/iter_%d.pth\n' "$work_dir" "$1" "$iterations"; }

# Whether a training is finished: last_checkpoint is written once the checkpoint is complete.
is_trained() {
    local checkpoint
    checkpoint=$(checkpoint_of "$1")
    [[ -f $checkpoint && -f $work_dir/$1/last_checkpoint ]] || return 1
    [[ $(<"$work_dir/$1/last_checkpoint") == *"/${checkpoint##*/}" ]]
}

# Whether a test of that checkpoint is finished: the metrics are the last file that it writes.
is_tested() { is_trained "$1" && [[ $work_dir/$1/val.metrics.json -nt $(checkpoint_of "$1") ]]; }

# train NAME CONFIG
train() {
    local name=$1 config=$2 begin=$SECONDS resume=auto
    if is_trained "$name"; then
        say "trained already: $(checkpoint_of "$name")"
        return
    fi
    if [[ -f $work_dir/$name/last_checkpoint ]]; then
        # By its name alone: the path in there is wrong once the folder has been moved.
        resume=$work_dir/$name/$(basename "$(<"$work_dir/$name/last_checkpoint")")
        say "going on from $resume"
    fi
    bash tools/dist_train.sh "$config" "$processes" --work-dir "$work_dir/$name" \
        --resume "$resume" --cfg-options "${common_options[@]}" "${train_options[@]}"
    is_trained "$name" || die "the training ended without $(checkpoint_of "$name"), see above"
    # Half a training tells nothing about the next.
    [[ $resume != auto ]] || training_seconds=$((SECONDS - begin))
}

# test_run NAME CONFIG
test_run() {
    local name=$1 config=$2 checkpoint
    checkpoint=$(checkpoint_of "$name")
    if is_tested "$name"; then
        say "tested already: $work_dir/$name/val.metrics.json"
        return
    fi
    # Its logs apart from those of the training.
    bash tools/dist_test.sh "$config" "$checkpoint" "$processes" --work-dir "$work_dir/$name/test" \
        --results "$work_dir/$name/val" --cfg-options "${common_options[@]}"
}

# How long it takes to train NAME: by the training before, if this run did one.
training_seconds=0
training_time() {
    if is_trained "$1"; then
        echo "done already"
    elif ((training_seconds > 0)); then
        echo "about $(clock "$training_seconds"), as the last"
    else
        echo "about $(((6 * iterations + 799) / 800)) min on 2 cores"
    fi
}

testing_time() {
    if is_tested "$1"; then echo "done already"; else echo "about 1 min"; fi
}

step "training with sigmoid BCE" "$(training_time sigmoid)" "training with DropLoss"
train sigmoid "$sigmoid_config"
step "training with DropLoss" "$(training_time droploss)" "testing both"
train droploss "$droploss_config"

step "testing sigmoid BCE" "$(testing_time sigmoid)" "testing DropLoss"
test_run sigmoid "$sigmoid_config"
step "testing DropLoss" "$(testing_time droploss)" "the report"
test_run droploss "$droploss_config"

# ---- 7: report -----------------------------------------------------------------------------------

step "report" "less than 1 min" "nothing, this is the last step"
python tools/analysis_tools/compare_runs.py \
    --ann "$data/annotations/lvis_v1_val.json" --train-ann "$data/annotations/lvis_v1_train.json" \
    --run "sigmoid BCE=$work_dir/sigmoid" --run "DropLoss=$work_dir/droploss" \
    --out "$work_dir" --command "$command_line"
printf '\n'
say "done in $(clock $((SECONDS - start)))"
