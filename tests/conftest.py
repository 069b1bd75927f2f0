"""One thread for torch, since tests compare bits and run side by side; tiny notebooks for publish and sweep."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

torch.set_num_threads(1)

BOOK_CODE = Path(__file__).parents[1] / "book" / "_ext"
PARAMETERS = """\
name: str = "mlp"  # which one
epochs: int = 3
weight = 0.5
seeds: list[int] = [0, 1]
rates: list[float] = []
flag: bool = False
"""


def book_extension(name: str) -> ModuleType:
    """Import a file of the book's own code, which is no package."""
    spec = importlib.util.spec_from_file_location(name, BOOK_CODE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_notebook(path: Path, *cells: str, parameters: str | None = PARAMETERS) -> Path:
    """Write a notebook: a heading, the parameters cell, code cells."""
    made = [new_markdown_cell("# A heading\n\nSome text.")]
    if parameters is not None:
        made.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    notebook = new_notebook(cells=made + [new_code_cell(cell) for cell in cells])
    # A kernel name that no machine has: what runs must not depend on it.
    notebook.metadata["kernelspec"] = {"name": "somebody-elses", "display_name": "X", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def notebook(tmp_path):
    return write_notebook(tmp_path / "tiny.ipynb", "epochs")
