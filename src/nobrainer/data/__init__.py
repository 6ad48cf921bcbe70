"""From files to patches: samples, labels, preprocessing, augmentation."""
