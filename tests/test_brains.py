"""The benchmark of whole heads: its figures, its degradations, its table."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from nobrainer.volume import Volume

SCRIPT = Path(__file__).parent.parent / "benchmarks/brains.py"
_spec = spec_from_file_location("brains", SCRIPT)
assert _spec is not None and _spec.loader is not None
brains = module_from_spec(_spec)
_spec.loader.exec_module(brains)

CUBIC = (1.0, 1.0, 1.0)


def head() -> tuple[Volume, Volume]:
    """Ventricle, white matter and cortex, each around the other, in 40³ voxels."""
    radius = np.linalg.norm(np.indices((40, 40, 40)) - 19.5, axis=0)
    labels = np.select([radius < 4, radius < 10, radius < 15], [4, 2, 1001], 0)
    image = np.select([labels == 4, labels == 2, labels == 1001], [30, 110, 70], 0)
    image[radius > 18] = 5
    image[0, 0, 0] = 200
    return Volume(image.astype(np.float32), np.eye(4)), Volume(labels, np.eye(4))


def test_a_mask_is_closed_as_by_three_steps_of_the_neighbours() -> None:
    mask = ndimage.gaussian_filter(np.random.default_rng(0).random((30, 30, 30)), 1)
    mask = np.pad(mask > 0.53, 4)
    cross = ndimage.generate_binary_structure(3, 1)
    expected = ndimage.binary_closing(mask, cross, iterations=3)
    expected = ndimage.binary_fill_holes(expected)
    found = brains.closed(mask, CUBIC)
    assert mask.sum() < expected.sum() < mask.size
    np.testing.assert_array_equal(found, expected)
    assert not brains.closed(np.zeros((5, 5, 5), bool), CUBIC).any()


@pytest.mark.parametrize(
    ("gap", "spacing_mm", "is_closed"),
    [
        (6, CUBIC, True),
        (7, CUBIC, False),
        (3, (2.0, 1.0, 1.0), False),
        (2, (2.0, 1.0, 1.0), True),
        (1, (5.0, 1.0, 1.0), False),
    ],
)
def test_gaps_are_closed_up_to_a_width_in_mm(
    gap: int, spacing_mm: tuple[float, float, float], is_closed: bool
) -> None:
    mask = np.ones((20 + gap, 21, 21), bool)
    mask[10 : 10 + gap] = False
    assert brains.closed(mask, spacing_mm)[10 + gap // 2, 10, 10] == is_closed


def test_what_the_brain_encloses_belongs_to_it() -> None:
    mask = np.ones((30, 30, 30), bool)
    mask[10:20, 10:20, 10:20] = False
    assert brains.closed(mask, CUBIC).all()
    mask[11:19, 11:19, :] = False  # open to both sides
    assert not brains.closed(mask, CUBIC).all()


def test_values_that_are_no_ids_of_freesurfer_are_refused() -> None:
    image, labels = head()
    method = brains.Method("", "MIT", lambda *_: [], "label.nii.gz", ())
    truth = brains.regions(labels.data, CUBIC)
    assert brains.judge(method, labels, image, truth)["dice/white"] == 1
    numbers = Volume(np.where(labels.data == 2, 1, 0), np.eye(4))
    assert "[1]" in brains.judge(method, numbers, image, truth)["failed"]
    smaller = Volume(labels.data[1:], np.eye(4))
    assert "shape" in brains.judge(method, smaller, image, truth)["failed"]


def test_the_brain_is_what_freesurfer_labels_but_for_what_lies_beside_it() -> None:
    labels = np.zeros((11, 11, 11), int)
    labels[5, 5, :] = [0, 2, 251, 3, 1035, 8, 16, 85, 24, 30, 0]
    found = brains.regions(labels, (9.0, 9.0, 9.0))
    assert np.flatnonzero(found["brain"][5, 5]).tolist() == [1, 2, 3, 4, 5, 6]
    assert np.flatnonzero(found["white"][5, 5]).tolist() == [1, 2]
    assert np.flatnonzero(found["grey"][5, 5]).tolist() == [3, 4, 5]
    assert found["brain"].sum() == 6


@pytest.mark.parametrize("step_mm", [1.0, 2.5])
def test_figures_of_a_cube_that_is_moved(step_mm: float) -> None:
    truth, found = np.zeros((2, 20, 16, 16), bool)
    truth[4:14, 3:13, 3:13] = found[6:16, 3:13, 3:13] = True
    affine = np.diag([step_mm, 1, 1, 1])
    row = brains.figures({"brain": truth}, {"brain": found}, affine)
    assert row["dice/brain"] == pytest.approx(0.8)
    assert row["volume_error/brain"] == 0
    # A face of 100 of the 488 voxels of a surface lies two steps away.
    assert row["hd95_mm/brain"] == pytest.approx(2 * step_mm)


def test_figures_of_nothing_and_of_half() -> None:
    truth = np.zeros((8, 8, 8), bool)
    truth[2:6, 2:6, 2:6] = True
    nothing = np.zeros_like(truth)
    assert brains.figures({"brain": truth}, {"brain": nothing}, np.eye(4)) == {
        "dice/brain": 0.0,
        "volume_error/brain": -1.0,
    }
    half = truth.copy()
    half[4:] = False
    row = brains.figures({"brain": truth}, {"brain": half}, np.eye(4))
    assert row["dice/brain"] == pytest.approx(2 / 3)
    assert row["volume_error/brain"] == -0.5


def test_deep_structures_are_averaged_where_there_are_any() -> None:
    labels = np.zeros((12, 6, 6), int)
    labels[1:5, 1:5, 1:5], labels[7:11, 1:5, 1:5] = 10, 11
    found = np.where(labels == 11, 0, labels)
    found[3:5] = 0
    maps = [brains.regions(array, CUBIC) for array in (labels, found)]
    row = brains.figures(*maps, np.eye(4))
    assert row["dice/thalamus"] == pytest.approx(2 / 3)
    assert row["dice/caudate"] == 0
    assert row["dice/deep"] == pytest.approx(1 / 3)
    assert "dice/putamen" not in row
    tissues = brains.regions(np.where(labels > 0, 3, 0), CUBIC)
    assert "dice/deep" not in brains.figures(maps[0], tissues, np.eye(4))


def test_every_condition_is_made_and_keeps_scan_and_labels_together() -> None:
    image, labels = head()
    found = {name: rest for name, *rest in brains.conditions(image, labels)}
    assert tuple(found) == brains.CONDITIONS
    for scan, truth in found.values():
        assert scan.data.shape == truth.data.shape
        assert scan.data.dtype == np.float32
        np.testing.assert_array_equal(scan.affine, truth.affine)
    inverted, _ = found["inverted"]
    np.testing.assert_array_equal(inverted.data, 200 - image.data)
    sliced, truth = found["5 mm slices"]
    assert sliced.geometry.spacing_mm == (1, 1, 5) and sliced.data.shape == (40, 40, 8)
    assert truth.data[20, 20].tolist() == [0, 3, 2, 4, 4, 2, 3, 0]
    assert sliced.data.sum() == pytest.approx(image.data.sum() / 5, rel=0.01)


def test_slices_lie_between_below_and_above_whatever_the_axes() -> None:
    affine = nib.orientations.inv_ornt_aff([[0, 1], [2, -1], [1, 1]], (40, 40, 40))
    image, labels = (Volume(v.data, affine) for v in head())
    assert image.geometry.orientation == "RSP"
    scan, _ = brains.thick_slices(image, labels)
    assert scan.data.shape == (40, 8, 40)


def test_a_slice_has_the_label_that_fills_most_of_it() -> None:
    """Cortex has the middle one of five layers, then two parcels the upper three."""
    labels = np.full((4, 4, 15), 2)
    labels[:, :, 7] = 3
    labels[:, :, 12], labels[:, :, 13:] = 1001, 1035
    image = Volume((labels > 2).astype(np.float32), np.eye(4))
    _, found = brains.thick_slices(image, Volume(labels, np.eye(4)))
    assert found.data[0, 0].tolist() == [2, 2, 3]


def test_a_head_is_turned_by_30_degrees() -> None:
    centres = np.array([[14, 20, 20], [26, 16, 20], [20, 28, 27]])
    labels = np.zeros((41, 41, 41), int)
    for value, centre in enumerate(centres, 1):
        steps = np.indices(labels.shape) - centre[:, None, None, None]
        labels[(steps**2).sum(0) <= 16] = value
    volume = Volume(labels.astype(np.float32), np.eye(4))
    _, turned = brains.turned(volume, Volume(labels, np.eye(4)))
    after = np.array(ndimage.center_of_mass(turned.data > 0, turned.data, [1, 2, 3]))
    before = centres - 20.0
    turn = np.linalg.solve(before, after - 20)
    angle = np.degrees(np.arccos((np.trace(turn) - 1) / 2))
    assert angle == pytest.approx(30, abs=1)


def test_a_t1_scan_gets_the_order_of_a_t2_scan() -> None:
    image, labels = head()
    data = brains.t2_like(image, labels).data
    means = [data[labels.data == value].mean() for value in (4, 1001, 2)]
    assert means == pytest.approx([100, 55, 35])
    assert data[image.data == 0].max() == 0
    # Most voxels of a narrow ventricle hold some tissue, and are not what is brightest.
    mixed = ndimage.binary_dilation(labels.data == 2) & (labels.data == 4)
    image.data[mixed] = 50
    data = brains.t2_like(image, labels).data
    assert data[(labels.data == 4) & ~mixed].tolist() == [100] * 136
    assert data[mixed].tolist() == [pytest.approx(77.5)] * mixed.sum()
    with pytest.raises(SystemExit, match="no T1"):
        brains.t2_like(Volume(-image.data, np.eye(4)), labels)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Unknown", 0),
        ("White Matter", 2),
        ("Gray Matter", 3),
        ("Inferior-Lateral-Ventricle", 5),
        ("Thalamus", 10),
        ("Brain-Stem", 16),
        ("Right-Putamen", 51),
    ],
)
def test_structures_are_known_by_their_names(name: str, expected: int) -> None:
    assert brains.freesurfer_id(name) == expected
    with pytest.raises(SystemExit, match="Nose"):
        brains.freesurfer_id("Nose")


def test_what_a_command_costs_is_its_own(tmp_path: Path) -> None:
    ballast = np.ones(250 * 2**17)  # of this process: 250 MiB
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', '{}'])"
    inner = "b = bytes([1]) * (100 * 2**20)"
    row = brains.run([sys.executable, "-c", code.format(inner)], tmp_path, 1, 60)
    assert ballast.nbytes / 2**20 == 250
    assert 100 < row["peak_mib"] < 200
    assert 0 < row["cpu_s"] < 30 and 0 < row["wall_s"] < 60


@pytest.mark.parametrize(
    ("code", "timeout_s", "expected"),
    [
        ("print('no'); raise ValueError('no brain here')", 60, "ValueError: no brain"),
        ("raise SystemExit(3)", 60, "ended with code 3"),
        ("import os; os.kill(os.getpid(), 9)", 60, "ended with code 137"),
        ("import time; time.sleep(60)", 0.5, "not done after 0.5 s"),
    ],
)
def test_commands_that_fail_say_why(
    tmp_path: Path, code: str, timeout_s: float, expected: str
) -> None:
    row = brains.run([sys.executable, "-c", code], tmp_path, 1, timeout_s)
    assert row.keys() == {"failed"} and expected in row["failed"]


def test_the_table_holds_medians_and_failures() -> None:
    cost = {"cpu_s": 2.0, "wall_s": 3.0, "peak_mib": 100.0}
    common = {"method": "tool", "version": "1.0", "licence": "MIT"}
    rows = [
        common | cost | {"condition": "as it is", "dice/brain": dice}
        for dice in (0.9, 0.95, 0.97)
    ]
    rows += [common | {"condition": name, "failed": "no"} for name in ("noise",)]
    rows += [common | {"condition": "as it is", "failed": "no"}]
    lines = brains.table(rows).splitlines()
    assert lines[2].startswith("| brain, Dice | tool | 0.950 (1 failed) | n/a |")
    assert lines[2].endswith("| failed |")
    assert lines[-1] == "| tool | 1.0 | MIT | 2 | 3 | 100 |"


def test_heads_are_measured_by_what_is_installed(tmp_path: Path) -> None:
    image, labels = head()
    for name, volume in (("a_orig", image), ("a_aseg", labels)):
        data = volume.data.astype(np.int16)
        nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / f"{name}.nii.gz")
    code = (
        "import sys, nibabel as nib; scan = nib.load(sys.argv[1]); "
        "mask = (scan.get_fdata() > 20).astype('uint8'); mask[0, 0, 0] = 0; "
        "nib.save(nib.Nifti1Image(mask, scan.affine), sys.argv[2])"
    )
    present = brains.Method(
        "",
        "MIT",
        lambda programs, scan, out: [
            *(str(programs / "python"), "-c", code),
            *(str(scan), str(out / "mask.nii.gz")),
        ],
        "mask.nii.gz",
    )
    missing = brains.Method("tool==1", "MIT", lambda *_: [], "mask.nii.gz")
    args = brains.read_arguments(
        ["--heads", str(tmp_path), "--environments", str(tmp_path / "none")]
    )
    args.conditions = ["as it is"]
    rows = list(brains.measure(args, {"present": present, "tool": missing}))
    assert [brains.key(row) for row in rows] == [("present", "a", "as it is")]
    # The closing rounds the ball off, by some voxels.
    assert rows[0]["dice/brain"] > 0.99
    (tmp_path / "b_orig.mgz").touch()
    with pytest.raises(SystemExit, match="b_aseg"):
        list(brains.heads(tmp_path))
