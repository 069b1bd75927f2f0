"""The parameters of a notebook: read, and checked before anything runs."""

from __future__ import annotations

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from selfsim.publish.parameters import check_parameters, check_value, notebook_parameters, parse_value
from tests.conftest import write_notebook


def test_every_line_of_the_cell_is_a_parameter(notebook):
    assert notebook_parameters(notebook) == {
        "name": "str",
        "epochs": "int",
        "weight": "float",
        "seeds": "list[int]",
        "rates": "list[float]",
        "flag": "bool",
    }


@pytest.mark.parametrize("number", [0, 2])
def test_one_parameters_cell_is_needed(tmp_path, number):
    cells = [new_code_cell("a = 1", metadata={"tags": ["parameters"]}) for _ in range(number)]
    nbformat.write(new_notebook(cells=cells), tmp_path / "n.ipynb")
    with pytest.raises(ValueError, match=rf"n\.ipynb: got {number} code cells.*exactly one"):
        notebook_parameters(tmp_path / "n.ipynb")


def test_a_file_that_is_no_notebook_is_named(tmp_path):
    (tmp_path / "n.ipynb").write_text("{")
    with pytest.raises(ValueError, match=r"n\.ipynb: not a Jupyter notebook"):
        notebook_parameters(tmp_path / "n.ipynb")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import os", "need 'name: type = literal'"),
        ("a = 1 + x", "a: got '1 \\+ x', need a literal"),
        ("a: int = 'x'", "a: got 'x' \\(str\\), need int"),
        ("a: dict = {}", "a: got the type dict, need str, int"),
        ("a: float | None = 1.0", "a: got the type float \\| None"),
        ("a = []", "a: got the type list\\[list\\]"),
        ("a = None", "a: got the type NoneType"),
        ("a = [1,\n 2]", "a spans several lines"),
        ("b = 1\na = 1\na = 2", "parameters cell, line 3: a is assigned twice"),
        ("%matplotlib inline", "parameters cell, line 1: not Python"),
    ],
)
def test_a_line_that_is_no_parameter_is_an_error(tmp_path, line, message):
    with pytest.raises(ValueError, match=rf"n\.ipynb: .*{message}"):
        notebook_parameters(write_notebook(tmp_path / "n.ipynb", parameters=line))


def test_without_an_annotation_the_type_is_that_of_the_literal(tmp_path):
    path = write_notebook(tmp_path / "n.ipynb", parameters="a = 'x'\nb = True\nc = [1, 2]\n")
    assert notebook_parameters(path) == {"a": "str", "b": "bool", "c": "list[int]"}


def test_values_come_back_in_the_type_of_their_parameter(notebook):
    checked = check_parameters(notebook, {"weight": 2, "seeds": (3, 4), "rates": [1, "1e-3"], "epochs": 5})
    assert checked == {"weight": 2.0, "seeds": [3, 4], "rates": [1.0, 0.001], "epochs": 5}
    assert type(checked["weight"]) is float
    assert type(checked["rates"][0]) is float


def test_an_unknown_name_lists_the_known_ones_and_the_nearest(notebook):
    with pytest.raises(ValueError, match=r"tiny\.ipynb: got 'epoch'.*'weight', 'seeds'.*mean 'epochs'"):
        check_parameters(notebook, {"epoch": 3})


@pytest.mark.parametrize(
    ("type_name", "value"),
    [
        ("int", True),
        ("int", 1.0),
        ("int", "1"),
        ("float", True),
        ("bool", 1),
        ("str", 1),
        ("list[int]", 1),
        ("list[int]", [1, True]),
        ("list[int]", [1, 2.5]),
        ("float", "x"),
        ("float", "nan"),
        ("float", "1e999"),
        ("float", 10**400),
        ("list[float]", ["x"]),
        ("list[str]", [1]),
    ],
)
def test_a_wrong_type_names_parameter_value_and_need(type_name, value):
    with pytest.raises(ValueError) as caught:
        check_value("depth", value, type_name)
    message = str(caught.value)
    assert message.startswith("depth: got ")
    assert repr(value) in message
    assert message.endswith(f"need {type_name}")


@pytest.mark.parametrize(
    ("text", "type_name", "value"),
    [
        ("3", "int", 3),
        ("1e-3", "float", 1e-3),
        ("1.5e3", "float", 1500.0),
        ("2", "float", 2.0),
        ("true", "bool", True),
        ("3", "str", "3"),
        ("null", "str", "null"),
        ("a: b", "str", "a: b"),
        ("[0, 1]", "list[int]", [0, 1]),
        ("[1e-3, 2]", "list[float]", [1e-3, 2.0]),
    ],
)
def test_text_of_the_command_line_is_read_in_the_parameters_type(text, type_name, value):
    read = parse_value("x", text, type_name)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("type_name", "value"), [("float", float("nan")), ("float", float("inf")), ("list[float]", [1.0, -float("inf")])]
)
def test_numbers_must_be_finite(type_name, value):
    with pytest.raises(ValueError, match=rf"weight: got .*(nan|inf).*, need {re.escape(type_name)}, finite"):
        check_value("weight", value, type_name)


def test_seeds_must_be_given_and_distinct():
    for name in ("seeds", "grid: seeds"):
        assert check_value(name, [1, 0], "list[int]") == [1, 0]
        for seeds in ([], [0, 0], (3, 1, 3)):
            with pytest.raises(ValueError, match=f"{name}: got .*, need at least one, each once"):
                check_value(name, seeds, "list[int]")
    with pytest.raises(ValueError, match=r"seeds: got '\[0, 0\]', need at least one, each once"):
        parse_value("seeds", "[0, 0]", "list[int]")
    with pytest.raises(ValueError, match=r"seeds: got '\[0, 1\]' \(str\), need list\[int\], for example"):
        check_value("seeds", "[0, 1]", "list[int]")


@pytest.mark.parametrize(
    ("text", "type_name"),
    [
        ("x", "int"),
        ("1.5", "int"),
        ("3", "list[int]"),
        ("[", "int"),
        ("1:30", "int"),
        ("010", "int"),
        (".nan", "float"),
    ],
)
def test_text_that_does_not_fit_is_an_error(text, type_name):
    with pytest.raises(ValueError, match=r"x: got '.*', need " + type_name.replace("[", r"\[")):
        parse_value("x", text, type_name)
