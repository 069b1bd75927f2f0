"""Which layers of a network are read: its natural blocks, names, patterns, a number of them, stem and head."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from fnmatch import fnmatchcase

from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# What comes before, between and after the blocks often stands in containers too.
_NO_BLOCKS = ("stem", "patch_embed", "pos_", "head", "classifier")


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside `DistributedDataParallel` and `torch.compile`, whose names the layers have.

    Raises
    ------
    ValueError
        `nn.DataParallel`, whose copies overwrite one another's activations.
    TypeError
        No nn.Module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {model!r:.60}, need an nn.Module")
    while True:
        if isinstance(model, nn.DataParallel):
            raise ValueError("model: got nn.DataParallel, whose layers are read once per card; need the bare model")
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        else:
            return model


def is_compiled(model: nn.Module) -> bool:
    """Whether `torch.compile` stands around or in a network."""
    return any(hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) is not None for m in model.modules())


def chosen_layers(model: nn.Module, layers: int | Sequence[str] | None = None) -> dict[str, nn.Module]:
    """The modules to read, by name, in the order of the model.

    Parameters
    ----------
    model : nn.Module
    layers : None, int or sequence of str
        None: all of `natural_layers`. A number: so many of these, evenly spaced, the first and the last among them
        (1: the last). Of a sequence, each entry is the name of a submodule; a pattern such as ``"stages.*.blocks.*"``,
        whose stars each stand within one part of a name; or "stem" or "head": the module of that name or, if there
        is none, the first or the last layer with weights; of a head made of parts, the last of them with weights.

    Raises
    ------
    ValueError
        A layer that the model does not have (with the nearest name), a pattern without a match, more layers than
        there are, or none.

    Examples
    --------
    >>> model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(6)))
    >>> list(chosen_layers(model, 3)), list(chosen_layers(model, ["[45]", "stem"]))
    (['0', '2', '4'], ['0', '4', '5'])
    """
    model = unwrapped(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    modules.pop("", None)
    if layers is None:
        chosen = set(natural_layers(model))
    elif isinstance(layers, int) and not isinstance(layers, bool):
        chosen = _spaced(natural_layers(model), layers)
    elif isinstance(layers, str) or not isinstance(layers, Sequence):
        example = [layers] if isinstance(layers, str) else ["blocks.0"]
        raise ValueError(f"layers: got {layers!r}, need a sequence of names such as {example}, or a number of layers")
    else:
        chosen = {name for entry in layers for name in _named(entry, modules)}
    if not chosen:
        raise ValueError("layers: got none, need at least one name from model.named_modules()")
    return {name: module for name, module in modules.items() if name in chosen}


def _spaced(names: list[str], number: int) -> set[str]:
    if not 1 <= number <= len(names):
        raise ValueError(f"layers: got {number}, need 1 to {len(names)}, the number of natural layers of this model")
    if number == 1:
        return {names[-1]}
    return {names[round(i * (len(names) - 1) / (number - 1))] for i in range(number)}


def _named(entry: str, modules: dict[str, nn.Module]) -> list[str]:
    """The names that one entry of `layers` stands for."""
    # Some models call the parts of their head and never the head itself; a stem is called as a whole.
    in_parts = entry == "head" and any(True for _ in modules.get("head", nn.Identity()).children())
    if entry in ("stem", "head") and (entry not in modules or in_parts):
        inside = {name: m for name, m in modules.items() if entry not in modules or name.startswith(f"{entry}.")}
        if weighted := _weighted(inside):
            return weighted[:1] if entry == "stem" else weighted[-1:]
        if entry not in modules:
            raise ValueError(f"layers: got {entry!r}, but no module of this model has weights")
    # The names that a wrapped model shows are taken too.
    parts = re.sub(r"^((module|_orig_mod)\.)+", "", str(entry)).split(".")
    found = [name for name in modules if name == entry]
    found = found or [name for name in modules if isinstance(entry, str) and _matches(name.split("."), parts)]
    if not found:
        kind = "no module matches" if re.search(r"[*?[]", str(entry)) else "got"
        raise ValueError(f"layers: {kind} {entry!r}, need one of {_listed(modules)}{_nearest(parts, modules)}")
    return found


def _matches(name: list[str], pattern: list[str]) -> bool:
    return len(name) == len(pattern) and all(map(fnmatchcase, name, pattern))


def _nearest(parts: list[str], modules: dict[str, nn.Module]) -> str:
    """The likest name or pattern, compared part by part."""

    def likeness(name: list[str]) -> float:
        return sum(fnmatchcase(n, p) or SequenceMatcher(None, n, p).ratio() for n, p in zip(name, parts, strict=True))

    alike = [name.split(".") for name in modules if name.count(".") == len(parts) - 1]
    best = max(alike, key=likeness, default=None)
    if best is None or likeness(best) < len(parts) - 0.5:
        return ""
    return f"; did you mean {'.'.join(p if fnmatchcase(n, p) else n for n, p in zip(best, parts, strict=True))!r}?"


def _listed(names, most: int = 12) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def natural_layers(model: nn.Module) -> list[str]:
    """Names of the blocks that a network is made of, in its own order.

    A block is a module with parts and weights of its own that stands in an ``nn.Sequential``, ``nn.ModuleList`` or
    ``nn.ModuleDict``: the residual blocks of ResNet, ViT and their kin. Of a stage that keeps further blocks under the
    name ``blocks``, these are taken. Stem and head are left out; only ResMLP is read at its stem too, as in the paper
    [1]_. A network without blocks is read at the nonlinearities of its ``features`` (VGG), else at the stages that
    timm knows of it, at its nonlinearities, or at its layers with weights but the last.

    Raises
    ------
    ValueError
        Nothing of the kind.

    References
    ----------
    .. [1] Self-similarity Analysis in Deep Neural Networks, arXiv 2507.17785, the layers of its experiments.

    Examples
    --------
    >>> natural_layers(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    ['1']
    """
    model = unwrapped(model)
    modules = dict(model.named_modules())
    modules.pop("", None)
    if blocks := _blocks(model):
        with_stem = type(modules[blocks[0]]).__name__ == "ResBlock" and "stem" in modules
        return ["stem"] * with_stem + blocks
    features = getattr(model, "features", None)
    if isinstance(features, nn.Sequential) and (names := _nonlinear(features, "features.")):
        return names
    stages = [info["module"] for info in getattr(model, "feature_info", None) or ()]
    if stages and all(name in modules for name in stages):
        return stages
    if names := _nonlinear(model, ""):
        return names
    weighted = _weighted(modules)
    if len(weighted) > 1:
        return weighted[:-1]
    raise ValueError(f"model: {type(model).__name__} has no blocks, nonlinearities or hidden layers; name `layers`")


def _blocks(module: nn.Module, prefix: str = "") -> list[str]:
    """Blocks in the containers of a module or, where there are none, in those of its parts."""
    if isinstance(module, _CONTAINERS):
        return _within(module, prefix)
    children = [(name, child) for name, child in module.named_children() if not name.startswith(_NO_BLOCKS)]
    held = [(name, child) for name, child in children if isinstance(child, _CONTAINERS)]
    found = [block for name, child in held for block in _within(child, f"{prefix}{name}.")]
    return found or [block for name, child in children for block in _blocks(child, f"{prefix}{name}.")]


def _within(container: nn.Module, prefix: str) -> list[str]:
    found = []
    for key, child in container.named_children():
        name = f"{prefix}{key}"
        stage = getattr(child, "blocks", None)
        if isinstance(child, _CONTAINERS):
            found += _within(child, f"{name}.")
        elif isinstance(stage, _CONTAINERS) and (inner := _within(stage, f"{name}.blocks.")):
            found += inner
        elif any(True for _ in child.children()) and any(p.ndim > 1 for p in child.parameters()):
            found.append(name)
    return found


def _nonlinear(module: nn.Module, prefix: str) -> list[str]:
    leaves = [(name, m) for name, m in module.named_modules() if name and not any(True for _ in m.children())]
    return [prefix + name for name, m in leaves if type(m).__module__ == "torch.nn.modules.activation"]


def _weighted(modules: dict[str, nn.Module]) -> list[str]:
    return [name for name, m in modules.items() if any(p.ndim > 1 for p in m.parameters(recurse=False))]
