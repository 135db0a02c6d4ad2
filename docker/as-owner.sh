#!/bin/sh
# as-owner FOLDER CMD...: runs CMD as the owner of FOLDER, so that what it writes there belongs to that user.
# Changes nothing unless started as root on a folder of another user. Compose cannot know the caller's uid; the
# folder that it mounts does.
set -eu

if [ "$#" -lt 2 ]; then
    echo "usage: as-owner FOLDER CMD..." >&2
    exit 2
fi
if [ ! -d "$1" ]; then
    echo "as-owner: $1 is not a folder" >&2
    exit 2
fi
owner=$(stat -c %u "$1")
group=$(stat -c %g "$1")
shift
if [ "$(id -u)" -eq 0 ] && [ "$owner" -ne 0 ]; then
    exec setpriv --reuid "$owner" --regid "$group" --clear-groups -- "$@"
fi
exec "$@"
