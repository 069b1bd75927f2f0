"""What the first cell of every notebook checks, and that all nine run from the project's folder and from notebooks/."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from selfsim.publish.notebook import check_notebook, project_path
from selfsim.publish.parameters import notebook_parameters

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TYPES = {
    "seeds": list[int],
    "seed": int,
    "epochs": int,
    "target": float,
    "size": str,
    "augment": bool,
    "layers": list[str],
}
GOOD = {"seeds": [0, 1], "seed": -3, "epochs": 2, "target": 0.1, "size": "", "augment": False, "layers": []}


def test_good_parameters_pass_as_types_and_as_text_of_types():
    for kinds in (TYPES, {name: getattr(kind, "__name__", "") for name, kind in TYPES.items()}):
        kinds = {name: str(TYPES[name]) if kind == "list" else kind for name, kind in kinds.items()}
        check_notebook(GOOD | {"__annotations__": kinds, "other": object()}, optional=["layers"])
    check_notebook(GOOD | {"__annotations__": TYPES, "target": 1, "epochs": 0}, optional=["layers", "epochs"])
    check_notebook({})


def test_a_name_that_papermill_assigns_and_no_parameter_has_is_refused():
    names = {"__annotations__": {"epochs": int}, "epochs": 3}
    check_notebook(names | {"In": ["", "epochs: int = 3", "# Parameters\nepochs = 3\n"]})
    for passed in (
        "# Parameters of mine\nx = 4",
        "# Parameters\nepochs = (3",
        '# Parameters\nPAPERMILL_INPUT_PATH = "a"',
    ):
        check_notebook(names | {"In": ["# Parameters\nepoch = 1", passed, "# Parameters\nepochs = 3"]})
        check_notebook(names | {"In": [passed]})
    with pytest.raises(ValueError, match="parameter: got 'epoch', need one of 'epochs'; did you mean 'epochs'"):
        check_notebook(names | {"In": ["", "epochs: int = 3", '# Parameters\nepochs = 3\nepoch = "1"\n']})


@pytest.mark.parametrize(("name", "least"), [("null_draws", 2), ("samples", 4), ("neurons", 32), ("draws", 1)])
def test_numbers_too_small_for_what_follows_are_refused_at_once(name, least):
    check_notebook({"__annotations__": {name: int}, name: least})
    with pytest.raises(ValueError, match=f"{name}: got {least - 1}, need an integer of at least {least}"):
        check_notebook({"__annotations__": {name: int}, name: least - 1})


def test_bad_parameters_are_refused_with_their_name():
    cases = {
        "seeds: got text, need a list; with papermill: -y 'seeds: [0, 1]'": {"seeds": "[0, 1]"},
        "seeds: got text, need a list; with papermill: -y 'seeds: [0]'": {"seeds": "0"},
        "seeds: got [0, 0] (list), need at least one, each once": {"seeds": [0, 0]},
        "seeds: got [] (list), need at least one": {"seeds": []},
        "seeds: got 18446744073709551616, need an integer of at most 63 bits": {"seeds": [2**64]},
        "seeds: got ['0'] (list), need list[int]": {"seeds": ["0"]},
        "epochs: got 0, need an integer of at least 1": {"epochs": 0},
        "epochs: got 2.5 (float), need int": {"epochs": 2.5},
        "epochs: got True (bool), need int": {"epochs": True},
        "target: got nan (float), need float, finite": {"target": float("nan")},
        "target: got inf (float), need float, finite": {"target": float("inf")},
        "size: got 32 (int), need str": {"size": 32},
        "augment: got 1 (int), need bool": {"augment": 1},
        "layers: got an empty list, need at least one value": {},
    }
    for message, change in cases.items():
        optional = ["layers"] if change else []
        with pytest.raises(ValueError) as caught:
            check_notebook(GOOD | {"__annotations__": TYPES} | change, optional=optional)
        assert str(caught.value).startswith(message)


def test_a_path_of_the_project_is_found_from_both_folders(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    (tmp_path / "notebooks" / "mine").mkdir(parents=True)
    for folder, known in ((tmp_path, "results"), (tmp_path / "notebooks", "mine")):
        monkeypatch.chdir(folder)
        assert project_path(known) == known
        assert project_path("missing") == "missing" and project_path("") == ""
        assert Path(project_path("results")).is_dir()
        assert project_path(str(tmp_path / "results")) == str(tmp_path / "results")
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    assert project_path("results") == "results"  # that of the parent folder is not the project's


def test_numbers_that_yaml_reads_as_text_become_numbers():
    namespace = GOOD | {"__annotations__": TYPES | {"shares": list[float]}, "target": "1e-2", "shares": ["1e-3", 1]}
    check_notebook(namespace, optional=["layers"])
    assert (namespace["target"], namespace["shares"]) == (0.01, [0.001, 1.0])


CHECK = re.compile(r"check_notebook\(\s*globals\(\)")


def code_cells(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_every_notebook_checks_its_parameters_first_and_takes_every_path_from_either_folder():
    assert len(NOTEBOOKS) == 9
    for path in NOTEBOOKS:
        cells = code_cells(path)
        (place,) = [k for k, code in enumerate(cells) if CHECK.search(code)]
        before, after = CHECK.split(cells[place])
        for code in [*cells[:place], before]:
            assert not re.search(r"TrainConfig\(|load_\w+\(|read_\w+\(|train\(", code), path.name
        # Every parameter that is a path goes through project_path before it is used.
        for name in {"data_dir", "runs", "results"} & set(notebook_parameters(path)):
            assert f"project_path({name})" in after, (path.name, name)
        # No other code names a relative path.
        for code in cells:
            if code.startswith("import importlib") or re.search(r"^(results|runs): ", code, re.MULTILINE):
                continue
            texts = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
            assert not [text for text in texts if str(text).startswith(("results/", "../", "notebooks/"))], path.name


def execute(name: str, folder: Path, output: Path, *options: str) -> subprocess.CompletedProcess:
    source = ROOT / "notebooks" / f"{name}.ipynb"
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(source),
        str(output),
        "-k",
        "python3",
        "--no-progress-bar",
        *options,
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)


@pytest.mark.long
@pytest.mark.parametrize("folder", [ROOT, ROOT / "notebooks"], ids=["project", "notebooks"])
def test_notebooks_that_train_nothing_run_from_either_folder(folder, tmp_path):
    for name in ("performance", "claims"):
        finished = execute(name, folder, tmp_path / f"{name}.ipynb")
        assert finished.returncode == 0, finished.stderr[-2000:]


@pytest.mark.long
def test_jupyter_execute_runs_a_notebook_in_its_folder(tmp_path):
    output = tmp_path / "performance.ipynb"
    source = ROOT / "notebooks" / "performance.ipynb"
    command = [sys.executable, "-m", "jupyter", "execute", str(source), f"--output={output}", "--kernel_name=python3"]
    finished = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert output.is_file()


@pytest.mark.long
def test_doubled_seeds_and_text_are_refused_in_the_notebook_before_training(tmp_path):
    for options, message in (
        (("-y", "seeds: [0, 0]"), "seeds: got [0, 0] (list), need at least one, each once"),
        (("-p", "seeds", "[0, 1]"), "seeds: got text, need a list; with papermill: -y 'seeds: [0, 1]'"),
        (("-p", "weight", "-1"), "weight"),
    ):
        finished = execute("architecture", ROOT, tmp_path / "out.ipynb", *options)
        assert finished.returncode != 0 and message in finished.stderr
        executed = json.loads((tmp_path / "out.ipynb").read_text(encoding="utf-8"))["cells"]
        assert max(cell.get("execution_count") or 0 for cell in executed if cell["cell_type"] == "code") < 5
