#!/usr/bin/env bash
# Unpacks the parts that pack.py wrote, in their order, as they come: for a host that is reached by a slow or narrow way.
# ready/NAME appears below airgap/ when everything of NAME is there (driver, prepare, an image): its build may begin;
# received, when the last part has been read.
# usage: receive.sh PARTS FOLDER      PARTS: where parts and airgap.count arrive, each moved there whole; parts are
#                                     removed when they have been read. FOLDER: where airgap/ is to be.
set -euo pipefail
parts=$1
mkdir -p "$2"
until [ -s "$parts/airgap.count" ]; do sleep 0.2; done
for ((number = 0; number < $(cat "$parts/airgap.count"); number++)); do
    part=$parts/airgap.tar.$(printf %03d "$number")
    until [ -e "$part" ]; do sleep 0.2; done
    cat "$part"
    rm "$part"
done | tar -x -C "$2"
touch "$2/airgap/received"
