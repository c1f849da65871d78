#!/usr/bin/env bash
# Trains on the CPU of this machine with N processes, as on N machines:
#
#     launch/local_cpu.sh [--dry-run] N --config=configs/tiny.py --workdir=runs/tiny
#
# The arguments after N go to `python -m dlms_jax.main`. Environment variables:
#   PYTHON    the interpreter (default: python)
#   PORT      the port of process 0 (default: a free one)
#   DEVICES   the number of CPU devices of each process (default: 1)
#   RESTARTS  see launch/restart.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

dry=''
if [[ ${1:-} == --dry-run ]]; then
    dry=yes
    shift
fi
if ! [[ ${1:-} =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: launch/local_cpu.sh [--dry-run] N ARGUMENTS of dlms_jax.main" >&2
    exit 2
fi
number=$1
shift

export JAX_PLATFORMS=cpu
export NPROC=${NPROC:-32} # enough threads for XLA, whose collectives block them
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=${DEVICES:-1}"
python=${PYTHON:-python}
port=${PORT:-}
if [[ -z $port && $number -gt 1 ]]; then
    port=$("$python" -c 'import socket; print(socket.create_server(("", 0)).getsockname()[1])')
fi

children=()
for ((process = 0; process < number; process++)); do
    command=("$here/restart.sh" "$python" -m dlms_jax.main "$@")
    if ((number > 1)); then
        command+=("--coordinator=127.0.0.1:$port" "--num_processes=$number" "--process_id=$process")
    fi
    if [[ -n $dry ]]; then
        printf '%q ' "${command[@]}"
        echo
    else
        "${command[@]}" &
        children+=($!)
    fi
done
[[ -z $dry ]] || exit 0

trap 'kill -s TERM "${children[@]}" 2>/dev/null || true' TERM INT
worst=0
for child in "${children[@]}"; do
    status=0
    wait "$child" || status=$?
    while kill -0 "$child" 2>/dev/null; do # a signal interrupted the wait, and the child still runs
        status=0
        wait "$child" || status=$?
    done
    ((status == 0)) || worst=$status
done
exit "$worst"
