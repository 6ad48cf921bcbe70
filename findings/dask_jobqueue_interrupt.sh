#!/usr/bin/env bash
# dask-jobqueue 0.9.0: importing it changes what Ctrl-C does to the whole program. Its
# module runner, which the package loads with the clusters, installs a handler of SIGINT
# that calls sys.exit(). From then on Ctrl-C raises no KeyboardInterrupt: a program that
# was interrupted says nothing, catches nothing, and ends with the exit code 0, as if all
# its work were done. signal.signal(signal.SIGINT, signal.default_int_handler) after the
# import brings the usual behaviour back.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
  dask-jobqueue==0.9.0 distributed==2026.8.0

cat > expected.txt <<'EOF'
nothing is imported: caught KeyboardInterrupt, exit code 1
import dask_jobqueue: caught SystemExit, exit code 0
import dask_jobqueue, handler put back: caught KeyboardInterrupt, exit code 1
EOF

cat > work.py <<'EOF'
import signal
import sys

if "dask_jobqueue" in sys.argv[1]:
    import dask_jobqueue  # noqa: F401
if "handler" in sys.argv[1]:
    signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    # As Ctrl-C does in the middle of some work.
    signal.raise_signal(signal.SIGINT)
except BaseException as caught:
    print(f"{sys.argv[1]}: caught {type(caught).__name__}", end=", ", flush=True)
    sys.exit(1 if isinstance(caught, KeyboardInterrupt) else caught.code)
EOF

for what in "nothing is imported" "import dask_jobqueue" \
  "import dask_jobqueue, handler put back"; do
  code=0
  venv/bin/python work.py "$what" || code=$?
  echo "exit code $code"
done > found.txt

cat found.txt
diff expected.txt found.txt
