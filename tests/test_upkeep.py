"""The files around the package agree with each other."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


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


def test_the_readme_table_is_the_one_in_its_results_file():
    results = json.loads((ROOT / "figures" / "seeds" / "results.json").read_text())
    readme = (ROOT / "README.md").read_text()
    for row in results["markdown"].splitlines():
        assert row in readme


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
class TestNotebook:
    def cells(self, path, kind):
        return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]

    def test_was_run_from_top_to_bottom_without_errors(self, path):
        cells = self.cells(path, "code")
        assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))
        stubs = [c for c in cells if "raises-exception" in c["metadata"].get("tags", [])]
        errors = [c for c in cells if any(o["output_type"] == "error" for o in c["outputs"])]
        assert all(c in stubs for c in errors)

    def test_opens_with_the_question_the_time_and_the_needs(self, path):
        head = "".join(self.cells(path, "markdown")[0]["source"])
        for words in ("**Question.**", "After this notebook you can", "| Needs |", "| Time |"):
            assert words in head

    def test_says_under_every_picture_what_to_see(self, path):
        cells = json.loads(path.read_text())["cells"]
        for cell, following in zip(cells, cells[1:], strict=False):
            pictures = [o for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
            if pictures:
                assert "".join(following["source"]).lstrip().startswith("*"), cell["source"]

    def test_holds_no_widget_state_and_is_small_enough_for_github(self, path):
        notebook = json.loads(path.read_text())
        assert "widgets" not in notebook["metadata"]
        assert "application/vnd.jupyter.widget-view+json" not in path.read_text()
        assert path.stat().st_size < 1_000_000

    def test_has_short_cells(self, path):
        for cell in self.cells(path, "code"):
            assert len("".join(cell["source"]).splitlines()) <= 24, cell["source"][0]
