"""The pages of the book: contents, reference, structure of the chapters; their code runs and their commands exist."""

import json
import pkgutil
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

import selfsim
from tests.conftest import book_extension

ROOT = Path(__file__).parents[2]
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
PAGES = sorted((ROOT / "book").glob("*.md"))
FENCE = re.compile(r"^(?P<fence>`{3,})(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL)


def pages_of_the_contents() -> list[str]:
    pages = [TOC["root"]]
    for part in TOC["parts"]:
        for chapter in part["chapters"]:
            pages.append(chapter["file"])
            pages += [section["file"] for section in chapter.get("sections", [])]
    return pages


def blocks(path: Path, *languages: str) -> list[str]:
    """The code blocks of a page in the given languages."""
    text = path.read_text(encoding="utf-8")
    return [m["code"] for m in FENCE.finditer(text) if m["info"].strip().strip("{}") in languages]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_contents_list_every_page_and_no_other():
    paths = [*PAGES, *(ROOT / "book" / "chapters").glob("*.ipynb")]
    pages = {relative(path.with_suffix("")) for path in paths}
    assert pages == {page for page in pages_of_the_contents() if "/" in page}


def test_the_chapters_are_those_of_the_run_list():
    chapters = yaml.safe_load((ROOT / "notebooks" / "runs.yml").read_text(encoding="utf-8"))["chapters"]
    prefix = "book/chapters/"
    assert sorted(chapters) == sorted(p.removeprefix(prefix) for p in pages_of_the_contents() if p.startswith(prefix))


def test_the_presets_of_the_run_list_are_valid():
    from selfsim.publish.run_list import read_run_list

    for preset in ("quick", "cifar10"):
        assert len(read_run_list(ROOT / "notebooks" / "runs.yml", preset).chapters) > 10


def test_the_published_book_executes_nothing_and_takes_only_its_pages():
    assert CONFIG["execute"]["execute_notebooks"] == "off"
    assert CONFIG["only_build_toc_files"] is True


def test_pages_link_to_no_chapter():
    """A book from another run list has other chapters, so the pages have to stand without them."""
    for path in PAGES:
        links = re.findall(r"\]\([^)]*chapters/|\{doc\}`[^`]*chapters/", path.read_text(encoding="utf-8"))
        assert not links, relative(path)


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
INSTALL = """\
import importlib.util

if importlib.util.find_spec("selfsim") is None:
    repository = ""
    %pip install --quiet "selfsim[boxes,models,plots,statistics] @ git+{repository}"
"""


def test_notebooks_have_a_summary_exercises_with_solutions_and_the_command_that_reruns_them():
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        tagged: dict[str, list[dict]] = {}
        for cell in cells:
            for tag in cell["metadata"].get("tags", []):
                tagged.setdefault(tag, []).append(cell)
        (summary,) = tagged["summary"]
        assert "hide-cell" in summary["metadata"]["tags"], path.name
        assert "Markdown(" in "".join(summary["source"]), path.name
        for title in ("The parameters", "What it shows", "Exercises", "Run this with your own parameters"):
            assert f"\n## {title}\n" in f"\n{texts}\n", f"{path.name}: no section {title}"
        exercises = texts.partition("\n## Exercises\n")[2].partition("\n## ")[0]
        assert len(tagged["solution"]) == len(re.findall(r"^\d\. ", exercises, re.MULTILINE)) > 0, path.name
        assert all("hide-cell" in cell["metadata"]["tags"] for cell in tagged["solution"]), path.name
        assert re.search(rf"papermill notebooks/{path.name} \S+\.ipynb[\s\\]+-k python3 -p ", texts), path.name
        for cell in tagged.get("install", []):
            assert cell is cells[0], path.name
            assert "".join(cell["source"]) == INSTALL.strip(), path.name
            assert cell["metadata"]["tags"] == ["install", "remove-cell"], path.name


def test_published_chapters_begin_with_their_summary_and_end_with_their_own_command():
    for path in (ROOT / "book" / "chapters").glob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        texts = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
        note = r"# [^\n]+\n\n:::\{admonition\} In short\n:class: summary\n(.+?)\n:::\n"
        assert re.match(note, texts[0], re.DOTALL), path.name
        if parameters := notebook["metadata"]["papermill"]["parameters"]:
            command = re.search(r"papermill notebooks/.*?(?=\n```)", "\n".join(texts), re.DOTALL)[0]
            assert given_parameters(shlex.split(command)) == parameters, path.name


def given_parameters(words: list[str]) -> dict[str, Any]:
    """The parameters that a papermill command gives by -p and -y."""
    given = {words[i + 1]: yaml.safe_load(words[i + 2]) for i, word in enumerate(words) if word == "-p"}
    for i, word in enumerate(words):
        if word == "-y":
            given |= yaml.safe_load(words[i + 1])
    return given


REFERENCE = sorted((ROOT / "book").glob("api-*.md"))


def documented_names(path: Path) -> list[str]:
    return re.findall(
        r"^\.\. auto(?:function|class|exception):: selfsim\.([\w.]+)$", path.read_text(encoding="utf-8"), re.MULTILINE
    )


def test_every_public_name_is_in_the_reference():
    documented = {path.stem.removeprefix("api-"): documented_names(path) for path in REFERENCE}
    short = sorted(name for names in documented.values() for name in names if "." not in name)
    assert short == sorted(selfsim.__all__)
    for room, names in documented.items():
        assert {selfsim._MODULES.get(name, name).partition(".")[0] for name in names} == {room}


def test_pages_of_the_reference_begin_with_links_to_their_names():
    for path in REFERENCE:
        before, _, _ = path.read_text(encoding="utf-8").partition("\n## ")
        links = set(re.findall(r"\{(?:func|class|exc)\}`~selfsim\.([\w.]+)`", before))
        assert links == set(documented_names(path)), path.name


def test_pages_have_one_title_and_their_images_an_alt_text():
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        prose = FENCE.sub("", text)
        assert len(re.findall(r"^# ", prose, re.MULTILINE)) == 1, path.name
        for alt in re.findall(r"!\[(.*?)\]\(", prose):
            assert len(alt.split()) >= 3, f"{path.name}: alt text {alt!r}"
        for directive in FENCE.finditer(text):
            if directive["info"].startswith(("{figure}", "{image}")):
                assert re.search(r"^:alt: \S+ \S+ \S+", directive["code"], re.MULTILINE), directive[0]


# Pages whose Python is compiled but not run, with the reason.
NOT_RUN = {
    "book/cluster.md": "needs a finished sweep, and a cluster with SLURM",
    "book/frameworks.md": "tests/training/test_frameworks.py runs it, where the frameworks are installed",
}
# Packages that the tests do not install: a block that imports one is run where it is there, else compiled.
NOT_INSTALLED = {"transformers"}
WITH_CODE = [path for path in [ROOT / "README.md", *PAGES] if blocks(path, "python")]


@pytest.mark.parametrize("path", WITH_CODE, ids=relative)
def test_the_python_of_a_page_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    codes = [compile(code, f"{relative(path)}, block {k}", "exec") for k, code in enumerate(blocks(path, "python"), 1)]
    if relative(path) in NOT_RUN:
        pytest.skip(NOT_RUN[relative(path)])
    namespace: dict = {"__name__": "page"}
    for code in codes:
        try:
            exec(code, namespace)
        except ModuleNotFoundError as error:
            if error.name not in NOT_INSTALLED:
                raise


def test_papermill_commands_name_parameters_that_exist():
    from selfsim.publish.parameters import check_parameters

    lines = [
        line.strip()
        for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
        for code in blocks(path, "sh", "bash", "console")
        for line in code.replace("\\\n", " ").splitlines()
        if re.match(r"\s*(\$ )?\S*papermill ", line)
    ]
    assert lines
    for line in lines:
        words = shlex.split(line, comments=True)
        scalars = [yaml.safe_load(words[i + 2]) for i, word in enumerate(words) if word == "-p"]
        assert not any(isinstance(value, list) for value in scalars), f"{line}: -p takes no list"
        given = given_parameters(words)
        assert given, line
        check_parameters(ROOT / next(word for word in words if word.endswith(".ipynb")), given)
        assert words[words.index("-k") + 1] == "python3", line


def test_the_functions_and_tests_that_paper_to_code_names_exist():
    page = (ROOT / "book" / "paper-to-code.md").read_text(encoding="utf-8").partition("## Where each claim")[0]
    rows = [
        line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ") and "in the paper |" not in line
    ]
    assert len(rows) > 20
    for _, functions, tests, _ in rows:
        names, places = re.findall(r"`(selfsim[\w.]+)`", functions), re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
        assert names and places
        assert all(callable(pkgutil.resolve_name(name)) for name in names)
        for file, test in places:
            assert re.search(rf"^ *def {test}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), (file, test)


def test_make_commands_on_the_pages_exist():
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]:
        named = set(re.findall(r"(?:^|`|&& )make ([a-z-]+)", path.read_text(encoding="utf-8"), re.MULTILINE))
        assert named <= targets, path.name


def test_the_picture_of_the_readme_is_the_published_figure():
    publication = book_extension("publication")
    picture = f"book/_static/{publication.FRONT_FIGURE}.png"
    assert picture in (ROOT / "README.md").read_text(encoding="utf-8")
    chapter = ROOT / "book" / "chapters" / f"{publication.FRONT_FIGURE.split('-')[0]}.ipynb"
    assert (ROOT / picture).read_bytes() == publication.figure_png(chapter, publication.FRONT_FIGURE)


def test_the_table_of_coverage_shows_the_results_of_the_simulation():
    rows = json.loads((ROOT / "results" / "benchmarks" / "coverage.json").read_text(encoding="utf-8"))["rows"]
    page = (ROOT / "book" / "ss-rate.md").read_text(encoding="utf-8")
    for row in rows:
        shares = f"{row['coverage of halves']:.3f} | {row['coverage of bootstrap']:.3f}"
        assert f"| {row['law']} | {row['samples']} | {shares} |" in page
