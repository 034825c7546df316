# shellcheck shell=bash
# What .ci/run and .ci/full share: virtual environments, a word on what is being done, parts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

say() { printf '\n== %s (%s s since the start)\n' "$*" "$SECONDS"; }

# The interpreter of a version such as 3.13, from the path or from pyenv; nothing if there is none.
find_python() {
  local candidate
  for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
    if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
}

# Enters the environment of that name, which is made, with the given Python, when it is new.
enter() {
  local python=${2:-$main_python}
  [ -d "$folder/$1" ] || "$python" -m venv "$folder/$1"
  # shellcheck disable=SC1090,SC1091
  . "$folder/$1/bin/activate"
}

install() { pip install -q "$@"; }

# MONOJAX_PYTHON=python3.12 .ci/run quick runs a part on another Python than 3.11.
main_python=${MONOJAX_PYTHON:-$(find_python 3.11)}
main_python=${main_python:-python3}

# torch's CPU build; where it is not at hand, the index's own.
install_oracles() {
  install torch==2.13.0 || install torch
  install -e ".[test,oracles,data,tpu]"
  install --no-deps -r tests/oracles-nodeps.txt
}

# Runs the parts that are named, or all; says what each took.
run_parts() {
  local part start report=""
  local parts=("$@")
  for part in "${parts[@]}"; do
    # shellcheck disable=SC2154  # the script that reads this file says which parts it has
    declare -F "part_$part" >/dev/null || { echo "no part '$part'; there are: ${all_parts[*]}"; exit 2; }
  done
  for part in "${parts[@]}"; do
    if [ "$part" = "${parts[-1]}" ] && [ -n "$report" ]; then
      say "so far:$report"
    fi
    start=$SECONDS
    "part_$part"
    report+=" $part $((SECONDS - start)) s,"
  done
}
