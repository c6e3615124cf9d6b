#!/usr/bin/env bash
# Train with several processes on this machine, one a GPU (NCCL). Where there is no GPU, the same
# command runs that many CPU processes (gloo).
#
#   bash tools/dist_train.sh CONFIG GPUS [arguments of train.py]
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 PORT=29500 bash tools/dist_train.sh CONFIG 8
set -euo pipefail

if [[ $# -lt 2 || ! $2 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: bash tools/dist_train.sh CONFIG GPUS [arguments of train.py; see train.py --help]" >&2
    exit 2
fi
config=$1
gpus=$2
shift 2
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/launch.sh
source "$tools/launch.sh"
need_file config "$config"
launch "$gpus" "$tools/train.py" "$config" "$@"
