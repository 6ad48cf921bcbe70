"""Counts what a calculation starts on a GPU, where there is none.

The meta device computes nothing, but gets every call that a GPU would get.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META, CPU = torch.device("meta"), torch.device("cpu")
_STARTS_NOTHING = {
    *("alias", "as_strided", "detach", "expand", "lift_fresh", "permute", "select"),
    *("set_", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose"),
    *("unbind", "unsqueeze", "view", "_unsafe_view", "_reshape_alias"),
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
}


class Watching(TorchDispatchMode):
    """A mode that sees every call, without the compiler."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare the import of the compiler, which takes seconds."""
        return True


class Launches(Watching):
    """Counts the launches on the meta device, by name, while it is active.

    A convolution counts as one launch, with what a library starts for it. What would
    make the processor wait raises an error, but for copies to it.

    counts: launches by name; copies between the processor and the device count too.
    to_cpu: number of copies to the processor, which wait for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.to_cpu = 0

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        composite = func.has_kernel_for_dispatch_key(
            DispatchKey.CompositeImplicitAutograd
        )
        # One kernel, which only the meta device makes of others.
        if composite and not name.startswith("upsample"):
            with self:
                made = func.decompose(*args, **kwargs)
            if made is not NotImplemented:
                return made
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if name == "_to_copy" and tensors[0].is_meta and kwargs.get("device") == CPU:
            self.to_cpu += 1
            dtype = kwargs.get("dtype") or tensors[0].dtype
            return torch.zeros(tensors[0].shape, dtype=dtype)
        on_device = any(t.is_meta for t in tensors) or kwargs.get("device") == META
        if on_device and name not in _STARTS_NOTHING:
            self.counts[name] += 1
        return func(*args, **kwargs)
