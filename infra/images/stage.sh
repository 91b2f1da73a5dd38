#!/bin/sh
# Installs what one image holds, versions as constraints.txt says: stage.sh flows|train|vllm|dashboard
set -eu
pip="python -m pip install --no-cache-dir --disable-pip-version-check --constraint /build/constraints.txt"
case $1 in
# Flow runs, the Prefect server and worker, migrations, and the stages that do not train.
flows) extras=flows,train,starter,data,s3,postgres,quality,cluster ;;
# Ranks of training stages, which meet in the catalog: no Prefect, no Great Expectations, no Streamlit.
train) extras=train,data,s3,postgres ;;
# Ranks of interleave and build_dialogues with engine = 'vllm'. vLLM holds numpy, fastapi, transformers
# and others to versions that are not ours, so here its own count.
vllm) extras=train,data,s3,postgres,quality,vllm ;;
dashboard) extras=dashboard,flows,train,postgres ;;
*) echo "there is no image $1; the images are flows, train, vllm, dashboard" >&2; exit 64 ;;
esac
if [ "$1" = vllm ]; then
  : >/build/constraints.txt
fi
$pip wheel setuptools hatchling
$pip "/build[$extras]"
if [ "$1" = train ]; then
  # DeepSpeed ships as source and is built against the torch that is installed, so it comes last.
  $pip ninja
  DS_BUILD_OPS=0 $pip --no-build-isolation deepspeed
fi
if [ "$1" = dashboard ]; then
  cp /build/dashboard.sh /opt/interloom/
fi
rm -rf /build/*
