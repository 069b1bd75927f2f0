"""A branch of a layer's output whose gradient meets that of the rest of the network under a rule."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor

# From the gradients that reach a layer's output along the network and along the branch to the one to pass on.
Meeting = Callable[[Tensor, Tensor], Tensor]


class Branch:
    """Read a layer's output on a branch, and let a function combine the two gradients that come back to it.

    Autograd adds the gradient of the branch to the one that comes along the network. With `meeting` set, it passes on
    ``meeting(network's, branch's)`` instead. Both gradients carry the same loss scale, and each belongs to one backward
    pass, so that half precision, accumulation, checkpointing and data-parallel training need nothing of their own.

    Attributes
    ----------
    meeting : callable, optional
        None: the gradients are added, as without this class.
    reads : bool
        Whether the branch has begun, at an output with gradient.
    reader : object, optional
        What reads the branch.

    Examples
    --------
    >>> x = torch.ones(2, requires_grad=True)
    >>> hidden, branch = 1 * x, Branch()
    >>> penalty = branch.of(hidden).sum()
    >>> branch.meeting = lambda task, penalty: task + 0.1 * penalty
    >>> (5 * hidden.sum() + penalty).backward()
    >>> x.grad
    tensor([5.1000, 5.1000])
    """

    def __init__(self) -> None:
        self.meeting: Meeting | None = None
        self.reads = False
        self.reader: object = None
        self._waiting: Tensor | None = None

    def of(self, output: Tensor) -> Tensor:
        """Return the output again, as the beginning of the branch."""
        if not (output.requires_grad and torch.is_grad_enabled()):
            return output
        self.reads = True
        branch = output.view_as(output)
        branch.register_hook(self._hold_back)
        # Called when every gradient has arrived, that of the branch among them. A leaf outlives the graph, so its hook
        # goes with this object, which the graph holds.
        this = weakref.ref(self)
        handle = output.register_hook(lambda gradient: found._meet(gradient) if (found := this()) else None)
        weakref.finalize(self, handle.remove)
        return branch

    def _hold_back(self, gradient: Tensor) -> Tensor | None:
        if self.meeting is None:
            return None
        self._waiting = gradient
        return gradient.new_zeros(()).expand_as(gradient)

    def _meet(self, gradient: Tensor) -> Tensor | None:
        waiting, self._waiting = self._waiting, None
        return None if waiting is None or self.meeting is None else self.meeting(gradient, waiting)
