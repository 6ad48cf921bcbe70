#!/usr/bin/env bash
# nilearn 0.14.1: in load_mni152_template(resolution=2) more than half of what is above 0
# is background. The template of 1 mm is 0 outside the brain; the one of 2 mm is
# interpolated from it and has numbers of the size of rounding errors there, so that
# "template > 0" holds 4.02 L in place of 1.89 L. Any small threshold mends it.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
  nilearn==0.14.1 nibabel==5.4.2 numpy==2.4.6 scipy==1.17.1

cat > expected.txt <<'EOF'
1 mm: 1.89 L above 0, 1.89 L above 1e-06; intensities up to 1.0
2 mm: 4.02 L above 0, 1.89 L above 1e-06; intensities up to 1.0
EOF

venv/bin/python - > found.txt <<'EOF'
from nilearn.datasets import load_mni152_template

for resolution_mm in (1, 2):
    template = load_mni152_template(resolution_mm).get_fdata()
    litres = [(template > cut).sum() * resolution_mm**3 / 1e6 for cut in (0, 1e-6)]
    print(
        f"{resolution_mm} mm: {litres[0]:.2f} L above 0, {litres[1]:.2f} L above 1e-06;",
        f"intensities up to {template.max():.1f}",
    )
EOF

cat found.txt
diff expected.txt found.txt
