#!/bin/sh
# The first process of a container: runs `amino` with the arguments given, and ends with its exit code.
#
# A server's supervisor is not the first process itself, because Linux kills all other processes of a container with its first: a kernel
# process whose supervisor dies needs a moment to say in etcd that it ends, and without that its session has to run out.
# SIGTERM and SIGINT are passed on as SIGTERM; what user code leaves behind is reaped.
set -u
[ "${1:-}" = server ] || exec amino "$@"

told=
supervisor=
trap 'told=1; [ -z "$supervisor" ] || kill -TERM "$supervisor" 2>/dev/null' TERM INT
amino "$@" &
supervisor=$!
[ -z "$told" ] || kill -TERM "$supervisor"
wait "$supervisor"
code=$?
while kill -0 "$supervisor" 2>/dev/null; do # a signal has ended `wait`
    wait "$supervisor"
    code=$?
done
if [ "$code" -ge 128 ]; then
    left=20 # twentieths of a second: twice what a kernel process may take to end
    while [ "$left" -gt 0 ] && kill -0 -1 2>/dev/null; do
        sleep 0.05
        left=$((left - 1))
    done
fi
exit "$code"
