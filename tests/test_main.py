"""The command line: `python -m oal_lite`."""

import io
import json
import subprocess
import sys

import pytest

from oal_lite import command, presets
from oal_lite.__main__ import main


def test_help_answers_without_importing_torch():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "oal_lite", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "--arms" in done.stdout and "--seeds" in done.stdout
    imported = [line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()]
    assert "argparse" in imported and "torch" not in imported


def test_a_terminal_that_lacks_a_sign_ends_nothing(monkeypatch):
    paper = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(paper, encoding="ascii"))
    assert command.guarded(lambda: print("kd \u2212 ce")) == 0
    sys.stdout.flush()
    assert paper.getvalue() == b"kd ? ce\n"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--arms", "ce,magic"], "error: unknown arm 'magic'; choose from ce, kd, "),
        (["--preset", "huge"], "error: unknown preset 'huge'; choose one of shapes"),
        (["--seeds", "0"], "error: --seeds 0: at least one seed is needed"),
        (["--arms", " , "], "error: --arms names no arm"),
    ],
)
def test_a_wrong_argument_gives_one_line_and_status_two(argv, sentence, tmp_path, capsys):
    status = main([*argv, "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")])
    out, err = capsys.readouterr()
    assert status == 2
    assert err.startswith(sentence) and err.count("\n") == 1
    assert "Traceback" not in out + err
    assert not list(tmp_path.iterdir()), "something was written"


def test_an_argument_of_the_wrong_type_is_refused_by_the_parser(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--seeds", "many"])
    assert stop.value.code == 2
    assert "invalid int value: 'many'" in capsys.readouterr().err


def test_the_whole_way_from_images_to_figures(tiny_preset, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(presets.PRESETS, "tiny", tiny_preset)
    monkeypatch.chdir(tmp_path)
    argv = ["--preset", "tiny", "--arms", "ce, oal-as-released", "--device", "cpu"]
    argv += ["--out", "here/figures", "--runs", "there"]
    assert main(argv) == 0
    out, _ = capsys.readouterr()
    assert "| oal-as-released | " in out and "Preset tiny, 1 seed(s) [0]" in out
    assert {p.name for p in tmp_path.iterdir()} == {"here", "there"}
    record = json.loads((tmp_path / "here/figures/results.json").read_text())
    assert list(record["table"]) == ["ce", "oal-as-released"]
    assert len(list((tmp_path / "here/figures").glob("*.png"))) == 4
    assert len(list((tmp_path / "there/tiny").glob("*seed0*.json"))) == 2
