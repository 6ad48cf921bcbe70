"""The cases of one run that are unlike the rest."""

from nobrainer.quality import cohort_outliers


def test_outliers_of_a_run():
    entropies = [0.10, 0.11, 0.12, 0.10, 0.11, 0.12, 0.10, 0.11, 0.01, 0.40]
    cases = [{"entropy": value, "absent": 0.0} for value in entropies]
    cases[4]["absent"] = 1.0
    found = cohort_outliers(cases)
    # Less entropy than the rest is no reason.
    assert [number for number, reasons in enumerate(found) if reasons] == [4, 9]
    assert found[9] == (
        "mean entropy is 0.4, the median of this run 0.11: look at what sets it apart",
    )
    assert found[4] == (
        "number of missing structures is 1, the median of this run 0: look at what "
        "sets it apart",
    )
    assert cohort_outliers(cases[1:]) == [()] * 9


def test_an_outlier_has_one_sentence_about_draws():
    agreements = [0.90, 0.91, 0.92, 0.90, 0.91, 0.92, 0.90, 0.91, 0.92, 0.12345]
    cases = [{"pairwise_dice": a, "entropy": 0.1, "cv": 1 - a} for a in agreements]
    # Far beyond the limit of the one, and a little beyond that of the other.
    cases[9]["cv"] = 0.2
    assert cohort_outliers(cases)[9] == (
        "mean pairwise Dice of the draws is 0.123, the median of this run 0.91: "
        "look at what sets it apart",
    )


def test_a_little_beyond_equal_cases_is_no_outlier():
    cases = [{"islands": value} for value in [0.0] * 8 + [0.04, 0.06]]
    assert [bool(reasons) for reasons in cohort_outliers(cases)] == [False] * 9 + [True]
