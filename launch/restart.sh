#!/usr/bin/env bash
# Runs a command, and restarts it as long as that helps:
#
#     launch/restart.sh python -m dlms_jax.main --config=... --workdir=...
#
#   status 75  the run was asked to stop, and saved (a preemption): restarts it, without a limit
#   0, 2       the run is done, or the user must fix an error: ends with that status
#   others     the run crashed: restarts it, at most RESTARTS times (default 3)
#
# SIGTERM and SIGINT are passed on to the command. After them nothing is restarted, and the exit
# status is the command's own. PAUSE: seconds between two starts (default 5).
set -uo pipefail
readonly PREEMPTED=75 limit=${RESTARTS:-3}
broken=0 stopping='' child=''

stop() {
    stopping=$1
    [[ -z $child ]] || kill -s TERM "$child" 2>/dev/null
}
trap 'stop TERM' TERM
trap 'stop INT' INT

while :; do
    "$@" &
    child=$!
    [[ -z $stopping ]] || kill -s TERM "$child" 2>/dev/null # the signal came first
    wait "$child"
    status=$?
    while kill -0 "$child" 2>/dev/null; do # a signal interrupted the wait, and the child still runs
        wait "$child"
        status=$?
    done
    [[ -z $stopping ]] || exit "$status"
    case $status in
    0 | 2) exit "$status" ;;
    "$PREEMPTED") ;;
    *)
        ((broken++ < limit)) || exit "$status"
        echo "restart.sh: exit status $status; restart $broken of $limit" >&2
        ;;
    esac
    sleep "${PAUSE:-5}"
    [[ -z $stopping ]] || exit "$PREEMPTED"
done
