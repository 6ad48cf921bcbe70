#!/usr/bin/env bash
# nibabel 5.4.2: whole numbers that are held as floats, saved as integers, come back as
# other numbers. Label values such as 17 and 41 fit int16 and uint8 exactly, but
# set_data_dtype() and save() stretch them over the range of the integers and store a
# slope, so that a cast to int afterwards turns label 41 into 40 (int16) or 17 into 16
# (uint8). They come back exactly where the array itself is cast before the image is
# made, with labels.astype(np.int16).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
  nibabel==5.4.2 numpy==2.4.6

cat > expected.txt <<'EOF'
int16: 0.00000000 1.99975586 17.00027466 40.99969481 76.99999998
    int(): 0 1 17 40 76
uint8: 0.00000000 2.11372557 16.90980458 41.06666827 77.00000301
    int(): 0 2 16 41 77
cast to int16, then saved: 0 2 17 41 77
EOF

venv/bin/python - > found.txt <<'EOF'
import nibabel as nib
import numpy as np

labels = np.array([0, 2, 17, 41, 77], np.float64).reshape(5, 1, 1)


def read_back(image):
    nib.save(image, "labels.nii")
    return nib.load("labels.nii").get_fdata().ravel()


for dtype in (np.int16, np.uint8):
    image = nib.Nifti1Image(labels, np.eye(4))
    image.set_data_dtype(dtype)
    values = read_back(image)
    print(f"{dtype.__name__}:", *(f"{value:.8f}" for value in values))
    print("    int():", *(int(value) for value in values))

exact = read_back(nib.Nifti1Image(labels.astype(np.int16), np.eye(4)))
print("cast to int16, then saved:", *(f"{value:g}" for value in exact))
EOF

cat found.txt
diff expected.txt found.txt
