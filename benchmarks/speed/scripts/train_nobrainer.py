"""One step of training as a user writes it: train_nobrainer.py IMAGE LABEL."""

import sys

import nobrainer as nb

image, label = sys.argv[1:]
data = nb.Dataset.from_files([(image, label)], block_shape=(32, 32, 32))
data = data.batch(2).patches(per_volume=2)
model = nb.Segmentation("bayesian_vnet", {"base_filters": 8, "levels": 2})
model.fit(data, epochs=1, verbose=False)
