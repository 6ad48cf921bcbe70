"""`nobrainer predict`: maps and tables of scans, one after the other."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import nobrainer as nb
from brains import model_of_brains, noise
from commands import errors_of, labels_of, nobrainer_, rows_of, shell
from nobrainer.data.labels import LabelTable
from nobrainer.data.preprocess import is_head
from result_folders import said, scan


def test_predict_writes_maps_on_the_scans_grid_and_tables(
    scans: Path, model: Path, tmp_path: Path
) -> None:
    scan = scans / "sub-0_T1w.nii.gz"
    out = tmp_path / "new" / "maps"
    args = ("predict", scan, "--model", model, "--output-dir", out, "--n-samples", 3)
    result = nobrainer_(*args, "--json")
    assert result.exit_code == 0, result.stderr
    names = ("label", "variance", "entropy")
    paths = {name: out / f"sub-0_T1w_{name}.nii.gz" for name in names}
    tables = {
        "classes": out / "sub-0_T1w_label.tsv",
        "structures": out / "sub-0_T1w_structures.tsv",
    }
    written = {name: str(path) for name, path in (paths | tables).items()}
    assert json.loads(result.stdout) == [{"input": str(scan)} | written]
    sidecar = out / "structures.json"
    origin = {out / "provenance.json", out / "provenance"}
    assert set(out.iterdir()) == {*paths.values(), *tables.values(), sidecar, *origin}
    for name, path in paths.items():
        image = nib.load(path)
        assert image.get_data_dtype() == (np.uint8 if name == "label" else np.float32)
        np.testing.assert_allclose(image.affine, np.diag([-2.0, 2.0, 2.0, 1.0]))
    truth, label = labels_of(scans / "sub-0_dseg.nii.gz"), labels_of(paths["label"])
    assert 2 * (truth & label).sum() / (truth.sum() + label.sum()) > 0.95
    segmentation = nb.Segmentation.load(model)
    prediction = segmentation.predict(scan, n_samples=3, seed=0)
    by_hand = nb.structures.to_tsv({"sub-0_T1w": prediction.structures})
    assert tables["structures"].read_text() == by_hand
    header, row = by_hand.splitlines()
    assert set(json.loads(sidecar.read_text())) == set(header.split("\t"))
    volume_mm3 = float(row.split("\t")[header.split("\t").index("volume_mm3")])
    assert volume_mm3 == pytest.approx(label.sum() * 8, rel=0.05)
    assert tables["classes"].read_text() == segmentation.labels_.to_tsv()
    entropy = labels_of(paths["entropy"])
    assert entropy.min() >= 0 and 0 < entropy.max() <= np.log(2) + 1e-6
    for name, step in (("entropy", 2**-14), ("variance", 2**-24)):
        exact = np.asarray(getattr(prediction, name).dataobj)
        written = labels_of(paths[name])
        assert np.abs(written - exact).max() <= step / 2
        assert (written % step == 0).mean() > 0.99

    # The same seed gives the same maps, and nothing is done again unasked.
    stamp = paths["label"].stat().st_mtime_ns
    again = nobrainer_(*args, "--json")
    assert again.exit_code == 0 and again.stdout == result.stdout
    assert paths["label"].stat().st_mtime_ns == stamp
    tiles = ("--block-shape", 8, 9, 10, "--batch-size", 2, "--overwrite")
    assert nobrainer_(*args, *tiles).exit_code == 0
    # What differs by a millionth may be rounded to the next multiple.
    np.testing.assert_allclose(labels_of(paths["entropy"]), entropy, atol=1.1 * 2**-14)


def test_brain_mask_and_tissues_are_written_on_request(tmp_path: Path) -> None:
    model = model_of_brains()
    folder, scan, out = (
        model.save(tmp_path / "model"),
        tmp_path / "a.nii",
        tmp_path / "out",
    )
    nib.save(noise(), scan)
    args = ("predict", scan, "--model", folder, "--output-dir", out, "--n-samples", 2)
    assert nobrainer_(*args).exit_code == 0
    usual = {path.name for path in out.iterdir() if path.is_file()}
    stamp = (out / "a_label.nii.gz").stat().st_mtime_ns
    # Asked for afterwards they are added, and what is there stays.
    assert nobrainer_(*args, "--brain-mask", "--tissues").exit_code == 0
    assert (out / "a_label.nii.gz").stat().st_mtime_ns == stamp
    maps = ("brainmask", "tissues", "GM_probseg", "WM_probseg", "CSF_probseg")
    names = {f"a_{name}.nii.gz" for name in maps}
    assert {path.name for path in out.iterdir() if path.is_file()} == usual | names

    prediction = model.predict(scan, n_samples=2, seed=0, tissues=True, verbose=False)
    images = (prediction.brain_mask, prediction.tissues)
    images += tuple(prediction.tissue_probabilities.values())
    for name, image in zip(maps, images, strict=True):
        written = labels_of(out / f"a_{name}.nii.gz")
        # Files hold multiples of 2**-14.
        np.testing.assert_allclose(written, np.asarray(image.dataobj), atol=2**-15)
    # A scan with more than is asked for is done, and stays so with all that it has.
    for fewer in ((), ("--brain-mask",), ("--brain-mask", "--tissues")):
        done = nobrainer_(*args, *fewer)
        assert done.exit_code == 0 and "1 of 1 scans were done" in done.stderr
    # What another seed has made is not left beside the new maps.
    assert nobrainer_(*args, "--seed", 7, "--brain-mask", "--overwrite").exit_code == 0
    now = {path.name for path in out.iterdir() if path.is_file()}
    assert now == usual | {"a_brainmask.nii.gz"}

    rows = rows_of(out / "a_structures.tsv")
    assert [row["name"] for row in rows[-2:]] == ["brain", "intracranial"]
    brain = model.predict(scan, n_samples=2, seed=7, verbose=False).totals[0]
    assert float(rows[-2]["volume_mm3"]) == pytest.approx(brain.volume_mm3)

    fast = ("--n-samples", 0, "--brain-mask", "--tissues")
    alone = ("predict", scan, "--model", folder, "--output-dir", tmp_path / "b", *fast)
    assert nobrainer_(*alone).exit_code == 0
    found = {path.name for path in (tmp_path / "b").iterdir() if path.is_file()}
    assert found == {"a_label.nii.gz", "a_label.tsv", "provenance.json", *names}


def test_a_model_of_other_classes_has_no_brain_mask(
    scans: Path, model: Path, tmp_path: Path
) -> None:
    args = ("--model", model, "--output-dir", tmp_path / "out", "--brain-mask")
    result = nobrainer_("predict", scans / "sub-0_T1w.nii.gz", *args)
    assert result.exit_code == 2 and "FreeSurfer's ids" in result.stderr
    assert not (tmp_path / "out").exists()


def test_label_maps_carry_ids_unless_class_numbers_are_asked_for(
    scans: Path, model: Path, tmp_path: Path
) -> None:
    segmentation = nb.Segmentation.load(model)
    table = LabelTable(("air", "brain"), ids=(0, 1035))
    segmentation.learned_ = replace(segmentation.learned_, labels=table)
    named = segmentation.save(tmp_path / "named")
    for options, value in (((), 1035), (("--class-numbers",), 1)):
        out = tmp_path / f"maps-{value}"
        args = ("--model", named, "--output-dir", out, "--n-samples", 2, *options)
        result = nobrainer_("predict", scans / "sub-0_T1w.nii.gz", *args)
        assert result.exit_code == 0, result.stderr
        label = np.asarray(nib.load(out / "sub-0_T1w_label.nii.gz").dataobj)
        assert np.unique(label).tolist() == [0, value]
        classes, structures = (
            [row.split("\t") for row in (out / name).read_text().splitlines()]
            for name in ("sub-0_T1w_label.tsv", "sub-0_T1w_structures.tsv")
        )
        assert classes[0] == ["index", "name", "color", "original"]
        assert classes[2] == [str(value), "brain", "#1f77b4", "1035"]
        assert structures[1][:3] == ["sub-0_T1w", str(value), "brain"]
    told = nobrainer_("info", named).stdout.splitlines()
    assert "  1035                 brain" in told


def test_one_bad_file_does_not_stop_the_others(
    scans: Path, model: Path, tmp_path: Path
) -> None:
    bad, missing = tmp_path / "bad.nii.gz", tmp_path / "missing.nii"
    bad.write_bytes(b"not an image")
    done = shell(
        *("predict", bad, scans / "sub-1_T1w.nii.gz", missing, scans / "scans.csv"),
        *("--model", model, "--output-dir", tmp_path, "--n-samples", 0),
    )
    assert done.returncode == 1
    results = [tmp_path / f"sub-1_T1w_label.{suffix}" for suffix in ("nii.gz", "tsv")]
    assert done.stdout == "".join(f"{path}\n" for path in results)
    first, second, third = errors_of(done.stderr)
    assert first.startswith(f"nobrainer: error: {bad}: ")
    assert second.startswith(f"nobrainer: error: {missing}: ")
    assert third.startswith(f"nobrainer: error: {scans / 'scans.csv'}: unknown suffix")
    origin = [tmp_path / "provenance", tmp_path / "provenance.json"]
    assert sorted(tmp_path.iterdir()) == sorted([bad, *results, *origin])


def test_a_sidecar_that_says_something_else_is_kept(
    scans: Path, model: Path, tmp_path: Path
) -> None:
    sidecar = tmp_path / "structures.json"
    sidecar.write_text("precious")
    args = ("predict", scans / "sub-1_T1w.nii.gz", "--model", model, "--n-samples", 1)
    args = (*args, "--output-dir", tmp_path)
    refused = nobrainer_(*args)
    assert refused.exit_code == 2
    assert f"{sidecar}: exists already" in refused.stderr
    assert list(tmp_path.iterdir()) == [sidecar] and sidecar.read_text() == "precious"
    assert nobrainer_(*args, "--overwrite").exit_code == 0
    assert json.loads(sidecar.read_text()) == nb.structures.sidecar()
    # What another run wrote alike is no reason to stop.
    other = (args[0], scans / "sub-2_T1w.nii.gz", *args[2:])
    assert nobrainer_(*other).exit_code == 0


def test_a_scan_given_twice_is_refused_first(scans: Path, tmp_path: Path) -> None:
    result = nobrainer_(
        *("predict", scans / "sub-1_T1w.nii.gz", scans / "." / "sub-1_T1w.nii.gz"),
        *("--model", tmp_path, "--output-dir", tmp_path / "out"),
    )
    assert result.exit_code == 2
    assert "sub-1_T1w.nii.gz: given twice" in result.stderr
    assert not (tmp_path / "out").exists()


def test_predict_warns_of_a_scan_unlike_training_and_qc_gives_it_as_a_reason(
    balls: Path, tmp_path: Path
) -> None:
    image = nib.load(balls / "sub-7_T1w.nii").get_fdata().astype(np.float32)
    scan = tmp_path / "upside.nii"
    # Turned over inside the head alone: with bright air it would be turned back.
    inside = is_head(image)
    turned = np.where(inside, image.max() - image, image.min())
    nib.save(nib.Nifti1Image(turned, np.eye(4)), scan)
    common = (scan, "--model", balls / "brain", "--n-samples", 2)
    result = nobrainer_("predict", *common, "--output-dir", tmp_path / "maps")
    assert result.exit_code == 0
    assert result.stderr.startswith(
        "nobrainer: warning: upside: the scan is unlike the"
    )
    result = nobrainer_("qc", *common, "--output-dir", tmp_path / "qc")
    (row,) = rows_of(tmp_path / "qc" / "qc.tsv")
    assert "the scan is unlike the training scans" in row["reasons"]
    assert row["score_is"] == "agreement of the draws (not a predicted Dice)"
    assert float(row["input_distance"]) > 3 and result.stderr == ""


def test_a_name_that_is_too_long_is_one_line(two_models: Path, tmp_path: Path) -> None:
    long = tmp_path / f"{'x' * 240}.nii"
    shutil.copy(scan(two_models, 0), long)
    result = nobrainer_(
        *("predict", long, scan(two_models, 1), "--model", two_models / "model"),
        *("--output-dir", tmp_path / "out", "--n-samples", 2),
    )
    assert result.exit_code == 1
    (line,) = said(result)
    assert "File name too long" in line and str(long) in line
    assert (tmp_path / "out" / "sub-1_T1w_label.nii.gz").exists()
