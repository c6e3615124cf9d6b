#!/usr/bin/env bash
# Test under Slurm, one process a GPU (NCCL); on machines without GPU as many processes (gloo).
#
#   GPUS=8 bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of test.py]
#
# Variables: see slurm_launch.sh.
set -euo pipefail

if [[ $# -lt 4 ]]; then
    echo "usage: [GPUS=8] bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of test.py; see test.py --help]" >&2
    exit 2
fi
partition=$1 job_name=$2 config=$3 checkpoint=$4
shift 4
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/slurm_launch.sh
source "$tools/slurm_launch.sh"
slurm_launch "$partition" "$job_name" "$tools/test.py" "$config" "$checkpoint" "$@"
