"""Checkpoints: what is saved comes back to the last bit, and a killed training goes on from it."""

import itertools
import os
import pickle
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_train import SETTINGS, make_student, make_terms, make_views, seeded

from oal_lite import checkpoint, materials, run_files, study
from oal_lite import train as train_module
from oal_lite.materials import Materials
from oal_lite.recipes import ARMS, Term
from oal_lite.run_files import run_path
from oal_lite.study import run
from oal_lite.train import fit

LONG = replace(SETTINGS, epochs=4)

scalars = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text() | st.floats()
tensors = st.builds(
    lambda n, dtype, seed: (torch.randn(n, generator=seeded(seed)) * 9).to(dtype),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.int64]),
    st.integers(0, 9),
)
nests = st.recursive(
    scalars | tensors,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers(0, 5) | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a, b):
    """Equal in type, order and every bit."""
    if isinstance(a, torch.Tensor):
        bits = [x.contiguous().flatten().view(torch.uint8).tolist() for x in (a, b)]
        return a.dtype == b.dtype and a.shape == b.shape and bits[0] == bits[1]
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


# --- the file ----------------------------------------------------------------------------------


@given(state=st.dictionaries(st.text(max_size=4), nests, max_size=3))
def test_any_nest_comes_back_to_the_last_bit(tmp_path_factory, state):
    path = tmp_path_factory.getbasetemp() / "nest.safetensors"
    checkpoint.save(path, state)
    assert same(checkpoint.load(path), state)


def test_what_is_no_plain_data_is_refused_with_its_place(tmp_path):
    with pytest.raises(TypeError, match="/a/1 is a function, which a checkpoint cannot hold"):
        checkpoint.save(tmp_path / "x", {"a": [1, seeded]})
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_and_a_pickle_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, {"a": torch.arange(100)})
    whole = path.read_bytes()
    assert pickle.dumps(1)[:1] not in whole[:1]
    for content in (whole[:-1], whole[:20], b"", pickle.dumps({"a": 1})):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="x.safetensors is no whole checkpoint .* delete it"):
            checkpoint.load(path)
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "nothing")


# --- training ----------------------------------------------------------------------------------


class Stop(Exception):
    pass


class StopAt(Term):
    """Raises, or kills the process, before the step of that number; adds nothing to the loss."""

    def __init__(self, step, how):
        super().__init__("nothing", 0.0)
        self.left, self.how = step, how

    def before(self, step):
        self.left -= 1
        if self.left < 0:
            self.how()

    def forward(self, step):
        return torch.zeros(())


def stop():
    raise Stop


def arm(name, stop_at=10**9, how=stop):
    """A student and its terms, with one that stops the training before some step."""
    student = make_student()
    terms = make_terms(name, student)
    terms.append(StopAt(stop_at, how))
    return student, terms


def train(name, path=None, *, stop_at=10**9, how=stop, views=None, settings=LONG, **more):
    student, terms = arm(name, stop_at, how)
    images = torch.randint(256, (30, 3, 16, 16), generator=seeded(9), dtype=torch.uint8)
    history = fit(
        student, terms, views or make_views(), settings=settings, generator=seeded(4), device="cpu",
        progress=False, val=(images, torch.arange(30) % 3), checkpoint=path, **more,
    )  # fmt: skip
    return student.state_dict(), terms.state_dict(), history


def assert_equal(a, b):
    assert same(dict(a[0]), dict(b[0])), "the students differ"
    assert same(dict(a[1]), dict(b[1])), "the terms differ"
    for name in ("terms", "train_accuracy", "val_accuracy"):
        assert same(getattr(a[2], name), getattr(b[2], name)), name


@pytest.fixture(scope="module", params=["oal-as-released", "oal-paper"])
def whole(request):
    """An arm and its uninterrupted training; 5 steps an epoch, 20 in all."""
    return request.param, train(request.param)


@pytest.mark.parametrize("stop_at", [0, 3, 5, 7, 14, 19])
def test_stopped_at_any_step_and_resumed_ends_bit_equal(tmp_path, whole, stop_at):
    name, expected = whole
    path = tmp_path / "c.safetensors"
    with pytest.raises(Stop):
        train(name, path, stop_at=stop_at)
    assert path.exists() == (stop_at >= 5)
    assert_equal(train(name, path), expected)


def test_stopped_again_and_again_ends_bit_equal(tmp_path, whole):
    name, expected = whole
    path, stops = tmp_path / "c.safetensors", 0
    for _ in range(4):
        with pytest.raises(Stop):
            train(name, path, stop_at=random.Random(stops).randint(5, 6))
        stops += 1
        if stops == 3:
            break
    assert_equal(train(name, path), expected)


def test_an_error_in_the_callback_loses_no_epoch(tmp_path, whole):
    name, expected = whole
    path, epochs = tmp_path / "c.safetensors", []

    def callback(history):
        epochs.append(len(history.terms))
        if len(epochs) == 2:
            raise Stop

    with pytest.raises(Stop):
        train(name, path, on_epoch=callback)
    assert_equal(train(name, path, on_epoch=callback), expected)
    assert epochs == [1, 2, 3, 4]


def test_a_finished_training_is_read_and_not_repeated(tmp_path, whole):
    name, expected = whole
    path = tmp_path / "c.safetensors"
    train(name, path)
    assert_equal(train(name, path, stop_at=0), expected)  # no step is taken


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    train("ce", path)
    with pytest.raises(ValueError, match=r"belongs to a training with other settings \(lr\)"):
        train("ce", path, settings=replace(LONG, lr=0.5))
    with pytest.raises(ValueError, match=r"other settings \(images\)"):
        train("ce", path, views=make_views(n=96))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="is no whole checkpoint"):
        train("ce", path)


def test_a_checkpoint_with_other_parts_is_refused(tmp_path):
    generator = torch.Generator()
    both = {"generator": generator, "scaler": generator}
    checkpoint.Keeper(tmp_path / "c", both, {}).save({})
    with pytest.raises(ValueError, match=r"training with other parts \(scaler\)"):
        checkpoint.Keeper(tmp_path / "c", {"generator": generator}, {}).restore()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    small, large = torch.nn.Linear(2, 1), torch.nn.Linear(3, 1)
    checkpoint.Keeper(tmp_path / "c", {"student": small}, {}).save({})
    with pytest.raises(ValueError, match=r"training with other models \(RuntimeError: .*; delete"):
        checkpoint.Keeper(tmp_path / "c", {"student": large}, {}).restore()
    checkpoint.save(tmp_path / "c", {"for": {}})
    with pytest.raises(ValueError, match=r"training with other models \(KeyError: 'parts'\)"):
        checkpoint.Keeper(tmp_path / "c", {"student": small}, {}).restore()


def test_keys_that_spell_the_same_place_are_kept_apart(tmp_path):
    one, two, three = (torch.tensor([float(i)]) for i in range(3))
    state = {"a/b": one, "a": {"b": two}, "n": {1: two, "1": three}}
    checkpoint.save(tmp_path / "c", state)
    assert same(checkpoint.load(tmp_path / "c"), state)


CHILD = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import test_checkpoint as t
t.train("oal-paper", sys.argv[2], stop_at=int(sys.argv[3]),
        how=lambda: os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_process_killed_by_sigkill_goes_on_bit_equal(tmp_path):
    path = tmp_path / "c.safetensors"
    here = Path(__file__).parent
    code = "import conftest\n" + CHILD  # the same settings of torch as here
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(
        [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, str(here), str(path), "13"], env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]
    assert checkpoint.load(path)["progress"]["epochs"] == 2
    assert_equal(train("oal-paper", path), train("oal-paper"))


# --- the study ---------------------------------------------------------------------------------


def test_an_interrupted_arm_goes_on_where_it_stopped(tiny_preset, tmp_path, monkeypatch):
    monkeypatch.setattr(run_files, "code_version", lambda: "test")
    preset = replace(tiny_preset, train=replace(tiny_preset.train, epochs=3, start_epochs=2))
    (expected,) = run(preset, ["kd"], [0], runs=tmp_path / "whole", device="cpu")
    plain, epochs = study.fit, []

    def interrupted(*args, **how):
        def after(history):
            epochs.append(len(history.terms))
            if len(epochs) in (1, 4):
                raise KeyboardInterrupt

        return plain(*args, **how, on_epoch=after)

    for module in (materials, study):  # the common start, and the arm
        monkeypatch.setattr(module, "fit", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(preset, ["kd"], [0], runs=tmp_path / "parts", device="cpu")
    (result,) = run(preset, ["kd"], [0], runs=tmp_path / "parts", device="cpu")
    assert epochs == [1, 2, 1, 2, 3], "an epoch was repeated or left out"
    assert same(result.scores, expected.scores)
    assert result.record["metrics"] == expected.record["metrics"]
    assert not list((tmp_path / "parts").rglob("unfinished*")), "the state was not cleared away"


def test_a_start_beside_which_a_model_is_trained_leaves_nothing_and_goes_on(
    tiny_preset, tmp_path, monkeypatch
):
    preset = replace(tiny_preset, teacher=str(tmp_path / "teacher"),
                     train=replace(tiny_preset.train, start_epochs=2))  # fmt: skip
    plain, epochs = materials.fit, []

    def beside(*args, **how):
        def after(history):
            epochs.append(len(history.terms))
            (tmp_path / "teacher").mkdir(exist_ok=True)
            (tmp_path / "teacher/config.json").write_text(str(epochs))  # another teacher each time
            if len(epochs) == 1:
                raise KeyboardInterrupt

        return plain(*args, **how, on_epoch=after)

    monkeypatch.setattr(materials, "fit", beside)
    with pytest.raises(KeyboardInterrupt):
        _ = Materials(preset, 0, runs=tmp_path / "runs", bars=False).start
    assert len(list((tmp_path / "runs").rglob("unfinished*"))) == 1
    _ = Materials(preset, 0, runs=tmp_path / "runs", bars=False).start
    assert epochs == [1, 2], "an epoch was repeated"
    assert not list((tmp_path / "runs").rglob("unfinished*")), "the state was not cleared away"


def test_without_a_folder_of_runs_there_is_no_checkpoint(tiny_preset):
    assert Materials(tiny_preset, 0).checkpoint("kd") is None
    path = Materials(tiny_preset, 0, runs="r").checkpoint("kd")
    assert path == run_path(Path("r"), tiny_preset, "unfinished-kd", 0, "safetensors")


def test_another_recipe_with_the_same_label_does_not_go_on_from_a_checkpoint(tiny_preset):
    materials = Materials(tiny_preset, 0, runs="r")
    arm = ARMS["oal"]
    path = materials.checkpoint("mine", arm)
    assert materials.checkpoint("mine", replace(arm, hedge=2)) != path
    assert materials.checkpoint("other", arm) != path
    assert materials.checkpoint("mine", replace(arm, question="reworded?")) == path


def test_seconds_before_a_stop_are_counted(tmp_path, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(train_module.time, "perf_counter", lambda: next(ticks))
    path = tmp_path / "c.safetensors"
    with pytest.raises(Stop):
        train("ce", path, stop_at=7)  # in the second of four epochs
    assert train("ce", path)[2].seconds == 4  # one tick an epoch


def test_a_checkpoint_of_other_weights_of_the_terms_is_refused(tmp_path, monkeypatch):
    path, usual = tmp_path / "c.safetensors", arm
    train("kd", path)

    def heavier(*args):
        student, terms = usual(*args)
        terms[1].weight *= 2
        return student, terms

    monkeypatch.setitem(globals(), "arm", heavier)
    with pytest.raises(ValueError, match=r"other settings \(terms\)"):
        train("kd", path)
