"""Predict one scan twice as a user of MONAI writes it: predict_monai.py IMAGE."""

import sys

import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import UNet
from monai.transforms import Compose, EnsureChannelFirst, LoadImage, NormalizeIntensity

read = Compose([LoadImage(), EnsureChannelFirst(), NormalizeIntensity()])
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
image = read(sys.argv[1])[None].to(device)
model = UNet(3, 1, 2, [16, 32], [2], num_res_units=2, dropout=0.1).to(device).eval()
draws = []
with torch.inference_mode():
    for _ in range(2):
        logits = sliding_window_inference(image, [64] * 3, 4, model, overlap=0.25)
        draws.append(torch.softmax(logits, 1))  # type: ignore[arg-type]
mean = torch.stack(draws).mean(0)
label, variance = mean.argmax(1), torch.stack(draws).var(0)
entropy = torch.special.entr(mean).sum(1).cpu()
