"""The figures of generated images."""

from nobrainer.glossary.metric import Metric

OF_GENERATORS = {
    "ms_ssim_generated": Metric(
        "MS-SSIM of generated images",
        "How alike two generated images are; well above that of real ones, the "
        "generator makes too few kinds of image.",
        bounds="0 to 1",
    ),
    "ms_ssim_real": Metric(
        "MS-SSIM of real images",
        "How alike two real images are.",
        bounds="0 to 1",
    ),
    "frechet": Metric(
        "Fréchet distance",
        "How far generated images are from real ones in the features of a network that "
        "segments heads; 0 is the same distribution.",
        better="lower",
    ),
    "frechet_real": Metric(
        "Fréchet distance of real images",
        "The same between two halves of the real images: what their number alone does.",
        better="lower",
    ),
    "nearest_generated": Metric(
        "distance of generated images to the nearest training image",
        "Root mean square difference of intensities, in standard deviations. Well "
        "below that of new real images, the generator repeats what it has seen.",
        unit="SD",
    ),
    "nearest_real": Metric(
        "distance of new real images to the nearest training image",
        "The same of real images that the generator has not seen.",
        unit="SD",
    ),
    "dice_real": Metric(
        "Dice, trained on real images",
        "Mean Dice on new real images of a network that learned from real ones alone.",
        bounds="0 to 1",
        better="higher",
    ),
    "dice_generated": Metric(
        "Dice, trained on generated images",
        "The same of a network that learned from generated images alone.",
        bounds="0 to 1",
        better="higher",
    ),
    "dice_both": Metric(
        "Dice, trained on both",
        "The same of a network that learned from real and generated images.",
        bounds="0 to 1",
        better="higher",
    ),
}
"""Figures of a generator of images, see `nobrainer.realism`."""
