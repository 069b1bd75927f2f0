"""Read the activations of hidden layers during a forward pass, with hooks that are always removed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils.rnn import PackedSequence

from ..checks import check_choice, check_integer, check_seed
from ..validation import resolve_device, untraced
from .batches import batch_samples, call_with_batch
from .branch import Branch
from .layers import chosen_layers, draw_layers, unwrapped
from .pooling import CHANNELS, POOLINGS, KnownChannels, check_mask, first_tensor, known_channels, pooled


class Probe:
    """Read the activations of a network's layers during a forward pass, with their gradient.

    Parameters
    ----------
    model : nn.Module
        Any network. It has hooks only inside the ``with`` block, where another thread must not use it.
        `DistributedDataParallel` and `torch.compile` are
        looked through.
    layers : int or sequence of str, optional
        By default the natural blocks, that is every residual block or stage. An integer: that many of them, evenly
        spaced, with the first and the last. A sequence: names as in ``model.named_modules()``, patterns such as
        ``"stages.*.blocks.*"``, "stem" or "head"; see `chosen_layers`.
    pooling : {"mean", "max", "class-token", "flatten"} or callable
        How tokens ``(samples, tokens, channels)`` and maps ``(samples, channels, height, width)`` become ``(samples,
        neurons)``: mean or maximum over places, the first token, or one neuron for every channel of every place. A
        callable takes a layer's output (a tensor, or an object such as a dataclass) and returns ``(samples,
        neurons)``. Graphs need one, which has to know the graph of each node: let the model keep that.
    channels : {"auto", "first", "last"}
        Axis of the channels. "auto" uses the types and sizes of the layers inside, and the shape.
    draw : int, optional
        Number of layers, drawn anew, that each ``with`` block reads. The others cost nothing.
    seed : int
        Seed of that draw. Equal seeds give equal draws, so that all ranks of a data-parallel job read the same layers.
        No other random state is used.
    gather : bool
        Whether to read the samples of all ranks of a `torch.distributed` job, with gradient.
    part : int or str, optional
        Which entry of a tuple or mapping, or attribute of another object, to read of a layer's output. By default its
        first tensor.

    Attributes
    ----------
    layers : tuple of str
        The layers that may be read, in the order of the model.
    drawn : tuple of str
        The layers that the last ``with`` block read. Without `draw`, all of them.
    mask : Tensor or None, shape (samples, tokens)
        Which tokens count (True or 1), to leave out padding. Set it before each ``with`` block. It is reset to None at
        the end of the block, and needs pooling "mean" or "max".

    Raises
    ------
    ValueError
        A layer that the model does not have (the message has the nearest name), no layers to read, a ScriptModule, or
        an unknown option.
    TypeError
        `model` is not an nn.Module.

    Warns
    -----
    UserWarning
        Two names of one module, a layer without weights that the model calls several times in one pass, a layer of
        torch with ``batch_first=False``, or channels that may be first or last.

    Notes
    -----
    Memory is O(samples * neurons) per layer for the pooled activations, plus what autograd keeps for their gradient.
    Where gradients are enabled, each layer is pooled a second time for a penalty, so that a cap bounds the penalty's
    gradient and not that of other losses on the activations. So a callable `pooling` is called twice; it must not be
    random, and changes in place of the activations do not reach the penalty.

    A layer whose first axis is not the samples (windows of attention, a sequence) is an error only if the layers differ
    in that axis. Unless `pooling` is a callable, `activations` compares it with the batch as well.

    With `gather`, every rank computes the same penalty P from all samples. The backward pass adds up the gradients
    that the ranks' penalties send to a sample, which gives the number of ranks times dP/dx. `DistributedDataParallel`
    then averages over ranks, so the result is the gradient of P. Every rank needs the same number of samples.

    Compiled code ignores hooks that were added after its compilation. So `torch.compile` is off inside the ``with``
    block, in whatever order the model was probed and compiled.

    Gradient checkpointing with ``use_reentrant=True`` runs the forward pass without gradient, so that the activations
    inside have none; with ``use_reentrant=False`` they have.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> probe = Probe(model, layers=["1"])
    >>> with probe:
    ...     _ = model(torch.zeros(8, 4))
    >>> probe.activations["1"].shape
    torch.Size([8, 16])
    """

    def __init__(
        self,
        model: nn.Module,
        layers: int | Sequence[str] | None = None,
        *,
        pooling: str | Callable[[Any], Tensor] = "mean",
        channels: str = "auto",
        draw: int | None = None,
        seed: int = 0,
        gather: bool = False,
        part: int | str | None = None,
    ) -> None:
        self._root = unwrapped(model)
        self._modules = chosen_layers(model, layers)
        self.layers = tuple(self._modules)
        if not callable(pooling):
            check_choice(pooling, POOLINGS, name="pooling")
        check_choice(channels, CHANNELS, name="channels")
        if draw is not None and check_integer(draw, name="draw", least=None) not in range(1, len(self.layers) + 1):
            raise ValueError(f"draw: got {draw!r}, need None or 1 to {len(self.layers)}, the number of layers")
        self.draw, self.gather, self.drawn = draw, gather, self.layers
        self.mask: Tensor | None = None
        self.pooled = partial(pooled, pooling=pooling, channels=channels, part=part)
        self._own_pooling = callable(pooling)
        self._wrong_axis: set[str] = set()  # layers of which a warning was given
        self._known: dict[str, KnownChannels] = {}  # filled at the first pass, when lazy modules have their shapes
        self._generator = torch.Generator().manual_seed(check_seed(seed))
        self._block: ExitStack | None = None  # removes the hooks
        self._forget()

    def _forget(self) -> None:
        self._read: dict[str, Tensor] = {}
        self._causes: dict[str, str] = {}  # by layer, why its activations have no gradient
        self._called = False
        self._depth = 0  # of the passes under way: a model may call itself
        self._met: set[str] = set()  # layers of the pass under way
        self._changed: set[str] = set()
        self._repeated: set[str] = set()
        self._views: dict[str, tuple[Tensor, int]] = {}  # outputs that are views, and their versions when read
        self._gradients_enabled = torch.is_grad_enabled()

    @property
    def activations(self) -> dict[str, Tensor]:
        """The last ``with`` block's activations, by layer in the order of the pass: Tensor, shape (samples, neurons).

        After several passes, or calls of a layer with shared weights, the last one counts. Empty before the first pass.

        Raises
        ------
        ValueError
            The forward pass did not reach all layers, or the layers differ in their numbers of samples.
        """
        if self._read or self._called:
            self._check_reached()
            samples = {layer: len(value) for layer, value in self._read.items()}
            if len(set(samples.values())) > 1:
                raise ValueError(f"layers: they differ in their first axis, need the samples there: {samples}")
        return self._read

    def known(self, layer: str) -> KnownChannels:
        """Return what is known of the channels of a layer's output."""
        if layer not in self._known:
            self._known[layer] = known_channels(self._modules[layer], self._root)
        return self._known[layer]

    def no_gradient_cause(self, layer: str) -> str:
        """Return the likely cause why a layer's activations have no gradient; empty if they have one."""
        return self._causes.get(layer, "")

    def changed_views(self) -> frozenset[str]:
        """Return the layers whose output is a view that was changed in place, which no capped penalty can reach."""
        return frozenset(self._changed)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of the draw, for a checkpoint."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue the draw from a state that `state_dict` returned."""
        self._generator.set_state(state["generator"].cpu())

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy gets: all but the activations and the open ``with`` block."""
        return vars(self) | {"mask": None, "_read": {}, "_causes": {}, "_views": {}, "_called": False, "_block": None}

    def __enter__(self) -> Probe:
        if self._block is not None:
            raise RuntimeError("Probe: already inside a `with` block of this probe; leave it first, or make a second")
        with ExitStack() as block:  # if anything below fails, what was done is undone
            block.callback(setattr, self, "mask", None)
            if self.mask is not None:
                check_mask(self.mask)
            self._forget()
            self.drawn = tuple(draw_layers(self.layers, self.draw, self._generator))
            block.callback(self._root.register_forward_pre_hook(self._note_call).remove)
            block.callback(self._root.register_forward_hook(self._note_end, always_call=True).remove)
            for layer in self.drawn:
                block.callback(self._modules[layer].register_forward_hook(self._reader(layer)).remove)
            block.enter_context(_uncompiled())
            self._block = block.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        for layer, (view, version) in self._views.items():
            if view._version != version:  # the gradient now goes past the view, and so past its hooks
                self._changed.add(layer)
        self._views = {}
        if self._block is not None:
            self._block.close()
            self._block = None

    def _note_call(self, module: nn.Module, args: object) -> None:
        self._called, self._gradients_enabled = True, torch.is_grad_enabled()
        self._depth += 1
        if self._depth == 1:
            self._met = set()

    def _note_end(self, module: nn.Module, args: object, output: object) -> None:
        self._depth -= 1

    def _note_layer(self, layer: str, module: nn.Module, output: Any) -> None:
        """Warn of a layer whose first axis is not the samples, and of one without weights that has several uses."""
        self._check_samples_first(layer, module, output)
        if not self._depth:  # checkpointing calls layers again in the backward pass
            return
        if layer in self._met and layer not in self._repeated and not any(True for _ in module.parameters()):
            self._repeated.add(layer)
            warnings.warn(
                f"layers: the model calls {layer!r} several times in one pass, and its last call is read; to read the "
                "others, give each place a module of its own",
                stacklevel=2,
            )
        self._met.add(layer)

    def _check_samples_first(self, layer: str, module: nn.Module, output: Any) -> None:
        """Warn where torch's own recurrent and attention layers have time or layers in front of the samples."""
        if self._own_pooling or layer in self._wrong_axis or isinstance(first_tensor(output), PackedSequence):
            return
        stack = isinstance(module, nn.Transformer | nn.TransformerEncoder | nn.TransformerDecoder)
        inside = module.modules() if stack else (module, getattr(module, "self_attn", None))
        attention = next((m for m in inside if isinstance(m, nn.MultiheadAttention)), None)
        if isinstance(module, nn.RNNBase) and self.pooled.keywords["part"] not in (None, 0):
            axis = "has its layers there"
        elif not getattr(module if isinstance(module, nn.RNNBase) else attention, "batch_first", True):
            axis = "has batch_first=False, so time is there"
        else:
            return
        self._wrong_axis.add(layer)
        warnings.warn(
            f"layers: {layer!r} {axis}, and the first axis is read as the samples; need batch_first=True, or a "
            "callable `pooling`",
            stacklevel=2,
        )

    def _reader(self, layer: str) -> Callable[[nn.Module, object, Any], None]:
        @untraced  # compiled code would lose the hooks of the branch
        def read(module: nn.Module, args: object, output: Any) -> None:
            if module is not self._modules[layer]:  # a copy of the model, made inside the block
                return
            self._note_layer(layer, module, output)
            with ExitStack() as plain:
                # Checkpointing counts the tensors that autograd saves; with hooks of their own, these are not counted.
                with suppress(RuntimeError):  # torch.func has no such hooks, and no checkpointing
                    plain.enter_context(saved_tensors_hooks(lambda x: x, lambda x: x))
                pool = partial(self.pooled, output, known=self.known(layer), mask=self.mask, layer=layer)
                value, branch = pool(), Branch()
                # A penalty reads the twin: on its branch, nothing but the penalty's gradient may come back.
                twin = pool(branch=branch) if value.requires_grad else value
            if self.gather and dist.is_available() and dist.is_initialized():
                from torch.distributed.nn.functional import all_gather

                both = torch.stack((value, twin) if value.requires_grad else (value,))
                gathered = torch.cat(all_gather(both), 1)
                value, twin = gathered[0], gathered[-1]
            if value.requires_grad:  # both stay with the tensor, in whatever mapping
                twin.selfsim_branch, value.selfsim_twin = branch, twin  # type: ignore[attr-defined]
            self._read[layer] = value
            self._causes[layer] = "" if value.requires_grad else self._cause(module)
            tensor = first_tensor(output)
            if isinstance(tensor, Tensor) and tensor.requires_grad and tensor._is_view():
                self._views[layer] = tensor, tensor._version

        return read

    def _cause(self, module: nn.Module) -> str:
        if not self._gradients_enabled:
            return "the forward pass ran under torch.no_grad() or inference_mode()"
        if not torch.is_grad_enabled():
            return "gradient checkpointing with use_reentrant=True (need False), or torch.no_grad() inside the model"
        if any(parameter.requires_grad for parameter in module.parameters()):
            return "the layer detaches its output"
        return "the layer and all before it are frozen (requires_grad=False)"

    def _check_reached(self) -> None:
        missing = [layer for layer in self.drawn if layer not in self._read]
        if missing:
            remedy = "; if it is compiled, compile it inside the first block, or call torch.compiler.reset() before"
            hint = remedy if "torch._dynamo" in sys.modules else ""
            raise ValueError(f"layers: the forward pass does not reach {', '.join(map(repr, missing))}{hint}")


def _uncompiled() -> AbstractContextManager[object]:
    """Return a context in which compiled code runs uncompiled, because it ignores hooks that are newer than it."""
    if "torch._dynamo" not in sys.modules or torch.compiler.is_compiling():
        return nullcontext()
    try:
        return torch.compiler.set_stance("force_eager")
    except RuntimeError:  # called from compiled code, which is traced with the hooks
        return nullcontext()


def activations(
    model: nn.Module,
    loader: Iterable,
    *,
    layers: int | Sequence[str] | None = None,
    samples: int | None = 128,
    device: str | torch.device = "auto",
    pooling: str | Callable[[Any], Tensor] = "mean",
    channels: str = "auto",
    part: int | str | None = None,
    mask: str | None = None,
) -> dict[str, Tensor]:
    """Return the activations of a network's layers on the first samples of a loader, in eval mode, without gradient.

    Parameters
    ----------
    model : nn.Module
        Moved to `device` for the passes and back; one that lies on several devices stays there. The training mode of
        every module is restored. Another thread must not use it meanwhile: its passes would be read, too.
    loader : iterable
        Batches ``x``, ``(x, y)``, ``(x1, x2, y)``, ``((x1, x2), y)`` or dicts; see `call_with_batch`.
    layers, pooling, channels, part
        As in `Probe`.
    samples : int, optional
        Number of samples, taken from the front. None takes all. Rates depend on it: compare rates of equally many
        samples only.
    device : str
        ``"auto"``: CUDA if there is a card, else the CPU. The only choice for a model on several devices.
    mask : str, optional
        Key of the batches, which are then dicts, for the mask of the tokens that count, such as "attention_mask".
        Padding on the left moves the tokens of models with absolute positions, such as GPT-2, unless the batches have
        the right "position_ids".

    Returns
    -------
    dict of str to Tensor, shape (samples, neurons)
        On `device`.

    Raises
    ------
    ValueError
        An unknown layer, a layer that the forward pass does not reach or whose first axis is not the samples, a
        loader without batches or with too few samples, empty batches, or batches without the mask.

    Notes
    -----
    Time is that of the forward passes. Memory is O(samples * neurons) for the result.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> batches = [(torch.zeros(6, 4), torch.zeros(6)), (torch.ones(6, 4), torch.ones(6))]
    >>> activations(model, batches, samples=10, device="cpu")["1"].shape
    torch.Size([10, 16])
    """
    if samples is not None:
        samples = check_integer(samples, name="samples")
    probe = Probe(model, layers, pooling=pooling, channels=channels, part=part)
    pieces: dict[str, list[Tensor]] = {layer: [] for layer in probe.layers}
    seen = 0
    if isinstance(loader, (str, Tensor, np.ndarray)) or not isinstance(loader, Iterable):
        hint = ", such as x.split(32)" if isinstance(loader, Tensor) else ""
        raise TypeError(f"loader: got {type(loader).__name__}, need an iterable of batches{hint}")
    with _evaluating(model, device) as place, torch.no_grad():
        for batch in loader:
            if mask is not None:
                if not isinstance(batch, Mapping) or mask not in batch:
                    got = list(batch) if isinstance(batch, Mapping) else type(batch).__name__
                    raise ValueError(f"mask: need batches that are dicts with {mask!r}, got {got}")
                probe.mask = batch[mask]
            with probe:
                call_with_batch(model, batch, place)
            size = batch_samples(model, batch)
            probe._check_reached()
            for layer, value in probe._read.items():
                # Of a graph the first input has the nodes, and a function knows the samples.
                if size not in (None, len(value)) and not callable(pooling):
                    raise ValueError(
                        f"layer {layer!r}: its first axis has {len(value)} entries, not the {size} samples; "
                        "need one row a sample, which a callable `pooling` can make"
                    )
            for layer, value in probe.activations.items():
                pieces[layer].append(value)
            seen += len(value)
            if samples is not None and seen >= samples:
                break
    if seen == 0:
        got = "only empty batches" if any(pieces.values()) else "no batches"
        raise ValueError(f"loader: got {got}, need at least one sample")
    if samples is not None and seen < samples:
        raise ValueError(f"samples: got {samples}, but the loader has only {seen}")
    return {layer: torch.cat(parts)[:samples] for layer, parts in pieces.items()}


@contextmanager
def _evaluating(model: nn.Module, device: str | torch.device) -> Iterator[torch.device]:
    """Put the model on `device` and into eval mode, and restore both afterwards, module by module.

    Yields where inputs go. A model on several devices stays where it is, and takes them at the first.
    """
    homes = list(dict.fromkeys(p.device for p in model.parameters()))
    if len(homes) > 1 and device != "auto":
        names = ", ".join(map(str, homes))
        raise ValueError(f"device: got {str(device)!r} for a model on {names}; need 'auto', which leaves it there")
    place = homes[0] if len(homes) > 1 else resolve_device(device)
    modes = {module: module.training for module in model.modules()}
    try:
        (model.to(place) if len(homes) == 1 else model).eval()
        yield place
    finally:
        if len(homes) == 1:
            model.to(homes[0])
        for module, training in modes.items():  # containers before their parts
            if module.training != training:
                module.train(training)  # may do more than set the flag, as where LoRA unmerges its weights
        for module, training in modes.items():
            module.training = training
