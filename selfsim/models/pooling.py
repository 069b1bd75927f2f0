"""From a layer's output to activations (samples, neurons): which tensor, which axis, and how places are pooled."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

POOLINGS = ("mean", "max", "class-token", "flatten")
CHANNELS = ("auto", "first", "last")


def pooled(
    output,
    *,
    pooling: str | Callable[[Tensor], Tensor] = "mean",
    channels: str = "auto",
    widths: Collection[int] = (),
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
        takes the tensor and gives ``(samples, neurons)``.
    channels : {"auto", "first", "last"}
        Where the channels are; for "auto" see `channel_axis`.
    widths : collection of int
        Numbers of channels that the layer is known to have, for "auto".
    mask : Tensor, shape (samples, places...), optional
        True or 1 where a place counts, as the attention mask of padded text.
    part : int or str, optional
        Which entry of a tuple or mapping; by default the first tensor in it.
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
    x = _tensor(output, part, layer)
    # Whatever is no new tensor is copied: the next layer may work in place.
    if callable(pooling):
        x = pooling(x)
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
    axis = {"first": 1, "last": x.ndim - 1}.get(channels) or channel_axis(x.shape, widths)
    places = tuple(i for i in range(1, x.ndim) if i != axis)
    if mask is None:
        return x.mean(places) if pooling == "mean" else x.amax(places)
    found = tuple(x.shape[i] for i in (0, *places))
    if tuple(mask.shape) != found:
        raise ValueError(f"mask: got shape {tuple(mask.shape)}, but layer {layer!r} has samples and places {found}")
    kept = (mask.to(x.device) != 0).unsqueeze(axis)
    if pooling == "max":
        return x.masked_fill(~kept, -torch.inf).amax(places)
    return x.masked_fill(~kept, 0).sum(places) / kept.sum(places)


def channel_axis(shape: torch.Size, widths: Collection[int] = ()) -> int:
    """Which axis of a layer's output holds its channels: 1, or the last.

    The axis whose size the layer is known to have channels of decides. If both or neither do, equal sizes tell the
    two axes of a square map; else tokens are ``(samples, tokens, channels)`` and maps ``(samples, channels, height,
    width)``.

    Examples
    --------
    >>> channel_axis(torch.Size([8, 7, 7, 96])), channel_axis(torch.Size([8, 96, 7, 7]))
    (3, 1)
    >>> channel_axis(torch.Size([8, 5, 7, 96]), widths={96, 384})
    3
    """
    last = len(shape) - 1
    at_first, at_last = shape[1] in widths, shape[last] in widths
    if at_first != at_last:
        return 1 if at_first else last
    if len(shape) == 3:
        return last
    return last if shape[1] == shape[2] != shape[last] else 1


def known_widths(module: nn.Module) -> frozenset[int]:
    """Numbers of channels inside a module: the lengths of its biases, normalisations and branch scales."""
    return frozenset(p.numel() for p in module.parameters() if p.ndim == 1)


def _tensor(output, part: int | str | None, layer: str) -> Tensor:
    """The tensor that is read of an output."""
    found = output
    if part is not None:
        try:
            found = output[part]
        except (LookupError, TypeError) as error:
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
        raise TypeError(f"layer {layer!r}: its output is a {type(found).__name__}, need a tensor")
    if not found.is_floating_point():
        raise TypeError(f"layer {layer!r}: its output is of {found.dtype}, need a real floating-point type")
    return found


def _refuse(mask: Tensor | None, pooling: str) -> None:
    if mask is not None:
        raise ValueError(f"mask: not for pooling={pooling!r}; need 'mean' or 'max'")
