"""Rules of the layout: rooms in their order, light imports, small files, no global state."""

from __future__ import annotations

import ast
import io
import itertools
import json
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import selfsim

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "selfsim"
FILES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
# A room imports only from the foundation and from the rooms before it.
ROOMS = ["boxes", "rate", "statistics", "models", "training", "figures", "analysis", "publish", "sweep"]
FOUNDATION = ["checks", "compiled", "files", "validation", "uncertainty"]
ENTRIES = ["__init__", "command_line"]  # may import from every room, inside functions
DRAWING = {"matplotlib", "seaborn"}
HEAVY = {*DRAWING, "pandas", "timm", "torchvision", "papermill", "jupyter_book", "nbformat", "yaml", "distributed"}


def by_path(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def imports(tree: ast.AST, path: Path) -> Iterator[tuple[ast.stmt, str]]:
    """Yield every absolute name that a file imports, with its statement."""
    package = by_path(path).split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node, f"{module}.{alias.name}") for alias in node.names)


def for_types(tree: ast.Module) -> set[int]:
    """Return the identities of the nodes under `if TYPE_CHECKING`."""
    return {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
        for node in ast.walk(block)
    }


def imports_at_load_time(tree: ast.Module, path: Path) -> Iterator[tuple[ast.stmt, str]]:
    """Yield the imports outside functions and outside `if TYPE_CHECKING`."""
    functions = (block for block in ast.walk(tree) if isinstance(block, ast.FunctionDef | ast.AsyncFunctionDef))
    later = {id(node) for block in functions for node in ast.walk(block)} | for_types(tree)
    return ((node, name) for node, name in imports(tree, path) if id(node) not in later)


def code_lines(path: Path) -> int:
    """The number of lines with code: neither comments nor docstrings."""
    text = path.read_text(encoding="utf-8")
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in layout
        for line in range(token.start[0], token.end[0] + 1)
    }
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(FILES[path]):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def test_the_package_has_these_rooms_and_no_others():
    assert {room_of(path) for path in FILES} == {*ROOMS, *FOUNDATION, *ENTRIES}


def test_rooms_import_only_from_rooms_before_them():
    faults = []
    for path, tree in FILES.items():
        room = room_of(path)
        if room in ENTRIES:
            continue
        allowed = {*FOUNDATION, *ROOMS[: ROOMS.index(room) + 1]} if room in ROOMS else set(FOUNDATION)
        for node, name in imports(tree, path):
            top, _, rest = name.partition(".")
            if top == "selfsim" and rest.partition(".")[0] not in {*allowed, "__version__", ""}:
                faults.append(f"{by_path(path)}:{node.lineno}: {room} must not import {name}")
    assert not faults, "\n".join(faults)


def test_the_package_imports_neither_the_study_nor_the_tests():
    faults = [
        f"{by_path(path)}:{node.lineno}: {name}"
        for path, tree in FILES.items()
        for node, name in imports(tree, path)
        if name.partition(".")[0] in {"study", "tests", "benchmarks"}
    ]
    assert not faults, "\n".join(faults)


def test_only_figures_draw():
    """Outside `figures`, no room before `publish` imports a drawing package, not even inside a function."""
    faults = [
        f"{by_path(path)}:{node.lineno}: {name}"
        for path, tree in FILES.items()
        if room_of(path) not in {"figures", "publish"}
        for node, name in imports(tree, path)
        if name.partition(".")[0] in DRAWING and id(node) not in for_types(tree)
    ]
    assert not faults, "\n".join(faults)


def test_heavy_packages_are_imported_inside_the_functions_that_use_them():
    faults = []
    for path, tree in FILES.items():
        heavy = HEAVY - DRAWING - {"pandas"} if room_of(path) == "figures" else HEAVY
        faults += [
            f"{by_path(path)}:{node.lineno}: import {name} inside a function"
            for node, name in imports_at_load_time(tree, path)
            if name.partition(".")[0] in heavy
        ]
    assert not faults, "\n".join(faults)


def test_no_room_has_more_than_a_quarter_of_the_code():
    lines = Counter()
    for path in FILES:
        lines[room_of(path)] += code_lines(path)
    room, most = lines.most_common(1)[0]
    assert most <= lines.total() / 4, f"{room} has {most} of {lines.total()} lines"


def test_files_are_short_and_say_what_they_are_for():
    faults = []
    for path, tree in FILES.items():
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 450:
            faults.append(f"{by_path(path)}: {lines} lines, need at most 450")
        if not ast.get_docstring(tree):
            faults.append(f"{by_path(path)}: no docstring")
    assert not faults, "\n".join(faults)


def test_the_package_prints_nothing_seeds_nothing_and_asserts_nothing():
    seeds = {"torch.manual_seed", "np.random.seed", "numpy.random.seed", "random.seed"}
    faults = []
    for path, tree in FILES.items():
        for node in ast.walk(tree):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Assert):
                faults.append(f"{by_path(path)}:{node.lineno}: raise an error instead; python -O removes assertions")
            elif called in seeds and path.name != "seeding.py":  # seeding.py restores the caller's random state
                faults.append(f"{by_path(path)}:{node.lineno}: {called} changes the caller's random state")
            elif called == "print" and path.name != "command_line.py":
                faults.append(f"{by_path(path)}:{node.lineno}: a library does not print")
    assert not faults, "\n".join(faults)


def test_loading_names_and_measuring_bring_no_heavy_package():
    """Import the names that need no training, and compute a rate, and list the loaded modules."""
    measuring = [name for name, module in selfsim._MODULES.items() if not module.startswith("training")]
    code = f"""
import json, sys
loaded = []
import numpy, torch
loaded.append(list(sys.modules))
import selfsim
loaded.append(list(sys.modules))
x = torch.from_numpy(numpy.random.default_rng(0).standard_normal((16, 12)))
assert 0 < float(selfsim.ss_rate(x)) < 1
loaded.append(list(sys.modules))
for name in {measuring}:
    getattr(selfsim, name)
loaded.append(list(sys.modules))
print(json.dumps(loaded))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    before, package, rate, names = map(set, json.loads(result.stdout))
    assert packages(package - before) == {"selfsim"}
    for step, heavy in [(rate, {*HEAVY, "networkx", "numba", "sklearn"}), (names, {*HEAVY, "numba", "sklearn"})]:
        assert not sorted(packages(step - before) & heavy)
    # PyTorch's compiler costs several seconds, and no name needs it.
    assert not sorted(name for name in names - before if name.startswith(("torch._dynamo", "torch._inductor")))


def packages(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


MEASURES = {"ss_rate", "FeatureNetwork", "box_cover", "box_counts", "fractal_dimension", "Probe", "activations"}
TRAINING = {"SelfSimilarityConstraint", "train", "load_run"}


def sections(docstring: str) -> set[str]:
    """The titles of a numpydoc docstring: lines that dashes of the same length underline."""
    lines = [line.strip() for line in docstring.splitlines()]
    return {title for title, rule in itertools.pairwise(lines) if title and rule == "-" * len(title)}


def test_public_names_are_listed_and_loaded_on_first_use():
    assert set(selfsim.__all__) >= MEASURES | TRAINING
    assert set(dir(selfsim)) >= set(selfsim.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        selfsim.no_such_name  # noqa: B018


def test_type_checkers_find_every_public_name_where_it_is_defined():
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    names = [alias for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    # Only names that are imported "as" themselves are exported by a stub.
    assert sorted(alias.asname for alias in names) == selfsim.__all__
    assert all(getattr(selfsim, name).__module__ == f"selfsim.{module}" for name, module in selfsim._MODULES.items())


def test_public_functions_and_classes_are_documented_with_an_example():
    results = {"BoxCounts", "ConstraintProposal", "RateDrivers", "Run"}  # what a function returns, shown there
    faults = []
    for name in sorted({*selfsim.__all__} - results):
        value = getattr(selfsim, name)
        titles = sections(value.__doc__ or "")
        if "Examples" not in titles or not titles & {"Parameters", "Attributes"}:
            faults.append(f"selfsim.{name}: need the sections Parameters and Examples, got {sorted(titles)}")
        if not isinstance(value, type) and not titles & {"Returns", "Raises", "Yields"}:
            faults.append(f"selfsim.{name}: no section Returns, Raises or Yields")
    assert not faults, "\n".join(faults)


def test_the_package_under_test_is_the_one_of_this_checkout():
    assert Path(selfsim.__file__).parent == PACKAGE
