#!/usr/bin/env bash
# Runs a command, and runs it again while that helps:
#
#     launch/restart.sh python -m dlms_jax.main --config=... --workdir=...
#
#   status 75  the run was asked to stop, and saved (a preemption): again, as often as it comes
#   0, 2       it is done, or something is the user's to mend: ends with that status
#   others     it broke: again, at most RESTARTS times (default 3)
#
# SIGTERM and SIGINT are passed on; after them nothing is started again, and the status is the
# command's own. PAUSE: seconds between two starts (default 5).
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
    [[ -z $stopping ]] || kill -s TERM "$child" 2>/dev/null # it came before the child was known
    wait "$child"
    status=$?
    while kill -0 "$child" 2>/dev/null; do # a signal came: only the waiting ended
        wait "$child"
        status=$?
    done
    [[ -z $stopping ]] || exit "$status"
    case $status in
    0 | 2) exit "$status" ;;
    "$PREEMPTED") ;;
    *)
        ((broken++ < limit)) || exit "$status"
        echo "restart.sh: status $status; start $broken of $limit after that" >&2
        ;;
    esac
    sleep "${PAUSE:-5}"
    [[ -z $stopping ]] || exit "$PREEMPTED"
done
