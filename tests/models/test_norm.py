"""Batch normalisation by wide channels against PyTorch's, in float64."""

import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor, nn

from nobrainer.models.norm import BatchNorm3d

LAST = torch.channels_last_3d
# Channels, and whether voxels are put together: a full vector of channels, an odd
# number of voxels and the usual order of memory are left to PyTorch.
SHAPES = [
    ((2, 8, 4, 6, 8), LAST, True),
    ((1, 3, 6, 5, 4), LAST, True),
    ((2, 21, 8, 8, 8), LAST, True),
    ((1, 1, 4, 4, 4), LAST, True),
    ((2, 16, 4, 4, 4), LAST, False),
    ((1, 8, 3, 3, 3), LAST, False),
    ((2, 8, 4, 4, 4), torch.contiguous_format, False),
]


def pair(n_channels: int) -> tuple[BatchNorm3d, nn.BatchNorm3d]:
    """Ours, and PyTorch's in float64 with the same parameters."""
    generator = torch.Generator().manual_seed(0)
    ours = BatchNorm3d(n_channels, eps=1e-3, momentum=0.3)
    for tensor in (*ours.parameters(), ours.running_mean, ours.running_var):
        assert tensor is not None
        tensor.data.copy_(torch.rand(n_channels, generator=generator) + 0.5)
    plain = nn.BatchNorm3d(n_channels, eps=1e-3, momentum=0.3).double()
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def images(shape: tuple[int, ...], layout: torch.memory_format, seed: int) -> Tensor:
    """Each channel with a mean and spread of its own, the mean far above it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    scale = torch.arange(1, shape[1] + 1).view(-1, 1, 1, 1)
    return (x * scale + 10 * scale).contiguous(memory_format=layout)


def weights_like(x: Tensor) -> Tensor:
    """What the values are weighted with in a sum."""
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(3)).to(x)


def passed(norm: nn.BatchNorm3d, x: Tensor) -> tuple[Tensor, ...]:
    """What a pass gives: values, and gradients of a weighted sum of them."""
    x = x.detach().requires_grad_()
    y = norm(x)
    (y * weights_like(y)).sum().backward()
    assert (
        norm.weight.grad is not None
        and norm.bias.grad is not None
        and x.grad is not None
    )
    return y.detach(), x.grad, norm.weight.grad, norm.bias.grad


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("shape", "layout", "wide"), SHAPES)
def test_values_gradients_and_running_figures_are_those_of_pytorch(
    shape, layout, wide, training, monkeypatch
):
    calls = []
    native = torch.native_batch_norm
    monkeypatch.setattr(
        torch, "native_batch_norm", lambda *a, **k: calls.append(1) or native(*a, **k)
    )
    ours, plain = (norm.train(training) for norm in pair(shape[1]))
    for seed in (1, 2):
        x = images(shape, layout, seed)
        got, wanted = passed(ours, x), passed(plain, x.double())
        for ours_is, it_is in zip(got, wanted, strict=True):
            assert (ours_is.double() - it_is).abs().max() < 3e-5 * it_is.abs().max()
        assert got[0].is_contiguous(memory_format=layout)
    state = plain.state_dict()
    assert ours.state_dict().keys() == state.keys()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(
            value.to(state[name]), state[name], rtol=1e-5, atol=0
        )
    assert ours.num_batches_tracked == (2 if training else 0)
    assert bool(calls) == wide


@pytest.mark.parametrize("training", [True, False])
def test_bfloat16_images_keep_their_format_and_float32_figures(training):
    shape = (2, 8, 4, 4, 8)
    ours, plain = (norm.train(training) for norm in pair(8))
    x = (images(shape, LAST, 1) - 10).bfloat16()
    y, by_x, by_weight, by_bias = passed(ours, x)
    wanted = passed(plain, x.double())
    assert (y.dtype, by_x.dtype) == (torch.bfloat16, torch.bfloat16)
    assert (by_weight.dtype, by_bias.dtype) == (torch.float32, torch.float32)
    for got, it_is in zip((y, by_x, by_weight, by_bias), wanted, strict=True):
        # A bfloat16 has 8 bits.
        assert (got.double() - it_is).abs().max() < 2**-7 * it_is.abs().max()
    torch.testing.assert_close(
        ours.running_var.double(), plain.running_var, rtol=1e-4, atol=0
    )


def test_a_backward_after_the_figures_went_on_uses_those_of_its_forward():
    ours, plain = (norm.eval() for norm in pair(8))
    x = images((1, 8, 4, 4, 4), LAST, 1).requires_grad_()
    y = ours(x)
    ours.train()(x.detach() * 3)
    (y * weights_like(y)).sum().backward()
    wanted = passed(plain, x.double())[1]
    assert x.grad is not None
    torch.testing.assert_close(x.grad.double(), wanted, rtol=1e-5, atol=1e-6)


def test_an_image_of_monai_can_be_changed_in_place_afterwards():
    ours, plain = pair(8)
    x = images((1, 8, 4, 4, 4), LAST, 1)
    y = torch.relu_(ours(MetaTensor(x)))
    y.sum().backward()
    wanted = torch.relu(plain(x.double()))
    torch.testing.assert_close(y.as_tensor().double(), wanted, rtol=1e-4, atol=1e-4)
    assert ours.weight.grad is not None


@pytest.mark.parametrize("distance", [0, 10, 100])
def test_gradients_of_bfloat16_images_sum_to_zero_in_each_channel(distance):
    """They do for any batch, however far its mean is from zero."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 8, 8, 16, generator=generator) + distance
    x = x.bfloat16().contiguous(memory_format=LAST)
    by_x = passed(pair(8)[0].train(), x)[1].float()
    means, spreads = by_x.mean((0, 2, 3, 4)), by_x.std((0, 2, 3, 4))
    assert (means.abs() / spreads).max() < 3e-3


def test_a_second_derivative_is_refused_and_not_wrong():
    x = images((1, 8, 4, 4, 4), LAST, 1).requires_grad_()
    y = pair(8)[0](x).square().sum()
    (gradient,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_what_pytorch_takes_otherwise_it_gets():
    x = images((2, 8, 4, 4, 4), LAST, 1)
    cases = [
        (BatchNorm3d(8, affine=False), nn.BatchNorm3d(8, affine=False), x),
        (BatchNorm3d(8, momentum=None), nn.BatchNorm3d(8, momentum=None), x),
        (BatchNorm3d(8).double(), nn.BatchNorm3d(8).double(), x.double()),
        (
            BatchNorm3d(8, track_running_stats=False),
            nn.BatchNorm3d(8, track_running_stats=False),
            x,
        ),
        (BatchNorm3d(8).eval(), nn.BatchNorm3d(8).eval(), x[:0]),
    ]
    for ours, plain, image in cases:
        got, wanted = ours(image), plain(image)
        assert got.dtype == wanted.dtype
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match="elements"):
        BatchNorm3d(4)(x)
