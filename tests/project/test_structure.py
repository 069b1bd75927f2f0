"""The rules of the package's layout: wings, light imports, no global state."""

import ast
import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "selfsim"
FILES = sorted(PACKAGE.rglob("*.py"))
WINGS = ["boxes", "rate", "statistics", "models", "training", "figures", "publish", "sweep"]
FOUNDATION = ["checks", "compiled", "files", "validation", "uncertainty"]
DOOR = "command_line"  # leads everywhere
FIGURES = {"matplotlib", "seaborn", "pandas"}
HEAVY = {*FIGURES, "timm", "torchvision", "papermill", "jupyter_book", "nbformat", "yaml"}


def by_path(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported_modules(tree: ast.AST, path: Path) -> list[tuple[ast.stmt, str]]:
    """Every absolute module name that a file imports, in functions too."""
    inside = [*path.relative_to(ROOT).with_suffix("").parts]
    package = inside[:-1]
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [(node, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names += [(node, f"{module}.{alias.name}") for alias in node.names]
    return names


def wing_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def allowed_rooms(room: str) -> set[str]:
    if room in WINGS:
        return {*FOUNDATION, *WINGS[: WINGS.index(room) + 1]}
    return set(FOUNDATION)


@pytest.mark.parametrize("path", FILES, ids=by_path)
def test_wings_import_only_from_wings_before_them(path):
    room = wing_of(path)
    if room in ("__init__", DOOR):
        return  # the front door leads everywhere, and opens each room only when it is entered
    for node, name in imported_modules(ast.parse(path.read_text()), path):
        parts = name.split(".")
        if parts[0] == "selfsim" and len(parts) > 1 and parts[1] != "__version__":
            assert parts[1] in allowed_rooms(room), f"line {node.lineno}: {room} must not import {name}"


def test_there_are_no_other_rooms():
    rooms = {wing_of(path) for path in FILES} - {"__init__"}
    assert rooms <= {*WINGS, *FOUNDATION, DOOR}


@pytest.mark.parametrize("path", FILES, ids=by_path)
def test_heavy_packages_are_imported_only_inside_functions(path):
    heavy = HEAVY - FIGURES if wing_of(path) == "figures" else HEAVY
    tree = ast.parse(path.read_text())
    inside_functions = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for_types_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
        for node in ast.walk(block)
    }
    for node, name in imported_modules(tree, path):
        if id(node) not in inside_functions | for_types_only:
            assert name.split(".")[0] not in heavy, (
                f"line {node.lineno}: import {name} inside the function that uses it"
            )


@pytest.mark.parametrize("path", FILES, ids=by_path)
def test_files_stay_short(path):
    lines = len(path.read_text().splitlines())
    assert lines <= 450, f"{lines} lines: one idea a file"


@pytest.mark.parametrize("path", FILES, ids=by_path)
def test_the_library_prints_nothing_seeds_nothing_and_validates_with_errors(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Assert):
            pytest.fail(f"line {node.lineno}: raise an error that names the argument; python -O drops assert")
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            seeds = {"torch.manual_seed", "np.random.seed", "numpy.random.seed", "random.seed"}
            assert called not in seeds or path.name == "seeding.py", (  # which gives the caller's states back
                f"line {node.lineno}: {called} changes the caller's random numbers; use a generator"
            )
            if called == "print":
                assert path.name == "command_line.py", f"line {node.lineno}: the library prints"


def run_python(code: str) -> list[str]:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return result.stdout.split()


def test_import_brings_no_heavy_package():
    code = f"""
import sys, selfsim
print(*({HEAVY!r} & set(sys.modules)))
"""
    assert run_python(code) == []


def test_measuring_brings_no_heavy_package():
    code = f"""
import sys, numpy, torch, selfsim
x = torch.from_numpy(numpy.random.default_rng(0).standard_normal((16, 12)))
rate = selfsim.ss_rate(x)
assert 0 < float(rate) < 1
print(*({HEAVY!r} & set(sys.modules)))
"""
    assert run_python(code) == []


PUBLIC = {
    "ss_rate", "FeatureNetwork", "box_cover", "check_cover", "box_counts", "fractal_dimension",
    "multifractal", "renormalize", "Probe", "activations", "create", "SelfSimilarityConstraint", "train",
    "load_run",
}  # fmt: skip
FIRST = {"ss_rate", "FeatureNetwork", "box_counts", "Probe", "SelfSimilarityConstraint", "train"}


def public_names() -> list[str]:
    import selfsim

    return sorted(name for name in selfsim.__all__ if not name.startswith("__"))


def test_the_first_public_names_are_there():
    assert set(public_names()) >= FIRST


def test_type_checkers_see_every_public_name_where_it_is_loaded_from():
    import selfsim

    (block,) = [node for node in ast.parse((PACKAGE / "__init__.py").read_text()).body if isinstance(node, ast.If)]
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == selfsim._ROOMS


def test_unknown_attribute_is_an_attribute_error():
    import selfsim

    with pytest.raises(AttributeError, match="no_such_name"):
        selfsim.no_such_name  # noqa: B018


def test_dir_shows_the_public_names():
    import selfsim

    assert set(dir(selfsim)) >= set(public_names())


def sections(docstring: str) -> set[str]:
    lines = [line.strip() for line in docstring.splitlines()]
    return {title for title, rule in itertools.pairwise(lines) if title and rule == "-" * len(title)}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_names_are_documented_with_an_example(name):
    import selfsim

    if name not in selfsim.__all__:
        pytest.skip(f"selfsim.{name} is planned and does not exist yet")
    found = sections(getattr(selfsim, name).__doc__ or "")
    assert "Parameters" in found
    assert "Examples" in found
    if not isinstance(getattr(selfsim, name), type):
        assert found & {"Returns", "Raises", "Yields"}


def test_every_room_says_what_it_is_for():
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text())), f"{by_path(path)} has no docstring"


def test_package_is_the_one_of_this_checkout():
    assert Path(importlib.util.find_spec("selfsim").origin).parent == PACKAGE
