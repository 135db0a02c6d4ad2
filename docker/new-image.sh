#!/usr/bin/env bash
# Makes images/NAME from docker/template: a toy engine that builds and passes the contract suite at once.
# usage: docker/new-image.sh NAME
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:-}
if ! [[ $name =~ ^[a-z0-9]([a-z0-9_-]{0,38}[a-z0-9])?$ ]]; then
    echo "error: NAME must be lower case letters, digits, '_' and '-': make new-image NAME=my-engine" >&2
    exit 2
fi
if [ -e "images/$name" ]; then
    echo "error: images/$name exists" >&2
    exit 2
fi
mkdir "images/$name"
for file in docker/template/*; do
    sed "s/NAME/$name/g" "$file" > "images/$name/$(basename "$file")"
done
cat <<TEXT
images/$name is made. Next:
  python -m bench_core.drive --images $name --self-check      build it and run the contract suite
  then replace the toy in images/$name/adapter.py, pin the engine in requirements.txt,
  and call \`make compose\` whenever image.yaml has changed: it writes the service and the README's line.
TEXT
