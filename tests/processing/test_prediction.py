"""The change of a structure between two scans, by a model that has learned it."""

import nibabel as nib
import numpy as np
import pytest

import nobrainer as nb
from brains import model_of_brains, noise
from nobrainer.changes import compare_draws
from nobrainer.errors import InputError
from nobrainer.processing.prediction import Prediction
from report_pages import predicted as of_balls

SHAPE = (24, 24, 24)


def ball(number: int, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball of a radius in voxels in a dimmer one, and its mask."""
    rng = np.random.default_rng(number)
    centre = np.array(SHAPE) / 2 + rng.uniform(-2, 2, 3)
    distance = np.linalg.norm(np.indices(SHAPE).T - centre, axis=-1).T
    mask = (distance < radius).astype(np.uint8)
    image = 60 * (distance < 10) + 60 * mask + rng.normal(20, 5, SHAPE)
    return image.astype(np.float32), mask


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> nb.Segmentation:
    """A model that has seen balls of many sizes."""
    folder = tmp_path_factory.mktemp("sizes")
    pairs = []
    for number in range(6):
        pair = tuple(folder / f"sub-{number}_{what}.nii" for what in ("T1w", "mask"))
        for data, path in zip(ball(number, 5.5 + number / 2), pair, strict=True):
            nib.save(nib.Nifti1Image(data, np.eye(4)), path)
        pairs.append(pair)
    dataset = nb.Dataset.from_files(pairs, (16, 16, 16)).batch(2).binarize()
    return nb.Segmentation("bayesian_vnet", {"base_filters": 4, "levels": 2}).fit(
        dataset.patches(per_volume=8), epochs=6, opt_args={"lr": 0.02}, verbose=False
    )


def predicted(
    model: nb.Segmentation,
    image: np.ndarray | nib.Nifti1Image,
    seed: int = 1,
    n_samples: int = 8,
) -> Prediction:
    scan = (image, np.eye(4)) if isinstance(image, np.ndarray) else image
    return model.predict(scan, n_samples=n_samples, seed=seed, verbose=False)


@pytest.mark.parametrize("number", [11, 13])
def test_the_same_draws_narrow_the_interval_of_a_change(
    model: nb.Segmentation, number: int
) -> None:
    """A ball shrinks by 6 % of its radius: the interval holds by how much."""
    (before, large), (after, small) = ball(number, 7), ball(number, 6.6)
    true_mm3 = float(small.sum()) - float(large.sum())
    earlier, later = predicted(model, before), predicted(model, after)
    (change,) = later.changes_since(earlier, years=2)
    assert change.name == "foreground" and change.years == 2
    assert change.change_low_mm3 <= true_mm3 <= change.change_high_mm3 < 0
    differences = later.volumes_mm3[:, 1] - earlier.volumes_mm3[:, 1]
    assert change.change_sd_mm3 == pytest.approx(differences.std(ddof=1))
    others = predicted(model, after, seed=2)
    (apart,) = compare_draws(
        ["foreground"], earlier.volumes_mm3[:, 1:], others.volumes_mm3[:, 1:]
    )
    assert change.correlation > 0.8 > apart.correlation
    assert change.change_sd_mm3 < apart.change_sd_mm3 / 3
    # As uncertain as two volumes whose draws know nothing of each other.
    sds = [one.structures[0].volume_sd_mm3 for one in (earlier, others)]
    assert apart.change_sd_mm3 == pytest.approx(np.hypot(*sds), rel=0.25)


def test_predictions_of_other_draws_are_refused(model: nb.Segmentation) -> None:
    image, _ = ball(11, 7)
    earlier = predicted(model, image, n_samples=2)
    for other in (
        predicted(model, image, seed=2, n_samples=2),
        predicted(model, image, n_samples=3),
    ):
        with pytest.raises(InputError, match="predict both with one seed"):
            other.changes_since(earlier)


def test_the_brain_as_a_whole_changes_draw_by_draw() -> None:
    brains, image = model_of_brains(), noise()
    half = nib.Nifti1Image(image.get_fdata()[:, :, :12], image.affine)
    earlier, later = (predicted(brains, one, n_samples=4) for one in (image, half))
    changes = {one.name: one for one in later.changes_since(earlier)}
    assert list(changes)[-2:] == ["brain", "intracranial"]
    assert len(changes) == len(brains.learned_.labels.names) - 1 + 2
    both = [one.volumes_mm3[:, [1, 2, 3, 5, 6]].sum(1) for one in (earlier, later)]
    assert changes["brain"].earlier_mm3 == pytest.approx(earlier.totals[0].volume_mm3)
    assert changes["brain"].change_mm3 == pytest.approx((both[1] - both[0]).mean())
    assert changes["brain"].change_sd_mm3 == pytest.approx(
        (both[1] - both[0]).std(ddof=1)
    )


def test_files_hold_maps_without_meaningless_digits() -> None:
    prediction = of_balls()
    assert prediction.to_file("label") is prediction.label
    steps = {"variance": 2**-24, "entropy": 2**-14, "mutual_information": 2**-14}
    for name, step in steps.items():
        exact = np.asarray(getattr(prediction, name).dataobj)
        found = np.asarray(prediction.to_file(name).dataobj)
        assert step / 4 < np.abs(found - exact).max() <= step / 2
    with pytest.raises(InputError, match="unknown map 'entropie'"):
        prediction.to_file("entropie")
