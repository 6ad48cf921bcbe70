"""The figures of segmentations, of scans and of trainings."""

from dataclasses import replace

from nobrainer.glossary.metric import Metric

SCORES = ("entropy", "variance", "mutual_information")
"""Scores of uncertainty that are to tell wrong voxels from right ones; a single pass
has only the first."""

OF_STRUCTURES = {
    "dice": Metric(
        "Dice",
        "Overlap with the truth; 1 is perfect.",
        bounds="0 to 1",
        better="higher",
    ),
    "surface_dice": Metric(
        "surface Dice",
        "Share of the surface that lies within 1 mm of the true one.",
        bounds="0 to 1",
        better="higher",
    ),
    "hd95_mm": Metric(
        "HD95",
        "95 % of the surface lies closer to the true one than this.",
        unit="mm",
        digits=2,
        better="lower",
    ),
    "volume_error": Metric(
        "volume error",
        "Predicted minus true volume, as a share of the true one.",
        is_signed=True,
        line="volume error, median of the structures' absolute ones",
    ),
    "volume_error_mm3": Metric(
        "absolute volume error",
        unit="mm³",
        better="lower",
        definition="Distance of the mean volume over draws from the true volume.",
    ),
    "covered": Metric(
        "covered by draws",
        "Share of true volumes inside the 95 % interval of the draws.",
        bounds="0 to 1",
        digits=2,
        line="true volumes inside the interval of the draws",
    ),
    "conformal_covered": Metric(
        "covered, calibrated",
        "Share of true volumes inside the calibrated interval.",
        bounds="0 to 1",
        digits=2,
        line="true volumes inside the calibrated interval",
    ),
    "pairwise_dice": Metric(
        "Dice of draws",
        "Overlap between pairs of draws; 1 where all agree.",
        bounds="0 to 1",
        definition="Dice overlap between pairs of draws, pooled over all pairs; 1 "
        "where all draws agree.",
    ),
    "volume_mm3": Metric(
        "volume",
        unit="mm³",
        definition="Mean volume over draws of the network, counted on the model's own "
        "grid: the voxels of the label map can add up to a little more or less.",
    ),
    "volume_true_mm3": Metric(
        "true volume",
        unit="mm³",
        definition="Volume in the labels.",
    ),
    "volume_low_mm3": Metric(
        "lower end for a further draw",
        unit="mm³",
        definition="Lower end of the 95 % interval for the volume of one further draw "
        "(Student's t); at least 0.",
    ),
    "volume_high_mm3": Metric(
        "upper end for a further draw",
        unit="mm³",
        definition="Upper end of the 95 % interval for the volume of one further draw "
        "(Student's t).",
    ),
}
"""Figures of a structure that `evaluate` yields."""

OF_DRAWS = {
    "volume_sd_mm3": Metric(
        "standard deviation of the volume",
        "How much the volume differs from draw to draw.",
        unit="mm³",
        definition="Sample standard deviation (n - 1) of the volume over draws, where "
        "some draw has the structure.",
    ),
    "conformal_low_mm3": Metric(
        "lower end for the true volume",
        unit="mm³",
        definition="Lower end of the interval for the true volume, with the coverage "
        "that the model was calibrated for on held-out scans; at least 0.",
    ),
    "conformal_high_mm3": Metric(
        "upper end for the true volume",
        unit="mm³",
        definition="Upper end of the interval for the true volume, with the coverage "
        "that the model was calibrated for on held-out scans.",
    ),
    "cv": Metric(
        "coefficient of variation",
        "The standard deviation as a share of the volume.",
        short="CV",
        definition="Coefficient of variation over draws: volume_sd_mm3 / volume_mm3.",
    ),
    "iou": Metric(
        "IoU of draws",
        "Voxels on which all draws agree, as a share of those of any draw.",
        bounds="0 to 1",
        definition="Voxels that all draws give to the structure, over the voxels that "
        "any draw gives to it.",
    ),
    "entropy": Metric(
        "entropy",
        "How undecided the network is inside the structure; 0 is certain.",
        unit="nats",
        definition="Entropy of the mean class probabilities, mean over the voxels "
        "labelled with the structure.",
    ),
    "mutual_information": Metric(
        "mutual information",
        "Mutual information, the part of the entropy on which the draws disagree.",
        unit="nats",
        short="MI",
        definition="Mutual information between class and draw, mean over the voxels "
        "labelled with the structure.",
    ),
    "expected_dice": Metric(
        "expected Dice",
        "The Dice of the label that its probabilities let expect.",
        bounds="0 to 1",
        better="higher",
        definition="Twice the sum of the mean probability over the voxels labelled "
        "with the structure, over the number of these voxels plus the sum of the "
        "probability over all voxels: about the Dice against the truth where the "
        "probabilities hold.",
    ),
}
"""Further figures of a structure, which need no labels."""

_END = "{} end of the 95 % interval in one further draw (Student's t): {}"
_OF_A_CHANGE = {
    "change{}_mm3": ("mm³", "Later volume minus earlier one, mean over the draws."),
    "percent{}": ("%", "Later volume over earlier one, minus 1, mean over the draws."),
    "mm3_per_year{}": ("mm³/year", "The change over the years between the scans."),
    "percent_per_year{}": ("%/year", "The percentage over the years between them."),
}
"""Unit and definition of what has an interval; {} is for its ends in the name."""
OF_CHANGES = {
    name: Metric(name, unit=unit, definition=text)
    for name, unit, text in (
        ("earlier_mm3", "mm³", "Mean volume over draws in the earlier scan."),
        ("later_mm3", "mm³", "Mean volume over draws in the later scan."),
        ("change_sd_mm3", "mm³", "Sample standard deviation of the change over draws."),
        ("correlation", "", "Correlation of the two volumes over the draws."),
        ("years", "years", "Time between the scans by their dates, else by the ages."),
        *((name.format(""), *about) for name, about in _OF_A_CHANGE.items()),
        *(
            (name.format(f"_{end}"), unit, _END.format(which, text))
            for name, (unit, text) in _OF_A_CHANGE.items()
            for end, which in (("low", "Lower"), ("high", "Upper"))
        ),
    )
}
"""Figures of the change of a structure between two scans of one person."""

_OF_PROBABILITIES = {
    "nll": Metric(
        "negative log-likelihood",
        "Surprise at the true class, mean over voxels; 0 is best.",
        unit="nats",
        digits=4,
        better="lower",
        short="NLL",
        line="neg. log-likelihood (nats)",
    ),
    "brier": Metric(
        "Brier score",
        "Squared error of the probabilities; 0 is best.",
        bounds="0 to 2",
        digits=4,
        better="lower",
        line="Brier score",
    ),
    "ece": Metric(
        "expected calibration error",
        "How far confidence is from accuracy, mean over voxels; 0 is best.",
        bounds="0 to 1",
        digits=4,
        better="lower",
        short="ECE",
        line="expected calibration error",
    ),
    "mce": Metric(
        "maximum calibration error",
        "The same where it is worst.",
        bounds="0 to 1",
        digits=4,
        better="lower",
        short="MCE",
        line="maximum calibration error",
    ),
    "ace": Metric(
        "adaptive calibration error",
        "The same over all classes, in bins of as many voxels each.",
        bounds="0 to 1",
        digits=4,
        better="lower",
        short="ACE",
        line="adaptive calibration error",
    ),
}
# {} stands for the name of the score.
_OF_SCORES = {
    "auroc_{}": Metric(
        "AUROC of {}",
        "Probability that a wrong voxel has more {} than a right one; 1 is best, 0.5 "
        "is chance.",
        bounds="0 to 1",
        digits=4,
        better="higher",
        line="errors found by {}, AUROC",
    ),
    "aupr_{}": Metric(
        "AUPR of {}",
        "Precision of {} in finding wrong voxels, mean over recall; 1 is best.",
        bounds="0 to 1",
        digits=4,
        better="higher",
    ),
    "aurc_{}": Metric(
        "AURC of {}",
        "Error of the voxels kept, mean over all shares kept where {} decides; 0 is "
        "best.",
        bounds="0 to 1",
        digits=4,
        better="lower",
    ),
    "e_aurc_{}": Metric(
        "excess AURC of {}",
        "The same beyond the best order there is.",
        bounds="0 to 1",
        digits=4,
        better="lower",
    ),
}


def _name_score(metric: Metric, score: str) -> Metric:
    """The metric with the name of a score in the place of {}."""
    words = score.replace("_", " ")
    return replace(
        metric,
        name=metric.name.format(words),
        meaning=metric.meaning.format(words),
        line=metric.line.format(words),
    )


OF_REGIONS = _OF_PROBABILITIES | {
    name.format(score): _name_score(metric, score)
    for name, metric in _OF_SCORES.items()
    for score in SCORES
}
"""Figures of a whole scan, or of the voxels near the structures, that `evaluate`
yields."""

OF_SCANS = {
    "pairwise_dice": Metric(
        "mean pairwise Dice of the draws",
        bounds="0 to 1",
        better="higher",
        definition="Dice overlap between pairs of draws, mean over structures.",
    ),
    "pairwise_dice_min": Metric(
        "lowest pairwise Dice of the draws",
        bounds="0 to 1",
        better="higher",
        definition="Dice overlap between pairs of draws, of the structure with the "
        "lowest.",
    ),
    "expected_dice": Metric(
        "mean expected Dice",
        "The Dice that the probabilities let expect, mean over structures.",
        bounds="0 to 1",
        better="higher",
        definition="Expected Dice of the label, mean over structures; 0 for a "
        "structure that only single draws have.",
    ),
    "mutual_information": Metric(
        "mean mutual information",
        unit="nats",
        better="lower",
        definition="Mutual information between class and draw, mean over the predicted "
        "foreground.",
    ),
    "cv": Metric(
        "mean coefficient of variation",
        bounds="0 to 1",
        better="lower",
        definition="Coefficient of variation of the volume over draws, at most 1, mean "
        "over structures.",
    ),
    "volume_z": Metric(
        "largest deviation of a volume",
        "How far the most unusual volume lies from those of the training subjects, in "
        "their standard deviations.",
        unit="SD",
        bounds="0 to 20",
        digits=1,
        better="lower",
        short="volume deviation",
        definition="Largest distance of a structure's log volume from the training "
        "cohort's mean, in its standard deviations, at most 20.",
    ),
    "absent": Metric(
        "number of missing structures",
        better="lower",
        definition="Structures of the training cohort that the segmentation lacks.",
    ),
    "input_distance": Metric(
        "distance from the training scans",
        "How far intensities, sharpness and positions lie from those of the training "
        "scans, in their standard deviations.",
        unit="SD",
        bounds="0 to 20",
        digits=1,
        better="lower",
        short="input distance",
        definition="Distance of the scan's intensities, sharpness and positions from "
        "those of the training scans, in their standard deviations: the largest over "
        "groups of statistics of the root mean square, at most 20.",
    ),
    "cut": Metric(
        "share of the foreground that is cut",
        "How much of what was segmented lies on an end of the field of view, beyond "
        "that of training scans.",
        bounds="0 to 1",
        digits=2,
        better="lower",
        short="cut",
        definition="Area of the segmented foreground at the end of the field of view, "
        "or of what was imaged of it, as a share of its largest area across that axis; "
        "the largest over the six ends, beyond that of training scans.",
    ),
    "islands": Metric(
        "share of the foreground in islands",
        "How much of what was segmented is apart from its largest piece.",
        bounds="0 to 1",
        digits=2,
        better="lower",
        short="islands",
        definition="Share of the segmented foreground outside its largest connected "
        "component.",
    ),
    "entropy": Metric(
        "mean entropy",
        "How undecided the network is inside the structures; 0 is certain.",
        unit="nats",
        better="lower",
        short="entropy",
        definition="Entropy of the mean class probabilities, mean over the predicted "
        "foreground.",
    ),
}
"""Figures of the segmentation of one scan that tell its quality without labels."""

OF_SEVERAL_SCANS = {
    "aurc_cases": Metric(
        "AURC of scans",
        bounds="0 to 1",
        better="lower",
        definition="Error of the scans kept, mean over all shares kept where the "
        "disagreement of the draws decides.",
    ),
    "e_aurc_cases": Metric(
        "excess AURC of scans",
        bounds="0 to 1",
        better="lower",
        definition="The same beyond the best order there is.",
    ),
}
"""Figures that `summarise` adds if there are two scans or more."""

OF_RUNS = {
    "dice": replace(OF_STRUCTURES["dice"], source="dice"),
    "nll": replace(OF_REGIONS["nll"], source="nll/foreground"),
    "aurc": replace(
        OF_REGIONS["aurc_entropy"],
        name="area under the risk-coverage curve",
        short="AURC",
        source="aurc_entropy/foreground",
    ),
    "ece": replace(OF_REGIONS["ece"], source="ece/foreground"),
    "auroc": replace(
        OF_REGIONS["auroc_entropy"],
        name="AUROC of finding wrong voxels",
        bounds="0 to 1, chance is 0.5",
        short="AUROC",
        source="auroc_entropy/foreground",
    ),
}
"""Figures by which a search judges a run: means over the scans of its evaluation. Those
of voxels are of the voxels near the structures."""

OF_TRAINING = {
    "out_of_fold_dice": Metric("Dice out of fold, mean over classes but background"),
    "validation_dice": Metric(
        "Dice on validation scans, mean over classes but background"
    ),
    "synthetic_validation_dice": Metric(
        "Dice on images of validation label maps, mean over classes but background"
    ),
    "dice": Metric("Dice on training patches"),
    "loss": Metric("loss on training patches"),
}
"""Figures of a training, of the epoch whose weights the model has."""
