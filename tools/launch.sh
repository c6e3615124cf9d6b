# shellcheck shell=bash
# Sourced by dist_train.sh and dist_test.sh.

# need_file WHAT PATH: stop here, and not in each of the processes.
need_file() {
    [[ -f $2 || $2 == *://* ]] && return
    echo "$1 '$2' does not exist (working directory: $PWD)" >&2
    exit 2
}

# port_is_taken PORT: whether something listens there.
port_is_taken() {
    ! python - "$1" <<'EOF'
import socket
import sys

with socket.socket() as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch's store does
    try:
        probe.bind(("", int(sys.argv[1])))
    except OSError:
        sys.exit(1)
EOF
}

# launch PROCESSES SCRIPT ARGUMENTS...: run a script under torchrun. The variables NNODES, NODE_RANK,
# MASTER_ADDR and PORT are those of MMDetection's scripts; without PORT a free one is taken, so that
# two runs on one machine don't meet. RDZV_ENDPOINT=HOST:PORT takes torchrun's elastic rendezvous
# instead, with RDZV_ID, MAX_RESTARTS, and NNODES as a number or a range (1:4). Where a machine's name
# does not resolve to the address that the others know, NODE_RANK=0 says which one hosts the endpoint,
# and LOCAL_ADDR each one's address.
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
    if [[ ! $port =~ ^[1-9][0-9]*$ ]]; then
        echo "PORT must be a number, but it is '$port'" >&2
        exit 2
    fi
    if [[ ${NODE_RANK:-0} == 0 && -z ${RDZV_ENDPOINT:-} ]] && port_is_taken "$port"; then
        echo "PORT=$port is in use on this machine, most likely by another run: choose another" \
            "PORT$([[ $nnodes == 1 ]] && echo ', or leave it out: then a free one is taken')" >&2
        exit 2
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
        # By default torchrun finds out by the machine's name which one the endpoint is.
        [[ -z ${NODE_RANK:-} ]] || meeting+=(--rdzv_conf "is_host=$((NODE_RANK == 0))")
        [[ -z ${LOCAL_ADDR:-} ]] || meeting+=(--local_addr "$LOCAL_ADDR")
    fi
    if [[ $nnodes != 1 ]]; then
        echo "torchrun: this machine (NODE_RANK=${NODE_RANK:-?} of NNODES=$nnodes) meets the others at" \
            "${RDZV_ENDPOINT:-$addr:$port}; the run begins when all are there, and torchrun gives up" \
            "after 10 minutes" >&2
    fi
    # What is newer in the work dir is this training's, should torchrun start it again (train.py).
    MMDET_DROPLOSS_LAUNCHED=$(date +%s)
    export MMDET_DROPLOSS_LAUNCHED
    exec python -m torch.distributed.run --nnodes "$nnodes" --nproc_per_node "$processes" \
        "${meeting[@]}" "$@" --launcher pytorch
}
