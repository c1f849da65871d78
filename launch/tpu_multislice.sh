#!/usr/bin/env bash
# Trains on several slices of Cloud TPU VMs, which speak to one another over the data centre's
# network:
#
#     launch/tpu_multislice.sh SLICES create --name=N --zone=Z --type=... --version=...
#     launch/tpu_multislice.sh SLICES start  --name=N --zone=Z -- --config=... --workdir=runs/...
#
# As launch/tpu_vm.sh, to which all goes on. The mesh axis `data` spans the slices by itself: let
# config.mesh.data be a multiple of SLICES, or -1.
set -euo pipefail
if ! [[ ${1:-} =~ ^[0-9]+$ ]] || (($1 < 2 || $# < 2)); then
    echo "usage: launch/tpu_multislice.sh SLICES (2 or more) ACTION OPTIONS of tpu_vm.sh" >&2
    exit 2
fi
slices=$1 action=$2
shift 2
exec "$(dirname "$0")/tpu_vm.sh" "$action" "--slices=$slices" "$@"
