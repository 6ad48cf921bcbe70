#!/usr/bin/env bash
# bids-validator 3.0.2 (from PyPI, as bids-validator-deno): a line "extra/" of .bidsignore
# does not ignore the folder extra, as the same line of .gitignore does. What lies in it is
# ignored, but the folder itself is still an error, NOT_INCLUDED. "extra/**" does not help.
# Written without the slash, "extra" and "/extra" ignore the folder and all in it. The
# same holds for folders that are one image, as "maps.zarr/" and "*.zarr"; where these are
# not ignored, their zarr.json is taken for a sidecar, and is one more error,
# SIDECAR_WITHOUT_DATAFILE.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
  bids-validator-deno==3.0.2 nibabel==5.4.2 numpy==2.4.6

mkdir -p data/sub-01/anat data/extra/deep data/maps.zarr/0
echo '{"Name": "An example", "BIDSVersion": "1.10.0", "DatasetType": "raw", "License": "CC0"}' \
  > data/dataset_description.json
echo "An example." > data/README
echo '{}' > data/sub-01/anat/sub-01_T1w.json
echo one > data/extra/file.txt
echo two > data/extra/deep/file.txt
echo '{}' > data/maps.zarr/zarr.json
echo three > data/maps.zarr/0/c
venv/bin/python - <<'EOF'
import nibabel
import numpy

image = nibabel.Nifti1Image(numpy.ones((2, 2, 2), "uint8"), numpy.eye(4))
image.header.set_xyzt_units("mm")
nibabel.save(image, "data/sub-01/anat/sub-01_T1w.nii.gz")
EOF

cat > errors.py <<'EOF'
import json
import sys

found = json.load(sys.stdin)["issues"]["issues"]
errors = sorted(
    f"{one['code']} {one['location']}" for one in found if one["severity"] == "error"
)
print(f"{sys.argv[1]}: {', '.join(errors) or 'no error'}")
EOF

cat > expected.txt <<'EOF'
extra/ maps.zarr/: NOT_INCLUDED /extra/, NOT_INCLUDED /maps.zarr/
extra/** *.zarr/**: NOT_INCLUDED /extra/, NOT_INCLUDED /maps.zarr/
extra *.zarr: no error
/extra /maps.zarr: no error
extra: NOT_INCLUDED /maps.zarr/, NOT_INCLUDED /maps.zarr/0/, NOT_INCLUDED /maps.zarr/0/c, NOT_INCLUDED /maps.zarr/zarr.json, SIDECAR_WITHOUT_DATAFILE /maps.zarr/zarr.json
EOF

for lines in "extra/ maps.zarr/" "extra/** *.zarr/**" "extra *.zarr" \
  "/extra /maps.zarr" "extra"; do
  printf '%s' "$lines" | tr ' ' '\n' > data/.bidsignore
  echo >> data/.bidsignore
  # Its exit code is 16 where it finds errors.
  venv/bin/bids-validator-deno data --json > report.json 2> log.txt || [ $? -eq 16 ]
  venv/bin/python errors.py "$lines" < report.json
done > found.txt

cat found.txt
diff expected.txt found.txt
