"""The sentences that say why to look at a segmentation."""

import math
from dataclasses import replace

import pytest

from nobrainer.errors import InputError
from nobrainer.oddities import Place
from nobrainer.quality import assess, flags, unlike_training, usual_threshold
from nobrainer.recipe import Cohort
from quality_cases import (
    COHORT,
    MODEL,
    NAN,
    NONE,
    ONE,
    SEEN,
    TRAINING,
    WHOLE,
    look,
    structure,
)

NOTHING = "nothing was segmented: check that the model learned from such scans"


def test_flags_say_why():
    poor = [
        structure(1, 1000 * math.exp(0.61), pairwise_dice=0.55, entropy=0.3),
        structure(2, 0.0),
        structure(3, 10.0, pairwise_dice=0.95, entropy=0.3),
    ]
    assert flags(poor, COHORT, MODEL) == (
        "predicted Dice 0.65 is below 0.80: look at all outlines",
        "draws agree poorly (pairwise Dice 0.75, on held-out scans 0.80 or more): look "
        "where the entropy is high",
        "mean entropy is 0.300, on held-out scans 0.200 or less: look where it is high",
        "volume of part-1, 1.84 ml, is 6.1 SD above the training cohort's, usually "
        "1 ml: look at the outline",
        "found no part-2: check whether the scan shows any",
    )
    assert flags(poor, COHORT, MODEL, threshold=0.6) == flags(poor, COHORT, MODEL)[1:]
    own = replace(MODEL, threshold=0.6)
    assert (usual_threshold(own), usual_threshold(None)) == (0.6, 0.8)
    assert flags(poor, COHORT, own) == flags(poor, COHORT, MODEL)[1:]
    assert flags(poor, COHORT, own, threshold=0.8) == flags(poor, COHORT, MODEL)
    # Without a model the draws alone are judged, and there are no limits but those of
    # the cohort.
    agreement = (
        "mean pairwise Dice of the draws 0.75 is below 0.80: look at all outlines"
    )
    assert flags(poor, COHORT, None) == (agreement, *flags(poor, COHORT, MODEL)[-2:])
    assert flags(poor, None, None) == (agreement,)
    assert flags(poor, None, None, threshold=0.7) == ()
    part = [structure(1, 1000.0, pairwise_dice=0.69), structure(2, 100.0), NONE]
    lenient = replace(MODEL, low=(0.7, 0.7, 0.0, 0.0, 0.0))
    assert flags(part, COHORT, lenient, threshold=0) == (
        "draws agree poorly on part-1 (pairwise Dice 0.69, on held-out scans the "
        "lowest is 0.70 or more): look at its outline",
    )
    # 3.5 SD is beyond the limit of the model, but not much for a cohort.
    wide = [structure(1, 1000 * math.exp(0.35)), structure(2, 100.0), NONE]
    assert flags(wide, COHORT, MODEL, threshold=0) == ()
    good = [structure(1, 1000.0), structure(2, 100.0), NONE]
    assert flags(good, COHORT, MODEL) == ()
    assert flags([structure(1, 0.0)], None, None) == (NOTHING,)


def test_many_volumes_and_many_missing_are_summed_up():
    cohort = Cohort(9, (None, *[math.log(10)] * 5), (None, *[0.1] * 5))
    small = [structure(n, 10 * math.exp(-n / 2)) for n in range(1, 6)]
    assert flags(small, cohort, None) == (
        "volume of part-5, 0.000821 ml, is 25.0 SD below the training cohort's, "
        "usually 0.01 ml (and 4 more): look at the outline",
    )
    few = [structure(1, 10.0), *(structure(n, 0.0) for n in range(2, 6))]
    assert flags(few, cohort, None) == (
        "found no part-2, part-3, part-4 and 1 more: check whether the scan shows any",
    )


def test_only_structures_without_a_cohort_are_there():
    some = [structure(1, 0.0), structure(2, 0.0), structure(3, 5.0)]
    assert flags(some, COHORT, None) == (
        "found no part-1, part-2: check whether the scan shows any",
    )


@pytest.mark.parametrize("threshold", [-0.1, 1.5, NAN])
def test_a_threshold_is_a_dice(threshold):
    with pytest.raises(InputError, match="threshold must be between 0 and 1"):
        flags([ONE], None, None, threshold=threshold)


def test_flags_of_the_scan_say_what_is_unlike_training():
    assert flags(WHOLE, SEEN, None, scan=look()) == ()
    odd = look(-6.0, cut=(0, 0, 0, 0.1, 0.4, 0.95), islands=0.08, around=-1.5)
    sentences = (
        "the scan is unlike the training scans in the intensities of the head (4.2 "
        "SD), the contrast of what was segmented (5.0 SD), where usual is 3.0 SD or "
        "less: check its contrast, quality and orientation",
        "what was segmented is cut off at its superior end (its area there is 95% of "
        "its largest, in training scans 0% or less): check the field of view, and use "
        "no volume that it cuts",
        "8% of what was segmented is apart from its largest piece (in training scans "
        "2% or less): look at the other pieces",
    )
    assert flags(WHOLE, SEEN, None, scan=odd) == sentences
    assert unlike_training(WHOLE, SEEN, odd) == sentences
    assert unlike_training(WHOLE, COHORT, odd) == ()
    # 0.1 beyond training is little, and so are islands of 0.05 beyond it.
    slight = look(cut=(0, 0, 0, 0.1, 0.4, 0), islands=0.07)
    assert unlike_training(WHOLE, SEEN, slight) == ()
    # Held-out scans of the quality model may lie further out than training scans.
    one = dict.fromkeys(("centre", "coefficients", "low"), (0.0,)) | {"scale": (1.0,)}
    wide = replace(MODEL, features=("input_distance",), high=(5.0,), **one)
    assert unlike_training(WHOLE, SEEN, look(level=-6.0), wide) == ()
    empty = [structure(1, 0.0)]
    alone = Cohort(4, (None, None), (None, None), appearance=TRAINING)
    assert unlike_training(empty, alone, odd) == (NOTHING, sentences[0])


def test_a_piece_apart_from_its_structure_is_named_with_its_place():
    before = replace(COHORT, appearance=replace(TRAINING, pieces=()))
    found = [
        Place(1, 0.0021, 2100.0, (-20.4, 3.0, 7.6)),
        Place(2, 0.004, 4000.0, (1.0, -2.0, -0.4)),
        Place(3, 0.0001, 100.0, (0.0, 0.0, 0.0)),
    ]
    scan = replace(look(), pieces=tuple(found))
    assert unlike_training(WHOLE, SEEN, scan) == (
        "4 ml of part-2 lie apart from the rest of it (in training scans none): look "
        "at x, y, z = 1, -2, 0 mm",
        "2.1 ml of part-1 lie apart from the rest of it (in training scans 1 ml or "
        "less): look at x, y, z = -20, 3, 8 mm",
    )
    # A record from before has none to compare with.
    assert unlike_training(WHOLE, before, scan) == ()
    case = assess("scan", WHOLE, before, None, scan=scan)
    assert case.unchecked[1:] == ("places within structures against training scans",)


def test_a_place_that_looks_unlike_its_structure_is_named():
    places = [Place(n, sd, 1500.0, (-20.4, 3.0, 7.6)) for n, sd in ((1, 4.0), (2, 3.2))]
    scan = replace(look(), misfits=tuple(places))
    words = (
        "a place in part-{} looks unlike the rest of it ({} SD over 1.5 ml, where "
        "usual is {} SD or less): look for a lesion or an artefact at x, y, z = -20, "
        "3, 8 mm"
    )
    expected = words.format(1, 4.0, 3.0), words.format(2, 3.2, 3.0)
    assert unlike_training(WHOLE, SEEN, scan) == expected
    # Training scans that have such places themselves make them usual.
    usual = replace(COHORT, appearance=replace(TRAINING, misfit=3.5))
    assert unlike_training(WHOLE, usual, scan) == (words.format(1, 4.0, 3.5),)
