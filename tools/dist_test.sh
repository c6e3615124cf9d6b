#!/usr/bin/env bash
# Test with several processes on this machine, one a GPU (NCCL). Where there is no GPU, the same
# command runs that many CPU processes (gloo).
#
#   bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of test.py]
set -euo pipefail

if [[ $# -lt 3 || ! $3 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of test.py; see test.py --help]" >&2
    exit 2
fi
config=$1
checkpoint=$2
gpus=$3
shift 3
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/launch.sh
source "$tools/launch.sh"
need_file config "$config"
need_file checkpoint "$checkpoint"
launch "$gpus" "$tools/test.py" "$config" "$checkpoint" "$@"
