"""Reading the hidden neurons of any network: forward hooks that are always removed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..checks import check_choice, check_integer
from ..validation import resolve_device
from .layers import chosen_layers, is_compiled, unwrapped
from .pooling import CHANNELS, POOLINGS, known_channels, pooled


class Probe:
    """Read the activations of a network's layers during a forward pass, with their gradient.

    Parameters
    ----------
    model : nn.Module
        Any network. It is not changed: hooks exist only inside the ``with`` block. Of `DistributedDataParallel` and
        `torch.compile`, the network inside is read.
    layers : int or sequence of str, optional
        By default the natural blocks (every residual block, or stage). A number: so many of them, evenly spaced, the
        first and the last among them. A sequence: names as in ``model.named_modules()``, patterns such as
        ``"stages.*.blocks.*"``, or "stem" and "head". See `chosen_layers`.
    pooling : {"mean", "max", "class-token", "flatten"} or callable
        How tokens ``(samples, tokens, channels)`` and maps ``(samples, channels, height, width)`` become ``(samples,
        neurons)``: averaged over places, their maximum, the first token, or every channel of every place a neuron. A
        callable takes a layer's output (a tensor, or an object such as a dataclass as it is) and gives ``(samples,
        neurons)``.
    channels : {"auto", "first", "last"}
        Which axis holds the channels; "auto" goes by the types and sizes of the layers inside it and by the shape.
    draw : int, optional
        Each ``with`` block reads only so many of the layers, drawn anew; the others cost nothing.
    seed : int
        Of that draw. Equal seeds draw alike, so the ranks of a data-parallel job do; no other random state is touched.
    gather : bool
        In a `torch.distributed` job, read the samples of all ranks, with gradient; without one, nothing changes.
    part : int or str, optional
        Which entry of a tuple or mapping, or attribute of another object, that a layer gives; by default its first
        tensor.

    Attributes
    ----------
    layers : tuple of str
        The layers that may be read, in the order of the model.
    drawn : tuple of str
        The layers that the last ``with`` block read: all of them without `draw`.
    mask : Tensor or None, shape (samples, tokens)
        Set it before the forward pass to leave out padded tokens (True or 1: counts). It is for the next ``with``
        block alone, and for poolings "mean" and "max".

    Raises
    ------
    ValueError
        A layer that the model does not have (with the nearest name), no layers to read, or an unknown option.
    TypeError
        `model` is no nn.Module.

    Notes
    -----
    Only the pooled activations of the chosen layers are kept: memory O(samples * neurons) per layer, plus what
    autograd keeps for their gradient. A first axis that is not the sample (windows of attention, a sequence) is seen
    only where the layers differ in it, or where `activations` can compare it with the batch.

    With `gather`, every rank computes the same penalty P from all samples. The backward pass adds up the gradients that
    the ranks' equal penalties send to a sample, which gives the number of ranks times dP/dx; `DistributedDataParallel`
    then averages over ranks: the result is the gradient of P. Every rank needs the same number of samples.

    Compiled code passes over hooks that it was not compiled with. So a network under `torch.compile` runs uncompiled
    inside the ``with`` block.

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
        pooling: str | Callable[[Tensor], Tensor] = "mean",
        channels: str = "auto",
        draw: int | None = None,
        seed: int = 0,
        gather: bool = False,
        part: int | str | None = None,
    ):
        self._modules = chosen_layers(model, layers)
        self.layers = tuple(self._modules)
        if not callable(pooling):
            check_choice(pooling, POOLINGS, name="pooling")
        check_choice(channels, CHANNELS, name="channels")
        if draw is not None and check_integer(draw, name="draw", least=None) not in range(1, len(self.layers) + 1):
            raise ValueError(f"draw: got {draw!r}, need None or 1 to {len(self.layers)}, the number of layers")
        self.draw = draw
        self.gather = gather
        self.drawn = self.layers
        self.mask: Tensor | None = None
        self._pooling = dict(pooling=pooling, channels=channels, part=part)
        self._root = unwrapped(model)
        self._known = {layer: known_channels(module, self._root) for layer, module in self._modules.items()}
        self._generator = torch.Generator().manual_seed(check_integer(seed, name="seed", least=None))
        self._read: dict[str, Tensor] = {}
        self._ran = False
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._compiled = is_compiled(model)
        self._stance = None

    @property
    def activations(self) -> dict[str, Tensor]:
        """The last ``with`` block's activations, layer to Tensor of shape (samples, neurons), in the order of the pass.

        Of several forward passes or calls of a layer, as where weights are shared, the last counts. Empty before the
        first forward pass.

        Raises
        ------
        ValueError
            The forward pass did not reach all of the layers, or they differ in their numbers of samples.
        """
        if self._read or self._ran:
            self._check_reached()
            samples = {layer: len(value) for layer, value in self._read.items()}
            if len(set(samples.values())) > 1:
                raise ValueError(f"layers: they differ in their first axis, need the samples there: {samples}")
        return self._read

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the draw, for a checkpoint."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on drawing where `state` was taken."""
        self._generator.set_state(state["generator"])

    def __enter__(self) -> Probe:
        if self._hooks:
            raise RuntimeError("Probe: already inside a `with` block of this probe")
        if self.mask is not None:
            _check_mask(self.mask)
        self._read, self._ran = {}, False
        if self.draw is not None:
            order = torch.randperm(len(self.layers), generator=self._generator)
            self.drawn = tuple(self.layers[i] for i in sorted(order[: self.draw].tolist()))
        self._hooks.append(self._root.register_forward_pre_hook(self._runs))
        for layer in self.drawn:
            self._hooks.append(self._modules[layer].register_forward_hook(self._reader(layer)))
        if self._compiled:
            # Compiled code passes over hooks that came after it.
            self._stance = torch.compiler.set_stance("force_eager")
            self._stance.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        if self._stance is not None:
            self._stance.__exit__(*exception)
            self._stance = None
        self.mask = None

    def _runs(self, module: nn.Module, args) -> None:
        self._ran = True

    def _reader(self, layer: str):
        def read(module: nn.Module, args, output) -> None:
            value = pooled(output, **self._pooling, known=self._known[layer], mask=self.mask, layer=layer)
            if self.gather and dist.is_available() and dist.is_initialized():
                from torch.distributed.nn.functional import all_gather

                value = torch.cat(all_gather(value))
            self._read[layer] = value

        return read

    def _check_reached(self) -> None:
        missing = [layer for layer in self.drawn if layer not in self._read]
        if missing:
            raise ValueError(f"layers: the forward pass does not reach {', '.join(map(repr, missing))}")


def activations(
    model: nn.Module,
    loader: Iterable,
    *,
    layers: int | Sequence[str] | None = None,
    samples: int | None = 128,
    device: str | torch.device = "auto",
    pooling: str | Callable[[Tensor], Tensor] = "mean",
    channels: str = "auto",
    part: int | str | None = None,
    mask: str | None = None,
) -> dict[str, Tensor]:
    """Activations of a network's layers on the first samples of a loader, in eval mode, without gradient.

    Parameters
    ----------
    model : nn.Module
        Moved to `device` for the passes and back; the training mode of each part is restored.
    loader : iterable
        Of batches ``x``, ``(x, y)`` or a dict. Of a dict, the entries that ``model.forward`` takes by name are
        passed by name (all, where it takes any name); if there are none, its first entry is passed.
    layers, pooling, channels, part
        As for `Probe`.
    samples : int, optional
        Exactly this many samples, from the front. None takes all. Rates depend on the number of samples: keep it
        the same wherever rates are compared.
    device : str
        ``"auto"``: CUDA where there is a card, else the CPU.
    mask : str, optional
        The entry of the batches, which are then dicts, that says which tokens count: "attention_mask", say.

    Returns
    -------
    dict of str to Tensor, shape (samples, neurons)
        On `device`.

    Raises
    ------
    ValueError
        An unknown layer, a layer that the forward pass does not reach or whose first axis is not the sample, a
        loader that is empty or has fewer samples than asked for, empty batches, or batches without the mask.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> batches = [(torch.zeros(6, 4), torch.zeros(6)), (torch.ones(6, 4), torch.ones(6))]
    >>> activations(model, batches, samples=10, device="cpu")["1"].shape
    torch.Size([10, 16])
    """
    if samples is not None:
        samples = check_integer(samples, name="samples")
    device = resolve_device(device)
    probe = Probe(model, layers, pooling=pooling, channels=channels, part=part)
    pieces: dict[str, list[Tensor]] = {layer: [] for layer in probe.layers}
    seen = 0
    with _evaluating(model, device), torch.no_grad():
        for batch in loader:
            if mask is not None:
                if not isinstance(batch, Mapping) or mask not in batch:
                    got = list(batch) if isinstance(batch, Mapping) else type(batch).__name__
                    raise ValueError(f"mask: need batches that are dicts with {mask!r}, got {got}")
                probe.mask = batch[mask]
            with probe:
                size = _forward(model, batch, device)
            probe._check_reached()
            for layer, value in probe._read.items():
                if size not in (None, len(value)):
                    raise ValueError(
                        f"layer {layer!r}: its first axis has {len(value)} entries, not the {size} samples"
                    )
                pieces[layer].append(value)
            seen += len(value)
            if samples is not None and seen >= samples:
                break
    if seen == 0:
        raise ValueError("loader: got no batches, need at least one")
    if samples is not None and seen < samples:
        raise ValueError(f"samples: asked for {samples}, but the loader has only {seen}")
    return {layer: torch.cat(parts)[:samples] for layer, parts in pieces.items()}


@contextmanager
def _evaluating(model: nn.Module, device: torch.device):
    """The model on `device` and in eval mode; afterwards where and as it was, part by part."""
    modes = {module: module.training for module in model.modules()}
    home = next((p.device for p in model.parameters()), device)
    try:
        model.to(device).eval()
        yield
    finally:
        model.to(home)
        for module, training in modes.items():
            module.training = training


def _forward(model: nn.Module, batch, device: torch.device) -> int | None:
    """Pass a batch; gives its number of samples, where the first thing passed is a tensor."""
    if isinstance(batch, (Mapping, tuple, list)) and not batch:
        raise ValueError(f"loader: got an empty batch {batch!r}, need samples")
    named = {}
    if isinstance(batch, Mapping):
        # That of a wrapper takes anything.
        parameters = inspect.signature(unwrapped(model).forward).parameters
        any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        named = {key: _to(value, device) for key, value in batch.items() if any_name or key in parameters}
        first = next(iter((named or batch).values()))
    else:
        first = batch[0] if isinstance(batch, (tuple, list)) else batch
    model(**named) if named else model(_to(first, device))
    return len(first) if isinstance(first, Tensor) and first.ndim else None


def _check_mask(mask) -> None:
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask: got {type(mask).__name__}, need a tensor (samples, tokens)")
    if mask.ndim < 2:
        raise ValueError(f"mask: got shape {tuple(mask.shape)}, need (samples, tokens)")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("mask: got other values than 0 and 1, need 1 (or True) where a token counts and 0 elsewhere")
    if not bool(mask.flatten(1).any(1).all()):
        raise ValueError("mask: got a sample of which no place counts, which has no mean")


def _to(value, device: torch.device):
    return value.to(device) if isinstance(value, Tensor) else value
