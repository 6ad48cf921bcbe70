"""What a user types: `Dataset` and `Segmentation`."""
