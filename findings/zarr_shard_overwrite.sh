#!/usr/bin/env bash
# zarr 3.1.6: to write every voxel of a shard anew, zarr first reads the shard that is
# there, though nothing of it is kept. Without shards, whole chunks are written without
# reading. So repeated conversions read what they replace, and a shard whose checksum is
# wrong cannot be replaced by writing it again: it must be deleted first.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
  zarr==3.1.6 numcodecs==0.16.6 numpy==2.4.6

cat > expected.txt <<'EOF'
chunks: 0 reads of voxels to write an array that was empty
chunks: 0 reads of voxels to write the whole array again
shards: 1 reads of voxels to write an array that was empty
shards: 1 reads of voxels to write the whole array again
chunks: a damaged file is replaced
shards: a damaged file is not replaced: ValueError
EOF

venv/bin/python - > found.txt <<'EOF'
from pathlib import Path

import numpy as np
import zarr
from zarr.storage import LocalStore


class Counting(LocalStore):
    """Counts the files of voxels that are read."""

    read = 0

    async def get(self, key, prototype, byte_range=None):
        if "/" in key:
            type(self).read += 1
        return await super().get(key, prototype, byte_range)


data = np.arange(512, dtype="int16").reshape(8, 8, 8)
arrays = {
    name: zarr.create_array(
        Counting(name), shape=data.shape, dtype=data.dtype, **layout
    )
    for name, layout in {
        "chunks": {"chunks": (8, 8, 8)},
        "shards": {"chunks": (4, 4, 4), "shards": (8, 8, 8)},
    }.items()
}
for name, array in arrays.items():
    for what in ("an array that was empty", "the whole array again"):
        Counting.read = 0
        array[:] = data
        print(f"{name}: {Counting.read} reads of voxels to write {what}")
for name, array in arrays.items():
    [file] = [path for path in Path(name, "c").rglob("*") if path.is_file()]
    file.write_bytes(b"junk")
    try:
        array[:] = data
        print(f"{name}: a damaged file is replaced")
    except ValueError as error:
        print(f"{name}: a damaged file is not replaced: {type(error).__name__}")
EOF

cat found.txt
diff expected.txt found.txt
