"""Choose the layers to read: natural blocks, names, patterns, a number of layers, stem and head."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from fnmatch import fnmatchcase
from numbers import Integral

import torch
from torch import nn
from torch.nn.parameter import is_lazy

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_PARAMETRIZATIONS = "parametrizations"  # the child of a module that computes its weights from others
_OUTPUTS = (nn.Softmax, nn.LogSoftmax, nn.Softmax2d, nn.Sigmoid, nn.LogSigmoid)
# Parts around the blocks are often containers, too.
_NO_BLOCKS = ("stem", "patch_embed", "pos_", "head", "classifier")
_NO_BLOCK = re.compile(r"(stem|patch_embed|head|classifier)s?(_.*|\d*)")  # in a container, beside blocks


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside `DistributedDataParallel` and `torch.compile`.

    Raises
    ------
    ValueError
        `nn.DataParallel`, whose copies overwrite each other's activations, or a ScriptModule, which takes no hooks.
    TypeError
        No nn.Module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {model!r:.60}, need an nn.Module")
    if isinstance(model, nn.DataParallel):
        raise ValueError("model: got nn.DataParallel, whose layers are read once per card; need the bare model")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("model: got a ScriptModule, which takes no hooks; need the model before torch.jit")
    inner = (
        model.module if isinstance(model, nn.parallel.DistributedDataParallel) else getattr(model, "_orig_mod", None)
    )
    return unwrapped(inner) if isinstance(inner, nn.Module) else model


def chosen_layers(model: nn.Module, layers: int | Sequence[str] | None = None) -> dict[str, nn.Module]:
    """Return the modules to read, by name, in the order of the model.

    Parameters
    ----------
    model : nn.Module
    layers : None, int or sequence of str
        None: all of `natural_layers`. An integer: that many of them, evenly spaced, with the first and the last (1: the
        last). A sequence has names of submodules, patterns, "stem" and "head". In a pattern such as
        ``"stages.*.blocks.*"`` each star matches within one part of a name. "stem" and "head" are the modules of that
        name; without such a module, the first and the last layer with weights. Of a head with parts, the last part with
        weights is read.

    Raises
    ------
    ValueError
        A layer that the model does not have (the message has the nearest name), a pattern without a match, a
        ScriptModule, more layers than there are, or none.

    Warns
    -----
    UserWarning
        Two names of one module.

    Examples
    --------
    >>> model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(6)))
    >>> list(chosen_layers(model, 3)), list(chosen_layers(model, ["[45]", "stem"]))
    (['0', '2', '4'], ['0', '4', '5'])
    """
    model = unwrapped(model)
    modules = _named_modules(model, remove_duplicate=False)
    if layers is None:
        chosen = set(natural_layers(model))
    elif isinstance(layers, Integral) and not isinstance(layers, bool):
        chosen = _spaced(natural_layers(model), int(layers))
    elif isinstance(layers, str) or not isinstance(layers, Sequence):
        example = [layers] if isinstance(layers, str) else ["blocks.0"]
        raise ValueError(f"layers: got {layers!r}, need a sequence of names such as {example}, or a number of layers")
    else:
        chosen = {name for entry in layers for name in _named(entry, modules)}
        names: dict[nn.Module, str] = {}
        for name in sorted(chosen):
            if (first := names.setdefault(modules[name], name)) != name:
                warnings.warn(
                    f"layers: {first!r} and {name!r} are one module, whose last call is read for both", stacklevel=4
                )
    if not chosen:
        raise ValueError("layers: got none, need at least one name from model.named_modules()")
    for name in chosen:
        if isinstance(modules[name], torch.jit.ScriptModule):
            raise ValueError(f"layers: {name!r} is a ScriptModule, which takes no hooks; need it before torch.jit")
    return {name: module for name, module in modules.items() if name in chosen}


def draw_layers(layers: Sequence[str], number: int | None, generator: torch.Generator) -> list[str]:
    """Return `number` of the layers, drawn at random and in their given order; all of them for None or too few."""
    if number is None or number >= len(layers):
        return list(layers)
    drawn = torch.randperm(len(layers), generator=generator, device="cpu")[:number]
    return [layers[i] for i in sorted(drawn.tolist())]


def _spaced(names: list[str], number: int) -> set[str]:
    if not 1 <= number <= len(names):
        raise ValueError(f"layers: got {number}, need 1 to {len(names)}, the number of natural layers of this model")
    if number == 1:
        return {names[-1]}
    return {names[round(i * (len(names) - 1) / (number - 1))] for i in range(number)}


def _named(entry: str, modules: dict[str, nn.Module]) -> list[str]:
    """Return the names that one entry of `layers` matches."""
    # Some models call the parts of their head and never the head itself. A stem is always called.
    in_parts = entry == "head" and has_parts(modules.get("head", nn.Identity()))
    if entry in ("stem", "head") and (entry not in modules or in_parts):
        inside = {name: m for name, m in modules.items() if entry not in modules or name.startswith(f"{entry}.")}
        if weighted := _weighted(inside):
            return weighted[:1] if entry == "stem" else weighted[-1:]
        if entry not in modules:
            raise ValueError(f"layers: got {entry!r}, but no module of this model has weights")
    # Names in a wrapped model have a prefix that those of the model inside lack.
    parts = re.sub(r"^((module|_orig_mod)\.)+", "", str(entry)).split(".")
    found = [name for name in modules if name == entry]
    for pattern in (str(entry).split("."), parts) if isinstance(entry, str) else ():
        found = found or [name for name in modules if _matches(name.split("."), pattern)]
    if not found:
        kind = "no module matches" if re.search(r"[*?[]", str(entry)) else "got"
        raise ValueError(f"layers: {kind} {entry!r}, need one of {_listed(modules)}{_nearest(parts, modules)}")
    return found


def _matches(name: list[str], pattern: list[str]) -> bool:
    return len(name) == len(pattern) and all(map(fnmatchcase, name, pattern))


def _nearest(parts: list[str], modules: dict[str, nn.Module]) -> str:
    """Return a hint at the most similar name or pattern, compared part by part, or an empty string."""

    def similarity(name: list[str]) -> float:
        return sum(fnmatchcase(n, p) or SequenceMatcher(None, n, p).ratio() for n, p in zip(name, parts, strict=True))

    n = len(parts)
    prefixes = {(*name.split(".")[:-n],) for name in modules if _matches(name.split(".")[-n:], parts)}
    if len(prefixes) == 1:  # the model is wrapped, such as by PEFT
        return f"; did you mean {'.'.join([*prefixes.pop(), *parts])!r}?"
    candidates = [name.split(".") for name in modules if name.count(".") == len(parts) - 1]
    best = max(candidates, key=similarity, default=None)
    if best is None or similarity(best) < len(parts) - 0.5:
        return ""
    return f"; did you mean {'.'.join(p if fnmatchcase(n, p) else n for n, p in zip(best, parts, strict=True))!r}?"


def _listed(modules: Iterable[str], most: int = 12) -> str:
    names = list(modules)
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def natural_layers(model: nn.Module) -> list[str]:
    """Return the names of the blocks of a network, in its own order.

    A block is a module with submodules and weights inside an ``nn.Sequential``, ``nn.ModuleList`` or
    ``nn.ModuleDict``, such as the residual blocks of ResNet and ViT. If a stage has further blocks under the name
    ``blocks``, those are taken. Stem and head are left out, except for the stem of ResMLP, which the paper reads [1]_.
    A network without blocks is read at the nonlinearities of its ``features`` (VGG). Without these, at the stages that
    timm lists, else at its nonlinearities (but for a softmax or sigmoid at the end), else at all layers with weights
    except the last.

    Raises
    ------
    ValueError
        The model has none of these.

    References
    ----------
    .. [1] Self-similarity Analysis in Deep Neural Networks, arXiv 2507.17785, layers of the experiments.

    Examples
    --------
    >>> natural_layers(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    ['1']
    """
    model = unwrapped(model)
    modules = _named_modules(model)
    # A block with two names is read once: `modules` has its first one.
    if blocks := [name for name in _blocks(model) if name in modules]:
        with_stem = type(modules[blocks[0]]).__name__ == "ResBlock" and "stem" in modules
        return ["stem"] * with_stem + blocks
    features = getattr(model, "features", None)
    if isinstance(features, nn.Sequential) and (names := _nonlinear(features, "features.")):
        return names
    stages = [info["module"] for info in getattr(model, "feature_info", None) or ()]
    if stages and all(name in modules for name in stages):
        return stages
    if names := _nonlinear(model, ""):
        at_end = names[-1] == [name for name, m in modules.items() if not has_parts(m)][-1]
        return names[: -1 if at_end and len(names) > 1 and isinstance(modules[names[-1]], _OUTPUTS) else None]
    weighted = _weighted(modules)
    if len(weighted) > 1:
        return weighted[:-1]
    raise ValueError(f"model: {type(model).__name__} has no blocks, nonlinearities or hidden layers; name `layers`")


def _blocks(module: nn.Module, prefix: str = "") -> list[str]:
    """Return the blocks in a module's containers, or without containers in those of its children."""
    if isinstance(module, _CONTAINERS):
        return _within(module, prefix)
    children = [(name, child) for name, child in module.named_children() if not name.startswith(_NO_BLOCKS)]
    containers = [(name, child) for name, child in children if isinstance(child, _CONTAINERS)]
    blocks = [block for name, child in containers for block in _within(child, f"{prefix}{name}.")]
    return blocks or [block for name, child in children for block in _blocks(child, f"{prefix}{name}.")]


def _within(container: nn.Module, prefix: str) -> list[str]:
    blocks = []
    for key, child in container.named_children():
        if _NO_BLOCK.fullmatch(key):
            continue
        name = f"{prefix}{key}"
        stage = getattr(child, "blocks", None)
        if isinstance(child, _CONTAINERS):
            blocks += _within(child, f"{name}.")
        elif isinstance(stage, _CONTAINERS) and (inner := _within(stage, f"{name}.blocks.")):
            blocks += inner
        elif has_parts(child) and _has_weights(child):
            blocks.append(name)
    return blocks


def _nonlinear(module: nn.Module, prefix: str) -> list[str]:
    leaves = [(name, m) for name, m in _named_modules(module).items() if not has_parts(m)]
    return [prefix + name for name, m in leaves if type(m).__module__ == "torch.nn.modules.activation"]


def _named_modules(module: nn.Module, remove_duplicate: bool = True) -> dict[str, nn.Module]:
    """Return the modules inside by name, without those that compute weights (`torch.nn.utils.parametrize`)."""
    named = module.named_modules(remove_duplicate=remove_duplicate)
    return {name: m for name, m in named if name and _PARAMETRIZATIONS not in name.split(".")}


def has_parts(module: nn.Module) -> bool:
    """Whether a module has others inside, beside those that compute its weights."""
    return any(name != _PARAMETRIZATIONS for name, _ in module.named_children())


def _weighted(modules: dict[str, nn.Module]) -> list[str]:
    return [name for name, m in modules.items() if _has_weights(m, recurse=False)]


def _has_weights(module: nn.Module, recurse: bool = True) -> bool:
    """Whether a module has weight matrices or kernels; those of lazy modules count before they have a shape."""
    parameters = dict(module.named_parameters(recurse=recurse))
    if isinstance(computed := getattr(module, _PARAMETRIZATIONS, None), nn.ModuleDict):
        parameters |= dict(computed.named_parameters())
    return any(name.endswith("weight") if is_lazy(p) else p.ndim > 1 for name, p in parameters.items())
