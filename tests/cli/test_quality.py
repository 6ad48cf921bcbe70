"""The commands that judge a model and its predictions, against the Python API."""

import csv
import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner, Result

import nobrainer as nb
from balls import write_ball
from nobrainer.cli import main

TRAIN, HELD_OUT, TEST = range(3), range(3, 7), range(7, 9)


def nobrainer_(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def write_table(path: Path, numbers: Sequence[int]) -> Path:
    rows = [f"sub-{n}_T1w.nii,sub-{n}_mask.nii\n" for n in numbers]
    path.write_text("features,labels\n" + "".join(rows))
    return path


def errors_of(result: Result) -> list[str]:
    """What is said on standard error besides the progress."""
    lines = result.stderr.splitlines()
    return [line for line in lines if line.startswith("nobrainer: ")]


def scans_of(folder: Path, numbers: Sequence[int]) -> list[Path]:
    return [folder / f"sub-{n}_T1w.nii" for n in numbers]


def is_narrow(text: str) -> bool:
    return max(map(len, text.splitlines())) <= 80


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Balls, their tables, and the model `brain` trained on three of them."""
    folder = tmp_path_factory.mktemp("balls")
    for number in range(9):
        write_ball(folder, number)
    for name, numbers in (("train", TRAIN), ("held-out", HELD_OUT), ("test", TEST)):
        write_table(folder / f"{name}.csv", numbers)
    result = nobrainer_(
        *("train", "--data", folder / "train.csv", "--output-dir", folder / "brain"),
        *("--model-arg", "base_filters=2", "--model-arg", "levels=1", "--epochs", 8),
        *("--block-shape", 16, 16, 16, "--patches-per-volume", 8, "--batch-size", 4),
        *("--learning-rate", 0.02),
    )
    assert result.exit_code == 0, result.stderr
    return folder


FIT = ("--coverage", 0.75, "--quality", "--n-samples", 3, "--seed", 4)


@pytest.fixture(scope="module")
def calibrated(folder: Path) -> Path:
    """The model, calibrated by the command line, which prints it as a table."""
    path = folder / "calibrated"
    result = nobrainer_(
        *("calibrate", "--data", folder / "held-out.csv", "--model", folder / "brain"),
        *("--output-dir", path, *FIT),
    )
    assert result.exit_code == 0, result.stderr
    # How long it may take is no result.
    assert "s a time)" in result.stderr and "s a time)" not in result.stdout
    fitted = nb.Segmentation.load(path)
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert f"temperature {1 / fitted.calibration_.weight[0]:.4g}" in lines
    assert f"foreground {fitted.calibration_.intervals.factors[1]:.3f}" in lines
    assert lines[-1] == f"model: {path}"
    return path


# --- evaluate


def test_evaluate_gives_the_figures_of_the_api(folder: Path, tmp_path: Path) -> None:
    args = (
        *("evaluate", "--data", folder / "test.csv", "--model", folder / "brain"),
        *("--output-dir", tmp_path / "out", "--n-samples", 3, "--seed", 2),
    )
    result = nobrainer_(*args, "--json")
    assert result.exit_code == 0, result.stderr
    segmentation = nb.Segmentation.load(folder / "brain")
    pairs = [write_ball(tmp_path, number) for number in TEST]
    evaluation = segmentation.evaluate(segmentation.dataset(pairs), n_samples=3, seed=2)
    story = json.loads(result.stdout)
    assert story["metrics"] == pytest.approx(nb.summarise(evaluation))
    assert story["metrics"]["dice"] > 0.8
    assert story["n_scans"] == 2
    found = rows_of(tmp_path / "out" / "metrics.tsv")
    assert list(found[0]) == [
        "subject",
        "region",
        "structure",
        "metric",
        "value",
        "seen",
    ]
    assert [row["metric"] for row in found] == [row.metric for row in evaluation]
    values = [float(row["value"]) for row in found]
    assert values == pytest.approx([row.value for row in evaluation])
    page = Path(story["files"]["report"]).read_text()
    assert page.startswith("<!DOCTYPE html>") and "brain on test.csv" in page

    again = nobrainer_(*args, "--json")
    assert again.exit_code == 0 and again.stdout == result.stdout
    assert "done before" in again.stderr and again.stderr.count("\n") == 1


def test_evaluate_refuses_scans_of_the_training_or_says_so_everywhere(
    folder: Path, tmp_path: Path
) -> None:
    args = (
        *("evaluate", "--data", write_table(folder / "mixed.csv", (0, 7))),
        *("--model", folder / "brain", "--n-samples", 1, "--no-surfaces"),
    )
    refused = nobrainer_(*args, "--output-dir", tmp_path / "no")
    assert refused.exit_code == 2 and not (tmp_path / "no").exists()
    assert "sub-0_T1w.nii: the model has used it in training" in refused.stderr
    assert "sub-7" not in refused.stderr and refused.stderr.count("\n") == 1
    text = "The model has used 1 of these 2 scans before (1 in training)"
    shown = nobrainer_(*args, "--allow-seen", "--output-dir", tmp_path / "a")
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.startswith("WARNING: The model has used 1 of these 2 scans")
    assert "means over 2 scans of 2 subjects" in shown.stdout
    assert is_narrow(shown.stdout.partition("files")[0])
    rows = rows_of(tmp_path / "a" / "metrics.tsv")
    uses = {(row["subject"], row["seen"]) for row in rows}
    assert uses == {("sub-0_T1w", "training"), ("sub-7_T1w", "n/a")}
    assert text in (tmp_path / "a" / "evaluation.html").read_text()
    story = json.loads(
        nobrainer_(
            *args, "--allow-seen", "--json", "--output-dir", tmp_path / "b"
        ).stdout
    )
    assert story["seen"] == {"sub-0_T1w": "training"} and text in story["warning"]
    assert (story["n_scans"], story["n_subjects"]) == (2, 2)


def test_evaluate_goes_on_without_the_scans_that_are_not_there(
    folder: Path, tmp_path: Path
) -> None:
    table = tmp_path / "gaps.csv"
    ball = [folder / f"sub-7_{kind}.nii" for kind in ("T1w", "mask")]
    rows = (
        ball,
        (tmp_path / "no.nii", ball[1]),
        (folder / "sub-8_T1w.nii", tmp_path / "none.nii"),
    )
    table.write_text("features,labels\n" + "".join(f"{a},{b}\n" for a, b in rows))
    args = ("evaluate", "--data", table, "--model", folder / "brain", "--n-samples", 1)
    result = nobrainer_(*args, "--no-surfaces", "--output-dir", tmp_path / "out")
    assert result.exit_code == 1
    assert errors_of(result) == [
        f"nobrainer: error: {tmp_path / name}: no such file: check the path"
        for name in ("no.nii", "none.nii")
    ]
    found = rows_of(tmp_path / "out" / "metrics.tsv")
    assert {row["subject"] for row in found} == {"sub-7_T1w"}
    table.write_text("features,labels\nno.nii,none.nii\n")
    none = nobrainer_(*args, "--no-surfaces", "--output-dir", tmp_path / "nothing")
    assert none.exit_code == 1 and not (tmp_path / "nothing").exists()


def test_evaluate_prints_structures_and_both_regions(
    folder: Path, calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    args = (
        *("evaluate", "--data", folder / "test.csv", "--model", calibrated),
        *("--output-dir", "out", "--n-samples", 3),
    )
    result = nobrainer_(*args)
    assert result.exit_code == 0, result.stderr
    assert is_narrow(result.stdout)
    evaluation = rows_of(Path("out/metrics.tsv"))

    def mean(metric: str, region: str = "volume") -> float:
        return float(
            np.mean(
                [
                    float(row["value"])
                    for row in evaluation
                    if (row["metric"], row["region"]) == (metric, region)
                ]
            )
        )

    lines = [line.split() for line in result.stdout.splitlines()]
    (row,) = [line for line in lines if line[:1] == ["foreground"]]
    assert row[1:4] == [
        f"{mean('dice'):.3f}",
        f"{mean('hd95_mm'):.2f}",
        f"{mean('surface_dice'):.3f}",
    ]
    assert row[4:] == [f"{100 * mean('volume_error'):.1f}", "%"]
    for words, metric in (
        ("neg. log-likelihood (nats)", "nll"),
        ("errors found by entropy, AUROC", "auroc_entropy"),
    ):
        (found,) = [line for line in lines if " ".join(line).startswith(words)]
        regions = [mean(metric, region) for region in ("volume", "foreground")]
        assert found[-2:] == [f"{value:.4f}" for value in regions]
        assert regions[0] != regions[1]
    share = f"{100 * mean('conformal_covered'):.0f} %"
    assert f"inside the calibrated interval: {share}" in result.stdout

    quick = nobrainer_(*args, "--no-surfaces", "--overwrite")
    assert quick.exit_code == 0, quick.stderr
    metrics = {row["metric"] for row in rows_of(Path("out/metrics.tsv"))}
    assert "dice" in metrics and not metrics & {"hd95_mm", "surface_dice"}


# --- calibrate and info


def test_calibrate_saves_what_the_api_fits(folder: Path, calibrated: Path) -> None:
    fitted = nb.Segmentation.load(calibrated)
    by_hand = nb.Segmentation.load(folder / "brain")
    pairs = [
        (image, folder / f"sub-{n}_mask.nii")
        for n, image in enumerate(scans_of(folder, HELD_OUT), HELD_OUT.start)
    ]
    by_hand.calibrate(by_hand.dataset(pairs), coverage=0.75, n_samples=3, seed=4)
    calibration = fitted.calibration_
    assert calibration.weight == pytest.approx(by_hand.calibration_.weight, rel=1e-4)
    assert calibration.nll_after <= calibration.nll_before
    assert calibration.intervals.coverage == 0.75
    assert fitted.quality_.n_subjects == len(HELD_OUT)

    story = json.loads(nobrainer_("info", calibrated, "--json").stdout)
    assert story["calibration"]["weight"] == list(calibration.weight)
    assert story["quality"]["error"] == fitted.quality_.error
    lines = nobrainer_("info", calibrated).stdout.splitlines()
    told = "temperature, fitted on 4 scans of 4 subjects"
    assert f"  method               {told}" in lines
    assert f"  error of Dice        {fitted.quality_.error:.3f}" in "\n".join(lines)
    plain = json.loads(nobrainer_("info", folder / "brain", "--json").stdout)
    assert plain["calibration"] is None and plain["quality"] is None


def test_vector_scaling_prints_a_weight_for_each_class(
    folder: Path, tmp_path: Path
) -> None:
    args = (
        *("calibrate", "--data", folder / "held-out.csv", "--model", folder / "brain"),
        *("--output-dir", tmp_path / "new" / "vector"),
    )
    result = nobrainer_(*args, "--method", "vector", "--n-samples", 2)
    assert result.exit_code == 0, result.stderr
    calibration = nb.Segmentation.load(tmp_path / "new" / "vector").calibration_
    for name, weight, bias in zip(
        ("background", "foreground"), calibration.weight, calibration.bias, strict=True
    ):
        assert [name, f"{weight:.3f}", f"{bias:.3f}"] in [
            line.split() for line in result.stdout.splitlines()
        ]
    as_json = nobrainer_(*args, "--n-samples", 2, "--overwrite", "--json")
    story = json.loads(as_json.stdout)
    assert story["model"] == str(tmp_path / "new" / "vector")
    assert story["calibration"]["method"] == "temperature"
    assert story["calibration"]["intervals"] is None and story["quality"] is None


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ("train.csv", (), "the model was trained on it"),
        ("held-out.csv", ("--coverage", 0.9), "need at least 9 labelled subjects"),
        ("none.csv", (), "none.csv: cannot be read"),
    ],
)
def test_what_cannot_be_calibrated_on_leaves_no_model(
    folder: Path, tmp_path: Path, table: str, options: tuple[object], message: str
) -> None:
    out = tmp_path / "out"
    result = nobrainer_(
        *("calibrate", "--data", folder / table, "--model", folder / "brain"),
        *("--output-dir", out, "--n-samples", 2, *options),
    )
    assert result.exit_code == 2
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert not out.exists()


def test_calibrate_keeps_a_model_that_is_there(folder: Path) -> None:
    before = (folder / "brain" / "SHA256SUMS").read_bytes()
    result = nobrainer_(
        *("calibrate", "--data", folder / "held-out.csv", "--model", folder / "brain"),
        *("--output-dir", folder / "brain"),
    )
    assert result.exit_code == 2 and "already there" in result.stderr
    assert (folder / "brain" / "SHA256SUMS").read_bytes() == before


# --- qc and report


def test_qc_says_what_the_api_says_worst_first(
    folder: Path, calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / "bad.nii"
    bad.write_bytes(b"not an image")
    image = nib.load(folder / "sub-8_T1w.nii")
    noise = np.random.default_rng(0).normal(0, 60, image.shape)
    noisy = nib.Nifti1Image((image.get_fdata() + noise).astype(np.float32), np.eye(4))
    nib.save(noisy, "noisy.nii")
    files = [folder / "sub-7_T1w.nii", Path("noisy.nii")]
    args = (
        *("qc", bad, *files, "--model", calibrated, "--output-dir", "out"),
        *("--n-samples", 3, "--seed", 1, "--threshold", 0.9),
    )
    args = (*args, folder / "test.csv")
    result = nobrainer_(*args)
    assert result.exit_code == 1
    of_bad, of_table = errors_of(result)
    assert of_bad.startswith(f"nobrainer: error: {bad}: ")
    assert "test.csv: unknown suffix" in of_table
    segmentation = nb.Segmentation.load(calibrated)
    predictions = {
        file.stem: segmentation.predict(file, n_samples=3, seed=1) for file in files
    }
    cases = {
        name: segmentation.quality(prediction, threshold=0.9)
        for name, prediction in predictions.items()
    }
    order = ["noisy", "sub-7_T1w"]
    assert cases["noisy"].flags and not cases["sub-7_T1w"].flags
    assert cases["noisy"].score < cases["sub-7_T1w"].score
    rows = rows_of(Path("out/qc.tsv"))
    assert [row["subject"] for row in rows] == order
    for row in rows:
        case = cases[row["subject"]]
        assert float(row["score"]) == pytest.approx(case.score, rel=1e-4)
        assert row["flagged"] == str(bool(case.flags)).lower()
        assert row["reasons"] == ("; ".join(case.flags) or "n/a")
    lines = result.stdout.splitlines()
    assert lines[1] == f"noisy      {cases['noisy'].score:.3f}  flagged"
    reasons = " ".join(line.strip() for line in lines[2:] if line.startswith("    "))
    assert reasons == " ".join(cases["noisy"].flags)
    assert f"sub-7_T1w  {cases['sub-7_T1w'].score:.3f}" in lines
    assert is_narrow(result.stdout)
    assert "1 of 2 flagged; score: predicted Dice, 0 to 1" in result.stdout
    assert "checked: the predicted Dice; draws and entropy" in result.stdout

    volumes = rows_of(Path("out/structures.tsv"))
    assert [row["subject"] for row in volumes] == ["noisy", "sub-7_T1w"]
    for row in volumes:
        (structure,) = predictions[row["subject"]].structures
        for column in ("volume_mm3", "conformal_low_mm3", "conformal_high_mm3"):
            assert float(row[column]) == pytest.approx(getattr(structure, column))
    regions = rows_of(Path("out/regions.tsv"))
    assert [row["subject"] for row in regions] == [
        name for name in ("noisy", "sub-7_T1w") for _ in predictions[name].regions
    ]
    assert [float(row["peak"]) for row in regions] == pytest.approx(
        [
            one.peak
            for name in ("noisy", "sub-7_T1w")
            for one in predictions[name].regions
        ],
        rel=1e-4,
    )
    for name in ("qc", "structures"):
        columns = json.loads(Path(f"out/{name}.json").read_text())
        assert set(rows_of(Path(f"out/{name}.tsv"))[0]) <= set(columns)

    before = Path("out/qc.tsv").read_bytes()
    done = nobrainer_(*args)
    assert done.exit_code == 1 and "2 of 4 scans were done before" in done.stderr
    assert done.stdout == result.stdout
    assert Path("out/qc.tsv").read_bytes() == before
    again = nobrainer_(*args, "--overwrite")
    assert again.exit_code == 1
    assert Path("out/qc.tsv").read_bytes() == before
    assert rows_of(Path("out/structures.tsv")) == volumes


def test_predict_warns_of_a_scan_unlike_training_and_qc_gives_it_as_a_reason(
    folder: Path, tmp_path: Path
) -> None:
    image = nib.load(folder / "sub-7_T1w.nii").get_fdata().astype(np.float32)
    scan = tmp_path / "upside.nii"
    nib.save(nib.Nifti1Image(image.max() - image, np.eye(4)), scan)
    common = (scan, "--model", folder / "brain", "--n-samples", 2)
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


def test_qc_of_a_run_finds_the_scan_unlike_the_others(
    folder: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(20, 5, (24, 24, 24)).astype(np.float32)
    odd = tmp_path / "odd.nii"
    nib.save(nib.Nifti1Image(noise, np.eye(4)), odd)
    files = [*scans_of(folder, range(9)), odd]
    result = nobrainer_(
        *("qc", *files, "--model", folder / "brain", "--output-dir", tmp_path / "out"),
        *("--n-samples", 3, "--json"),
    )
    assert result.exit_code == 0, result.stderr
    scans = json.loads(result.stdout)["scans"]
    assert scans[0]["subject"] == "odd" and scans[0]["input"] == str(odd)
    assert any("the median of this run" in reason for reason in scans[0]["reasons"])
    assert scans[0]["predicted_dice"] is None
    assert 0 <= scans[0]["score"] < min(scan["score"] for scan in scans[1:]) <= 1
    assert {scan["subject"] for scan in scans} == {file.stem for file in files}


def test_what_was_done_before_an_interruption_is_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the third of four scans; the second is the worse of the done ones."""
    rng = np.random.default_rng(0)
    noise = rng.normal(20, 5, (24, 24, 24)).astype(np.float32)
    odd = tmp_path / "odd.nii"
    nib.save(nib.Nifti1Image(noise, np.eye(4)), odd)
    files = [folder / "sub-7_T1w.nii", odd, *scans_of(folder, (3, 4))]
    qc, index = tmp_path / "out" / "qc.tsv", tmp_path / "out" / "index.html"
    predict, seen = nb.Segmentation.predict, []

    def predict_two(self: nb.Segmentation, file: Path, **options: object) -> object:
        if file == files[2]:
            seen.extend(row["subject"] for row in rows_of(qc))
            assert not index.exists()
            raise KeyboardInterrupt
        return predict(self, file, **options)

    monkeypatch.setattr(nb.Segmentation, "predict", predict_two)
    result = nobrainer_(
        *("report", *files, "--model", folder / "brain", "--n-samples", 2),
        *("--output-dir", qc.parent),
    )
    # A table that takes long to write is not written after each scan.
    assert "sub-7_T1w" in seen
    assert result.exit_code == 130 and result.stdout == ""
    assert errors_of(result) == [
        f"nobrainer: interrupted: 2 scans of {qc.parent} are done, see {qc}; the same "
        "command goes on"
    ]
    assert [row["subject"] for row in rows_of(qc)] == ["odd", "sub-7_T1w"]
    volumes = rows_of(qc.with_name("structures.tsv"))
    assert [row["subject"] for row in volumes] == ["odd", "sub-7_T1w"]
    assert _Links(index.read_text()).found == {"sub-7_T1w.html", "odd.html"}
    assert json.loads(qc.with_name("qc.json").read_text()) == nb.quality.sidecar()


def test_an_interrupt_without_words_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(nb.Segmentation, "rank", stop)
    files = scans_of(folder, TEST)
    result = nobrainer_("rank", *files, "--model", folder / "brain")
    assert (result.exit_code, result.stderr) == (130, "nobrainer: interrupted\n")


class _Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found |= {value for name, value in attrs if name == "href" and value}


def test_report_writes_pages_that_the_index_links(
    folder: Path, calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = scans_of(folder, (7, 8))
    common = (*files, "--model", calibrated, "--n-samples", 3)
    result = nobrainer_("report", *common, "--output-dir", "pages")
    assert result.exit_code == 0, result.stderr
    assert is_narrow(result.stdout) and "pages/index.html" in result.stdout
    pages = {f"{file.stem}.html" for file in files}
    tables = {
        f"{name}.{kind}"
        for name in ("qc", "structures", "regions")
        for kind in ("tsv", "json")
    }
    written = {p.name for p in Path("pages").iterdir()}
    origin = {"provenance.json", "provenance"}
    assert written == {"index.html", *pages, *tables, *origin}
    assert pages <= _Links(Path("pages/index.html").read_text()).found
    for file in files:
        page = Path(f"pages/{file.stem}.html").read_text()
        assert f"<h1>{file.stem}</h1>" in page
        assert "index.html" in _Links(page).found
    assert nobrainer_("qc", *common, "--output-dir", "qc").exit_code == 0
    for name in tables:
        assert Path("qc", name).read_bytes() == Path("pages", name).read_bytes()

    # Tables are made again from what is recorded of each scan.
    Path("pages/qc.tsv").unlink()
    again = nobrainer_("report", *common, "--output-dir", "pages")
    assert again.exit_code == 0
    assert Path("pages/qc.tsv").read_bytes() == Path("qc/qc.tsv").read_bytes()


def test_another_number_of_draws_than_learned_is_refused_first(
    folder: Path, calibrated: Path, tmp_path: Path
) -> None:
    result = nobrainer_(
        *("qc", *scans_of(folder, TEST), "--model", calibrated, "--n-samples", 2),
        *("--output-dir", tmp_path / "out"),
    )
    assert result.exit_code == 2
    assert result.stderr.count("quality was learned with 3") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["qc", "report"])
def test_a_scan_given_twice_is_refused_first(command: str, tmp_path: Path) -> None:
    result = nobrainer_(
        *(command, "a/T1.mgz", "a/../a/T1.mgz", "--model", tmp_path / "none"),
        *("--output-dir", tmp_path / "out"),
    )
    assert result.exit_code == 2
    assert "a/../a/T1.mgz: given twice: give each scan once" in result.stderr


@pytest.mark.parametrize("command", ["predict", "qc", "report", "rank"])
def test_scans_whose_files_are_called_alike_have_names_of_their_own(
    command: str, folder: Path, tmp_path: Path
) -> None:
    files = [tmp_path / f"subject-{n}" / "mri" / "T1.mgz" for n in (1, 2)]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True)
        image = nib.load(folder / f"sub-{number}_T1w.nii")
        nib.save(nib.MGHImage(np.asarray(image.dataobj), image.affine), file)
    args = ("--n-samples", 2, "--model", folder / "brain")
    if command == "rank":
        result = nobrainer_("rank", *files, *args, "--json")
        names = sorted(one["name"] for one in json.loads(result.stdout))
    else:
        out = tmp_path / "out"
        result = nobrainer_(command, *files, *args, "--output-dir", out)
        table = {"predict": "*_structures.tsv"}.get(command, "qc.tsv")
        rows = [row for path in out.glob(table) for row in rows_of(path)]
        names = sorted({row["subject"] for row in rows})
        pages = {path.stem for path in out.glob("*.html")} - {"index"}
        assert pages == ({*names} if command == "report" else set())
        labels = [path.name for path in out.glob("*_label.nii.gz")]
        expected = [f"{name}_label.nii.gz" for name in names]
        assert sorted(labels) == (expected if command == "predict" else [])
    assert result.exit_code == 0, result.stderr
    assert names == ["subject-1_T1", "subject-2_T1"]


def test_a_scan_called_index_has_no_page(tmp_path: Path) -> None:
    result = nobrainer_(
        *("report", "index.nii", "--model", tmp_path, "--output-dir", tmp_path / "out")
    )
    assert result.exit_code == 2 and "index.nii: its page would be" in result.stderr


def test_nothing_is_written_where_no_scan_can_be_predicted(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = nobrainer_(
        *("report", tmp_path / "none.nii", "--model", folder / "brain"),
        *("--output-dir", out),
    )
    assert result.exit_code == 1 and "no such file" in result.stderr
    assert result.stdout == "" and not list(out.iterdir())


def test_the_default_network_and_one_pass_have_pages(
    folder: Path, tmp_path: Path
) -> None:
    data = ("train", "--data", folder / "train.csv", "--binarize", *SMALL)
    scan = folder / "sub-8_T1w.nii"
    for name, meaning in (
        ("bayesian_vnet", "agreement of the draws (not a predicted Dice)"),
        ("vnet", "certainty of one pass (not a predicted Dice)"),
    ):
        model, out = tmp_path / name, tmp_path / f"{name}-pages"
        trained = nobrainer_(*data, "--model", name, "--output-dir", model)
        assert trained.exit_code == 0, trained.stderr
        result = nobrainer_(
            *("report", scan, "--model", model, "--output-dir", out, "--n-samples", 2)
        )
        assert result.exit_code == 0, result.stderr
        assert f"score: {meaning}, 0 to 1" in " ".join(result.stdout.split())
        page = (out / "sub-8_T1w.html").read_text()
        assert "iframe" in page and "foreground" in page


# --- rank


def test_rank_prints_the_order_of_the_api(folder: Path, tmp_path: Path) -> None:
    files = scans_of(folder, HELD_OUT)
    missing = tmp_path / "missing.nii"
    args = (
        *("rank", missing, *files, "--model", folder / "brain", "--n-samples", 3),
        *("--strategy", "pairwise_dice", "--seed", 5),
    )
    table = tmp_path / "new" / "next.tsv"
    result = nobrainer_(*args, "--output", table)
    assert result.exit_code == 1
    (line,) = errors_of(result)
    assert line.startswith(f"nobrainer: error: {missing}: no such file")
    segmentation = nb.Segmentation.load(folder / "brain")
    ranked = segmentation.rank(files, "pairwise_dice", n_samples=3, seed=5)
    assert result.stdout == nb.ranking.to_tsv(ranked)
    assert table.read_text() == result.stdout
    assert {row["subject"] for row in rows_of(table)} == {file.stem for file in files}
    scores = [float(row["score"]) for row in rows_of(table)]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == len(files)
    taken = nobrainer_(*args, "--output", table)
    assert taken.exit_code == 2 and "next.tsv: exists already" in taken.stderr
    assert nobrainer_(*args, "--output", table, "--overwrite").exit_code == 1
    folder_there = nobrainer_(*args, "--output", tmp_path, "--overwrite")
    assert folder_there.exit_code == 2 and "is a directory" in folder_there.stderr
    as_json = json.loads(nobrainer_(*args, "--json").stdout)
    assert [one["name"] for one in as_json] == [one.name for one in ranked]
    near = nobrainer_(
        "rank", *files, "--model", folder / "brain", "--strategy", "entrpy"
    )
    assert near.exit_code == 2 and "did you mean 'entropy'" in near.stderr


def test_a_ranking_of_nothing_has_no_table(folder: Path, tmp_path: Path) -> None:
    args = ("rank", tmp_path / "none.nii", "--model", folder / "brain")
    result = nobrainer_(*args, "--output", tmp_path / "next.tsv")
    assert result.exit_code == 1 and "none.nii: no such file" in result.stderr
    assert result.stdout == "" and not (tmp_path / "next.tsv").exists()
    assert json.loads(nobrainer_(*args, "--json").stdout) == []


# --- train: ensembles and warm starts

SMALL = (
    *("--model-arg", "base_filters=1", "--model-arg", "levels=1", "--epochs", 1),
    *("--block-shape", 16, 16, 16, "--patches-per-volume", 2, "--batch-size", 2),
)


def test_train_an_ensemble_and_start_from_a_deterministic_model(
    folder: Path, tmp_path: Path
) -> None:
    data = ("train", "--data", folder / "train.csv", *SMALL)
    plain, three = tmp_path / "plain", tmp_path / "two"
    result = nobrainer_(*data, "--model", "vnet", "--members", 2, "--output-dir", three)
    assert result.exit_code == 0, result.stderr
    recipe = json.loads(nobrainer_("info", three, "--json").stdout)["recipe"]
    assert recipe["model"]["name"] == "ensemble"
    assert [name for name, _ in recipe["model"]["args"]["members"]] == ["vnet"] * 2
    assert len(set(recipe["provenance"]["member_seeds"])) == 2
    text = nobrainer_("info", three).stdout
    assert "  member 1             name vnet, base_filters 1, levels 1" in text
    one = nobrainer_(*data, "--members", 1, "--output-dir", tmp_path / "one")
    assert one.exit_code == 2 and "--members" in one.stderr

    done = nobrainer_(*data, "--model", "vnet", "--output-dir", plain)
    assert done.exit_code == 0, done.stderr
    warm = nobrainer_(*data, "--warm-start", plain, "--output-dir", tmp_path / "warm")
    assert warm.exit_code == 0, warm.stderr
    story = json.loads(nobrainer_("info", tmp_path / "warm", "--json").stdout)
    assert len(story["recipe"]["training"]["warm_start"]) == 64
    wrong = nobrainer_(*data, "--warm-start", three, "--output-dir", tmp_path / "w")
    assert wrong.exit_code == 2 and wrong.stderr.count("\n") == 1
