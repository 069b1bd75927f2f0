"""Rules for tracked files: no data, no paths of one machine, no large files, no outputs in notebooks/."""

import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
TEXT = {".py", ".md", ".toml", ".yml", ".yaml", ".cff", ".txt", ".ipynb", ".bib", ".css", ".js", ".sh", ".json", ""}
IMAGES = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}
DATA = {".npy", ".npz", ".pt", ".pth", ".pkl", ".pickle", ".h5", ".hdf5", ".tar", ".gz", ".xz", ".bz2", ".zip"}
MEGABYTE = 1_000_000

# The patterns are written so that this file does not match them.
FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.~/<>{}$\[\]-])/(?:home|Users|root|work)/[\w.]"),
    "a temporary path": re.compile(r"(?<![\w.])/tmp/[\w.]"),
    "a file address": re.compile(r"file:/{3}"),
    "a registry's address": re.compile(r"https?://[\w.-]*(?:py[p]i|pythonhosted|download\.pytorch)[\w./-]*"),
    "an option that names a registry": re.compile(r"--(?:extra-)?inde[x]-url|--find-link[s]\b"),
}


def tracked() -> list[Path]:
    """The files that the next commit may contain: tracked, or new and not ignored."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = sorted({*listed.split("\0")} - {""})
    return [ROOT / name for name in names if (ROOT / name).is_file() or (ROOT / name).is_symlink()]


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


def test_each_pattern_matches_its_example():
    examples = {
        "a path of one machine": ["see /" + "home/someone/data", '"/' + 'root/x.png"'],
        "a temporary path": ["in /" + "tmp/x"],
        "a file address": ["file:/" + "//x"],
        "a registry's address": ["https://py" + "pi.org/simple"],
        "an option that names a registry": ["pip install --extra-" + "index-url x"],
    }
    assert set(examples) == set(FORBIDDEN)
    for what, texts in examples.items():
        assert all(FORBIDDEN[what].search(text) for text in texts), what


def test_no_file_is_large():
    """Chapters may have 3 MB, other files 1 MB."""
    for path in tracked():
        limit = 3 * MEGABYTE if relative(path).startswith("book/chapters/") else MEGABYTE
        assert path.stat().st_size <= limit, f"{relative(path)}: {path.stat().st_size} bytes"


def test_no_data_no_caches_no_links():
    for path in tracked():
        name = relative(path)
        assert not path.is_symlink(), f"{name} is a link"
        assert path.suffix not in DATA, f"{name} looks like data"
        assert path.suffix not in {".pyc", ".so"}, f"{name} is a product of a tool"
        assert not {"__pycache__", ".ipynb_checkpoints", "_build", ".venv"} & set(name.split("/")), name
        if path.suffix in IMAGES:
            assert name.startswith("book/"), f"{name}: an image outside book/"


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


def notebooks(folder: str) -> list[tuple[str, nbformat.NotebookNode]]:
    """Read and validate the notebooks of a folder."""
    paths = sorted((ROOT / folder).glob("*.ipynb"))
    assert paths
    read = [(relative(path), nbformat.read(path, as_version=4)) for path in paths]
    for _, notebook in read:
        nbformat.validate(notebook)
    return read


def test_sources_have_no_outputs_one_cell_of_parameters_and_the_plain_kernel():
    for name, notebook in notebooks("notebooks"):
        for number, cell in enumerate(notebook.cells, 1):
            if cell.cell_type == "code":
                assert not cell.outputs, f"{name}: cell {number} has outputs: run nbstripout"
                assert cell.execution_count is None, f"{name}: cell {number} has an execution count: run nbstripout"
        tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        assert len(tagged) == 1, f"{name}: {len(tagged)} cells tagged parameters"
        assert notebook.metadata.kernelspec.name == "python3", name


def test_chapters_are_executed_without_errors():
    for name, notebook in notebooks("book/chapters"):
        kinds = {output.output_type for cell in notebook.cells for output in cell.get("outputs", [])}
        assert kinds & {"display_data", "execute_result"}, f"{name} is not executed"
        for number, cell in enumerate(notebook.cells, 1):
            for output in cell.get("outputs", []):
                assert output.output_type != "error", f"{name}: cell {number}: {output.get('ename')}"
                warned = output.output_type == "stream" and output.get("name") == "stderr" and "Warning" in output.text
                assert not warned, f"{name}: cell {number} shows a warning: {output.text}"
        assert not notebook.metadata.get("widgets"), f"{name} has the state of widgets"
