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
for name, value in SMALL.items():
    parser.add_argument(f"--{name}", type=int, default=value)
parser.add_argument("--full", type=int, default=0)
parser.add_argument("--dtype", default="float32")
parser.add_argument("--device", default="cpu")
args = parser.parse_args()

torch.set_num_threads(args.threads)
device = torch.device(args.device)
image = (noise if args.full else head)(args.size)
shape = {name: getattr(args, name) for name in SMALL}
model = network(n_classes=args.classes, **shape)
started, cpu_s = time.perf_counter(), time.process_time()
predict(model, image, args.draws, args.classes, device, getattr(torch, args.dtype))
took = {"seconds": time.perf_counter() - started, "cpu_s": time.process_time() - cpu_s}
print(json.dumps(took | peaks(device)))
