"""A result inside a network: which of its planes are kept, and how more are made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from nobrainer.inference.operations import Operation
from nobrainer.inference.tiles import NOWHERE, Box, around, intersect, is_empty

_GRID = 8
"""Voxels by which the part of a plane that is computed grows: a convolution is set up
anew for every shape."""


@dataclass(eq=False)
class Result:
    """A result inside a network, and the operation that makes it.

    operation: the operation that makes it from its inputs; the image has no inputs.
    inputs: the results that the operation looks at.
    users: the results whose operations look at this one.
    stored: whether it is kept in a buffer with some of the field around it. It is not
        where a single pointwise operation uses it up at once.
    active: box in which it may differ from its constant; None means everywhere.
    rows: in which part of each plane of `active` it may differ, (planes, 4), see
        `nobrainer.inference.tiles.outline`; None means in all of it.
    narrowed: for boxes that were computed the part in which it may differ.
    wanted: box in which its users look.
    box: box in which it is computed; the rest of what is wanted is the constant.
    planes: number of planes of the buffer along the first axis.
    fill: its constant, (1, C, 1, 1, 1).
    buffer: the planes that are kept, (1, C, planes, j, k).
    first: index of the first plane in the buffer.
    done: index of the first plane that is not computed yet.
    latest: the part computed last, where it is not stored.
    """

    operation: Operation
    inputs: Sequence["Result"] = ()
    users: list["Result"] = field(default_factory=list)
    stored: bool = True
    active: Box | None = None
    rows: np.ndarray | None = None
    narrowed: dict[Box, Box] = field(default_factory=dict)
    wanted: Box = NOWHERE
    box: Box = NOWHERE
    planes: int = 0
    fill: Tensor = field(default_factory=lambda: torch.zeros(1, 1, 1, 1, 1))
    buffer: Tensor | None = None
    first: int = 0
    done: int = 0
    latest: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the buffer, (1, C, planes, j, k)."""
        others = (stop - start for start, stop in self.wanted[1:])
        return (1, self.fill.shape[1], self.planes, *others)

    def top(self, goals: Mapping["Result", int]) -> int:
        """The plane up to which it is computed, or its users look, to reach goals.

        Args:
            goals: for each result, the plane up to which it is to be computed.
        """
        looks = [
            user.operation.axes[0].needs((goals[user] - 1, goals[user]))[1]
            for user in self.users
            if goals[user] > user.box[0][0]
        ]
        return max([goals[self], *looks])

    def lowest(self, done: Mapping["Result", int]) -> int:
        """The first plane at which its users have still to look.

        Args:
            done: for each result, the plane up to which it is computed.
        """
        looks = [
            user.operation.axes[0].needs((done[user], done[user] + 1))[0]
            for user in self.users
            if done[user] < user.box[0][1]
        ]
        return min(looks, default=self.wanted[0][1])

    @property
    def is_partly_constant(self) -> bool:
        """Whether its buffer holds some of the field around what is computed."""
        return self.planes > 0 and self.box != self.wanted

    def start(self) -> None:
        """Forget what was computed."""
        self.done, self.first = self.box[0][0], self.wanted[0][0]

    def clear(self) -> None:
        """Fill the buffer with the constant, where not all of it will be computed."""
        if self.is_partly_constant:
            self._hold().copy_(self.fill.expand(self.shape))

    def _hold(self) -> Tensor:
        """The buffer, which is made where there is none."""
        if self.buffer is None:
            self.buffer = torch.empty(
                self.shape,
                device=self.fill.device,
                dtype=self.fill.dtype,
                memory_format=torch.channels_last_3d,
            )
        return self.buffer

    def make_room(self, goals: Mapping["Result", int]) -> None:
        """Drop planes that nobody will look at where the next ones would not fit.

        Args:
            goals: for each result, the plane up to which it is to be computed.
        """
        if self.top(goals) <= self.first + self.planes:
            return
        assert self.buffer is not None
        lowest = self.lowest({user: user.done for user in self.users})
        end, step = self.first + self.planes, lowest - self.first
        # In steps, because source and target must not overlap.
        for plane in range(lowest, end, step):
            n = min(step, end - plane)
            source = self.buffer[:, :, plane - self.first :][:, :, :n]
            self.buffer[:, :, plane - lowest :][:, :, :n] = source
        self.first = lowest
        # Beyond what is computed lies the field.
        self.buffer[:, :, max(0, self.box[0][1] - lowest) :] = self.fill

    def advance(self, goal: int, image: Tensor) -> None:
        """Compute its planes up to a goal.

        Args:
            goal: index of the first plane that is not computed.
            image: the image, (I, J, K).
        """
        box: Box = ((self.done, goal), *self.box[1:])
        part = self._narrowed(box)
        makes_all = bool(self.inputs) and not self.operation.pointwise
        if not self.stored:
            if not is_empty(part):
                self.latest = self._make(part, image, None)
        elif makes_all and part == self.wanted:
            # What is made needs no copy, and takes the place of that of another draw.
            self.buffer = None
            self.buffer = self._make(part, image, None)
        else:
            self._store(box, part, image)
        self.done = goal

    def _store(self, box: Box, part: Box, image: Tensor) -> None:
        """Compute a part of a box into the buffer; the rest of it is the constant."""
        self._hold()
        if part != box:
            for beside in around(part, box):
                view = self._view(beside)
                view.copy_(self.fill.expand_as(view))
        if not is_empty(part):
            target = self._view(part)
            made = self._make(part, image, target)
            if made is not target:
                target.copy_(made)

    def _narrowed(self, box: Box) -> Box:
        """The part of a box of this result that may differ from the constant."""
        end = self
        while not end.stored and end.users:
            # What is used up at once is made for its user alone.
            (end,) = end.users
        if end.rows is None or end.active is None or not end.stored:
            return box
        if box not in end.narrowed:
            end.narrowed[box] = end._look_up(box)
        return end.narrowed[box]

    def _look_up(self, box: Box) -> Box:
        """The part of a box that may differ from the constant, by `rows`."""
        assert self.rows is not None and self.active is not None
        origin = self.active[0][0]
        start, stop = (max(0, plane - origin) for plane in box[0])
        rows = self.rows[start:stop]
        rows = rows[(rows[:, 0] < rows[:, 1]) & (rows[:, 2] < rows[:, 3])]
        if not len(rows):
            return NOWHERE
        low, high = rows.min(0).tolist(), rows.max(0).tolist()
        j, k = (
            (a - (a - edge) % _GRID, b + (edge - b) % _GRID)
            for a, b, (edge, _) in zip(low[::2], high[1::2], box[1:], strict=True)
        )
        return intersect(box, (box[0], j, k))

    def look(self, goal: int) -> Tensor:
        """What its only input has for its planes up to a goal, left to be computed.

        Args:
            goal: index of the first plane that is not counted as computed.
        """
        box = ((self.done, goal), *self.box[1:])
        self.done = goal
        (source,) = self.inputs
        return source._view(self.operation.needs(box))

    def _make(self, box: Box, image: Tensor, out: Tensor | None) -> Tensor:
        """Apply the operation to the part of its inputs that a box depends on."""
        operation, needed = self.operation, self.operation.needs(box)
        given = []
        for source in self.inputs:
            latest = source._view(needed) if source.stored else source.latest
            assert latest is not None
            given.append(latest)
        if not self.inputs:
            given.append(image[tuple(slice(*edge) for edge in needed)])
        elif operation.pointwise and not self.stored and not self.inputs[0].stored:
            # Nobody else uses the input, so it may be overwritten.
            out = given[0]
        made = operation.run(given, out)
        if operation.axes[0].transposed:
            # The output of a transposed convolution may begin before the box.
            begin = (
                start - (first * axis.stride - axis.padding)
                for (start, _), (first, _), axis in zip(
                    box, needed, operation.axes, strict=True
                )
            )
            sizes = (stop - start for start, stop in box)
            cut = (slice(b, b + n) for b, n in zip(begin, sizes, strict=True))
            made = made[:, :, *cut]
        return made

    def _view(self, box: Box) -> Tensor:
        """A box of the buffer."""
        assert self.buffer is not None
        (a, b), *others = box
        within = [
            slice(start - origin, stop - origin)
            for (start, stop), (origin, _) in zip(others, self.wanted[1:], strict=True)
        ]
        return self.buffer[:, :, a - self.first : b - self.first, *within]
