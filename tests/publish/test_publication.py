"""Publication: every fault of a page is found, and chapters are published all or none."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_output

from tests.conftest import book_extension, write_notebook

publication = book_extension("publication")
page_faults, publish = publication.page_faults, publication.publish


def write_page(path: Path, text: str = "done\n") -> Path:
    """Write a page as execution makes it, with one output."""
    notebook = nbformat.read(write_notebook(path, "epochs"), as_version=4)
    notebook.cells[-1].outputs = [new_output("stream", text=text)]
    notebook.metadata["selfsim"] = {"fingerprint": "x"}
    nbformat.write(notebook, path)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_chapters_are_published_all_or_none(tmp_path):
    pages = [write_page(tmp_path / f"{name}.ipynb") for name in ("first", "second")]
    bad = tmp_path / "bad.ipynb"
    bad.write_text("{}")
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(ValueError, match="not a Jupyter notebook"):
        publish([pages[0], bad], root)
    assert tree(root) == {}
    assert publish(pages, root) == [root / "book/chapters/first.ipynb", root / "book/chapters/second.ipynb"]
    assert tree(root) == {f"book/chapters/{page.name}": page.read_bytes() for page in pages}


@pytest.mark.parametrize("method", ["write_bytes", "rename"])
def test_a_full_disk_leaves_the_published_chapters_as_they_were(tmp_path, monkeypatch, method):
    pages = [write_page(tmp_path / f"{name}.ipynb") for name in ("first", "second", "third")]
    root = tmp_path / "root"
    publish(pages[:2], root)
    before = tree(root)
    for page in pages:
        write_page(page, "a newer output\n")
    work, calls = getattr(Path, method), []

    def fails_once(path, *arguments):
        calls.append(path)
        if len(calls) == 4 - (method == "write_bytes") * 2:
            raise OSError(28, "No space left on device", str(path))
        return work(path, *arguments)

    monkeypatch.setattr(Path, method, fails_once)
    with pytest.raises(OSError, match="No space left"):
        publish(pages, root)
    assert tree(root) == before


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            lambda n: n.cells[-1].outputs.append(new_output("error", ename="E", evalue="", traceback=[])),
            "cell 3 holds an error output",
        ),
        (
            lambda n: n.cells[-1].outputs.append(
                new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}})
            ),
            "cell 3 holds a widget",
        ),
        (lambda n: n.metadata.update(widgets={"x": 1}), "widget state"),
        (lambda n: n.metadata.pop("selfsim"), "no provenance"),
        (lambda n: n.cells[1].metadata.update(tags=[]), "no cell tagged 'parameters'"),
    ],
)
def test_what_cannot_be_published_is_named(tmp_path, change, fault):
    notebook = nbformat.read(write_page(tmp_path / "n.ipynb"), as_version=4)
    assert page_faults(tmp_path / "n.ipynb", "/some/root") == []
    change(notebook)
    (tmp_path / "n.ipynb").write_text(json.dumps(notebook, indent=1))
    faults = page_faults(tmp_path / "n.ipynb", "/some/root")
    assert len(faults) == 1
    assert fault in faults[0]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("in /some/root/a.py\n", 'project folder occurs in "in /some/root/a.py'),
        ("x\n/some/home/.cache: no\n", 'home folder occurs in "/some/home/.cache: no'),
        ("/tmp/" + "ipykernel_12/3.py:1: UserWarning\n", "temporary folder occurs in"),
        ("/var/folders/1x/T/ipykernel_12/3.py:1: UserWarning\n", "temporary folder occurs in"),
        (f"{sysconfig.get_path('purelib')}/torch/a.py:1: UserWarning\n", "installed packages' folder occurs in"),
        ("C:\\env\\Lib\\site-packages\\torch\\a.py:1: UserWarning\n", "installed packages' folder occurs in"),
    ],
)
def test_paths_of_a_machine_are_found(tmp_path, monkeypatch, text, fault):
    monkeypatch.setenv("HOME", "/some/home")
    monkeypatch.setenv("USERPROFILE", "/some/home")
    page = tmp_path / "n.ipynb"
    write_page(page, "/some/rooted /some/homestead site-packages a/tmp/x\n")
    assert page_faults(page, "/some/root") == []
    write_page(page, text)
    assert any(fault in found for found in page_faults(page, "/some/root"))
