#!/usr/bin/env bash
# Starts a run on all workers of a TPU pod: the folder monojax in their home holds the code.
#
#   train/launch/tpu_pod.sh NAME ZONE -- --config imagenet --workdir gs://BUCKET/run
#
# DRY=1 prints the command and runs nothing. MONOJAX_DIR and PYTHON say where code and Python are.
set -euo pipefail

usage() {
  echo "usage: [DRY=1] $0 NAME ZONE -- ARGUMENTS of python -m train" >&2
  exit 2
}

if [ "$#" -lt 4 ] || [ "$3" != -- ]; then usage; fi
name=$1 zone=$2
shift 3

# Quoted twice: once for the shell of this machine, once for that of the workers.
remote="cd ${MONOJAX_DIR:-monojax} && ${PYTHON:-python3} -m train --coordinator auto"
remote+=$(printf ' %q' "$@")
command=(gcloud compute tpus tpu-vm ssh "$name" "--zone=$zone" --worker=all "--command=$remote")

if [ "${DRY:-}" = 1 ]; then
  printf '%q ' "${command[@]}"
  echo
else
  exec "${command[@]}"
fi
