#!/usr/bin/env bash
# Train under Slurm, one process a GPU (NCCL); on machines without GPU as many processes (gloo).
#
#   GPUS=16 GPUS_PER_NODE=8 bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of train.py]
#   GPUS=2 CPUS_PER_TASK=1 GRES=none bash tools/slurm_train.sh cpu mini CONFIG WORK_DIR
#
# Variables: see slurm_launch.sh.
set -euo pipefail

if [[ $# -lt 4 ]]; then
    echo "usage: [GPUS=8] bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of train.py; see train.py --help]" >&2
    exit 2
fi
partition=$1 job_name=$2 config=$3 work_dir=$4
shift 4
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/slurm_launch.sh
source "$tools/slurm_launch.sh"
slurm_launch "$partition" "$job_name" "$tools/train.py" "$config" --work-dir "$work_dir" "$@"
