"""Reading the hidden neurons of any network: forward hooks that are always removed."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..validation import check_choice, resolve_device


class Probe:
    """Read the activations of a network's layers during a forward pass, with their gradient.

    Parameters
    ----------
    model : nn.Module
        Any network. It is not changed: hooks exist only inside the ``with`` block.
    layers : sequence of str, optional
        Names of submodules as in ``model.named_modules()``. By default the natural blocks, see `natural_layers`.

    Attributes
    ----------
    layers : tuple of str
        The layers that are read, in the order of the model.
    activations : dict of str to Tensor, shape (samples, neurons)
        From the last forward pass inside the ``with`` block, in the order of the forward pass. Tokens
        ``(samples, tokens, channels)`` and feature maps ``(samples, channels, height, width)`` are averaged over
        tokens or space. A layer that was called several times is read at its last call.

    Raises
    ------
    ValueError
        A layer that the model does not have (with the nearest name), or no layers to read.

    Notes
    -----
    Only the pooled activations of the chosen layers are kept: memory O(samples * neurons) per layer, plus what
    autograd keeps for their gradient.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> probe = Probe(model, layers=["1"])
    >>> with probe:
    ...     _ = model(torch.zeros(8, 4))
    >>> probe.activations["1"].shape
    torch.Size([8, 16])
    """

    def __init__(self, model: nn.Module, layers: Sequence[str] | None = None):
        modules = dict(model.named_modules())
        modules.pop("", None)
        if layers is None:
            layers = natural_layers(model)
        elif isinstance(layers, str):
            raise ValueError(f"layers: got the string {layers!r}, need a sequence of names such as [{layers!r}]")
        self.layers = tuple(check_choice(layer, modules, name="layers") for layer in layers)
        if not self.layers:
            raise ValueError("layers: got none, need at least one name from model.named_modules()")
        self.activations: dict[str, Tensor] = {}
        self._modules = {layer: modules[layer] for layer in self.layers}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Probe:
        if self._hooks:
            raise RuntimeError("Probe: already inside a `with` block of this probe")
        self.activations = {}
        for layer, module in self._modules.items():
            self._hooks.append(module.register_forward_hook(self._reader(layer)))
        return self

    def __exit__(self, *exception) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _reader(self, layer: str):
        def read(module: nn.Module, args, output) -> None:
            self.activations[layer] = pooled(output, layer=layer)

        return read


def pooled(output, *, layer: str = "output") -> Tensor:
    """A layer's output as activations ``(samples, neurons)``, pooled by its number of dimensions.

    Parameters
    ----------
    output : Tensor, or tuple or list whose first tensor is taken
        ``(samples, neurons)`` as it is; ``(samples, tokens, channels)`` averaged over tokens;
        ``(samples, channels, height, width)`` averaged over space.

    Raises
    ------
    ValueError
        Another number of dimensions.
    TypeError
        No tensor.

    Examples
    --------
    >>> pooled(torch.ones(2, 3, 4, 4)).shape
    torch.Size([2, 3])
    """
    if isinstance(output, (tuple, list)):
        output = next((part for part in output if isinstance(part, Tensor)), output)
    if not isinstance(output, Tensor):
        raise TypeError(f"layer {layer!r}: its output is a {type(output).__name__}, need a tensor")
    match output.ndim:
        case 2:
            return output
        case 3:
            return output.mean(1)
        case 4:
            return output.mean((2, 3))
    raise ValueError(
        f"layer {layer!r}: its output has shape {tuple(output.shape)}, need 2 dimensions (samples, neurons), "
        "3 (samples, tokens, channels) or 4 (samples, channels, height, width)"
    )


def natural_layers(model: nn.Module) -> list[str]:
    """Names of the blocks that a network is made of, in its own order.

    A block is a module with parts of its own that stands in an ``nn.Sequential`` or ``nn.ModuleList`` and holds no
    further block: the residual blocks of ResNet, ViT and their kin. A network without blocks is read at its
    nonlinearities; one without those, at its layers with weights but the last.

    Raises
    ------
    ValueError
        Nothing of the kind.

    Examples
    --------
    >>> natural_layers(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    ['1']
    """
    containers = (nn.Sequential, nn.ModuleList)
    candidates = []
    for name, module in model.named_modules():
        for child_name, child in module.named_children() if isinstance(module, containers) else ():
            if not isinstance(child, containers) and any(True for _ in child.children()):
                candidates.append(f"{name}.{child_name}" if name else child_name)
    blocks = [name for name in candidates if not any(other.startswith(name + ".") for other in candidates)]
    if blocks:
        return blocks
    leaves = [(name, m) for name, m in model.named_modules() if name and not any(True for _ in m.children())]
    nonlinear = [name for name, m in leaves if type(m).__module__ == "torch.nn.modules.activation"]
    if nonlinear:
        return nonlinear
    weighted = [name for name, m in leaves if any(p.ndim > 1 for p in m.parameters(recurse=False))]
    if len(weighted) > 1:
        return weighted[:-1]
    raise ValueError(f"model: {type(model).__name__} has no blocks, nonlinearities or hidden layers; name `layers`")


def activations(
    model: nn.Module,
    loader: Iterable,
    *,
    layers: Sequence[str] | None = None,
    samples: int | None = 128,
    device: str | torch.device = "auto",
) -> dict[str, Tensor]:
    """Activations of a network's layers on the first samples of a loader, in eval mode, without gradient.

    Parameters
    ----------
    model : nn.Module
        Moved to `device` for the passes and back; the training mode of each part is restored.
    loader : iterable
        Of batches ``x``, ``(x, y)`` or a dict. Of a dict, the entries that ``model.forward`` takes by name are
        passed by name; if there are none, its first entry is passed.
    layers : sequence of str, optional
        As for `Probe`.
    samples : int, optional
        Exactly this many samples, from the front. None takes all. Rates depend on the number of samples: keep it
        the same wherever rates are compared.
    device : str
        ``"auto"``: CUDA where there is a card, else the CPU.

    Returns
    -------
    dict of str to Tensor, shape (samples, neurons)
        On `device`.

    Raises
    ------
    ValueError
        An unknown layer, a layer that the forward pass does not reach, a loader that is empty or has fewer samples
        than asked for.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> batches = [(torch.zeros(6, 4), torch.zeros(6)), (torch.ones(6, 4), torch.ones(6))]
    >>> activations(model, batches, samples=10, device="cpu")["1"].shape
    torch.Size([10, 16])
    """
    if samples is not None and samples < 1:
        raise ValueError(f"samples: got {samples!r}, need at least 1, or None for all")
    device = resolve_device(device)
    probe = Probe(model, layers)
    pieces: dict[str, list[Tensor]] = {layer: [] for layer in probe.layers}
    seen = 0
    with _evaluating(model, device), torch.no_grad():
        for batch in loader:
            with probe:
                _forward(model, batch, device)
            missing = [layer for layer in probe.layers if layer not in probe.activations]
            if missing:
                raise ValueError(f"layers: the forward pass does not reach {', '.join(map(repr, missing))}")
            for layer, value in probe.activations.items():
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


def _forward(model: nn.Module, batch, device: torch.device) -> None:
    if isinstance(batch, Mapping):
        accepted = inspect.signature(model.forward).parameters
        named = {key: _to(value, device) for key, value in batch.items() if key in accepted}
        if named:
            model(**named)
            return
        batch = next(iter(batch.values()))
    elif isinstance(batch, (tuple, list)):
        batch = batch[0]
    model(_to(batch, device))


def _to(value, device: torch.device):
    return value.to(device) if isinstance(value, Tensor) else value
