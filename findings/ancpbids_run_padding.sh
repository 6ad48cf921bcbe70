#!/usr/bin/env bash
# ancpbids 0.4.10 turns the label of "run" into an integer and forgets its zeros: of
# sub-01_run-01_T1w.nii.gz it says {"sub": "01", "run": 1}, while labels such as "007" of
# "acq" stay text. So a name put together from what it says, as that of a derivative,
# names another file (run-1), and two scans that differ in the zeros alone, run-1 and
# run-01, get the same entities and are found by the same query. pybids 0.22.0 calls the
# two equal in a query as well, but keeps the zeros of each.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
  ancpbids==0.4.10 pybids==0.22.0

mkdir -p data/sub-01/anat
echo '{"Name": "An example", "BIDSVersion": "1.10.0"}' > data/dataset_description.json
for name in sub-01_acq-007_run-001 sub-01_run-01 sub-01_run-1; do
  touch "data/sub-01/anat/${name}_T1w.nii.gz"
done

cat > look.py <<'EOF'
import ancpbids
import bids


def rows(files, name_of, entities_of):
    for file in sorted(files, key=name_of):
        known = entities_of(file)
        labels = {k: known[k] for k in ("sub", "subject", "run") if k in known}
        print(name_of(file), " ".join(f"{k}={v}" for k, v in labels.items()))


layout = ancpbids.BIDSLayout("data")
scans = {"suffix": "T1w", "extension": ".nii.gz"}
print("ancpbids")
rows(layout.get(**scans), lambda f: f.name, lambda f: f.entities)
kinds = {type(file.entities["run"]).__name__ for file in layout.get(**scans)}
print("run is", *kinds, "and '01' finds", len(layout.get(run="01", **scans)))
other = bids.BIDSLayout("data")
print("pybids")
rows(other.get(**scans), lambda f: f.filename, lambda f: f.get_entities())
print("'01' finds", len(other.get(run="01", **scans)))
EOF

cat > expected.txt <<'EOF'
ancpbids
sub-01_acq-007_run-001_T1w.nii.gz sub=01 run=1
sub-01_run-01_T1w.nii.gz sub=01 run=1
sub-01_run-1_T1w.nii.gz sub=01 run=1
run is int and '01' finds 3
pybids
sub-01_acq-007_run-001_T1w.nii.gz subject=01 run=001
sub-01_run-01_T1w.nii.gz subject=01 run=01
sub-01_run-1_T1w.nii.gz subject=01 run=1
'01' finds 3
EOF
venv/bin/python look.py 2> log.txt | tee found.txt
diff expected.txt found.txt
echo "as described: the zeros of a run are lost, and three scans are one to a query"
