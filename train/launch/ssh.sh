#!/usr/bin/env bash
# Starts a run on hosts that ssh reaches without a password; the first one owns the work directory.
#
#   train/launch/ssh.sh HOST1 HOST2 -- --config imagenet --workdir runs/imagenet
#
# DRY=1 prints the commands and runs nothing. MONOJAX_DIR and PYTHON say where code and Python are on
# the hosts; PORT is the coordinator's on the first host; SSH replaces ssh. Ctrl-C is passed on to the
# first host, on which all save and stop after the same step.
set -euo pipefail

usage() {
  echo "usage: [DRY=1] $0 HOST1 HOST2 ... -- ARGUMENTS of python -m train" >&2
  exit 2
}

hosts=()
while [ "$#" -gt 0 ] && [ "$1" != -- ]; do
  hosts+=("$1")
  shift
done
if [ "${#hosts[@]}" -lt 1 ] || [ "$#" -lt 2 ]; then usage; fi
shift

read -r -a ssh <<<"${SSH:-ssh}"
arguments=$(printf ' %q' "$@")
folder=${MONOJAX_DIR:-monojax} port=${PORT:-1234}
coordinator=${hosts[0]#*@}:$port # without the user's name
children=()

# A process of ssh that ends here goes on there, so the signal takes its own way.
# shellcheck disable=SC2317
stop() { "${ssh[@]}" "${hosts[0]}" "kill -TERM \$(cat $folder/.monojax-$port-0.pid)" || true; }

for i in "${!hosts[@]}"; do
  remote="cd $folder && echo \$\$ >.monojax-$port-$i.pid &&"
  remote+=" export JAX_COORDINATOR_ADDRESS=$coordinator JAX_NUM_PROCESSES=${#hosts[@]}"
  remote+=" JAX_PROCESS_ID=$i && exec ${PYTHON:-python3} -m train$arguments"
  command=("${ssh[@]}" "${hosts[$i]}" "$remote")
  if [ "${DRY:-}" = 1 ]; then
    printf '%q ' "${command[@]}"
    echo
  else
    # Its own group: Ctrl-C in the terminal must not end the connection first.
    setsid "${command[@]}" </dev/null &
    children+=("$!")
  fi
done
trap stop INT TERM

status=0
for child in "${children[@]}"; do
  while kill -0 "$child" 2>/dev/null; do # a signal ends wait, not the child
    wait "$child" || status=$?
  done
  wait "$child" || status=$?
done
exit "$status"
