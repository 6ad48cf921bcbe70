"""How far every model looks, against the halo that it states."""

import pytest
import torch
from torch import nn

from nobrainer.bayes.draws import realise
from small_models import (
    CASES,
    FAMILIES,
    MONAI,
    arguments_of,
    lived,
    noise,
    small,
)


def _reach(model: nn.Module) -> tuple[int, int]:
    """Voxels left and right of a stride-aligned core that its output depends on.

    With positive weights and a positive image every unit is active, so the gradient
    shows all dependencies.
    """
    for parameter in model.parameters():
        parameter.data.abs_().add_(0.01)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm3d):
            norm.running_mean.zero_()
    network = realise(model, None)
    stride = model.stride
    start = 3 * model.halo
    across = 2 * stride
    image = torch.rand(1, 1, 2 * start + stride, across, across) + 0.1
    image.requires_grad_()
    network(image)[:, :, start : start + stride].sum().backward()
    assert image.grad is not None
    (used,) = torch.nonzero(image.grad.sum((0, 1, 3, 4)), as_tuple=True)
    return start - int(used[0]), int(used[-1]) - (start + stride - 1)


REACHES = [
    (name, {key: value})
    for name in [*FAMILIES, "kwyk"]
    for key, value in [
        ("levels", 1),
        ("levels", 2),
        ("levels", 3),
        ("levels", 4),
        ("dilations", [1]),
        ("dilations", [2, 1, 3]),
    ]
    if key in arguments_of(name) and (name, value) != ("unet", 1)
]


@pytest.mark.parametrize(("name", "args"), REACHES, ids=str)
def test_the_halo_is_as_wide_as_the_reach(name, args):
    model = small(name, **args, base_filters=1)
    needed = max(_reach(model))
    assert needed <= model.halo <= 2 * needed
    assert model.halo % model.stride == 0


@pytest.mark.parametrize(
    "name", [c for c in CASES if c == "highresnet" or c not in MONAI]
)
def test_nothing_beyond_the_halo_changes_the_core(name):
    model = lived(small(name))
    network = model.eval() if name == "ensemble" else realise(model, 0)
    halo, stride = model.halo, model.stride
    core = 2 * stride
    generator = torch.Generator().manual_seed(0)
    side = core + 2 * halo + 2 * stride
    image = torch.randn(1, 1, side, side, side, generator=generator)
    a, b = halo + stride, halo + stride + core
    other = 100 * torch.randn(image.shape, generator=generator)
    kept = (..., *(slice(a - halo, b + halo),) * 3)
    other[kept] = image[kept]
    inner = (..., *(slice(a, b),) * 3)
    assert network(other)[inner].equal(network(image)[inner])
    # And what lies inside of it does.
    other[..., a, a, a] += 1
    assert not network(other)[inner].equal(network(image)[inner])


def test_instance_norm_has_no_halo():
    model = small("unet", norm="instance")
    assert model.halo is None
    norms = [m for m in model.modules() if isinstance(m, nn.InstanceNorm3d)]
    assert norms and not any(isinstance(m, nn.BatchNorm3d) for m in model.modules())
    image = noise()
    torch.testing.assert_close(realise(model, None)(image), model.eval()(image))
