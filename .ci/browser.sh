#!/usr/bin/env bash
# The browser of the tests that open a report's page. Does nothing where there is one; else installs Debian's.
set -euo pipefail
if command -v chromium > /dev/null || command -v google-chrome > /dev/null; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "the tests of the report's page need a browser: install chromium, then call this again" >&2
    exit 2
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends chromium fonts-liberation > /dev/null
