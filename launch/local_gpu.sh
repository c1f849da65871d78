#!/usr/bin/env bash
# Trains on all GPUs of this machine with one process:
#
#     launch/local_gpu.sh [--dry-run] --config=configs/small.py --workdir=runs/small
#
# The arguments go to `python -m dlms_jax.main`. Environment variables:
#   PYTHON                the interpreter (default: python)
#   CUDA_VISIBLE_DEVICES  the GPUs to use (default: all)
#   RESTARTS              see launch/restart.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda} # without a GPU, fail instead of training on the CPU
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
command=("$here/restart.sh" "${PYTHON:-python}" -m dlms_jax.main)
if [[ ${1:-} == --dry-run ]]; then
    shift
    printf '%q ' "${command[@]}" "$@"
    echo
    exit 0
fi
exec "${command[@]}" "$@"
