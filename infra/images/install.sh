#!/bin/sh
# Installs Interloom with some of its extras, all versions as constraints.txt says: install.sh EXTRAS
set -eu
extras=$1
pip="python -m pip install --no-cache-dir --disable-pip-version-check --constraint /build/constraints.txt"
$pip wheel setuptools hatchling
$pip "/build[$extras]"
