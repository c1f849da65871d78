#!/usr/bin/env bash
# Trains on the TPUs of a GKE cluster, with xpk (https://github.com/AI-Hypercomputer/xpk):
#
#     launch/gke_xpk.sh image  --image=REGISTRY/dlms_jax:TAG
#     launch/gke_xpk.sh start  --cluster=C --name=N --type=v5p-64 [--slices=S] --storage=STORAGE \
#         --image=REGISTRY/dlms_jax:TAG -- --config=configs/large.py --workdir=/runs/large
#     launch/gke_xpk.sh logs   --name=N
#     launch/gke_xpk.sh resume (options as for start)
#     launch/gke_xpk.sh delete --cluster=C --name=N
#
#   image   builds launch/Dockerfile.tpu and pushes it
#   start   runs `python -m dlms_jax.main` with the arguments after -- on every pod. The storage
#           comes from `xpk storage attach`: a bucket or a file system that all pods share. The
#           workdir must be on it. The job set restarts after a preemption (75), at most RESTARTS
#           times (50).
#   resume  deletes a job that was stopped, and starts it again
#
# --project=P and --zone=Z: if they differ from gcloud's own. --dry-run: prints every command and
# runs none.
set -euo pipefail
cd "$(dirname "$0")/.."

action=${1:-} dry='' cluster='' name='' type='' image='' storage='' slices=1
where=() main=()
fail() {
    echo "gke_xpk.sh: $1" >&2
    exit 2
}
shift || fail "say what to do: image, start, logs, resume or delete"
while (($#)); do
    case $1 in
    --dry-run) dry=yes ;;
    --cluster=*) cluster=${1#*=} ;;
    --name=*) name=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --image=*) image=${1#*=} ;;
    --storage=*) storage=${1#*=} ;;
    --slices=*) slices=${1#*=} ;;
    --project=* | --zone=*) where+=("$1") ;;
    --)
        shift
        main=("$@")
        break
        ;;
    *) fail "unknown option $1" ;;
    esac
    shift
done

run() {
    if [[ -n $dry ]]; then
        printf '%q ' "$@"
        echo
    else
        "$@"
    fi
}

start() {
    [[ -n $cluster && -n $name && -n $type && -n $image && -n $storage ]] ||
        fail "start needs --cluster, --name, --type, --image and --storage"
    ((${#main[@]})) || fail "start needs the arguments of dlms_jax.main, after --"
    run xpk workload create "--cluster=$cluster" "--workload=$name" "--tpu-type=$type" \
        "--num-slices=$slices" "--docker-image=$image" "--storage=$storage" \
        "--max-restarts=${RESTARTS:-50}" --restart-on-exit-codes=75 \
        --termination-grace-period-seconds=120 \
        "--command=exec python -m dlms_jax.main $(printf '%q ' "${main[@]}")" "${where[@]}"
}

delete() {
    [[ -n $cluster && -n $name ]] || fail "$action needs --cluster and --name"
    run xpk workload delete "--cluster=$cluster" "--workload=$name" --force "${where[@]}"
}

case $action in
image)
    [[ -n $image ]] || fail "image needs --image"
    run docker build --file=launch/Dockerfile.tpu "--tag=$image" .
    run docker push "$image"
    ;;
start | delete) "$action" ;;
resume)
    delete
    start
    ;;
logs)
    [[ -n $name ]] || fail "logs needs --name"
    run kubectl logs --follow "--selector=jobset.sigs.k8s.io/jobset-name=$name,\
jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
    ;;
*) fail "unknown action $action; use image, start, logs, resume or delete" ;;
esac
