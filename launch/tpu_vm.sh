#!/usr/bin/env bash
# Trains on Cloud TPU VMs (one slice of any size; for several slices, see launch/tpu_multislice.sh):
#
#     launch/tpu_vm.sh create  --name=N --zone=Z --type=v5litepod-16 --version=v2-alpha-tpuv5-lite
#     launch/tpu_vm.sh install --name=N --zone=Z [--bucket=B]
#     launch/tpu_vm.sh start   --name=N --zone=Z -- --config=configs/large.py --workdir=runs/large
#     launch/tpu_vm.sh logs    --name=N --zone=Z
#     launch/tpu_vm.sh stop    --name=N --zone=Z       the run saves and ends
#     launch/tpu_vm.sh resume  (all of create, install and start)   after a preemption
#     launch/tpu_vm.sh delete  --name=N --zone=Z
#
#   create   queues the request, and waits until the machines are ready
#   install  copies this commit to every worker, installs Python 3.11 and the pinned packages, and
#            mounts the bucket (gcsfuse) at runs/, which all workers must share
#   start    runs `python -m dlms_jax.main` with the arguments after -- on every worker
#   resume   deletes what a preemption left, then runs create, install and start; the run resumes
#            from its newest checkpoint in the bucket
#
# --project=P: if it differs from gcloud's own. --spot: machines that may be taken away. --slices=S:
# the number of slices. --dry-run: prints every command and runs none. POLL: seconds between two
# checks of the queue (30).
set -euo pipefail
cd "$(dirname "$0")/.."

action=${1:-} dry='' name='' zone='' type='' version='' project='' bucket='' slices=1
spot=() main=()
fail() {
    echo "tpu_vm.sh: $1" >&2
    exit 2
}
shift || fail "say what to do: create, install, start, logs, stop, resume or delete"
while (($#)); do
    case $1 in
    --dry-run) dry=yes ;;
    --spot) spot=(--spot) ;;
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --bucket=*) bucket=${1#*=} ;;
    --slices=*) slices=${1#*=} ;;
    --)
        shift
        main=("$@")
        break
        ;;
    *) fail "unknown option $1" ;;
    esac
    shift
done
[[ -n $name && -n $zone ]] || fail "--name and --zone are needed"
[[ $slices =~ ^[1-9][0-9]*$ ]] || fail "--slices=$slices should be a whole number"
where=("--zone=$zone")
[[ -z $project ]] || where+=("--project=$project")

run() {
    if [[ -n $dry ]]; then
        printf '%q ' "$@"
        echo
    else
        "$@"
    fi
}
queued() { run gcloud compute tpus queued-resources "$@" "${where[@]}"; }
everywhere() { queued ssh "$name" --node=all --worker=all "--command=$1"; }

create() {
    [[ -n $type && -n $version ]] || fail "create needs --type and --version"
    local nodes=("--node-id=$name")
    ((slices == 1)) || nodes=("--node-count=$slices" "--node-prefix=$name")
    queued create "$name" "${nodes[@]}" "--accelerator-type=$type" "--runtime-version=$version" \
        "${spot[@]}"
    local state=''
    while [[ $state != ACTIVE ]]; do
        state=$(queued describe "$name" '--format=value(state.state)')
        if [[ -n $dry ]]; then
            echo "$state"
            return
        fi
        case $state in
        FAILED | SUSPENDING | SUSPENDED) fail "the request $name is $state" ;;
        ACTIVE) ;;
        *) sleep "${POLL:-30}" ;;
        esac
    done
}

install() {
    local archive
    archive=${TMPDIR:-/tmp}/dlms_jax-$name.tar.gz
    run git archive --format=tar.gz "--output=$archive" HEAD
    queued scp "$archive" "$name:dlms_jax.tar.gz" --node=all --worker=all
    everywhere 'mkdir -p dlms_jax && tar -xzf dlms_jax.tar.gz -C dlms_jax && cd dlms_jax &&
curl -LsSf https://astral.sh/uv/install.sh | sh && ~/.local/bin/uv venv -q --python 3.11 .venv &&
~/.local/bin/uv pip install -q -p .venv -c requirements.txt -e ".[tpu]"'
    [[ -n $bucket ]] || return 0
    # shellcheck disable=SC2016  # the worker expands it
    everywhere 'command -v gcsfuse >/dev/null || {
curl -s https://packages.cloud.google.com/apt/doc/apt-key.gpg |
sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null &&
echo "deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt \
gcsfuse-$(lsb_release -cs) main" | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null &&
sudo apt-get -qq update && sudo apt-get -qq install -y gcsfuse; }'
    everywhere "mkdir -p dlms_jax/runs && { mountpoint -q dlms_jax/runs ||
gcsfuse --implicit-dirs --rename-dir-limit=200000 $(printf %q "$bucket") dlms_jax/runs; }"
}

start() {
    ((${#main[@]})) || fail "start needs the arguments of dlms_jax.main, after --"
    everywhere "cd dlms_jax && { setsid nohup launch/restart.sh .venv/bin/python -m dlms_jax.main \
$(printf '%q ' "${main[@]}")</dev/null >>train.log 2>&1 & echo \$! >train.pid; }"
}

stop() {
    # shellcheck disable=SC2016  # the worker expands it
    everywhere 'kill -s TERM "$(cat dlms_jax/train.pid)"'
}

case $action in
create | install | start | stop) "$action" ;;
logs) queued ssh "$name" --node=0 --worker=0 '--command=tail -n 200 -F dlms_jax/train.log' ;;
delete) queued delete "$name" --force --quiet ;;
resume)
    queued delete "$name" --force --quiet || true # it may be gone already
    create
    install
    start
    ;;
*) fail "unknown action $action; use create, install, start, logs, stop, resume or delete" ;;
esac
