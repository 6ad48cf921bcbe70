#!/usr/bin/env bash
# nibabel 5.4.2: an MGH file whose header says that it has no orientation (goodRASFlag
# is 0) is read with axes toward left, superior and posterior. FreeSurfer documents a
# coronal default for such files, x_r = -1, y_s = -1, z_a = 1: left, inferior, anterior.
# nibabel's own get_vox2ras_tkr() has these axes, too. The brain comes out upside down
# and back to front, which is half a turn about the left-right axis.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
  nibabel==5.4.2 numpy==2.4.6

cat > expected.txt <<'EOF'
axes of the affine: LSP
axes of get_vox2ras_tkr(): LIA
EOF

venv/bin/python - > found.txt <<'EOF'
import struct
from pathlib import Path

import nibabel as nib
import numpy as np

# Version 1, 3 x 4 x 5 voxels, one frame, float (type 3), dof 0, goodRASFlag 0.
header = struct.pack(">7ih", 1, 3, 4, 5, 1, 3, 0, 0).ljust(284, b"\0")
Path("scan.mgh").write_bytes(header + np.zeros(60, ">f4").tobytes())
scan = nib.load("scan.mgh")
print("axes of the affine:", "".join(nib.aff2axcodes(scan.affine)))
tkr = scan.header.get_vox2ras_tkr()
print("axes of get_vox2ras_tkr():", "".join(nib.aff2axcodes(tkr)))
EOF

cat found.txt
diff expected.txt found.txt
