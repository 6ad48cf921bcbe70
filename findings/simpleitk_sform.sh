#!/usr/bin/env bash
# SimpleITK 2.5.7: of a NIfTI file that has both a qform and an sform, the sform is used
# only where its code is 1 (scanner). With code 2 (aligned), 3 (Talairach) or 4 (MNI) the
# qform wins, so that a scan that was registered by its sform stands where it was
# scanned. nibabel 5.4.2 takes the sform whenever it has a code. The NIfTI standard
# leaves the choice to the program, so that both are right and differ. The place of the
# first voxel is shown in RAS for both; SimpleITK itself gives it in LPS.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
  nibabel==5.4.2 numpy==2.4.6 SimpleITK==2.5.7

cat > expected.txt <<'EOF'
sform code 1, qform code 1: nibabel 10 20 30 mm, SimpleITK 10 20 30 mm
sform code 2, qform code 1: nibabel 10 20 30 mm, SimpleITK -1 -2 -3 mm
sform code 3, qform code 1: nibabel 10 20 30 mm, SimpleITK -1 -2 -3 mm
sform code 4, qform code 1: nibabel 10 20 30 mm, SimpleITK -1 -2 -3 mm
sform code 4, qform code 0: nibabel 10 20 30 mm, SimpleITK 10 20 30 mm
EOF

venv/bin/python - > found.txt <<'EOF'
import nibabel as nib
import numpy as np
import SimpleITK as sitk

sform, qform = np.eye(4), np.eye(4)
sform[:3, 3], qform[:3, 3] = (10, 20, 30), (-1, -2, -3)
for sform_code, qform_code in ((1, 1), (2, 1), (3, 1), (4, 1), (4, 0)):
    scan = nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), None)
    scan.set_sform(sform, sform_code)
    scan.set_qform(qform, qform_code)
    nib.save(scan, "scan.nii")
    x, y, z = sitk.ReadImage("scan.nii").GetOrigin()
    print(
        f"sform code {sform_code}, qform code {qform_code}:",
        "nibabel {:g} {:g} {:g} mm,".format(*nib.load("scan.nii").affine[:3, 3]),
        f"SimpleITK {-x:g} {-y:g} {z:g} mm",
    )
EOF

cat found.txt
diff expected.txt found.txt
