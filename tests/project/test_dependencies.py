"""pyproject.toml, constraints.txt and environment.yml agree on every dependency."""

import itertools
import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CARD = {"jupyter-book", "torch", "torchvision", "timm", "networkx", "matplotlib", "seaborn", "papermill"}
PYTHONS = ["3.11", "3.12", "3.13"]
PLATFORMS = {
    "linux": {"sys_platform": "linux", "platform_machine": "x86_64", "os_name": "posix"},
    "macos": {"sys_platform": "darwin", "platform_machine": "arm64", "os_name": "posix"},
    "windows": {"sys_platform": "win32", "platform_machine": "AMD64", "os_name": "nt"},
}


def direct_requirements(*groups: str) -> dict[str, Requirement]:
    """The requirements of pyproject.toml, without the package's own extras."""
    lines = list(PROJECT["dependencies"])
    for group in groups or PROJECT["optional-dependencies"]:
        lines += PROJECT["optional-dependencies"][group]
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): r for r in requirements if r.name != PROJECT["name"]}


def constraints_for(python: str, platform: str) -> dict[str, list[Requirement]]:
    environment = {
        **PLATFORMS[platform],
        "python_version": python,
        "python_full_version": f"{python}.5",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    pins: dict[str, list[Requirement]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate(environment):
                pins.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return pins


def pip_section() -> list[str]:
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    sections = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    assert len(sections) == 1
    return sections[0]


def test_every_dependency_has_one_exact_version_inside_its_range():
    for python, platform in itertools.product(PYTHONS, PLATFORMS):
        pins = constraints_for(python, platform)
        for name, requirement in direct_requirements().items():
            where = f"{name} for Python {python} on {platform}"
            assert len(pins.get(name, [])) == 1, f"{where}: {len(pins.get(name, []))} lines in constraints.txt"
            (pin,) = pins[name][0].specifier
            assert pin.operator == "==", f"{where} is not pinned exactly"
            assert requirement.specifier.contains(pin.version, prereleases=True), (
                f"{where}: constraints.txt has {pin.version}, pyproject.toml needs {requirement.specifier}"
            )


def test_no_package_has_two_versions_at_once():
    for python, platform in itertools.product(PYTHONS, PLATFORMS):
        assert not {name for name, pins in constraints_for(python, platform).items() if len(pins) > 1}


def test_constraints_do_not_pin_the_package_itself():
    assert "selfsim" not in constraints_for("3.12", "linux")


def test_environment_has_python_and_pip_from_conda():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = {Requirement(entry).name: Requirement(entry) for entry in dependencies if isinstance(entry, str)}
    assert set(conda) == {"python", "pip"}
    allowed = [python for python in ["3.10", *PYTHONS] if conda["python"].specifier.contains(f"{python}.0")]
    assert allowed == PYTHONS
    assert PROJECT["requires-python"] == ">=3.11"


def test_environment_installs_the_package_under_the_constraints():
    lines = pip_section()
    assert lines[0] == "-c constraints.txt"
    assert "-e .[dev]" in lines


def test_environment_lists_the_same_ranges():
    listed = {
        canonicalize_name(Requirement(line).name): Requirement(line).specifier
        for line in pip_section()
        if not line.startswith("-")
    }
    wanted = {name: r.specifier for name, r in direct_requirements("models", "plots", "book").items()}
    assert listed == wanted
    assert set(listed) >= CARD


def test_extras_refer_only_to_extras_that_exist():
    extras = PROJECT["optional-dependencies"]
    for lines in extras.values():
        for line in lines:
            if Requirement(line).name == PROJECT["name"]:
                assert Requirement(line).extras <= set(extras), line


def test_a_plain_install_stays_light():
    light = {"torch", "numpy", "scipy", "networkx", "scikit-learn", "tqdm"}
    assert {Requirement(line).name for line in PROJECT["dependencies"]} == light


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    initial = (ROOT / "selfsim" / "__init__.py").read_text()
    assert str(citation["version"]) == PROJECT["version"]
    assert re.search(r'^__version__ = "(.+)"$', initial, re.MULTILINE)[1] == PROJECT["version"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"title", "authors", "message", "license"} <= set(citation)
    (paper,) = citation["references"]
    assert paper["title"] == "Self-similarity Analysis in Deep Neural Networks"
    assert paper["year"] == 2025
    assert paper["url"].endswith("2507.17785")
    assert paper["authors"][0]["family-names"] == "Ding"
