"""Files that are whole or not there, and that say so themselves."""

import json
import multiprocessing
import os
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oal_lite import checkpoint, report
from oal_lite.files import (
    FORGOTTEN,
    read_record,
    read_tensors,
    write_atomically,
    write_folder,
    write_record,
    write_tensors,
)
from oal_lite.teacher_cache import cached_features

TENSORS = {"a": torch.arange(12.0).view(3, 4), "b": torch.zeros(0), "c": torch.tensor(True)}
RECORD = {"arm": "ce", "seed": 0, "metrics": {"auroc": 0.875, "names": ["x", None]}}


def names(folder):
    return sorted(p.name for p in folder.rglob("*"))


def test_what_is_written_is_read(tmp_path):
    write_tensors(tmp_path / "t", TENSORS)
    back = read_tensors(tmp_path / "t")
    assert back.keys() == TENSORS.keys()
    assert all(torch.equal(back[k], TENSORS[k]) for k in TENSORS)
    views = {"whole": torch.arange(6.0), "turned": torch.arange(6.0).view(2, 3).T}
    views |= {"part": views["whole"][2:4]}  # of one memory, which safetensors refuses
    write_tensors(tmp_path / "v", views)
    back = read_tensors(tmp_path / "v")
    assert all(torch.equal(back[k], views[k]) for k in views)
    write_record(tmp_path / "r", RECORD)
    assert read_record(tmp_path / "r", ["arm"]) == RECORD


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_anywhere_is_noticed(tmp_path, where, bit):
    for write, read, content in (
        (write_tensors, read_tensors, {"weights": torch.linspace(-1, 1, 50)}),
        (write_record, lambda p: read_record(p, ["arm"]), RECORD),
        (checkpoint.save, checkpoint.load, {"step": 7, "x": torch.ones(3), "names": ["a", 1.5]}),
    ):
        path = tmp_path / "file"
        write(path, content)
        content_read = read(path)
        raw = bytearray(path.read_bytes())
        raw[int(where * len(raw))] ^= 1 << bit
        path.write_bytes(raw)
        try:
            again = read(path)
        except ValueError as error:
            assert "delete it" in str(error) and str(path) in str(error)
        else:  # white space, or a byte between header and tensors: nothing that means anything
            assert str(again) == str(content_read)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_short_anywhere_is_noticed(tmp_path, share):
    for write, read, content in (
        (write_tensors, read_tensors, TENSORS),
        (write_record, lambda p: read_record(p, []), RECORD),
    ):
        write(tmp_path / "file", content)
        raw = (tmp_path / "file").read_bytes()
        (tmp_path / "file").write_bytes(raw[: int(share * len(raw))])
        with pytest.raises(ValueError, match="delete it"):
            read(tmp_path / "file")


def test_files_of_an_older_version_are_told_from_damaged_ones(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "old")
    with pytest.raises(ValueError, match="old lacks its sha256: another version wrote it; delete"):
        read_tensors(tmp_path / "old")
    (tmp_path / "old").write_text(json.dumps(RECORD))
    with pytest.raises(ValueError, match="old lacks sha256: another version wrote it; delete it"):
        read_record(tmp_path / "old", ["arm"])


def test_a_folder_or_nothing_in_a_files_place(tmp_path):
    for read in (read_tensors, lambda p: read_record(p, []), checkpoint.load):
        with pytest.raises((ValueError, OSError), match=str(tmp_path)):
            read(tmp_path)
        with pytest.raises(FileNotFoundError, match="nothing"):
            read(tmp_path / "nothing")


def test_what_is_no_file_is_not_written_over(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(OSError, match="it is no plain file; choose another name"):
            write_atomically(tmp_path / name, lambda p: p.write_text("x"))
    assert names(tmp_path) == ["pipe"]


@contextmanager
def full_disk(limit=2000):
    """As if the disk had no room left: the system refuses to let a file grow."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def figure():
    from matplotlib.figure import Figure

    made = Figure()
    made.subplots().imshow(np.random.default_rng(0).random((50, 50)))
    return made


@pytest.mark.parametrize(
    "what", ["tensors", "record", "checkpoint", "features", "picture", "model", "words"]
)
def test_a_full_disk_is_told_in_a_sentence_and_leaves_the_old_file(what, tmp_path):
    from safetensors.torch import save_file

    from oal_lite.plots import save

    large, path = torch.randn(1, 1, 5000), tmp_path / "file.png"
    key = {"shape": [1, 1, 5000], "dtype": "float32"}
    write = {
        "tensors": lambda: write_tensors(path, {"x": large}),
        "record": lambda: write_record(path, {"x": large.tolist()}),
        "checkpoint": lambda: checkpoint.save(path, {"x": large}),
        "features": lambda: cached_features(tmp_path, key, lambda: large),
        "picture": lambda: save(figure(), path),
        "model": lambda: write_folder(tmp_path, lambda p: save_file({"x": large}, p / path.name)),
        "words": lambda: write_folder(tmp_path, lambda p: (p / path.name).write_text("x" * 5000)),
    }[what]
    path.write_text("the old file")
    with full_disk(), pytest.raises(OSError, match="cannot write .*make room, or choose another"):
        write()
    assert path.read_text() == "the old file" and names(tmp_path) == ["file.png"]
    write()


def test_leftovers_of_the_killed_are_swept_and_those_of_the_living_are_not(tmp_path):
    path, now = tmp_path / "x.json", time.time()
    old, young, other = (tmp_path / f".{n}.tmp" for n in ("x.json.1-a", "x.json.2-b", "y.json.3-c"))
    for left, age in ((old, FORGOTTEN + 60), (young, 5), (other, FORGOTTEN + 60)):
        left.write_text("half a fi")
        os.utime(left, (now - age, now - age))
    write_record(path, RECORD)
    assert names(tmp_path) == sorted([young.name, other.name, path.name])


def test_folders_left_by_the_killed_are_swept_and_those_of_the_living_are_not(tmp_path):
    old, new = (tmp_path / f".folder-{x}.tmp" for x in ("old", "new"))
    for folder in (old, new):
        folder.mkdir()
        (folder / "part").touch()
    os.utime(old, (0, 0))
    write_folder(tmp_path, lambda f: (f / "whole").touch())
    assert sorted(p.name for p in tmp_path.iterdir()) == [".folder-new.tmp", "whole"]


def test_a_folder_of_models_is_replaced_file_by_file_and_keeps_the_rest(tmp_path):
    def write(folder):
        (folder / "part").mkdir()
        (folder / "part" / "a").write_text("new")
        (folder / "b").write_text("new")

    (tmp_path / "m" / "part").mkdir(parents=True)
    (tmp_path / "m" / "part" / "a").write_text("old")
    (tmp_path / "m" / "kept").write_text("old")
    write_folder(tmp_path / "m", write)
    assert names(tmp_path / "m") == ["a", "b", "kept", "part"]
    assert (tmp_path / "m" / "part" / "a").read_text() == "new"

    def fail(folder):
        (folder / "b").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_folder(tmp_path / "m", fail)
    assert (tmp_path / "m" / "b").read_text() == "new"
    assert names(tmp_path / "m") == ["a", "b", "kept", "part"]


def _add(path, name):
    report.add_section(Path(path), name, {"runs": []})


def test_sections_of_studies_that_end_together_are_all_kept(tmp_path):
    path = tmp_path / "study.json"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add, args=(path, f"section {i}")) for i in range(12)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len(json.loads(path.read_text())["ablations"]) == 12


def test_a_damaged_study_is_not_written_over(tmp_path):
    path = tmp_path / "study.json"
    for damaged in ("{", "[]"):
        path.write_text(damaged)
        with pytest.raises(ValueError, match="study.json is damaged .*restore it, or delete it"):
            _add(path, "x")
        assert path.read_text() == damaged


def test_features_that_another_run_has_just_written_over_are_returned_all_the_same(
    tmp_path, monkeypatch
):
    from oal_lite import teacher_cache

    key = {"shape": [1, 1, 3], "dtype": "float32"}
    monkeypatch.setattr(teacher_cache, "_read", lambda path, key: None)  # they never fit
    features = cached_features(tmp_path, key, lambda: torch.arange(3.0).view(1, 1, 3))
    assert features.flatten().tolist() == [0, 1, 2]


def test_a_file_that_another_run_deletes_meanwhile_is_missing_and_not_damaged(
    tmp_path, monkeypatch
):
    """Two runs in one folder: one ends and deletes the checkpoint that the other asks for."""
    path, look = tmp_path / "x.safetensors", Path.stat
    write_tensors(path, {"a": torch.ones(2)})

    def look_and_lose(self, **how):
        found = look(self, **how)
        if self == path:
            path.unlink()
        return found

    with monkeypatch.context() as patched, pytest.raises(FileNotFoundError, match="no file"):
        patched.setattr(Path, "stat", look_and_lose)
        read_tensors(path)
    write_tensors(path, {"a": torch.ones(2)})
    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", look_and_lose)
        write_tensors(path, {"a": torch.zeros(2)})
    assert read_tensors(path)["a"].sum() == 0


def test_a_file_keeps_its_permissions_and_a_link_its_target(tmp_path):
    (tmp_path / "there").mkdir()
    kept, link = tmp_path / "there" / "kept.txt", tmp_path / "link.txt"
    kept.write_text("old")
    kept.chmod(0o640)
    link.symlink_to(kept)
    write_atomically(link, lambda p: p.write_text("new"))
    assert link.is_symlink() and kept.read_text() == "new"
    assert kept.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.rglob("*.tmp")] == []


def test_tensors_may_be_read_by_whoever_may_read_a_record(tmp_path, monkeypatch):
    tensors, record = tmp_path / "a.safetensors", tmp_path / "a.json"
    write_tensors(tensors, {"a": torch.zeros(2)})
    write_atomically(record, lambda p: p.write_text("{}"))
    assert tensors.stat().st_mode == record.stat().st_mode

    def refuses(*args, **how):  # as safetensors does; root may read whatever it is
        raise FileNotFoundError("No such file or directory")

    monkeypatch.setattr(safetensors, "safe_open", refuses)
    with pytest.raises(PermissionError, match="a.safetensors may not be read; change its perm"):
        read_tensors(tensors)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_tensors(tmp_path / "b.safetensors")


def test_a_folder_in_the_place_of_a_models_file_is_told_before_a_file_moves(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a").write_text("old")

    def write(folder):
        for name in "ab":
            (folder / name).write_text("new")

    with pytest.raises(OSError, match="cannot write .*/b: it is no plain file; choose another fol"):
        write_folder(tmp_path, write)
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == ["a", "b"]


def test_a_link_in_a_circle_is_told(tmp_path):
    from oal_lite.image_folders import _real
    from oal_lite.report import read_study

    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for read in (read_study, lambda p: _real(p, tmp_path)):
        with pytest.raises((OSError, ValueError), match="link"):
            read(tmp_path / "a")
    with pytest.raises(OSError, match="link"):
        write_atomically(tmp_path / "a", lambda p: p.write_text("x"))
    (tmp_path / "new").symlink_to(tmp_path / "not there yet")
    assert read_study(tmp_path / "new") == {}


def test_a_long_name_is_no_hindrance(tmp_path):
    path = tmp_path / ("ä" * 120)  # 240 bytes of the 255 that a name may have
    write_atomically(path, lambda p: p.write_text("x"))
    assert names(tmp_path) == [path.name]


def test_a_number_of_many_digits_is_damage(tmp_path):
    from oal_lite.report import read_study

    path = tmp_path / "study.json"
    table = {"ce": {"near AUROC": {"values": [10**400], "seeds": [0]}}}
    path.write_text(json.dumps({"table": table}))
    with pytest.raises(ValueError, match="study.json is damaged"):
        read_study(path)
