"""Turn a layer's output into activations (samples, neurons): choose the tensor and its channels, pool the places."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from ..checks import errors_named
from .branch import Branch
from .layers import has_parts

POOLINGS = ("mean", "max", "class-token", "flatten")
CHANNELS = ("auto", "first", "last")

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.RNNBase, nn.MultiheadAttention, nn.Embedding)


@dataclass(frozen=True)
class KnownChannels:
    """Channels of a module's output, as far as the layers inside it show them.

    Attributes
    ----------
    widths : frozenset of int
        Possible numbers of channels: lengths of biases and normalisation weights, outputs of convolutions and linears.
    first : frozenset of int
        Numbers of dimensions for which a layer inside has its channels first.
    last : bool
        Whether a layer inside has its channels last, as linear, recurrent and attention layers have.
    before : tuple of KnownChannels
        For a module without weights, what is known of the layers with weights before it, the nearest first; of the
        convolutions after it where none is before it.
    """

    widths: frozenset[int] = frozenset()
    first: frozenset[int] = frozenset()
    last: bool = False
    before: tuple[KnownChannels, ...] = ()

    def axis(self, shape: torch.Size) -> int:
        """Return the axis with channels if type and number of channels agree on it, else 0."""
        if self.last and shape[-1] in self.widths:
            return len(shape) - 1
        return int(len(shape) in self.first and shape[1] in self.widths)

    def undecided(self, shape: torch.Size) -> bool:
        """Whether types and numbers of channels speak for two axes, as of convolutions beside linear layers."""
        return self.last and len(shape) in self.first and {shape[1], shape[-1]} <= self.widths and not _square(shape)


def pooled(
    output: Any,
    *,
    pooling: str | Callable[[Any], Tensor] = "mean",
    channels: str = "auto",
    known: KnownChannels = KnownChannels(),
    mask: Tensor | None = None,
    part: int | str | None = None,
    branch: Branch | None = None,
    layer: str = "output",
) -> Tensor:
    """Return a layer's output as activations ``(samples, neurons)``.

    Parameters
    ----------
    output : Tensor or PackedSequence, or a tuple, list, mapping or object that holds one
        ``(samples, neurons)`` is copied. In ``(samples, tokens, channels)``, ``(samples, channels, height, width)``
        and ``(samples, height, width, channels)`` the places (tokens or pixels) are pooled. A `PackedSequence` is
        ``(samples, tokens, channels)`` with a mask of its own.
    pooling : {"mean", "max", "class-token", "flatten"} or callable
        Mean or maximum over places, the first token, or one neuron for every channel of every place. A callable takes
        the tensor, PackedSequence or other object and returns ``(samples, neurons)``.
    channels : {"auto", "first", "last"}
        Position of the channels; for "auto" see `channel_axis`.
    known : KnownChannels
        What is known of the layer, for "auto".
    mask : Tensor, shape (samples, places...), optional
        True or 1 where a place counts, such as the attention mask of padded text.
    part : int or str, optional
        Index or key in a tuple or mapping, or attribute of another object. By default the first tensor.
    branch : Branch, optional
        Where the way to the activations leaves the tensor that is read.
    layer : str
        Name of the layer in error messages.

    Returns
    -------
    Tensor, shape (samples, neurons)
        A new tensor, so that later layers may change `output` in place.

    Warns
    -----
    UserWarning
        The layers inside speak for channels first and for channels last.

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
    if mask is not None and pooling not in ("mean", "max"):
        raise ValueError(f"mask: not for pooling={pooling!r}; need 'mean' or 'max'")
    if callable(pooling):
        is_object = not isinstance(output, (Tensor, tuple, list, Mapping))  # such as a dataclass
        value = output if part is None and is_object else _selected(output, part, layer, branch)
        with errors_named(f"pooling: for layer {layer!r}"):
            x = pooling(value.clone() if isinstance(value, Tensor) else value)
        if not isinstance(x, Tensor) or x.ndim != 2:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"pooling: for layer {layer!r} it gave {got}, need a tensor (samples, neurons)")
        return x.clone()
    x = _selected(output, part, layer, branch)
    if isinstance(x, PackedSequence):
        if pooling == "flatten":
            raise ValueError(f"layer {layer!r}: its output is a packed sequence, whose samples differ in length")
        x, lengths = pad_packed_sequence(x, batch_first=True)
        channels = "last"
        if mask is None and pooling != "class-token":
            mask = torch.arange(x.shape[1], device=lengths.device) < lengths.unsqueeze(1)
    if x.ndim == 2:
        return x.clone()
    if x.ndim < 2 or (x.ndim > 4 and channels == "auto" and pooling != "flatten"):
        raise ValueError(
            f"layer {layer!r}: its output has shape {tuple(x.shape)}, need 2 dimensions (samples, neurons), "
            "3 (samples, tokens, channels) or 4 (samples, channels, height, width); for more dimensions, need "
            "channels='first' or 'last'"
        )
    if pooling == "flatten":
        return x.flatten(1).clone()
    if pooling == "class-token":
        if x.ndim != 3:
            raise ValueError(
                f"pooling: got 'class-token', but layer {layer!r} gives {tuple(x.shape)}; need (samples, tokens, "
                "channels)"
            )
        return x[:, 0].clone()
    axis = {"first": 1, "last": x.ndim - 1}.get(channels) or channel_axis(x.shape, known)
    if channels == "auto" and branch is None and known.undecided(x.shape):  # one warning a reading
        warnings.warn(
            f"channels: the output of layer {layer!r}, {tuple(x.shape)}, may have its channels first or last, and is "
            f"read with them {'first' if axis == 1 else 'last'}; name channels='first' or 'last'",
            stacklevel=2,
        )
    places = tuple(i for i in range(1, x.ndim) if i != axis)
    if mask is not None:
        shape = tuple(x.shape[i] for i in (0, *places))
        if tuple(mask.shape) != shape:
            raise ValueError(f"mask: got shape {tuple(mask.shape)}, but layer {layer!r} has samples and places {shape}")
        mask = (mask.to(x.device) != 0).unsqueeze(axis)
    if pooling == "max":
        return (x.clone() if mask is None else x.masked_fill(~mask, -torch.inf)).amax(places)
    # In half precision the sum over the places of a map can overflow.
    sums = torch.promote_types(x.dtype, torch.float32)
    if mask is None:
        return x.mean(places, dtype=sums).to(x.dtype)
    return (x.masked_fill(~mask, 0).sum(places, dtype=sums) / mask.sum(places)).to(x.dtype)


def check_mask(mask: object) -> None:
    """Raise unless `mask` is a tensor of 0 and 1, (samples, tokens), with a token that counts in every sample."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask: got {type(mask).__name__}, need a tensor (samples, tokens)")
    if mask.ndim < 2:
        raise ValueError(f"mask: got shape {tuple(mask.shape)}, need (samples, tokens)")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("mask: got other values than 0 and 1, need 1 (or True) where a token counts and 0 elsewhere")
    if not bool(mask.flatten(1).any(1).all()):
        raise ValueError("mask: got a sample without places that count, which has no mean")


def channel_axis(shape: torch.Size, known: KnownChannels = KnownChannels()) -> int:
    """Return the axis of a layer's output that holds its channels: 1 or the last one.

    Three signs are added up: the types of the layers inside, whether an axis has a known number of channels, and which
    two axes have the shape of a square map. If they cancel, the types decide. Without types, three dimensions are
    ``(samples, tokens, channels)`` and four are ``(samples, channels, height, width)``.

    A module without weights takes the first two signs from the nearest layer before it that fits: whose type and number
    of channels agree on an axis, and which does not contradict a square map. Where layers fit either axis of four, the
    channels are first. If none fits, they are those of the nearest layer before it.

    Examples
    --------
    >>> channel_axis(torch.Size([8, 7, 7, 96])), channel_axis(torch.Size([8, 96, 7, 7]))
    (3, 1)
    >>> channel_axis(torch.Size([8, 5, 7, 96]), KnownChannels(widths=frozenset({96, 384})))
    3
    """
    last = len(shape) - 1
    square = _square(shape)
    if known.before:

        def fits(other: KnownChannels) -> bool:
            axis = other.axis(shape)
            return axis > 0 and (not square or (axis == last) == (square > 0))

        fitting = [other for other in known.before if fits(other)]
        firsts = [other for other in fitting if other.axis(shape) == 1] if len(shape) == 4 else []
        known = (*firsts, *fitting, *known.before)[0]
    types = int(known.last) - int(len(shape) in known.first)
    widths = int(shape[last] in known.widths) - int(shape[1] in known.widths)
    sign = types + widths + square
    return last if (sign or types or (1 if len(shape) == 3 else -1)) > 0 else 1


def _square(shape: torch.Size) -> int:
    """Whether the shape is that of square maps with channels last (1), first (-1), or neither (0)."""
    if len(shape) != 4:
        return 0
    return int(shape[1] == shape[2] != shape[3]) - int(shape[2] == shape[3] != shape[1])


def known_channels(module: nn.Module, model: nn.Module | None = None) -> KnownChannels:
    """Return what is known of a module's channels; without weights, as in a nonlinearity, of the layers around it.

    Parameters
    ----------
    module : nn.Module
    model : nn.Module, optional
        The network around the module. "Before" is in the order of ``model.modules()``.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv1d(1, 16, 3), nn.ReLU())
    >>> known_channels(model[0])
    KnownChannels(widths=frozenset({16}), first=frozenset({3}), last=False, before=())
    >>> known_channels(model[1], model).before == (known_channels(model[0]),)
    True
    """
    known = _known(module)
    if known != KnownChannels() or model is None:
        return known
    around: dict[bool, list[KnownChannels]] = {False: [], True: []}
    passed = False
    for other in model.modules():
        passed = passed or other is module
        if any(True for _ in other.parameters()) and not has_parts(other):
            around[passed] += [known for known in (_known(other),) if known != KnownChannels()]
    # Of the layers after it, a head says nothing, and a convolution only what fits.
    after = [KnownChannels(), *(known for known in around[True] if known.first)]
    return KnownChannels(before=tuple(dict.fromkeys(around[False][::-1] or after)))


def _known(module: nn.Module) -> KnownChannels:
    # One number, such as the slope of a PReLU, tells no number of channels.
    widths = {p.numel() for p in module.parameters() if not is_lazy(p) and p.ndim == 1 and p.numel() > 1}
    first: set[int] = set()
    last = False
    for part in module.modules():
        # timm and torchvision have a LayerNorm2d with channels first that derives from LayerNorm.
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


def first_tensor(output: Any) -> Any:
    """Return the first tensor or PackedSequence in nested tuples, lists and mappings, or what is there instead."""
    while _is_nested(output):
        entries = list(output.values()) if isinstance(output, Mapping) else list(output)
        tensors = [entry for entry in entries if isinstance(entry, (Tensor, PackedSequence))]
        nested = [entry for entry in entries if _is_nested(entry)]
        if not tensors and not nested:
            break
        output = (tensors or nested)[0]
    return output


def _selected(output: Any, part: int | str | None, layer: str, branch: Branch | None) -> Any:
    """Return the tensor or PackedSequence that is read of an output."""
    if part is not None:
        try:
            output = output[part] if _is_nested(output) or isinstance(output, Tensor) else getattr(output, str(part))
        except (LookupError, TypeError, AttributeError) as error:
            holds = list(output) if isinstance(output, Mapping) else type(output).__name__
            raise ValueError(f"part: got {part!r}, but layer {layer!r} gives {holds}") from error
    x = first_tensor(output)
    data = x.data if isinstance(x, PackedSequence) else x
    if not isinstance(data, Tensor):
        raise TypeError(f"layer {layer!r}: its output is a {type(data).__name__}, need a tensor (name `part`)")
    if data.is_nested:
        raise TypeError(f"layer {layer!r}: its output is a nested tensor; build it with enable_nested_tensor=False")
    if not data.is_floating_point():
        raise TypeError(f"layer {layer!r}: its output is of {data.dtype}, need a real floating-point type")
    if branch is None:
        return x
    return branch.of(x) if isinstance(x, Tensor) else x._replace(data=branch.of(data))


def _is_nested(output: Any) -> bool:
    return isinstance(output, (tuple, list, Mapping)) and not isinstance(output, PackedSequence)
