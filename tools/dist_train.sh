#!/usr/bin/env bash
# Train on GPUS GPUs of one or several nodes (without a GPU: GPUS processes on the CPU).
#   bash tools/dist_train.sh CONFIG GPUS [arguments of train.py]
# Several nodes: the same command on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "error: usage: bash tools/dist_train.sh CONFIG GPUS [arguments of train.py]" >&2
    exit 2
fi
CONFIG=$1
GPUS=$2
NNODES=${NNODES:-1}
NODE_RANK=${NODE_RANK:-0}
MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}
if ! [[ $GPUS =~ ^[1-9][0-9]*$ ]]; then
    echo "error: GPUS is a number of processes, got '$GPUS'" >&2
    exit 2
fi
if [ "$NNODES" = 1 ] && [ -z "${PORT:-}" ]; then
    # Any free port will do.
    RENDEZVOUS=(--rdzv-backend=c10d --rdzv-endpoint=localhost:0 --local-addr=127.0.0.1)
else
    RENDEZVOUS=(--node-rank="$NODE_RANK" --master-addr="$MASTER_ADDR" --master-port="${PORT:-29500}")
fi

TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} MKL_NUM_THREADS=${MKL_NUM_THREADS:-1}
export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="$NNODES" \
    --nproc-per-node="$GPUS" \
    "${RENDEZVOUS[@]}" \
    "$TOOLS/train.py" "$CONFIG" --launcher pytorch "${@:3}"
