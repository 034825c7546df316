#!/usr/bin/env bash
#SBATCH --job-name=monojax
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --signal=TERM@120
# Starts a run on the nodes of a Slurm job, one process a node, all of its GPUs each.
#
#   sbatch --nodes=4 train/launch/slurm.sh -- --config imagenet --workdir runs/imagenet
#
# JAX reads Slurm's own variables (--coordinator auto). Two minutes before its time is over Slurm
# sends SIGTERM, on which all hosts save and stop; the same command goes on. Start it in the folder
# of the code, which all nodes must see. --gpus-per-node and --cpus-per-task above are for nodes of
# eight GPUs; what stands before the script's name on sbatch's command line wins over them. PYTHON
# says which Python.
#
#   DRY=1 bash train/launch/slurm.sh -- --config imagenet
#
# prints the command and runs nothing (with sbatch in front it would be queued as a job).
set -euo pipefail

if [ "${1:-}" != -- ] || [ "$#" -lt 2 ]; then
  echo "usage: sbatch --nodes=N $0 -- ARGUMENTS of python -m train; DRY=1 bash $0 -- ... prints it" >&2
  exit 2
fi
shift

command=(srun --kill-on-bad-exit=1 "${PYTHON:-python3}" -m train --coordinator auto "$@")

if [ "${DRY:-}" = 1 ]; then
  printf '%q ' "${command[@]}"
  echo
else
  exec "${command[@]}"
fi
