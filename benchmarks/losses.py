"""What Dice + cross-entropy costs, beside MONAI's, forward and backward.

    python benchmarks/losses.py [--side 64] [--batch 2] [--classes 2 7 33]

Prints CPU-seconds of one thread, the least of several runs with memory that is kept as
in a training, and how far value and gradient are from MONAI's.
"""

import argparse
from collections.abc import Callable
from time import process_time

import torch
from monai.losses import DiceCELoss
from torch import Tensor

from nobrainer.losses import LOSSES
from nobrainer.memory import kept_memory

FORMATS = {"channels last": torch.channels_last_3d, "plain": torch.contiguous_format}


def measure(
    loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor
) -> tuple[float, Tensor, Tensor]:
    """Least seconds of six runs, the value and the gradient."""
    times = []
    for _ in range(6):
        logits.grad = None
        begin = process_time()
        value = loss(logits, labels)
        value.backward()
        times.append(process_time() - begin)
    assert logits.grad is not None
    return min(times), value.detach(), logits.grad.clone()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 4, 7, 16, 33, 50])
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    peer = DiceCELoss(softmax=True, to_onehot_y=True)
    print("| classes | logits | MONAI, s | ours, s | value | gradient |")
    print("|---|---|---|---|---|---|")
    shape = (args.side,) * 3
    with kept_memory():
        for n_classes in args.classes:
            labels = torch.randint(0, n_classes, (args.batch, *shape))
            for name, memory_format in FORMATS.items():
                logits = torch.randn(args.batch, n_classes, *shape)
                logits = logits.to(memory_format=memory_format).requires_grad_()
                theirs, expected, right = measure(
                    lambda x, y: peer(x, y[:, None]), logits, labels
                )
                ours, value, found = measure(LOSSES["dice_ce"](), logits, labels)
                off = float((found - right).abs().max() / right.abs().max())
                print(
                    f"| {n_classes} | {name} | {theirs:.4f} | {ours:.4f} "
                    f"| {float(abs(value - expected)):.1e} | {off:.1e} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
