#!/bin/sh
# Create a virtual environment in $1, with the Python $2 or the best that is found.
#
# Python 3.10 to 3.13 will do. Where there is none, uv fetches one: it is installed from the package
# index, at the version and with the hashes of the lock file, into a virtual environment of its own,
# which any Python 3 can make.
set -u
venv=$1
wanted=${2:-}
fits='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))'
found=
for python in ${wanted:-python3.12 python3.11 python3.10 python3.13 python3 python}; do
  if "$python" -c "$fits" 2>/dev/null; then found=$python; break; fi
done
if [ -n "$found" ]; then
  "$found" -m venv "$venv" >/dev/null 2>&1 && exit 0
  echo "error: $found cannot make a virtual environment; install its venv module (Debian, Ubuntu:" \
    "apt install python3-venv) and run this again" >&2
  exit 1
fi
if [ -n "$wanted" ]; then
  echo "error: PYTHON=$wanted is not a Python from 3.10 to 3.13; leave it out to have one found" >&2
  exit 1
fi

bootstrap=.venv-bootstrap
for python in python3 python; do
  "$python" -m venv "$bootstrap" >/dev/null 2>&1 || continue
  sed -n '/^uv==/,/[^\\]$/p' requirements.lock >"$bootstrap/uv.txt"
  "$bootstrap/bin/pip" install --quiet --require-hashes --requirement "$bootstrap/uv.txt" || break
  echo "no Python from 3.10 to 3.13 here: uv fetches Python 3.12"
  "$bootstrap/bin/uv" venv --quiet --seed --python 3.12 "$venv" 2>/dev/null && exit 0
done
echo "error: no Python from 3.10 to 3.13 here, and uv could not fetch one: install one (Debian," \
  "Ubuntu: apt install python3 python3-venv), or name it: make setup PYTHON=/path/to/python3" >&2
exit 1
