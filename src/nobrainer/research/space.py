"""What a search may change: typed ranges over fields of a recipe.

How models are judged is not among them.
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

from nobrainer import models
from nobrainer.checks import (
    check_choice,
    check_count,
    check_positive,
    check_share,
)
from nobrainer.data.augment import AUGMENTATIONS
from nobrainer.errors import InputError
from nobrainer.losses import LOSSES
from nobrainer.models.check import check_patch, imagined
from nobrainer.models.ensemble import MEMBERS
from nobrainer.recipe import DEFAULT_LEARNING_RATE, DataConfig
from nobrainer.research.ranges import (
    Choice,
    Float,
    Range,
    Scalar,
    list_corners,
    read_range,
    write_range,
)
from nobrainer.types import Shape3


@dataclass(frozen=True)
class Setting:
    """The recipe that one point of a space stands for.

    The fields are the arguments of `Segmentation`, its `fit` and `Dataset` of the same
    names; None leaves the default of these.
    """

    model: str
    model_args: dict[str, Any] = field(default_factory=dict)
    learning_rate: float | None = None
    block_shape: Shape3 | None = None
    batch_size: int | None = None
    foreground: float | None = None
    patches_per_volume: int | None = None
    augment: str | None = None
    loss: str | None = None
    gradient_clip: float | None = None


@dataclass(frozen=True)
class Space:
    """The ranges that are searched, by parameter.

    family: name of a registered model.
    ranges: range of each parameter that is searched, by its name: an argument of the
        model, or a field of `Setting` that is about training. For "ensemble" it may
        also be `member` (name of a registered model), `n_members`, or an argument of a
        member, which applies to the members that take it.
    """

    family: str
    ranges: dict[str, Range]

    def check(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Check values and return them in the types of their ranges.

        Args:
            values: value of every parameter of the space, by its name.

        Returns: the values; a whole number is a float where the range has floats.

        Raises:
            InputError: a name is unknown, a value is missing or outside its range, or
                the network cannot be built or does not take patches of this shape.
        """
        found = self._find(values)
        for name, range_ in self.ranges.items():
            if name not in found:
                raise InputError(f"{name} is missing: give {range_}")
        _check_network(self.setting(found))
        return {name: found[name] for name in self.ranges}

    def setting(self, values: Mapping[str, Any]) -> Setting:
        """Make the recipe for some values.

        Args:
            values: values by the names of parameters; those that are left out keep
                their default.

        Raises:
            InputError: a name is unknown, or a value is outside its range.
        """
        found = self._find(values)
        told = {name: found[name] for name in _FIELDS if name in found}
        if "block_shape" in told:
            told["block_shape"] = _read_block("block_shape", told["block_shape"])
        if self.family != "ensemble":
            args = {n: v for n, v in found.items() if n not in _FIELDS}
            return Setting(self.family, args, **told)
        member = found.get("member", MEMBERS[0][0])
        args = {n: found[n] for n in _arguments(member) if n in found}
        count = found.get("n_members", len(MEMBERS))
        check_count("n_members", count, 2)
        pairs = [[member, dict(args)] for _ in range(count)]
        return Setting(self.family, {"members": pairs}, **told)

    def defaults(self) -> dict[str, Any]:
        """Values of the unchanged recipe, without those outside their ranges."""
        told = dict(_DEFAULTS)
        if self.family == "ensemble":
            member = MEMBERS[0][0]
            told |= {"member": member, "n_members": len(MEMBERS), **_arguments(member)}
        else:
            told |= _arguments(self.family)
        found = {
            name: range_.find(told.get(name)) for name, range_ in self.ranges.items()
        }
        return {name: value for name, value in found.items() if value is not None}

    def to_toml(self) -> str:
        """Write the space as text from which `from_toml` makes an equal one."""
        parts = [
            f"# What a search over {self.family} may change: a table for each "
            "parameter, with\n# choices, or with low and high and, if wanted, "
            "log = true and integer = true.\n"
        ]
        parts += [
            f"[{name}]\n{write_range(span)}" for name, span in self.ranges.items()
        ]
        return "\n".join(parts)

    @classmethod
    def from_toml(cls, family: str, text: str) -> "Space":
        """Read a space from text as `to_toml` writes it.

        Args:
            family: name of a registered model.
            text: TOML with a table for each parameter.

        Raises:
            InputError: the text is no such space, or the model or its training refuses
                a value in it; the message names the parameter.
        """
        space = cls.of_study(family, text)
        for name, range_ in space.ranges.items():
            for value in list_corners(range_):
                _named(name, space._try, name, value)
        return space

    @classmethod
    def of_study(cls, family: str, text: str) -> "Space":
        """Read a space whose values were tried when its study began.

        Trying them builds many networks, which takes seconds.

        Args:
            family: name of a registered model.
            text: what `to_toml` wrote.

        Raises:
            InputError: the text is no such space; the message names the parameter.
        """
        models.get(family)
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"the space of {family} is not TOML: {error}") from error
        if not tables:
            raise InputError(f"the space of {family} has no parameter: add a table")
        ranges = {name: _named(name, read_range, t) for name, t in tables.items()}
        space = cls(family, ranges)
        known = space._known()
        for name in ranges:
            check_choice(f"parameter of {family}", name, known)
        for name, range_ in ranges.items():
            if isinstance(range_, Float) and isinstance(known[name], int):
                raise InputError(
                    f"{name} must be whole numbers: give integer = true, or choices"
                )
        return space

    def _find(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values in the types of their ranges; refuse names and values not in them."""
        found = {}
        for name, value in values.items():
            check_choice(f"parameter of {self.family}", name, self.ranges)
            found[name] = self.ranges[name].find(value)
            if found[name] is None:
                raise InputError(f"{name} must be {self.ranges[name]}, got {value!r}")
        return found

    def _known(self) -> dict[str, Any]:
        """All parameters that a space of this family may have, with their defaults."""
        if self.family != "ensemble":
            return _arguments(self.family) | _DEFAULTS
        known: dict[str, Any] = {"member": MEMBERS[0][0], "n_members": len(MEMBERS)}
        for member in list_corners(
            self.ranges.get("member", Choice((known["member"],)))
        ):
            known |= _named("member", _arguments, member)
        return known | _DEFAULTS

    def _try(self, name: str, value: Scalar) -> None:
        """Refuse a value with which no network of the space can be built.

        The value is tried beside the defaults and beside each extreme value of one
        other parameter, since it may need that: learned dropout needs a rate above 0,
        for instance, and a small block needs few levels.
        """
        if name in _FIELDS and name != "block_shape":
            _FIELDS[name](name, value)
            return
        if not isinstance(value, str) and value > _MOST:
            raise InputError(f"{name} must be at most {_MOST}, got {value!r}")
        others = [
            {other: corner}
            for other, range_ in self.ranges.items()
            if other != name and (other not in _FIELDS or other == "block_shape")
            for corner in list_corners(range_)
        ]
        refusals: list[InputError] = []
        for other in ({}, *others):
            try:
                return _check_network(self.setting({name: value, **other}))
            except InputError as error:
                refusals.append(error)
        raise refusals[0]


def family_space(family: str) -> Space:
    """The built-in space of a registered model.

    Args:
        family: name of the model.

    Raises:
        InputError: the name is unknown; the message names the most similar one.
    """
    if family == "ensemble":
        member = MEMBERS[0][0]
        head = {"member": Choice((member,)), "n_members": Choice((2, 3, 5))}
        return Space(family, head | family_space(member).ranges)
    taken = _arguments(family)
    ranges = {name: range_ for name, range_ in _MODEL_RANGES.items() if name in taken}
    if family in _FILTERS:
        ranges["base_filters"] = Choice(_FILTERS[family])
    ranges |= {
        "learning_rate": Float(1e-4, 1e-2, log=True),
        "block_shape": Choice(_BLOCKS.get(family, ("32x32x32", "64x64x64"))),
    }
    if "kl_weight" not in taken:
        # Bayesian models have no choice: their evidence lower bound is made of the
        # cross-entropy.
        ranges["loss"] = Choice(("cross_entropy", "dice_ce"))
    return Space(family, ranges)


def _check_network(setting: Setting) -> None:
    """Refuse a setting whose network cannot be built or does not take its patches."""
    block = setting.block_shape or _read_block("block_shape", _DEFAULTS["block_shape"])
    with imagined():
        network = models.build(setting.model, **setting.model_args)
        check_patch(network, block)


def _arguments(model: str) -> dict[str, Any]:
    """The arguments of a registered model that are scalars, with their defaults.

    The numbers of channels and classes are left out: scans and labels decide on them.
    """
    if model == "ensemble":
        raise InputError("member must not be an ensemble itself: name another model")
    return {
        name: parameter.default
        for name, parameter in signature(models.get(model)).parameters.items()
        if isinstance(parameter.default, Scalar)
        and name not in ("in_channels", "n_classes")
    }


def _named(name: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function so that its `InputError` begins with the parameter's name."""
    try:
        return function(*args)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _read_block(name: str, value: Any) -> Shape3:
    """Read the voxels along each axis from text like "32x32x32"."""
    sides = value.split("x") if isinstance(value, str) else []
    if len(sides) != 3 or not all(s.isdecimal() and int(s) > 0 for s in sides):
        raise InputError(f'{name} must be text like "32x32x32", got {value!r}')
    return int(sides[0]), int(sides[1]), int(sides[2])


_MOST = 1024
"""Largest argument of a model; beyond it, a typing error would take long."""
_MODEL_RANGES: dict[str, Range] = {
    "base_filters": Choice((8, 16, 32)),
    "levels": Choice((2, 3, 4)),
    "norm": Choice(("batch", "instance")),
    "variant": Choice(("spike_and_slab", "bernoulli", "map")),
    "prior_type": Choice(("standard_normal", "laplace", "spike_and_slab")),
    "kl_weight": Float(1e-5, 1e-2, log=True),
    "dropout_rate": Choice((0, 0.1, 0.25)),
}
_FILTERS = {
    "meshnet": (10, 21, 42),
    "bayesian_meshnet": (10, 21, 42),
    "kwyk": (24, 48, 96),
}
"""Choices of `base_filters` for models that do not double them at every level."""
_BLOCKS = {"swin_unetr": ("64x64x64",), "unetr": ("96x96x96",)}
"""Choices of `block_shape` for models that do not take 32³ and 64³."""
_FIELDS: dict[str, Callable[[str, Any], object]] = {
    "learning_rate": check_positive,
    "block_shape": _read_block,
    "batch_size": lambda name, value: check_count(name, value, 1),
    "foreground": check_share,
    "patches_per_volume": lambda name, value: check_count(name, value, 1),
    "augment": lambda name, value: AUGMENTATIONS.check(value),
    "loss": lambda name, value: LOSSES.check(value),
    "gradient_clip": check_positive,
}
"""Fields of `Setting` about training, each with what refuses wrong values."""
_DEFAULTS: dict[str, Any] = {
    "learning_rate": DEFAULT_LEARNING_RATE,
    "block_shape": "x".join(map(str, DataConfig.block_shape)),
    "batch_size": DataConfig.batch_size,
    "foreground": DataConfig.foreground,
    "patches_per_volume": DataConfig.patches_per_volume,
    "augment": DataConfig.augment,
    "loss": "cross_entropy",
    "gradient_clip": None,
}
"""Defaults of these fields in `Dataset` and `Segmentation.fit`."""
