# One attempt of a job, for the ledger: attempt.sh FOLDER SECONDS FAILURES
# Appends 'start', 'overlap' and 'end' lines with fsync; fails for the first FAILURES attempts.
# The lock is held by this shell and all that it starts: another attempt can have it only when all of them are dead.
say() {
    printf '%s %s %s %s\n' "$1" "$QUEUECTL_JOB_ID" "$QUEUECTL_ATTEMPT" "$2" |
        dd of="$folder/ledger" oflag=append conv=notrunc,fsync status=none
}
folder=$1
exec 9>>"$folder/$QUEUECTL_JOB_ID.lock"
flock -n 9 || say overlap $$
say start $$
[ "$2" = 0 ] || sleep "$2"
code=0
[ "$QUEUECTL_ATTEMPT" -gt "$3" ] || code=1
say end $code
exit $code
