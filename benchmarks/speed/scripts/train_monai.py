"""One step of training as a user of MONAI writes it: train_monai.py IMAGE LABEL."""

import sys

import torch
from monai.data import CacheDataset, DataLoader, list_data_collate
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    RandCropByPosNegLabeld,
)

keys = ["image", "label"]
files = [dict(zip(keys, sys.argv[1:], strict=True))]
transform = Compose(
    [
        LoadImaged(keys),
        EnsureChannelFirstd(keys),
        NormalizeIntensityd("image"),
        RandCropByPosNegLabeld(keys, "label", [32] * 3, num_samples=2),
    ]
)
data = CacheDataset(files, transform, progress=False)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = UNet(3, 1, 2, [16, 32], [2], num_res_units=2).to(device)
loss = DiceCELoss(to_onehot_y=True, softmax=True)
optimizer = torch.optim.Adam(model.parameters())
for batch in DataLoader(data, batch_size=1, collate_fn=list_data_collate):
    value = loss(model(batch["image"].to(device)), batch["label"].to(device))
    value.backward()
    optimizer.step()
