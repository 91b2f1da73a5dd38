#!/bin/sh
# What every image has: Python 3.11 in /opt/interloom, a user without rights, /scratch to write to.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update
if ! command -v python3.11 >/dev/null && ! apt-cache show python3.11-venv >/dev/null 2>&1; then
  apt-get install -y --no-install-recommends software-properties-common
  add-apt-repository -y ppa:deadsnakes/ppa
fi
if ! command -v python3.11 >/dev/null; then
  apt-get install -y --no-install-recommends python3.11 python3.11-venv
fi
apt-get install -y --no-install-recommends ca-certificates libsndfile1 git
apt-get clean
rm -rf /var/lib/apt/lists/*
python3.11 -m venv /opt/interloom
groupadd --gid 10001 interloom
useradd --uid 10001 --gid 10001 --no-create-home --home-dir /scratch interloom
mkdir -p /scratch /store
chown 10001:10001 /scratch /store
