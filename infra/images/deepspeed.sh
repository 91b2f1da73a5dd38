#!/bin/sh
# DeepSpeed ships as source and is built against the torch that is installed, so it comes last.
set -eu
pip="python -m pip install --no-cache-dir --disable-pip-version-check --constraint /build/constraints.txt"
$pip ninja
DS_BUILD_OPS=0 $pip --no-build-isolation deepspeed
