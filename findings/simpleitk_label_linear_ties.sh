#!/usr/bin/env bash
# SimpleITK 2.5.7: sitkLabelLinear gives a voxel that lies halfway between two labels to
# the smaller number. From voxels of 1 mm to 1.5 mm with the same origin, which is what
# ResampleImageFilter keeps unless it is told another, every other voxel of an axis lies
# halfway, so that of three labels with equal shares the first takes a fifth more and
# the last a fifth less, whatever they mean. With the origin a quarter of a voxel
# further no voxel lies halfway, and all keep their shares. sitkNearestNeighbor and
# sitkLabelGaussian favour no number. The figures are the volume of each label after
# resampling, divided by that before it.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
  numpy==2.4.6 SimpleITK==2.5.7

cat > expected.txt <<'EOF'
sitkLabelLinear, origin 0 mm: 1.20 1.00 0.80
sitkLabelLinear, origin 0.25 mm: 1.00 1.00 1.00
sitkNearestNeighbor, origin 0 mm: 1.00 1.00 1.00
sitkLabelGaussian, origin 0 mm: 1.00 1.00 1.00
EOF

venv/bin/python - > found.txt <<'EOF'
import numpy as np
import SimpleITK as sitk

LABELS = (1, 2, 3)
cubes = np.random.default_rng(0).choice(LABELS, (24, 24, 24)).astype(np.int16)
labels = np.kron(cubes, np.ones((4, 4, 4), np.int16))
for name, origin_mm in (
    ("sitkLabelLinear", 0),
    ("sitkLabelLinear", 0.25),
    ("sitkNearestNeighbor", 0),
    ("sitkLabelGaussian", 0),
):
    grid = sitk.ResampleImageFilter()
    grid.SetInterpolator(getattr(sitk, name))
    grid.SetOutputSpacing((1.5, 1.5, 1.5))
    grid.SetOutputOrigin((origin_mm,) * 3)
    grid.SetSize((64, 64, 64))
    coarse = sitk.GetArrayFromImage(grid.Execute(sitk.GetImageFromArray(labels)))
    shares = [np.mean(coarse == one) / np.mean(labels == one) for one in LABELS]
    print(f"{name}, origin {origin_mm} mm:", *(f"{share:.2f}" for share in shares))
EOF

cat found.txt
diff expected.txt found.txt
