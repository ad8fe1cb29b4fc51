"""The files around the package agree with each other."""

import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest
import yaml
from mutations import FAULTS

from oal_lite import command, notebooks, readme

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


def pages() -> dict[str, str]:
    return {page: (ROOT / page).read_text() for page in readme.PAGES}


def headings(page: Path) -> set[str]:
    """Anchors as GitHub makes them: small letters, hyphens for blanks, no other marks."""
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in found}


@pytest.mark.parametrize("page", readme.PAGES)
def test_what_a_readme_points_to_is_there(page):
    targets = re.findall(r"\]\(((?!http)[^)]+)\)", pages()[page])
    assert targets
    for target in targets:
        path, _, anchor = target.partition("#")
        there = (ROOT / page).parent / path if path else ROOT / page
        assert there.exists(), target
        assert not anchor or anchor in headings(there), target


def test_the_readme_tables_are_those_of_the_files_in_figures():
    filled = readme.fill(pages(), readme.tables(ROOT / "figures"))
    assert filled == pages(), "python -m oal_lite.readme"


GPU = {
    "machine": {
        "device": "NVIDIA H100 80GB HBM3", "date": "2026-11-26", "torch": "2.11.0", "peak": 989,
    },
    "ratios": {
        "k-NN, 10 rounds": {
            "ratio": 33.3, "ratio_range": [30, 35], "target": 30, "against": "all candidates",
        }
    },
    "limits": {"k-NN, extra GPU memory, MB": {"value": 180.0, "limit": 300}},
    "throughput": {
        "UNet": {
            "rate": 150.2, "unit": "samples", "batch": 16, "flop_each": 803e9, "tflops": 120.6,
            "share_of_peak": 0.122, "peak_memory_gb": 5.04,
        }
    },
}  # fmt: skip


def test_what_a_gpu_did_stands_below_what_a_cpu_did_where_there_is_a_file(tmp_path):
    for name in ("study.json", "performance.json"):
        shutil.copy(ROOT / "figures" / name, tmp_path)
    before = readme.tables(tmp_path)
    (tmp_path / "performance-cuda.json").write_text(json.dumps(GPU))
    after = readme.tables(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {"on a GPU"}
    assert before["on a GPU"] == readme.NO_GPU
    added = after["on a GPU"]
    for line in (
        "On a GPU (NVIDIA H100 80GB HBM3, 2026-11-26, torch 2.11.0), both forms on it:",
        "| k-NN, 10 rounds | all candidates | 33 | 30 |",
        "| UNet | 150 samples | 803 | 121 | 12% | 5.0 |",
        "| k-NN, extra GPU memory, MB | 180 | at most 300 |",
    ):
        assert line in added.splitlines(), line
    assert "989 TFLOP/s" in added


def test_a_gpu_of_unknown_peak_has_no_share(tmp_path):
    for name in ("study.json", "performance.json"):
        shutil.copy(ROOT / "figures" / name, tmp_path)
    row = GPU["throughput"]["UNet"] | {"share_of_peak": None}
    unknown = GPU | {
        "machine": GPU["machine"] | {"peak": None}, "ratios": {}, "throughput": {"UNet": row},
    }  # fmt: skip
    (tmp_path / "performance-cuda.json").write_text(json.dumps(unknown))
    added = readme.tables(tmp_path)["on a GPU"]
    assert "| UNet | 150 samples | 803 | 121 |  | 5.0 |" in added and "datasheet" not in added


def test_each_run_on_real_images_has_its_tables_the_larger_first(tmp_path):
    for name in ("study.json", "performance.json"):
        shutil.copy(ROOT / "figures" / name, tmp_path)
    nothing = readme.tables(tmp_path)
    assert nothing["real"] == nothing["all real"] == readme.NO_REAL
    small = json.loads((ROOT / "figures" / "cifar10-small.json").read_text())
    large = small | {"markdown": small["markdown"].replace("cifar10-small", "cifar10-scratch")}
    for name, section in {"small": small, "scratch": large}.items():
        (tmp_path / f"cifar10-{name}.json").write_text(json.dumps(section))
    tables = readme.tables(tmp_path)
    assert "Preset cifar10-scratch" in tables["real"] and "cifar10-small" not in tables["real"]
    real = tables["all real"]
    assert real.index("Preset cifar10-scratch") < real.index("Preset cifar10-small")
    assert real.count("| oal-paper − kd |") == 2 and "− ce |" not in real
    one_seed = small | {"markdown": "\n\n".join(small["markdown"].split("\n\n")[:2])}
    (tmp_path / "cifar10-small.json").write_text(json.dumps(one_seed))
    assert readme.tables(tmp_path)["all real"].count("| oal-paper − kd |") == 1


def test_marks_are_filled_on_whichever_page_they_stand_and_their_lack_is_named():
    pages = {"one": "a\n<!-- x -->\nold\n<!-- /x -->\nb <!-- y -->", "two": "c"}
    filled = readme.fill(pages, {"x": "new"})
    assert filled == {"one": "a\n<!-- x -->\n\nnew\n\n<!-- /x -->\nb <!-- y -->", "two": "c"}
    with pytest.raises(ValueError, match="0 pairs of marks '<!-- y -->'.* on the pages one, two"):
        readme.fill(pages, {"y": "new"})
    with pytest.raises(ValueError, match="2 pairs of marks '<!-- x -->'"):
        readme.fill(pages | {"two": pages["one"]}, {"x": "new"})


def test_the_command_fills_both_pages_or_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert readme.main([]) == 2 and "README.md" in capsys.readouterr().err
    shutil.copytree(ROOT / "figures", "figures", ignore=shutil.ignore_patterns("*.png"))
    shutil.copy(ROOT / "README.md", ".")
    for page in readme.PAGES:
        Path(page).write_text(Path(page).read_text().replace("| ce | 98.0", "| ce | 12.3"))
    assert Path("README.md").read_text() != pages()["README.md"]
    with pytest.raises(SystemExit):
        readme.main(["--help"])
    assert Path("README.md").read_text() != pages()["README.md"]
    assert readme.main([]) == 0
    assert {page: Path(page).read_text() for page in readme.PAGES} == pages()
    study, speed = (Path(f"figures/{n}.json").read_text() for n in ("study", "performance"))
    Path("figures/study.json").write_text("{}")
    capsys.readouterr()
    assert readme.main([]) == 2 and "(KeyError: 'markdown')" in capsys.readouterr().err
    Path("figures/study.json").write_text('{"markdown": ')
    assert readme.main([]) == 2 and "study.json is damaged" in capsys.readouterr().err
    Path("figures/performance.json").write_text("{")
    Path("figures/study.json").write_text(study)
    assert readme.main([]) == 2 and "performance.json is damaged" in capsys.readouterr().err
    Path("figures/performance.json").write_text(speed.replace('"ratio": ', '"ratio": NaN, "x": '))
    assert (
        readme.main([]) == 2
        and "holds NaN or infinity, in the table 'speed'" in capsys.readouterr().err
    )
    assert {page: Path(page).read_text() for page in readme.PAGES} == pages()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_every_fault_of_the_mutations_can_still_be_made(fault):
    assert (ROOT / "oal_lite" / fault.file).read_text().count(fault.old) == 1


def test_a_page_of_windows_keeps_its_ends_of_line_and_an_odd_one_is_named(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "figures", "figures", ignore=shutil.ignore_patterns("*.png"))
    page, text = Path("README.md"), pages()["README.md"]
    page.write_bytes(text.replace("| ce | 98.0", "| ce | 12.3").replace("\n", "\r\n").encode())
    assert readme.main([]) == 0
    assert page.read_bytes() == text.replace("\n", "\r\n").encode()
    page.write_bytes(b"\xff" + text.encode())
    assert readme.main([]) == 2
    assert "README.md cannot be read ('utf-8' codec" in capsys.readouterr().err
    page.write_text(text)
    speed = Path("figures/performance.json")
    speed.write_text(speed.read_text().replace('"ratio": ', '"ratio": Infinity, "x": '))
    assert readme.main([]) == 2 and "NaN or infinity" in capsys.readouterr().err
    assert page.read_text() == text


def test_a_command_that_runs_out_of_memory_says_so(capsys):
    def short():
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 4 TB\nframe")

    def broken():
        raise RuntimeError("expected scalar type Float")

    assert command.guarded(short) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: there is not enough memory (") and said.count("\n") == 1
    with pytest.raises(RuntimeError, match="scalar type"):  # a mistake of the code is no such thing
        command.guarded(broken)


@pytest.mark.parametrize(
    ("notebook", "words"),
    [
        ('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', "open with a title"),
        ('{"cells": [{"cell_type": "code", "id": "a", "metadata": {}, "source": "", "outputs": '
         '[{"output_type": "stream", "name": "stderr"}], "execution_count": 1}], "metadata": {}, '
         '"nbformat": 4, "nbformat_minor": 5}', "cannot be read as a notebook"),
        ('{"cells": [5], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', "as a notebook"),
        ('{"cells": [{"cell_type": "markdown", "id": "a", "metadata": {"tags": 5}, "source": ""}],'
         ' "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', "cannot be read as a notebook"),
        ("[" * 100_000, "cannot be read as a notebook"),
        ("", "cannot be read as a notebook"),
    ],
)  # fmt: skip
def test_what_is_no_notebook_is_named_and_left_alone(tmp_path, notebook, words, capsys):
    path = tmp_path / "notebooks" / "00_x.ipynb"
    path.parent.mkdir()
    path.write_text(notebook)
    assert notebooks.main([str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and words in said and said.count("\n") == 1
    assert path.read_text() == notebook
    with pytest.raises(SystemExit):
        notebooks.main([])
