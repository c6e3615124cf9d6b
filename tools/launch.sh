# Sourced by dist_train.sh and dist_test.sh.

# launch PROCESSES SCRIPT ARGUMENTS...: run a script under torchrun. The variables NNODES, NODE_RANK,
# MASTER_ADDR and PORT are those of MMDetection's scripts; without PORT a free one is taken, so that
# two runs on one machine don't meet. RDZV_ENDPOINT=HOST:PORT takes torchrun's elastic rendezvous
# instead, with RDZV_ID, MAX_RESTARTS, and NNODES as a number or a range (1:4).
launch() {
    local processes=$1
    shift
    local nnodes=${NNODES:-1} addr=${MASTER_ADDR:-127.0.0.1} port=${PORT:-}
    if [[ -z $port ]]; then
        if [[ $nnodes != 1 ]]; then
            port=29500
        else
            port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
        fi
    fi
    # Without this, torchrun gives every process one thread, or torch gives each all the cores.
    if [[ -z ${OMP_NUM_THREADS:-} ]]; then
        local cores
        cores=$(python -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
        export OMP_NUM_THREADS=$((cores > processes ? cores / processes : 1))
    fi
    local meeting=(--node_rank "${NODE_RANK:-0}" --master_addr "$addr" --master_port "$port")
    if [[ -n ${RDZV_ENDPOINT:-} ]]; then
        meeting=(--rdzv_backend c10d --rdzv_endpoint "$RDZV_ENDPOINT" --rdzv_id "${RDZV_ID:-0}"
            --max_restarts "${MAX_RESTARTS:-0}")
    fi
    exec python -m torch.distributed.run --nnodes "$nnodes" --nproc_per_node "$processes" \
        "${meeting[@]}" "$@" --launcher pytorch
}
