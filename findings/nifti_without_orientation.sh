#!/usr/bin/env bash
# nibabel 5.4.2 and SimpleITK 2.5.7: a NIfTI file whose qform_code and sform_code are both
# 0 says nothing of its orientation, and the two programs guess differently. Both let the
# first axis run to the left, but the second runs to the front for nibabel and to the
# back for SimpleITK, and nibabel puts the middle of the volume at the origin where
# SimpleITK puts the first voxel there. Neither says a word. Written again by SimpleITK,
# the file has its guess as scanner coordinates (both codes 1), which nibabel then
# believes, so that the head has turned from front to back between two reads.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
  nibabel==5.4.2 numpy==2.4.6 SimpleITK==2.5.7

cat > expected.txt <<'EOF'
codes: 0 0
nibabel: LAS, first voxel at 1.5 -4.0 -7.5
SimpleITK: LPS, first voxel at 0.0 0.0 0.0
written by SimpleITK, codes: 1 1
nibabel: LPS, first voxel at 0.0 0.0 0.0
EOF

venv/bin/python - > found.txt <<'EOF'
import nibabel as nib
import numpy as np
import SimpleITK as sitk


def by_nibabel(path):
    image = nib.load(path)
    axes, first = "".join(nib.aff2axcodes(image.affine)), image.affine[:3, 3] + 0.0
    codes = int(image.header["qform_code"]), int(image.header["sform_code"])
    return codes, f"nibabel: {axes}, first voxel at {' '.join(map(str, first))}"


image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), None)
image.header.set_zooms((1, 2, 3))
nib.save(image, "scan.nii")
codes, said = by_nibabel("scan.nii")
print("codes:", *codes)
print(said)

again = sitk.ReadImage("scan.nii")
to_ras = np.diag([-1.0, -1.0, 1.0])
directions = to_ras @ np.array(again.GetDirection()).reshape(3, 3)
first = to_ras @ again.GetOrigin() + 0.0
affine = np.eye(4)
affine[:3, :3] = directions
axes = "".join(nib.aff2axcodes(affine))
print(f"SimpleITK: {axes}, first voxel at {' '.join(map(str, first))}")

sitk.WriteImage(again, "written.nii")
codes, said = by_nibabel("written.nii")
print("written by SimpleITK, codes:", *codes)
print(said)
EOF

cat found.txt
diff expected.txt found.txt
