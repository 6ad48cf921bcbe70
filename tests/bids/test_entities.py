from nobrainer.bids.entities import (
    entities_of,
    indices,
    read_name,
    short_names,
    suffixes,
    write_name,
)


def test_entities_come_in_the_order_of_the_standard() -> None:
    order = list(short_names().values())
    assert order.index("sub") < order.index("ses") < order.index("acq")
    assert order.index("acq") < order.index("run") < order.index("desc")
    assert indices() == {"run", "echo", "flip", "inv", "split", "chunk"}
    assert {"T1w", "T2w", "FLAIR", "UNIT1", "T1map"} <= suffixes()


def test_a_result_has_the_entities_that_the_standard_gives_it() -> None:
    assert {"seg", "space", "run", "acq"} <= entities_of("dseg")
    assert "label" in entities_of("probseg") and "label" not in entities_of("dseg")
    assert not {"mod", "inv"} & (entities_of("mask") | entities_of("dseg"))


def test_a_name_is_read_and_written() -> None:
    name = read_name("sub-A1_ses-2_acq-x_run-02_T1w.nii.gz")
    assert name is not None and name.suffix == "T1w" and name.extension == ".nii.gz"
    assert name.entities == {"sub": "A1", "ses": "2", "acq": "x", "run": "02"}
    shuffled = dict(reversed(name.entities.items()))
    assert write_name(shuffled, "T1w") == "sub-A1_ses-2_acq-x_run-02_T1w"


def test_what_is_no_name_of_the_standard_is_told() -> None:
    for wrong in (
        "T1w.nii.gz",  # no participant
        "sub-01_T1w.mgz",
        "sub-01_bogus-3_T1w.nii.gz",
        "sub-01_run-a_T1w.nii.gz",
        "sub-01_acq-a.b_T1w.nii.gz",
        "sub-01_sub-02_T1w.nii.gz",
        "sub-é_T1w.nii.gz",
        "sub-01_run-1_T1w_copy-.nii.gz",
        "sub-01_acq-_T1w.nii.gz",
    ):
        assert read_name(wrong) is None, wrong
