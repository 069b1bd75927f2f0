"""Check the parameters of notebooks that train, before anything starts."""

from __future__ import annotations

from dataclasses import fields

from ..publish.run_list import Chapter


def check_training_values(chapter: Chapter) -> None:
    """Raise ``ValueError`` if a chapter trains and has parameters that no training run can have.

    A chapter trains if its notebook uses `selfsim.TrainConfig`. Its parameters that are named like a field mean that
    field, where 0, "" and [] stand for None.
    """
    if "TrainConfig" not in chapter.notebook.read_text(encoding="utf-8"):
        return
    # Not above: other notebooks need no torch here.
    from ..models.architectures import architecture
    from ..training.config import TrainConfig

    given = chapter.parameters
    for name in given.get("architectures", []) + given.get("beside", []):
        architecture(name)
    values = {
        field.name: given[field.name]
        for field in fields(TrainConfig)
        if field.name in given and (given[field.name] or field.default is not None)
    }
    constraint = {name: given[name] for name in ("target", "weight") if name in given}
    TrainConfig(**{"architecture": "mlp", "constraint": constraint or None} | values)
