"""As `peak_nobrainer`, by MONAI's inferer with a plain network for each draw."""

import argparse
import json
import time

import torch
from benchmarks.speed.inputs import SMALL, head, network
from benchmarks.speed.peers import SlidingWindows
from benchmarks.speed.scripts.peak import peaks

from nobrainer.bayes.draws import realise

parser = argparse.ArgumentParser()
for name in ("size", "draws", "threads"):
    parser.add_argument(f"--{name}", type=int, required=True)
parser.add_argument("--device", default="cpu")
args = parser.parse_args()

torch.set_num_threads(args.threads)
device = torch.device(args.device)
image = torch.from_numpy(head(args.size))[None, None].to(device)
model = realise(network(**SMALL), 0).to(device)
started = time.perf_counter()
windows = SlidingWindows(model, image, 2, min(64, args.size))
windows.start()
for _ in range(args.draws):
    windows.draw()
windows.finish(args.draws)
print(json.dumps({"seconds": time.perf_counter() - started} | peaks(device)))
