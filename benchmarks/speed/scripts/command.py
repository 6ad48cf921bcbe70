"""Predict a file with the command; print its peak memory as JSON."""

import argparse
import json
import sys

from nobrainer.cli import main

parser = argparse.ArgumentParser()
for name in ("image", "model", "draws", "folder", "threads", "device"):
    parser.add_argument(f"--{name}", required=True)
args = parser.parse_args()

sys.argv[1:] = ["predict", args.image, "--model", args.model, "--n-samples", args.draws]
sys.argv += ["--output-dir", args.folder]
try:
    main()
except SystemExit as end:
    if end.code:
        raise
import torch  # noqa: E402
from benchmarks.speed.scripts.peak import peaks  # noqa: E402

print(json.dumps(peaks(torch.device("cpu"))))
