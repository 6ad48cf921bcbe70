"""Which part of each result inside a network is computed, and when.

A result inside a network is constant per channel outside of a first box: the volume's
content, widened by what the operations so far look at. Only a second box of it is used:
the wanted output, widened by what the operations to come look at. A result is computed
where the two boxes overlap.
"""

from collections.abc import Sequence

import numpy as np
from torch import fx, nn

from nobrainer.inference.operations import IMAGE, Tracer, find_operation
from nobrainer.inference.results import Result
from nobrainer.inference.tiles import NOWHERE, Box, Interval, hull, intersect, is_empty

_EMPTY = (2**40, -(2**40), 2**40, -(2**40))
"""Start and stop along two axes of a plane in which nothing is."""
_SLACK = 1.25
"""Size of a buffer relative to the least; a larger one moves its planes less often."""


def read_network(network: nn.Module) -> list[Result]:
    """List the results inside a network in the order of their use, the image first.

    Args:
        network: a plain network, see `nobrainer.bayes.draws.Draws`.

    Returns:
        The results, each with its inputs and users.

    Raises:
        NotImplementedError: an operation is not known to be local.
    """
    made: dict[fx.Node, Result] = {}
    results: list[Result] = []
    for item in Tracer().trace(network).nodes:
        if item.op == "output":
            break
        inputs = [made[source] for source in item.all_input_nodes]
        if item.op == "placeholder":
            operation = IMAGE
        else:
            is_layer = item.op == "call_module"
            layer = network.get_submodule(str(item.target)) if is_layer else None
            found = find_operation(item, layer)
            if found is None:
                (made[item],) = inputs
                continue
            operation = found
        result = Result(operation, inputs)
        for source in inputs:
            source.users.append(result)
        made[item] = result
        results.append(result)
    for result in results[1:]:
        pointwise = [user.operation.pointwise for user in result.users]
        result.stored = pointwise not in ([], [True])
    return results


def place(results: Sequence[Result], content: Box, core: Box) -> None:
    """Set where each result is active, wanted and computed.

    Args:
        results: the results that `read_network` returned, which are changed.
        content: box in which the image may differ from the background, or `NOWHERE`.
        core: box in which the output is wanted.
    """
    image, *others = results
    image.active = content
    for result in others:
        seen = [source.active for source in result.inputs if source.active is not None]
        result.active = None
        if len(seen) == len(result.inputs) and not result.operation.varies:
            whole = hull([box for box in seen if not is_empty(box)])
            is_active = not is_empty(whole)
            result.active = result.operation.reaches(whole) if is_active else NOWHERE
    results[-1].wanted = results[-1].box = core
    for result in reversed(results[:-1]):
        result.wanted = hull(
            [
                user.operation.needs(user.box)
                for user in result.users
                if not is_empty(user.box)
            ]
        )
        result.box = result.wanted
        if result.stored and result.active is not None:
            result.box = intersect(result.wanted, result.active)


def narrow(results: Sequence[Result], rows: np.ndarray | None) -> None:
    """Set in which part of each plane every result may differ from its constant.

    Args:
        results: the results after `place`, which are changed.
        rows: that of the image in each plane of its content, see `Result.rows`; None
            where it is not known.
    """
    image, *others = results
    image.rows = rows
    for result in results:
        result.narrowed.clear()
    for result in others:
        result.rows = _narrow_one(result)


def _narrow_one(result: Result) -> np.ndarray | None:
    """In which part of each plane a result may differ, by that of its inputs."""
    if result.active is None:
        return None
    planes = np.arange(*result.active[0])
    rows = np.empty((len(planes), 4), np.int64)
    rows[:] = _EMPTY
    first, *others = result.operation.axes
    lowest, beyond = first.needs((planes, planes + 1))
    for source in result.inputs:
        if source.rows is None or source.active is None:
            return None
        # A last plane that nothing reaches, for those that lie beyond.
        seen = np.concatenate([source.rows, [_EMPTY]])
        for step in range(int((beyond - lowest).max(initial=0))):
            plane = lowest + step - source.active[0][0]
            known = (lowest + step < beyond) & (plane >= 0) & (plane < len(source.rows))
            at = seen[np.where(known, plane, -1)]
            inside = at[:, 0] < at[:, 1]
            for n, axis in zip((0, 2), others, strict=True):
                start, stop = axis.reaches((at[inside, n], at[inside, n + 1]))
                rows[inside, n] = np.minimum(rows[inside, n], start)
                rows[inside, n + 1] = np.maximum(rows[inside, n + 1], stop)
    return rows


def schedule(
    results: Sequence[Result], slabs: Sequence[Interval]
) -> list[dict[Result, int]]:
    """Choose how far each result is computed in each step; set their `planes`.

    Before the first of several slabs come steps of the same size for what is looked at
    below it, so that no result has to be held in more planes than later on.

    Args:
        results: the results after `place`.
        slabs: slabs of the output along the first axis, [start, stop), in order.

    Returns:
        For each step, the plane up to which each result is computed. The last steps are
        those of the slabs; the others leave the output as it is.
    """
    done = {result: result.box[0][0] for result in results}
    for result in results:
        result.planes = 0
    steps = []
    for stop in [*_before(results, slabs), *(stop for _, stop in slabs)]:
        goals = _goals(results, stop)
        for result in results[:-1]:
            if result.stored and not is_empty(result.wanted):
                held = result.top(goals) - result.lowest(done)
                result.planes = max(result.planes, held)
        steps.append(goals)
        done = goals
    for result in results:
        start, end = result.wanted[0]
        result.planes = min(int(_SLACK * result.planes), end - start)
    return steps


def _goals(results: Sequence[Result], stop: int) -> dict[Result, int]:
    """The plane up to which each result is computed for the output up to `stop`."""
    ahead = {results[-1]: stop}
    for result in reversed(results[:-1]):
        start, end = result.box[0]
        looks = (
            user.operation.axes[0].needs((ahead[user] - 1, ahead[user]))[1]
            for user in result.users
            if not is_empty(user.box)
        )
        ahead[result] = min(max(looks, default=start), end)
    return {result: max(ahead[result], result.box[0][0]) for result in results}


def _before(results: Sequence[Result], slabs: Sequence[Interval]) -> list[int]:
    """Planes of the output, below the first slab, that steps before it stand for."""
    (first, stop), *others = slabs
    if not others:
        return []
    image = results[0]
    below = _goals(results, first)[image] - image.box[0][0]
    planes = stop - first
    return [first - n * planes for n in reversed(range(below // planes))]
