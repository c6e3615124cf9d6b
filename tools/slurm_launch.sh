# shellcheck shell=bash
# Sourced by slurm_train.sh and slurm_test.sh.

# slurm_launch PARTITION JOB_NAME SCRIPT ARGUMENTS...: run a script under srun, one process a GPU. The
# variables are those of MMDetection's scripts:
#   GPUS            processes in all (8)
#   GPUS_PER_NODE   processes on each machine (8, or GPUS if that is less)
#   CPUS_PER_TASK   cores for each process (5)
#   SRUN_ARGS       more arguments of srun, e.g. "--time=2-0 --exclude=node7"
#   GRES            what to ask for on each machine (gpu:GPUS_PER_NODE); "none" on machines without GPU
slurm_launch() {
    local partition=$1 job_name=$2
    shift 2
    local gpus=${GPUS:-8}
    local per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
    local gres=(--gres="${GRES:-gpu:$per_node}")
    [[ ${GRES:-} != none ]] || gres=()
    if ((gpus % per_node)); then
        echo "GPUS=$gpus is no multiple of GPUS_PER_NODE=$per_node" >&2
        exit 2
    fi
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${CPUS_PER_TASK:-5}}
    # SRUN_ARGS holds several arguments: it is to be split.
    # shellcheck disable=SC2086
    exec srun --partition="$partition" --job-name="$job_name" "${gres[@]}" \
        --ntasks="$gpus" --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" \
        --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
        python -u "$@" --launcher slurm
}
