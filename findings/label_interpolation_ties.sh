#!/usr/bin/env bash
# SimpleITK 2.5.7 and ANTsPy 0.6.3: linear interpolation of label maps (sitkLabelLinear;
# genericLabel of ANTs) gives a voxel that lies halfway between two labels to the smaller
# number. From voxels of 1 mm to 1.5 mm with the same origin every other voxel of an axis
# lies halfway, so that of three labels with equal shares the first takes a fifth more and
# the last a fifth less, whatever they mean. With the origin a quarter of a millimetre
# further no voxel lies halfway, and all keep their shares. Nearest neighbour and the
# smoothing ones (sitkLabelGaussian, multiLabel) favour no number. The figures are the
# volume of each label after resampling, divided by that before it.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
  antspyx==0.6.3 numpy==2.3.5 SimpleITK==2.5.7

cat > expected.txt <<'EOF'
SimpleITK sitkLabelLinear, origin 0 mm: 1.2 1.0 0.8
SimpleITK sitkNearestNeighbor, origin 0 mm: 1.0 1.0 1.0
SimpleITK sitkLabelGaussian, origin 0 mm: 1.0 1.0 1.0
ANTsPy genericLabel, origin 0 mm: 1.2 1.0 0.8
ANTsPy nearestNeighbor, origin 0 mm: 1.0 1.0 1.0
ANTsPy multiLabel, origin 0 mm: 1.0 1.0 1.0
SimpleITK sitkLabelLinear, origin 0.25 mm: 1.0 1.0 1.0
ANTsPy genericLabel, origin 0.25 mm: 1.0 1.0 1.0
EOF

venv/bin/python - > found.txt <<'EOF'
import ants
import numpy as np
import SimpleITK as sitk

LABELS = (1, 2, 3)
cubes = np.random.default_rng(0).choice(LABELS, (24, 24, 24)).astype(np.int16)
labels = np.kron(cubes, np.ones((4, 4, 4), np.int16))


def by_simpleitk(name, origin_mm):
    grid = sitk.ResampleImageFilter()
    grid.SetInterpolator(getattr(sitk, name))
    grid.SetOutputSpacing((1.5, 1.5, 1.5))
    grid.SetOutputOrigin((origin_mm,) * 3)
    grid.SetSize((64, 64, 64))
    return sitk.GetArrayFromImage(grid.Execute(sitk.GetImageFromArray(labels)))


def by_ants(name, origin_mm):
    grid = ants.from_numpy(
        np.zeros((64, 64, 64), np.float32), origin=(origin_mm,) * 3, spacing=(1.5,) * 3
    )
    image = ants.from_numpy(labels.astype(np.float32))
    return ants.apply_transforms(grid, image, ["same.mat"], interpolator=name).numpy()


same = ants.new_ants_transform(dimension=3, transform_type="AffineTransform")
ants.write_transform(same, "same.mat")
for package, resample, name, origin_mm in (
    ("SimpleITK", by_simpleitk, "sitkLabelLinear", 0),
    ("SimpleITK", by_simpleitk, "sitkNearestNeighbor", 0),
    ("SimpleITK", by_simpleitk, "sitkLabelGaussian", 0),
    ("ANTsPy", by_ants, "genericLabel", 0),
    ("ANTsPy", by_ants, "nearestNeighbor", 0),
    ("ANTsPy", by_ants, "multiLabel", 0),
    ("SimpleITK", by_simpleitk, "sitkLabelLinear", 0.25),
    ("ANTsPy", by_ants, "genericLabel", 0.25),
):
    coarse = resample(name, origin_mm)
    shares = [np.mean(coarse == one) / np.mean(labels == one) for one in LABELS]
    print(f"{package} {name}, origin {origin_mm} mm:", *(f"{s:.1f}" for s in shares))
EOF

cat found.txt
diff expected.txt found.txt
