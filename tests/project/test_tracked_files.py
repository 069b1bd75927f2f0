"""What git tracks: no data, nothing of one machine, no large files, no outputs in the notebooks' sources."""

import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
TEXT = {
    ".py",
    ".md",
    ".toml",
    ".yml",
    ".yaml",
    ".cff",
    ".txt",
    ".ipynb",
    ".bib",
    ".css",
    ".js",
    ".sh",
    ".json",
    "",
}
IMAGES = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}
DATA = {
    ".npy",
    ".npz",
    ".pt",
    ".pth",
    ".pkl",
    ".pickle",
    ".h5",
    ".hdf5",
    ".tar",
    ".gz",
    ".xz",
    ".bz2",
    ".zip",
}
MEGABYTE = 1_000_000

# Written so that this file does not hold what it looks for.
FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.~/<>{}$\[\]-])/(?:home|Users|root|work)/[\w.]"),
    "a temporary path": re.compile(r"(?<![\w.])/tmp/[\w.]"),
    "a file address": re.compile(r"file:/{3}"),
    "a registry's address": re.compile(r"https?://[\w.-]*(?:py[p]i|pythonhosted|download\.pytorch)[\w./-]*"),
    "an option that names a registry": re.compile(r"--(?:extra-)?inde[x]-url|--find-link[s]\b"),
}


def tracked() -> list[Path]:
    """The files of the next commit: tracked, or new and not ignored."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files are tracked is unknown")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in sorted(set(listed.split("\0"))) if name and (ROOT / name).is_file()]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_nothing_names_one_machine_or_a_registry():
    faults = [
        f"{relative(path)}:{number}: {what}: {match[0]}"
        for path in tracked()
        if path.suffix in TEXT
        for number, line in enumerate(lines_of(path), 1)
        for what, pattern in FORBIDDEN.items()
        if (match := pattern.search(line))
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a path of one machine", "see /" + "home/someone/data"),
        ("a path of one machine", '"/' + 'root/x.png"'),
        ("a file address", "file:/" + "//x"),
        ("a registry's address", "https://py" + "pi.org/simple"),
        ("an option that names a registry", "pip install --extra-" + "index-url x"),
    ],
)
def test_the_patterns_find_what_they_are_for(what, text):
    assert FORBIDDEN[what].search(text)


def test_no_file_is_large():
    large = [relative(path) for path in tracked() if path.stat().st_size > 3 * MEGABYTE]
    assert not large


def test_only_chapters_exceed_one_megabyte():
    large = [relative(path) for path in tracked() if path.stat().st_size > MEGABYTE]
    assert all(name.startswith("book/chapters/") for name in large), large


def test_no_data_no_caches():
    for path in tracked():
        name = relative(path)
        assert path.suffix not in DATA, f"{name} looks like data"
        assert path.suffix not in {".pyc", ".so"}, f"{name} is made by a tool"
        assert not {"__pycache__", ".ipynb_checkpoints", "_build", ".venv"} & set(path.parts[len(ROOT.parts) :]), name
        if path.suffix in IMAGES:
            assert name.startswith("book/"), f"{name}: images of the book lie in book/, data nowhere"


def test_text_files_end_with_one_newline():
    for path in tracked():
        if path.suffix in TEXT and path.stat().st_size and path.suffix != ".ipynb":
            text = path.read_bytes()
            assert text.endswith(b"\n"), f"{relative(path)} ends within a line"
            assert not text.endswith(b"\n\n"), f"{relative(path)} ends with empty lines"
            assert b"\r" not in text, f"{relative(path)} has carriage returns"


def test_there_is_no_lock_or_version_suffix():
    for path in tracked():
        assert not re.search(r"_v\d+$|_old$|_new$|_copy$", path.stem), relative(path)


def notebooks(folder: str) -> list[Path]:
    return sorted((ROOT / folder).glob("*.ipynb"))


@pytest.mark.parametrize("path", notebooks("notebooks"), ids=relative)
def test_sources_carry_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "code":
            assert cell.outputs == [], f"cell {number} has outputs: run nbstripout"
            assert cell.execution_count is None, f"cell {number} has an execution count: run nbstripout"


@pytest.mark.parametrize("path", notebooks("notebooks"), ids=relative)
def test_sources_have_one_cell_of_parameters_and_the_plain_kernel(path):
    notebook = nbformat.read(path, as_version=4)
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("path", notebooks("book/chapters"), ids=relative)
def test_chapters_are_executed_without_errors(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    assert any(output.output_type in {"display_data", "execute_result"} for output in outputs)
    for number, cell in enumerate(notebook.cells, 1):
        for output in cell.get("outputs", []):
            assert output.output_type != "error", f"cell {number}: {output.get('ename')}"
            warned = output.output_type == "stream" and output.get("name") == "stderr" and "Warning" in output.text
            assert not warned, f"cell {number} shows a warning: {output.text}"
    assert not notebook.metadata.get("widgets"), "widget state is no figure"
