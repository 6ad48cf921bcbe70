"""Predict once in a process of its own; print its peak memory as JSON."""

import argparse
import json
import time

import torch
from benchmarks.speed.inputs import SMALL, head, network, noise, predict
from benchmarks.speed.scripts.peak import peaks

parser = argparse.ArgumentParser()
for name in ("size", "classes", "draws", "threads"):
    parser.add_argument(f"--{name}", type=int, required=True)
parser.add_argument("--full", type=int, default=0)
parser.add_argument("--dtype", default="float32")
parser.add_argument("--device", default="cpu")
args = parser.parse_args()

torch.set_num_threads(args.threads)
device = torch.device(args.device)
image = (noise if args.full else head)(args.size)
model = network(n_classes=args.classes, **SMALL)
started = time.perf_counter()
predict(model, image, args.draws, args.classes, device, getattr(torch, args.dtype))
print(json.dumps({"seconds": time.perf_counter() - started} | peaks(device)))
