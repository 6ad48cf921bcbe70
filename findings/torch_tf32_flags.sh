#!/usr/bin/env bash
# PyTorch 2.13.0 lets cuDNN round the float32 numbers of convolutions to TF32 unless it is
# told otherwise, and those of matrix products only if it is told so: "float32" of the
# same network means two precisions on one GPU. The flags can be read without a GPU.
# The older and the newer way to set them do not mix: after
# cudnn.conv.fp32_precision = "ieee", the newer one, reading
# cudnn.allow_tf32 raises RuntimeError, since convolutions and recurrent layers then
# differ; setting cudnn.allow_tf32 = False changes both, and can be read.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy

cat > look.py <<'EOF'
from torch import backends

cudnn, matmul = backends.cudnn, backends.cuda.matmul


def flags():
    try:
        old = cudnn.allow_tf32
    except RuntimeError as error:
        old = type(error).__name__
    return f"cudnn {old}, {cudnn.conv.fp32_precision}"


print("at first:", flags(), "- matmul", matmul.allow_tf32)
cudnn.conv.fp32_precision = "ieee"
print("the newer flag of convolutions:", flags())
cudnn.conv.fp32_precision = "tf32"
cudnn.allow_tf32 = False
print("the older flag:", flags())
EOF

cat > expected.txt <<'EOF'
at first: cudnn True, tf32 - matmul False
the newer flag of convolutions: cudnn RuntimeError, ieee
the older flag: cudnn False, none
EOF
venv/bin/python look.py 2> log.txt | tee found.txt
diff expected.txt found.txt
echo "as described: convolutions are TF32 unless told otherwise, and the two ways do not mix"
