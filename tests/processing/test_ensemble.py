"""Ensembles through the facade: each member a training of its own, one bundle."""

import warnings

import numpy as np
import pytest
import torch

import nobrainer as nb
from balls import ball, write_ball
from nobrainer.errors import FewerDrawsWarning, InputError

SMALL = {"base_filters": 2, "levels": 2}
BAYESIAN = ("bayesian_vnet", {"levels": 2, "posterior_scale": 0.5})


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble")
    return [write_ball(folder, number) for number in range(3)]


@pytest.fixture(scope="module")
def data(pairs):
    dataset = nb.Dataset.from_files(pairs, (16, 16, 16)).batch(2).binarize()
    return dataset.patches(per_volume=4)


@pytest.fixture(scope="module")
def fitted(data):
    return nb.Ensemble("vnet", SMALL, n_members=3).fit(data, epochs=2, seed=7)


def probabilities(segmentation, **how):
    image, _ = ball(5)
    ask = {"probabilities": True, "n_samples": 0} | how
    result = segmentation.predict((image, np.eye(4)), **ask)
    return np.asarray(result.probabilities.dataobj), result


def test_a_member_is_what_training_it_alone_gives(fitted, data):
    seeds = fitted.recipe_.provenance.member_seeds
    assert len(set(seeds)) == 3
    for member, seed in zip(fitted.model_.members, seeds, strict=True):
        alone = nb.Segmentation("vnet", SMALL).fit(data, epochs=2, seed=seed)
        state = alone.model_.state_dict()
        for name, tensor in member.state_dict().items():
            assert torch.equal(tensor, state[name]), name


def test_its_probabilities_are_the_mean_of_the_members(fitted, data):
    seeds = fitted.recipe_.provenance.member_seeds
    alone = [nb.Segmentation("vnet", SMALL).fit(data, epochs=2, seed=s) for s in seeds]
    each = np.array([probabilities(member)[0] for member in alone])
    together, result = probabilities(fitted)
    assert np.abs(together - each.mean(0)).max() < 1e-6
    variance = np.asarray(result.variance.dataobj)
    assert np.abs(variance - each.var(0).mean(-1)).max() < 1e-6
    assert result.volumes_mm3.shape == (3, 2)
    # Deterministic members have no more than one draw each.
    with pytest.warns(FewerDrawsWarning):
        many, asked = probabilities(fitted, n_samples=10, seed=1)
    assert np.array_equal(many, together)
    assert asked.volumes_mm3.shape == (3, 2)


@pytest.mark.filterwarnings("ignore::nobrainer.errors.UnusualScanWarning")
def test_it_says_so_where_more_draws_are_asked_for_than_there_are(fitted, data, pairs):
    scan = pairs[0][0]
    ways = [
        lambda **how: fitted.predict(scan, **how),
        lambda **how: fitted.rank([scan], verbose=False, **how),
        lambda **how: fitted.evaluate(
            data, surfaces=False, allow_seen=True, verbose=False, **how
        ),
    ]
    for act in ways:
        with pytest.warns(
            FewerDrawsWarning, match="has 3 members.* there are 3 draws, not 4:"
        ) as caught:
            act(n_samples=4)
        told = [one for one in caught if one.category is FewerDrawsWarning]
        assert [one.filename for one in told] == [__file__]
        # Nobody is told of a number that nobody gave, or that is made.
        with warnings.catch_warnings():
            warnings.simplefilter("error", FewerDrawsWarning)
            act()
            act(n_samples=3)
    with pytest.warns(FewerDrawsWarning, match="3 draws, not 5:"):
        fitted.check_quality(5)
    numbers = (None, 0, 1, 2, 3, 4)
    assert [fitted.n_draws(n) for n in numbers] == [3, 3, 1, 2, 3, 3]
    for wrong in (-1, 2.0, "4"):
        with pytest.raises(InputError, match="n_samples must be a whole number"):
            fitted.n_draws(wrong)


def test_history_and_recipe_say_which_member(fitted):
    assert [row["member"] for row in fitted.history_] == [0, 0, 1, 1, 2, 2]
    assert fitted.recipe_.model.name == "ensemble"
    assert len(fitted.recipe_.model.args["members"]) == 3


def test_one_bundle_holds_it(fitted, tmp_path):
    loaded = nb.Segmentation.load(fitted.save(tmp_path / "model"))
    assert loaded.recipe_ == fitted.recipe_
    before, after = (probabilities(s, n_samples=3, seed=2)[0] for s in (fitted, loaded))
    assert np.array_equal(before, after)


def test_mixed_members_take_turns(data):
    members = [BAYESIAN, ("meshnet", {"dilations": [1, 2]})]
    mixed = nb.Ensemble(members, {"base_filters": 2}).fit(data, seed=1)
    _, result = probabilities(mixed, n_samples=6, seed=3)
    volumes = result.volumes_mm3[:, 1]
    # Draws 1, 3, 5 are the deterministic member, over and over.
    assert len(set(volumes[1::2])) == 1
    assert len(set(volumes[0::2])) > 1


def test_a_killed_training_goes_on_at_its_member(data, tmp_path):
    def ensemble(folder):
        return nb.Ensemble("vnet", SMALL, 2, checkpoint_filepath=tmp_path / folder)

    whole = ensemble("whole").fit(data, epochs=2, seed=3)
    # As if killed when the first member was done and the second had not begun.
    part = ensemble("part").fit(data, epochs=2, seed=3)
    for file in (tmp_path / "part" / "member-1").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="holds checkpoints of an earlier training"):
        ensemble("part").fit(data, epochs=2, seed=3)
    part = ensemble("part").fit(data, epochs=2, seed=3, resume=True)
    for name, tensor in part.model_.state_dict().items():
        assert torch.equal(tensor, whole.model_.state_dict()[name]), name
    assert len(part.history_) == 4


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ("vnett", "did you mean 'vnet'"),
        (["vnet"], "two members or more"),
        (["vnet"] * 101, "must be at most 100, got 101"),
        ([("vnet", {"filters": 2}), "vnet"], "filters"),
    ],
)
def test_mistakes_are_named_at_once(members, message):
    with pytest.raises(InputError, match=message):
        nb.Ensemble(members)


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (("vnet", {"n_classes": 3}), "n_classes must be the ensemble's 2, got 3"),
        (("ensemble", {}), "must not be an ensemble itself"),
    ],
)
def test_members_that_could_not_be_loaded_are_refused_before_training(
    member, message, data, tmp_path
):
    with pytest.raises(InputError, match=message):
        nb.Ensemble(["vnet", member], checkpoint_filepath=tmp_path).fit(data)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_kind_is_not_passed_over(data, tmp_path):
    nb.Segmentation("vnet", SMALL, tmp_path / "one").fit(data)
    with pytest.raises(InputError, match="are of one model, this is one of 2"):
        nb.Ensemble("vnet", SMALL, 2, tmp_path / "one").fit(data, resume=True)
    nb.Ensemble("vnet", SMALL, 3, tmp_path / "three").fit(data)
    with pytest.raises(InputError, match="an ensemble of 3, this is one of 2"):
        nb.Ensemble("vnet", SMALL, 2, tmp_path / "three").fit(data, resume=True)
    with pytest.raises(InputError, match="an ensemble of 3, this is one model"):
        nb.Segmentation("vnet", SMALL, tmp_path / "three").fit(data, resume=True)
    # A folder of other trainings' folders is no training.
    nb.Segmentation("vnet", SMALL, tmp_path).fit(data)


def test_it_starts_from_no_other_model(fitted, data):
    with pytest.raises(InputError, match="warm_start begins a Bayesian network"):
        nb.Ensemble("vnet", SMALL).fit(data, warm_start=fitted)


def test_a_number_of_members_without_end_is_refused_at_once():
    with pytest.raises(InputError, match="must be at most 100, got 1000000000"):
        nb.Ensemble("vnet", n_members=10**9)
