"""A card that is none: tensors that say ``device="cuda"`` and keep their numbers on the CPU, which computes them.

`torch._subclasses.FakeTensorMode` does the same without numbers. With them, values and gradients can be compared, and
functions that copy their input to the CPU run on. As on a card, a CPU tensor of more than one number cannot meet a
tensor of the card, and `Pretended.waits` lists what would make the host wait for it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map

aten = torch.ops.aten
# Their results are numbers on the host, or have a shape that depends on values.
_WAIT = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "bincount"}
_COPIES = {"_to_copy", "copy_"}


class OnCard(Tensor):
    """A tensor of the pretended card."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnCard:
        wrapper = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="cuda:0",
        )
        wrapper.held = held
        return wrapper

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside `with Pretended():`")


class Pretended(TorchDispatchMode):
    """Within it, ``device="cuda"`` works; `waits` are the operations for which a card would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._below = FakeTensorMode()  # while it is active, torch does not look for a driver

    def __enter__(self) -> Pretended:
        self._below.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._below.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with unset_fake_temporarily():
            return self._computed(func, args, dict(kwargs or {}))

    def _computed(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        tensors: list[Tensor] = []
        tree_map(lambda x: tensors.append(x) if isinstance(x, Tensor) else None, (args, kwargs))
        onto = kwargs.get("device")
        name, on_card = func.overloadpacket.__name__, [x for x in tensors if isinstance(x, OnCard)]
        if not on_card and (onto is None or torch.device(onto).type != "cuda"):
            return func(*args, **kwargs)
        if onto is not None:
            kwargs["device"] = torch.device("cpu")
        to_card = bool(on_card) if onto is None else torch.device(onto).type == "cuda"
        if name in _WAIT or (name in _COPIES and len({isinstance(x, OnCard) for x in tensors} | {to_card}) > 1):
            self.waits.append(name)
        elif any(x.ndim and not isinstance(x, OnCard) for x in tensors):
            raise RuntimeError(f"{func}: got tensors of the card and of the CPU")
        if name == "pin_memory":
            raise RuntimeError("pin_memory: pretended cards have none")
        found = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if name == "copy_" and not isinstance(args[0], OnCard):
            return args[0]
        if name == "_local_scalar_dense" or not to_card:
            return found
        found = tree_map(lambda x: OnCard(x) if isinstance(x, Tensor) else x, found)
        return return_and_correct_aliasing(func, args, kwargs, found) if on_card else found


def _held(x: Any) -> Any:
    return x.held if isinstance(x, OnCard) else x


@torch.no_grad()
def backward(value: Tensor, upstream: Tensor) -> dict[Tensor, Tensor]:
    """Return the gradient of each leaf: autograd's engine needs a real card, so its functions are called one by one."""
    waiting: dict[Any, list[Tensor | None]] = {}
    leaves: dict[Tensor, Tensor] = {}

    def give(node: Any, place: int, gradient: Tensor) -> None:
        gradients = waiting.setdefault(node, [None] * len(node._input_metadata))
        gradient = gradient.sum_to_size(node._input_metadata[place].shape)  # as the engine does after a broadcast
        before = gradients[place]
        gradients[place] = gradient if before is None else before + gradient

    give(value.grad_fn, value.output_nr, upstream)
    while waiting:
        node = max(waiting, key=lambda node: node._sequence_nr())
        gradients = waiting.pop(node)
        if hasattr(node, "variable"):
            leaves[node.variable] = gradients[0] + leaves.get(node.variable, 0)
            continue
        found = (node.apply if isinstance(node, torch.autograd.function.BackwardCFunction) else node)(*gradients)
        found = found if isinstance(found, tuple) else (found,)
        # Functions of our own return more: None for each argument that is no tensor. Here these come last.
        for (target, place), gradient in zip(node.next_functions, found, strict=False):
            if target is not None and gradient is not None:
                give(target, place, gradient)
    return leaves
