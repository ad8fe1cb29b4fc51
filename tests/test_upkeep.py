"""The files around the package agree with each other."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from oal_lite import readme

ROOT = Path(__file__).parent.parent


def pins(lines):
    return dict(line.split("==") for line in lines if "==" in line)


def names(requirements):
    return {re.split(r"[<>=!\[ ]", r)[0].lower() for r in requirements}


def constraints():
    return pins((ROOT / "constraints.txt").read_text().splitlines())


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_yml_holds_the_same_pins_as_constraints_txt():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert pins(pip) == constraints()
    assert "-e ." in pip


def test_every_direct_dependency_is_pinned_and_the_pin_satisfies_its_lower_bound():
    from packaging.requirements import Requirement

    direct = [*project()["dependencies"], *project()["optional-dependencies"]["test"]]
    for requirement in map(Requirement, direct):
        assert requirement.name in constraints(), requirement
        assert requirement.specifier.contains(constraints()[requirement.name]), requirement


def test_the_python_of_environment_yml_satisfies_pyproject():
    from packaging.specifiers import SpecifierSet

    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (python,) = [d for d in environment["dependencies"] if str(d).startswith("python=")]
    assert SpecifierSet(project()["requires-python"]).contains(python.split("=")[1])


def test_every_picture_and_notebook_that_the_readme_names_is_there():
    readme = (ROOT / "README.md").read_text()
    targets = re.findall(r"\]\(((?!http)[^)#]+)\)", readme)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


def test_the_readme_tables_are_those_of_the_files_in_figures():
    text = (ROOT / "README.md").read_text()
    assert readme.fill(text, readme.tables(ROOT / "figures")) == text, "python -m oal_lite.readme"


def test_marks_are_filled_and_their_lack_is_named():
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb <!-- y -->"
    assert readme.fill(text, {"x": "new"}) == "a\n<!-- x -->\n\nnew\n\n<!-- /x -->\nb <!-- y -->"
    with pytest.raises(ValueError, match="0 pairs of marks '<!-- y -->'"):
        readme.fill(text, {"y": "new"})
