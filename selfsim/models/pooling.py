"""From a layer's output to activations (samples, neurons): which tensor, which axis, and how places are pooled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

POOLINGS = ("mean", "max", "class-token", "flatten")
CHANNELS = ("auto", "first", "last")

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.RNNBase, nn.MultiheadAttention, nn.Embedding)


@dataclass(frozen=True)
class KnownChannels:
    """What the layers inside a module say of its channels.

    Attributes
    ----------
    widths : frozenset of int
        Numbers of channels: lengths of biases, normalisations and branch scales, outputs of convolutions and linears.
    first : frozenset of int
        Numbers of dimensions of the outputs in which a layer inside has its channels first.
    last : bool
        Whether a layer inside has its channels last, as linear, recurrent and attention layers do.
    """

    widths: frozenset[int] = frozenset()
    first: frozenset[int] = frozenset()
    last: bool = False


def pooled(
    output,
    *,
    pooling: str | Callable[[Tensor], Tensor] = "mean",
    channels: str = "auto",
    known: KnownChannels = KnownChannels(),
    mask: Tensor | None = None,
    part: int | str | None = None,
    layer: str = "output",
) -> Tensor:
    """A layer's output as activations ``(samples, neurons)``, pooled by its number of dimensions.

    Parameters
    ----------
    output : Tensor, or tuple, list or mapping that holds one
        ``(samples, neurons)`` is taken as it is. Of ``(samples, tokens, channels)``, ``(samples, channels, height,
        width)`` and ``(samples, height, width, channels)`` the places, that is tokens or space, are pooled.
    pooling : {"mean", "max", "class-token", "flatten"} or callable
        The mean or the maximum over places; the first token; or every channel of every place a neuron. A callable
        takes the tensor (of an object that is no tensor, tuple or mapping: the object) and gives ``(samples,
        neurons)``.
    channels : {"auto", "first", "last"}
        Where the channels are; for "auto" see `channel_axis`.
    known : KnownChannels
        What is known of the layer, for "auto".
    mask : Tensor, shape (samples, places...), optional
        True or 1 where a place counts, as the attention mask of padded text.
    part : int or str, optional
        Which entry of a tuple or mapping, or attribute of another object; by default the first tensor in it.
    layer : str
        The layer's name, for messages.

    Raises
    ------
    ValueError
        Another number of dimensions, or a mask that does not fit.
    TypeError
        No tensor of a floating-point type.

    Examples
    --------
    >>> pooled(torch.ones(2, 3, 4, 4)).shape
    torch.Size([2, 3])
    >>> tokens = torch.tensor([[[1.0], [3.0], [9.0]]])
    >>> pooled(tokens, mask=torch.tensor([[1, 1, 0]]))
    tensor([[2.]])
    """
    x = output if callable(pooling) and part is None and _is_object(output) else _tensor(output, part, layer)
    # Whatever is no new tensor is copied: the next layer may work in place, also on what autograd has saved.
    if callable(pooling):
        x = pooling(x.clone() if isinstance(x, Tensor) else x)
        if not isinstance(x, Tensor) or x.ndim != 2:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"pooling: for layer {layer!r} it gave {got}, need a tensor (samples, neurons)")
        return x.clone()
    if x.ndim == 2:
        return x.clone()
    if x.ndim < 2 or (x.ndim > 4 and channels == "auto" and pooling != "flatten"):
        raise ValueError(
            f"layer {layer!r}: its output has shape {tuple(x.shape)}, need 2 dimensions (samples, neurons), "
            "3 (samples, tokens, channels) or 4 (samples, channels, height, width); of more, name channels='first' "
            "or 'last'"
        )
    if pooling == "flatten":
        _refuse(mask, pooling)
        return x.flatten(1).clone()
    if pooling == "class-token":
        _refuse(mask, pooling)
        if x.ndim != 3:
            raise ValueError(
                f"pooling: got 'class-token', but layer {layer!r} gives {tuple(x.shape)}; need (samples, tokens, "
                "channels)"
            )
        return x[:, 0].clone()
    axis = {"first": 1, "last": x.ndim - 1}.get(channels) or channel_axis(x.shape, known)
    places = tuple(i for i in range(1, x.ndim) if i != axis)
    kept = None
    if mask is not None:
        found = tuple(x.shape[i] for i in (0, *places))
        if tuple(mask.shape) != found:
            raise ValueError(f"mask: got shape {tuple(mask.shape)}, but layer {layer!r} has samples and places {found}")
        kept = (mask.to(x.device) != 0).unsqueeze(axis)
    if pooling == "max":
        return (x.clone() if kept is None else x.masked_fill(~kept, -torch.inf)).amax(places)
    # In half precision the sum over the places of a map can exceed the largest number.
    sums = torch.promote_types(x.dtype, torch.float32)
    if kept is None:
        return x.mean(places, dtype=sums).to(x.dtype)
    return (x.masked_fill(~kept, 0).sum(places, dtype=sums) / kept.sum(places)).to(x.dtype)


def channel_axis(shape: torch.Size, known: KnownChannels = KnownChannels()) -> int:
    """Which axis of a layer's output holds its channels: 1, or the last.

    Three signs are counted: where layers of such types have their channels, which of the axes has a known number of
    channels, and which two axes are those of a square map. Of equal counts the types decide; without them tokens are
    ``(samples, tokens, channels)`` and maps ``(samples, channels, height, width)``.

    Examples
    --------
    >>> channel_axis(torch.Size([8, 7, 7, 96])), channel_axis(torch.Size([8, 96, 7, 7]))
    (3, 1)
    >>> channel_axis(torch.Size([8, 5, 7, 96]), KnownChannels(widths=frozenset({96, 384})))
    3
    """
    last = len(shape) - 1
    types = int(known.last) - int(len(shape) in known.first)
    widths = int(shape[last] in known.widths) - int(shape[1] in known.widths)
    square = int(shape[1] == shape[2] != shape[last]) - int(shape[2] == shape[last] != shape[1])
    sign = types + widths + (square if len(shape) == 4 else 0)
    return last if (sign or types or (1 if len(shape) == 3 else -1)) > 0 else 1


def known_channels(module: nn.Module, model: nn.Module | None = None) -> KnownChannels:
    """What is known of a module's channels; of one without weights, such as a nonlinearity, of the layer before it.

    Parameters
    ----------
    module : nn.Module
    model : nn.Module, optional
        The network that the module stands in; "before" is in the order of ``model.modules()``.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv1d(1, 16, 3), nn.ReLU())
    >>> known_channels(model[1], model)
    KnownChannels(widths=frozenset({16}), first=frozenset({3}), last=False)
    """
    found = _known(module)
    if found == KnownChannels() and model is not None:
        for other in model.modules():
            if other is module:
                break
            if any(True for _ in other.parameters(recurse=False)) and not any(True for _ in other.children()):
                found = _known(other)
    return found


def _known(module: nn.Module) -> KnownChannels:
    widths = {p.numel() for p in module.parameters() if p.ndim == 1}
    first, last = set(), False
    for part in module.modules():
        # timm and torchvision derive normalisations of channels first from LayerNorm, and call them LayerNorm2d.
        maps = "2d" in type(part).__name__
        if isinstance(part, nn.modules.conv._ConvNd):
            widths.add(part.out_channels)
            first.add(len(part.kernel_size) + 2)
        elif isinstance(part, _NORMS) or (isinstance(part, nn.LayerNorm) and maps):
            first |= {4} if maps else {3, 4}
        elif isinstance(part, _LAST):
            last = True
            widths |= {part.out_features} if isinstance(part, nn.Linear) else set()
    return KnownChannels(frozenset(widths), frozenset(first), last)


def _tensor(output, part: int | str | None, layer: str) -> Tensor:
    """The tensor that is read of an output."""
    found = output
    if part is not None:
        try:
            found = getattr(output, part) if _is_object(output) else output[part]
        except (LookupError, TypeError, AttributeError) as error:
            holds = list(output) if isinstance(output, Mapping) else type(output).__name__
            raise ValueError(f"part: got {part!r}, but layer {layer!r} gives {holds}") from error
    while isinstance(found, (tuple, list, Mapping)):
        entries = list(found.values()) if isinstance(found, Mapping) else found
        tensors = [entry for entry in entries if isinstance(entry, Tensor)]
        nested = [entry for entry in entries if isinstance(entry, (tuple, list, Mapping))]
        if not tensors and not nested:
            break
        found = (tensors or nested)[0]
    if not isinstance(found, Tensor):
        raise TypeError(f"layer {layer!r}: its output is a {type(found).__name__}, need a tensor (name `part`)")
    if found.is_nested:
        raise TypeError(f"layer {layer!r}: its output is a nested tensor; build it with enable_nested_tensor=False")
    if not found.is_floating_point():
        raise TypeError(f"layer {layer!r}: its output is of {found.dtype}, need a real floating-point type")
    return found


def _is_object(output) -> bool:
    """Whether an output is none of the kinds in which a tensor is looked for, such as a dataclass."""
    return not isinstance(output, (Tensor, tuple, list, Mapping))


def _refuse(mask: Tensor | None, pooling: str) -> None:
    if mask is not None:
        raise ValueError(f"mask: not for pooling={pooling!r}; need 'mean' or 'max'")
