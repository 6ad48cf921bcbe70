"""The search space: its ranges, its text, and that every value of it can be built."""

from inspect import signature

import numpy as np
import pytest

from nobrainer import models
from nobrainer.errors import InputError
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.segmentation import Segmentation
from nobrainer.recipe import DEFAULT_LEARNING_RATE
from nobrainer.research.ranges import Choice, Float, Integer
from nobrainer.research.space import Setting, Space, family_space
from nobrainer.training.options import TrainingOptions
from small_models import MONAI, SHAPES

each_family = pytest.mark.parametrize("family", models.available_models())


def draw(space: Space, rng: np.random.Generator) -> dict:
    """Values of a space at random."""
    values = {}
    for name, range_ in space.ranges.items():
        if isinstance(range_, Choice):
            values[name] = range_.values[rng.integers(len(range_.values))]
        elif isinstance(range_, Integer):
            values[name] = int(rng.integers(range_.low, range_.high + 1))
        else:
            values[name] = float(rng.uniform(range_.low, range_.high))
    return values


def read(text: str, family: str = "bayesian_vnet") -> Space:
    return Space.from_toml(family, text)


# --- the contract of every registered model


@each_family
def test_the_text_reads_back_to_an_equal_space(family: str) -> None:
    space = family_space(family)
    again = Space.from_toml(family, space.to_toml())
    assert again == space
    assert list(again.ranges) == list(space.ranges)
    assert {"learning_rate", "block_shape"} <= space.ranges.keys()


@each_family
def test_random_values_can_be_built(family: str) -> None:
    space, rng = family_space(family), np.random.default_rng(0)
    for _ in range(4):
        values = draw(space, rng)
        assert space.check(values) == values
        assert list(space.check(values)) == list(space.ranges)


@each_family
def test_defaults_are_inside_and_change_nothing(family: str) -> None:
    space = family_space(family)
    defaults = space.defaults()
    # What the built-in space cannot say is the exact weight of the divergence.
    assert space.ranges.keys() - defaults.keys() <= (
        {"kl_weight", "block_shape"} if family in SHAPES else {"kl_weight"}
    )
    setting = space.setting(defaults)
    assert setting.learning_rate == DEFAULT_LEARNING_RATE
    assert space.setting({}) == (
        Setting("ensemble", {"members": [["vnet", {}]] * 3})
        if family == "ensemble"
        else Setting(family)
    )
    small = {"base_filters": 4} if family == "kwyk" else MONAI.get(family, {})
    plain = models.build(family, **small).state_dict()
    same = models.build(setting.model, **{**setting.model_args, **small}).state_dict()
    assert {k: v.shape for k, v in plain.items()} == {
        k: v.shape for k, v in same.items()
    }


def test_training_defaults_are_those_of_dataset_and_fit(tmp_path) -> None:
    names = ["block_shape", "batch_size", "foreground", "patches_per_volume"]
    text = """
        block_shape.choices = ["32x32x32", "16x16x16"]
        batch_size.choices = [1, 2]
        foreground = {low = 0, high = 1}
        patches_per_volume = {low = 1, high = 100, integer = true}
        augment.choices = ["none", "strong"]
        loss.choices = ["dice", "cross_entropy"]
        gradient_clip = {low = 0.1, high = 10, log = true}
    """
    space = read(text)
    setting = space.setting(space.defaults())
    image = tmp_path / "scan.nii.gz"
    image.touch()
    config = Dataset.from_files([image]).config
    assert [getattr(setting, name) for name in names] == [
        getattr(config, name) for name in names
    ]
    assert setting.augment == config.augment
    assert setting.gradient_clip is None
    assert TrainingOptions().gradient_clip is None
    assert signature(Segmentation.fit).parameters["loss"].default is None
    assert setting.loss == "cross_entropy"


def test_the_space_of_bayesian_vnet() -> None:
    assert family_space("bayesian_vnet").ranges == {
        "base_filters": Choice((8, 16, 32)),
        "levels": Choice((2, 3, 4)),
        "prior_type": Choice(("standard_normal", "laplace", "spike_and_slab")),
        "kl_weight": Float(1e-5, 1e-2, log=True),
        "dropout_rate": Choice((0, 0.1, 0.25)),
        "learning_rate": Float(1e-4, 1e-2, log=True),
        "block_shape": Choice(("32x32x32", "64x64x64")),
    }
    with pytest.raises(InputError, match="did you mean 'bayesian_vnet'"):
        family_space("bayesian_vnt")


# --- values


VALUES = {
    "base_filters": 8,
    "levels": 2,
    "prior_type": "laplace",
    "kl_weight": 1e-3,
    "dropout_rate": 0,
    "learning_rate": 1e-2,
    "block_shape": "64x64x64",
}


def test_a_setting_is_what_training_takes() -> None:
    setting = family_space("bayesian_vnet").setting(VALUES)
    assert setting == Setting(
        "bayesian_vnet",
        {
            "base_filters": 8,
            "levels": 2,
            "prior_type": "laplace",
            "kl_weight": 1e-3,
            "dropout_rate": 0.0,
        },
        learning_rate=1e-2,
        block_shape=(64, 64, 64),
    )


def test_whole_numbers_become_floats_where_the_range_has_them() -> None:
    space = Space("vnet", {"dropout_rate": Choice((0, 0.1)), "foreground": Float(0, 1)})
    found = space.check({"foreground": 1, "dropout_rate": 0})
    assert [*map(repr, found.items())] == [
        "('dropout_rate', 0.0)",
        "('foreground', 1.0)",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_filters": 12}, "base_filters must be one of 8, 16, 32, got 12"),
        ({"base_filters": "8"}, "base_filters must be one of 8, 16, 32, got '8'"),
        ({"learning_rate": 0.1}, "learning_rate must be a number from 0.0001 to 0.01"),
        ({"learning_rate": float("nan")}, "learning_rate must be"),
        ({"kl_weight": "elbo"}, "kl_weight must be a number from 1e-05 to 0.01"),
        ({"kl_weight": True}, "kl_weight must be"),
        ({"levles": 2}, "unknown parameter of bayesian_vnet 'levles': did you mean"),
        ({"n_samples": 5}, "unknown parameter of bayesian_vnet 'n_samples'"),
    ],
)
def test_wrong_values_are_named(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        family_space("bayesian_vnet").check(VALUES | change)


def test_a_missing_value_is_named() -> None:
    space = family_space("bayesian_vnet")
    values = {name: value for name, value in VALUES.items() if name != "levels"}
    with pytest.raises(InputError, match="levels is missing: give one of 2, 3, 4"):
        space.check(values)
    assert "levels" not in space.setting(values).model_args


def test_a_block_must_fit_the_pooling_of_its_own_levels() -> None:
    space = read('levels.choices = [2, 3, 4]\nblock_shape.choices = ["36x36x36"]')
    assert space.check({"levels": 3, "block_shape": "36x36x36"})
    with pytest.raises(InputError, match="block_shape must be multiples of 8"):
        space.check({"levels": 4, "block_shape": "36x36x36"})


def test_a_block_that_pools_to_one_voxel_is_refused() -> None:
    # Batch norm has nothing to take a variance of.
    with pytest.raises(InputError, match="more than 8 voxels"):
        Space("vnet", {"block_shape": Choice(("8x8x8",))}).check(
            {"block_shape": "8x8x8"}
        )


def test_true_is_not_one() -> None:
    space = Space("vnet", {"levels": Choice((1, 2)), "batch_size": Integer(1, 4)})
    for values in (
        {"levels": True, "batch_size": 1},
        {"levels": 1, "batch_size": True},
    ):
        with pytest.raises(InputError, match="got True"):
            space.check(values)


# --- ensembles


def test_an_ensemble_has_equal_members() -> None:
    space = family_space("ensemble")
    setting = space.setting({"n_members": 2, "base_filters": 8, "levels": 2})
    member = ["vnet", {"base_filters": 8, "levels": 2}]
    assert setting.model_args == {"members": [member, member]}
    first, second = setting.model_args["members"]
    assert first[1] is not second[1]
    network = models.build(setting.model, **setting.model_args)
    assert len(network.members) == 2
    assert network.stride == 2


def test_arguments_apply_to_the_members_that_take_them() -> None:
    text = """
        member.choices = ["vnet", "bayesian_meshnet"]
        levels.choices = [2, 3]
        prior_type.choices = ["laplace"]
        base_filters = {low = 4, high = 8, integer = true}
    """
    space = read(text, "ensemble")
    values = {"levels": 2, "prior_type": "laplace", "base_filters": 5}
    args = {
        member: space.setting(space.check({"member": member, **values})).model_args
        for member in ("vnet", "bayesian_meshnet")
    }
    assert args["vnet"]["members"] == [["vnet", {"base_filters": 5, "levels": 2}]] * 3
    assert args["bayesian_meshnet"]["members"][0][1] == {
        "base_filters": 5,
        "prior_type": "laplace",
    }


# --- text


def test_comments_and_one_value_are_allowed() -> None:
    space = read("# mine\n[levels]  # fixed\nchoices = [3]\n")
    assert space.ranges == {"levels": Choice((3,))}
    assert space.setting({}).model_args == {}


def test_unusual_numbers_read_back_exactly() -> None:
    space = Space(
        "vnet",
        {
            "learning_rate": Float(1.2345678901234567e-17, 0.1 + 0.2, log=True),
            "gradient_clip": Float(1, 1e22),
            "patches_per_volume": Integer(1, 2**40, log=True),
        },
    )
    assert read(space.to_toml(), "vnet") == space


def test_learned_dropout_may_need_another_rate() -> None:
    rates = "dropout_rate.choices = [0, 0.1]\n"
    both = rates + 'dropout_type.choices = ["spatial", "concrete"]'
    space = read(both)
    assert space.check({"dropout_type": "concrete", "dropout_rate": 0.1})
    with pytest.raises(InputError, match="dropout_rate must lie in"):
        space.check({"dropout_type": "concrete", "dropout_rate": 0.0})
    with pytest.raises(InputError, match="dropout_type: dropout_rate must lie in"):
        read('dropout_type.choices = ["concrete"]')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no parameter"),
        ("levels = ", "is not TOML"),
        ("levels = 3", "levels: must be a table with choices"),
        ("levels.choices = []", "levels: choices must list a value or more"),
        ("levels.choices = 3", "levels: choices must be a list, got 3"),
        (
            "levels.choices = [2, 3, 2]",
            "choices must be different, got 2 twice",
        ),
        ("levels.choices = [[2]]", "levels: choices must be texts, numbers"),
        ("levels.choices = [nan]", "levels: choices must be texts, numbers"),
        ("levels.choises = [2]", "levels: unknown key 'choises'.*known: high"),
        ("levels = {choices = [2], log = true}", "levels: unknown key 'log'"),
        ("levels.choices = [0]", "levels: levels must be a whole number >= 1, got 0"),
        ("levels.choices = [100]", "levels: levels must be at most 12, got 100"),
        ("levels.choices = [1000000]", "levels: levels must be at most 1024"),
        ("levels.choices = [2, 2.5]", "levels: levels must be a whole number"),
        ("levels = {low = 2, high = 4}", "levels must be whole numbers: give integer"),
        ("batch_size = {low = 2, high = 4}", "batch_size must be whole numbers"),
        ("levels = {low = 2, high = 3.5, integer = true}", "levels: high must be a w"),
        ("levels = {low = 0, high = 3, integer = true}", "levels: levels must be"),
        ("levels = {low = 3, high = 2, integer = true}", "levels: low must be below"),
        ("learning_rate = {low = 0.1}", "learning_rate: high is missing"),
        ("learning_rate = {low = 0.1, high = 0.1}", "low must be below high"),
        ("learning_rate = {low = 0, high = 1, log = true}", "low must be > 0 with log"),
        ("learning_rate = {low = 0, high = 1}", "learning_rate must be a number > 0"),
        ("learning_rate = {low = 0.1, high = inf}", "high must be a number, got inf"),
        ("learning_rate = {low = 0.1, high = '1'}", "high must be a number, got '1'"),
        ("learning_rate = {low = 0.1, high = 1, log = 1}", "log must be true or false"),
        ("foreground = {low = 0, high = 2}", "foreground must be a number from 0 to 1"),
        ("batch_size.choices = [0]", "batch_size must be a whole number >= 1"),
        ("gradient_clip.choices = [-1]", "gradient_clip must be a number > 0"),
        ('augment.choices = ["stron"]', "augment: .*did you mean 'strong'"),
        ('loss.choices = ["dice_cd"]', "loss: .*did you mean 'dice_ce'"),
        ("loss.choices = [1]", "loss: unknown loss 1"),
        ('prior_type.choices = ["laplace", "gauss"]', "prior_type: .*'gauss'"),
        ("prior_type.choices = [1]", "prior_type: unknown prior 1"),
        ("dropout_rate.choices = [0, 1]", "dropout_rate: .*must lie in"),
        ('dropout_rate.choices = ["a"]', "dropout_rate: .*must lie in"),
        ("kl_weight.choices = [-1]", "kl_weight: kl_weight must be 'elbo' or"),
        ('posterior_scale.choices = ["a"]', "posterior_scale must be a number > 0"),
        ('block_shape.choices = ["32x32"]', 'must be text like "32x32x32"'),
        ('block_shape.choices = ["32x0x32"]', 'must be text like "32x32x32"'),
        ("block_shape.choices = [32]", 'must be text like "32x32x32"'),
        ('block_shape.choices = ["36x36x36"]', "block_shape must be multiples of 8"),
        ("split.choices = [1]", "unknown parameter of bayesian_vnet 'split'"),
        ("n_classes.choices = [2]", "unknown parameter of bayesian_vnet 'n_classes'"),
        ("prior_args.choices = [2]", "unknown parameter of bayesian_vnet 'prior_args'"),
        ("leraning_rate.choices = [1]", "did you mean 'learning_rate'"),
    ],
)
def test_wrong_text_is_explained(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('member.choices = ["vnat"]', "member: .*did you mean 'vnet'"),
        ('member.choices = ["ensemble"]', "member: member must not be an ensemble"),
        ("member.choices = [1]", "member: unknown model 1"),
        ("n_members.choices = [1]", "n_members: n_members must be a whole number >= 2"),
        ("n_members.choices = [2.0]", "n_members: n_members must be a whole number"),
        ('prior_type.choices = ["laplace"]', "unknown parameter of ensemble"),
        ("members.choices = [2]", "did you mean 'member'"),
    ],
)
def test_wrong_text_of_an_ensemble_is_explained(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(text, "ensemble")


@pytest.mark.parametrize(
    ("family", "blocks"),
    [
        ("segresnet", ("32x32x32", "64x64x64")),
        ("swin_unetr", ("64x64x64",)),
        ("unetr", ("96x96x96",)),
    ],
)
def test_blocks_are_those_that_a_network_takes(family: str, blocks: tuple) -> None:
    assert family_space(family).ranges["block_shape"] == Choice(blocks)
