#!/usr/bin/env bash
# Trains on several slices of Cloud TPU VMs, which communicate over the data centre's network:
#
#     launch/tpu_multislice.sh SLICES create --name=N --zone=Z --type=... --version=...
#     launch/tpu_multislice.sh SLICES start  --name=N --zone=Z -- --config=... --workdir=runs/...
#
# All options are those of launch/tpu_vm.sh, which this script calls. The mesh axis `data` spans the
# slices by itself: set config.mesh.data to a multiple of SLICES, or to -1.
set -euo pipefail
if ! [[ ${1:-} =~ ^[0-9]+$ ]] || (($1 < 2 || $# < 2)); then
    echo "usage: launch/tpu_multislice.sh SLICES (2 or more) ACTION OPTIONS of tpu_vm.sh" >&2
    exit 2
fi
slices=$1 action=$2
shift 2
exec "$(dirname "$0")/tpu_vm.sh" "$action" "--slices=$slices" "$@"
