"""Batches shared out to two processes: the same training, and the same files, as in one.

Batch normalisation sees the rows of its own process, so the students here have none where the
weights of one process and of two are compared.
"""

import os
import socket
from dataclasses import replace

import pytest
import torch
from test_train import SETTINGS, make_student, make_terms, make_views, seeded
from torch import nn
from torch.testing import assert_close

from oal_lite import study, study_command
from oal_lite.data_parallel import Share, is_first, launched
from oal_lite.train import fit
from oal_lite.views import FreshViews

ARMS = ("ce", "oal-paper", "oal-latent", "oe-pixels-matched", "oal")
STUDY = ("kd", "oal", "oal-latent")  # in this order: the last asks for what the second has made


def without_norms(module):
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.Identity())
        else:
            without_norms(child)
    return module


def train(arm):
    """A short training; with "ce" on views that are drawn anew at every look."""
    student, views = without_norms(make_student()), make_views()
    terms = make_terms(arm, student)
    if arm == "ce":
        views = replace(
            views, images=FreshViews(views.images[0], seeded(3)),
            teacher_features=views.teacher_features[:1], teacher_logits=views.teacher_logits[:1],
        )  # fmt: skip
    history = fit(
        student, terms, views, settings=replace(SETTINGS, epochs=1, batch_size=60, lr=0.01),
        generator=seeded(0), device="cpu", progress=False,
    )  # fmt: skip
    state = {f"{part}.{k}": v for part, m in (("student", student), ("terms", terms))
             for k, v in m.state_dict().items()}  # fmt: skip
    return state, history.terms


def one_of_two(rank, port, preset, folder):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
    torch.set_num_threads(1)
    trained = {arm: train(arm) for arm in ARMS}
    runs = study.run(preset, STUDY, [0], runs=folder / "runs", device="cpu", bars=False)
    rows = [r.record["history"]["terms"] for r in runs]
    torch.save((trained, rows, is_first()), folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def together(tiny_preset, tmp_path_factory):
    """What each of two processes has trained, and the folder of their runs."""
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    torch.multiprocessing.spawn(one_of_two, (port, tiny_preset, folder), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)], folder / "runs"


@pytest.mark.parametrize("arm", ARMS)
def test_two_processes_train_the_student_that_one_trains(arm, together):
    state, terms = train(arm)
    for trained, *_ in together[0]:
        theirs, their_terms = trained[arm]
        for name, value in state.items():
            assert_close(theirs[name], value, rtol=1e-4, atol=1e-6, msg=f"{arm}: {name}")
        for ours, other in zip(terms, their_terms, strict=True):
            assert other == pytest.approx(ours, rel=1e-4, abs=1e-5)


def test_both_processes_know_all_results_and_one_writes_them(together):
    (_, rows, first), (_, other_rows, second) = together[0]
    assert rows == other_rows and (first, second) == (True, False)
    names = sorted(p.name.split("-seed")[0] for p in (together[1] / "tiny").glob("*.json"))
    assert [n for n in names if not n.startswith("teacher")] == sorted(STUDY)
    assert not list((together[1] / "tiny").glob("unfinished*"))


# --- one process ---------------------------------------------------------------------------------


def test_the_shares_of_all_processes_are_the_batch():
    rows = torch.arange(12).view(6, 2)
    shares = [Share(r, 3).of(rows) for r in range(3)]
    assert torch.equal(torch.stack(shares, 1).flatten(0, 1), rows)
    assert torch.equal(shares[1], torch.tensor([[2, 3], [8, 9]]))


def test_one_process_has_all_and_sends_nothing():
    rows = torch.ones(3, 2)
    assert Share().gather(rows) is rows and torch.equal(Share().of(rows), rows)
    Share().average(iter(()))
    assert launched() == 1 and is_first()


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="a batch of 5 cannot be shared by 2 processes; choose a"):
        Share(0, 2).of(torch.ones(5, 1))


def test_workers_and_a_launcher_are_one_too_many(tiny_preset, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="workers=2 and 2 processes of `accelerate launch`"):
        study.run(tiny_preset, ["ce"], [0], runs=tmp_path, workers=2)


def test_models_are_trained_by_one_process(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.chdir(tmp_path)
    status = study_command.main(["--preset", "cifar10-small", "--pretrain", "--device", "cpu"])
    assert status == 2 and "train them first, by python -m oal_lite.pretrain" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("name", "text"), [("WORLD_SIZE", "x"), ("WORLD_SIZE", "0"), ("RANK", "1.5"), ("RANK", "-1")]
)
def test_numbers_of_a_launcher_that_are_none_are_named(name, text, monkeypatch):
    monkeypatch.setenv(name, text)
    with pytest.raises(ValueError, match=f"{name}='{text}'; expected a whole number of at least"):
        launched() if name == "WORLD_SIZE" else is_first()
