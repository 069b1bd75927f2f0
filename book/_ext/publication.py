"""Publish executed chapters: check them and copy them to ``book/chapters/``, which git tracks.

``selfsim book --publish`` runs this file of the project whose book it makes.
"""

from __future__ import annotations

import base64
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from selfsim.files import read_yaml
from selfsim.publish.book import CHAPTERS
from selfsim.publish.parameters import read_notebook

# The figure of a published chapter that the README shows; a picture of it stands beside the book's others.
FRONT_FIGURE = "mlp-rates"
# The line of a chapter's first cell that names where to install the package from, as JSON has it.
_NO_ADDRESS = r"repository = \"\""
# What follows the path of a folder of this machine: no other name, or in the temporary folder a file.
_PATH_ENDS = {"project": r"(?![\w-])", "home": r"(?![\w-])", "temporary": r"[/\\]+\w"}
# Where an absolute path starts; in JSON, the n of a line break may stand before it.
_START = r"(?:(?<![\w.~-])|(?<=\\[nt]))"
# Files that warnings name, on whatever machine a notebook was executed.
_OF_ANY_MACHINE = {
    "temporary": _START + r"(?:/var)?/tmp/\w|/var/folders/\w|[/\\]ipykernel_\d+[/\\]",
    "installed packages'": r"[/\\](?:site|dist)-packages[/\\]",
}


def publish(executed: Sequence[str | Path], root: str | Path) -> list[Path]:
    """Check executed chapters, copy them to ``book/chapters/``, and return where they are.

    All or none. In a copy, the cell that installs the package where it is missing knows the repository's address.

    Raises
    ------
    ValueError
        A chapter holds error outputs, widgets or paths of a machine, or lacks its parameters cell or provenance; lists
        all of them.
    OSError
        A file cannot be written; the published chapters are as they were.
    """
    faults = [f"{path}: {fault}" for path in executed for fault in page_faults(path, root)]
    if faults:
        raise ValueError("nothing is published:\n" + "\n".join(faults))
    book = Path(root) / "book"
    address = _NO_ADDRESS.replace(r"\"\"", rf"\"{repository_address(root)}\"")
    contents: dict[Path, bytes] = {}
    for path in map(Path, executed):
        text = path.read_text(encoding="utf-8").replace(_NO_ADDRESS, address)
        contents[Path(root) / CHAPTERS / path.name] = text.encode()
        if picture := figure_png(path, FRONT_FIGURE):
            contents[book / "_static" / f"{FRONT_FIGURE}.png"] = picture
    _write_all_or_none(contents, book)
    return [target for target in contents if target.suffix == ".ipynb"]


def _write_all_or_none(contents: Mapping[Path, bytes], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Writing may fail, as on a full disk; renaming needs no space. On the same file system, so in `folder`.
    with tempfile.TemporaryDirectory(prefix=".publish-", dir=folder) as stage:
        files = {target: Path(stage) / str(number) for number, target in enumerate(contents)}
        for target, content in contents.items():
            files[target].write_bytes(content)
        replaced = []
        try:
            for target, file in files.items():
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.exists():
                    target.rename(file.with_suffix(".old"))
                replaced.append(target)
                file.rename(target)
        except OSError:
            for target in replaced:
                target.unlink(missing_ok=True)
                if (old := files[target].with_suffix(".old")).exists():
                    old.rename(target)
            raise


def repository_address(root: str | Path) -> str:
    """Return where the project is published: ``url`` under ``repository`` in its ``_config.yml``; empty if nowhere."""
    config = Path(root) / "_config.yml"
    return (read_yaml(config).get("repository") or {}).get("url") or "" if config.is_file() else ""


def figure_png(path: str | Path, name: str) -> bytes | None:
    """Return the picture of the figure with this name in an executed notebook; None if it has none."""
    for cell in read_notebook(path).cells:
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == name:
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    return base64.b64decode(output["data"]["image/png"])
    return None


def page_faults(path: str | Path, root: str | Path) -> list[str]:
    """Return why an executed notebook cannot be published; empty if it can."""
    notebook = read_notebook(path)
    faults = []
    for number, cell in enumerate(notebook.cells, 1):
        outputs = cell.get("outputs", [])
        if any(output.output_type == "error" for output in outputs):
            faults.append(f"cell {number} holds an error output")
        if any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs):
            faults.append(f"cell {number} holds a widget, which a page cannot show")
    if not any("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells):
        faults.append("there is no cell tagged 'parameters'")
    if "fingerprint" not in notebook.metadata.get("selfsim", {}):
        faults.append("there is no provenance in its metadata; execute it with 'selfsim book'")
    if "widgets" in notebook.metadata:
        faults.append("there is widget state in its metadata")
    text = Path(path).read_text(encoding="utf-8")
    return faults + list(_path_faults(text, Path(root).resolve()))


def _path_faults(text: str, root: Path) -> Iterator[str]:
    places = {"project": root, "home": Path.home(), "temporary": Path(tempfile.gettempdir())}
    # A home of "/" (some containers) is in every path. JSON doubles the backslashes of Windows.
    patterns = {
        name: (_START if name == "temporary" else "") + re.escape(json.dumps(str(place))[1:-1]) + _PATH_ENDS[name]
        for name, place in places.items()
        if len(place.parts) > 1
    }
    for name, pattern in [*patterns.items(), *_OF_ANY_MACHINE.items()]:
        if match := re.search(pattern, text):
            context = text[max(0, match.start() - 50) : match.start()].rpartition("\n")[2] + match[0]
            context += text[match.end() : match.end() + 50].partition("\n")[0]
            yield f"the path of a machine's {name} folder occurs in {context.strip()}"
