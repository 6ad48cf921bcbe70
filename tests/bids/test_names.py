from pathlib import Path

from nobrainer.bids.layout import Source
from nobrainer.bids.names import Names, name_all, scheme_label


def source(suffix: str, **entities: str) -> Source:
    name = "_".join([*(f"{k}-{v}" for k, v in entities.items()), suffix])
    return Source(Path(f"/{name}.nii.gz"), f"{name}.nii.gz", entities, suffix)


def test_results_carry_the_entities_of_the_source() -> None:
    names = Names.of(source("T1w", sub="01", ses="a", acq="x", run="01"), "aseg")
    folder, start = "sub-01/ses-a/anat/", "sub-01_ses-a_acq-x_run-01"
    assert names.scan == f"{start}_T1w" and names.prefix == start
    assert str(names.labels()) == f"{folder}{start}_seg-aseg_dseg.nii.gz"
    assert str(names.labels(".tsv")) == f"{folder}{start}_seg-aseg_dseg.tsv"
    assert str(names.mask(".json")) == f"{folder}{start}_desc-brain_mask.json"
    assert str(names.tissue("GM")) == f"{folder}{start}_label-GM_probseg.nii.gz"
    assert str(names.uncertainty("entropy")) == f"{folder}{start}_entropy.nii.gz"
    assert str(names.morphometry()) == f"{folder}{start}_desc-volumetric_morph.tsv"
    assert str(names.quality) == f"{folder}{start}_quality.json"
    assert str(names.page) == "sub-01.html"
    assert str(names.figure("dseg.png")) == f"sub-01/figures/{start}_dseg.png"


def test_a_scan_that_is_no_t1w_says_so_by_its_space() -> None:
    flair = Names.of(source("FLAIR", sub="01"), "aseg")
    assert str(flair.labels()) == "sub-01/anat/sub-01_space-FLAIR_seg-aseg_dseg.nii.gz"
    template = Names.of(source("T2w", sub="01", space="MNI152Lin"), "aseg")
    assert template.prefix == "sub-01_space-MNI152Lin"


def test_entities_that_results_cannot_have_are_left_out() -> None:
    names = Names.of(source("T1w", sub="01", inv="2", part="mag", desc="pre"), "aseg")
    assert names.prefix == "sub-01_part-mag"
    assert names.scan == "sub-01_inv-2_part-mag_desc-pre_T1w"


def test_scans_whose_results_would_be_called_alike_are_left_out() -> None:
    scans = [source("T1w", sub="01", desc=one) for one in ("a", "b")]
    chosen, problems = name_all([*scans, source("T1w", sub="02")], "aseg")
    assert [names.scan for _, names in chosen] == ["sub-02_T1w"]
    assert len(problems) == 2
    assert problems[0].startswith("sub-01_desc-a_T1w.nii.gz: its results would be")
    assert "sub-01_desc-b_T1w.nii.gz" in problems[0]


def test_a_scheme_becomes_a_label() -> None:
    assert [scheme_label(one) for one in ("aseg", "50-class")] == ["aseg", "50class"]
