"""Several processes: the order of the work, and results that do not depend on it."""

import json
import os
import signal
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from oal_lite import study
from oal_lite.images import late
from oal_lite.materials import Materials
from oal_lite.recipes import ARMS
from oal_lite.threads import one_thread_on_cpu
from oal_lite.workers import (
    GIGABYTE,
    Task,
    _ctrl_c_held_back,
    default_workers,
    study_tasks,
    work,
)


def test_the_results_do_not_depend_on_the_number_of_workers(tiny_preset, tmp_path):
    arms, seeds = ["ce", "oal-paper", "oal-noise"], [0, 1]
    alone, together = (
        study.run(tiny_preset, arms, seeds, runs=tmp_path / str(w), device="cpu", workers=w)
        for w in (1, 2)
    )
    assert len(alone) == len(together) == 6
    for one, two in zip(alone, together, strict=True):
        records = [json.loads(json.dumps(r.record)) for r in (one, two)]
        for record in records:  # all but the times must be equal
            record.pop("seconds"), record["history"].pop("seconds")
        assert records[0] == records[1]
        assert one.scores.keys() == two.scores.keys()
        assert all(torch.equal(one.scores[k], two.scores[k]) for k in one.scores)
    files = [sorted(p for p in (tmp_path / w).rglob("*.*")) for w in "12"]
    assert [p.name for p in files[0]] == [p.name for p in files[1]]
    for one, two in zip(*files, strict=True):  # outliers, start, views: to the last bit
        if one.suffix in (".safetensors", ".npy"):
            assert one.read_bytes() == two.read_bytes(), one.name


def test_what_is_there_is_not_made_again(tiny_preset, tmp_path, monkeypatch):
    how = dict(runs=tmp_path, device="cpu", workers=2)
    study.run(tiny_preset, ["ce"], [0], **how | {"workers": 1})
    planned = []
    monkeypatch.setattr(study, "work", lambda tasks, *rest: planned.append([t.name for t in tasks]))
    study.run(tiny_preset, ["ce"], [0], **how)
    monkeypatch.setattr(study, "train_one", lambda *a, **k: pytest.fail("trained in this process"))
    assert planned == [[]]


def test_every_task_comes_after_what_it_needs_and_nothing_twice(tiny_preset):
    trainings = [(s, a, ARMS[a]) for s in (1, 0) for a in ("oal-noise", "ce", "oal-as-released")]
    tasks = study_tasks(tiny_preset, trainings, runs="runs", device="cpu")
    names = [t.name for t in tasks]
    assert len(names) == len(set(names)) == 2 * (3 + 4)
    for i, task in enumerate(tasks):
        assert set(task.needs) <= set(names[:i])
    needs = {t.name: t.needs for t in tasks}
    assert needs["ce, seed 1"] == ("start, seed 1",), "it does not ask what the teacher says"
    assert needs["oal-noise, seed 1"][:2] == ("start, seed 1", "views, seed 1")
    assert needs["oal-noise, seed 0"][-1] == "outliers-farthest, seed 0"
    assert [n for n in names if n.endswith("seed 0")] == names[:7]


def test_all_seeds_share_the_autoencoded_images(tiny_preset):
    trainings = [(s, a, ARMS[a]) for s in (6, 5) for a in ("oal", "oal-latent")]
    tasks = {t.name: t for t in study_tasks(tiny_preset, trainings, runs="runs", device="cpu")}
    assert [n for n in tasks if "seed" not in n] == ["id_latents", "reconstructions"]
    assert tasks["reconstructions"].needs == ("id_latents",)
    assert tasks["reconstructions"].arguments[2] == 5, "it must not wait for the higher seed"
    assert {"id_latents", "reconstructions"} <= set(tasks["oal, seed 6"].needs)
    assert "reconstructions" not in tasks["oal-latent, seed 6"].needs


def test_halves_of_latents_are_encoded_before_an_arm_begins(tiny_preset):
    arm = replace(ARMS["oal-paper"], outliers="halves")
    tasks = study_tasks(tiny_preset, [(0, "halved", arm)], runs="runs", device="cpu")
    needs = {t.name: t.needs for t in tasks}
    assert {"id_latents", "outliers-farthest, seed 0"} <= set(needs["halved, seed 0"])
    assert "reconstructions" not in needs


def test_no_task_asks_the_teacher_what_no_file_would_keep(tiny_preset, tmp_path, monkeypatch):
    tasks = study_tasks(tiny_preset, [(0, "kd", ARMS["kd"])], runs=str(tmp_path), device="cpu")
    (views,) = (t for t in tasks if t.name.startswith("views"))
    asked = []
    monkeypatch.setattr(Materials, "views", property(lambda _: asked.append("views")))
    views.function(*views.arguments)
    assert asked == ["views"]
    seen = Materials(tiny_preset, 0).benchmark
    train = replace(seen.train, images=late(seen.train.images))
    monkeypatch.setattr(Materials, "benchmark", replace(seen, train=train))
    views.function(*views.arguments)
    assert asked == ["views"]


def _killed():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_told_with_the_name_of_its_task():
    with pytest.raises(ChildProcessError, match="memory, during the victim; give the same"):
        work([Task("the victim", _killed, ())], 1, str)


def test_seeds_of_other_settings_share_the_autoencoded_images(tiny_preset):
    tasks, how = [], {"runs": "runs", "device": "cpu"}
    for seed, label in ((2, "oal"), (1, "varied"), (3, "again")):
        tasks += study_tasks(tiny_preset, [(seed, label, ARMS["oal"])], after=tasks, **how)
    needs = {t.name: t.needs for t in tasks}
    first, second, third = (name for name in needs if name.startswith("id_latents"))
    assert (needs[first], needs[second], needs[third]) == ((), (first,), (second,))


def _append(path, word):
    with open(path, "a") as file:
        file.write(word)


def test_work_follows_the_needs_and_stops_at_an_error(tmp_path):
    said, path = [], str(tmp_path / "order")
    tasks = [
        Task("last", _append, (path, "c"), ("middle", "first")),
        Task("first", _append, (path, "a")),
        Task("middle", _append, (path, "b"), ("first",)),
    ]
    work(tasks, 3, said.append)
    assert open(path).read() == "abc"
    assert [s.split(":")[0] for s in said] == ["first"] * 2 + ["middle"] * 2 + ["last"] * 2
    broken = [Task("bad", int, ("x",)), Task("never", _append, (path, "d"), ("bad",))]
    with pytest.raises(ValueError, match="invalid literal"):
        work(broken, 2, said.append)
    assert open(path).read() == "abc"


def test_a_cpu_gets_as_many_workers_as_cores_and_a_gpu_one(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)), raising=False)
    monkeypatch.setattr("oal_lite.workers._free_memory", lambda: 20 * GIGABYTE)
    assert [default_workers("cpu", n, 8) for n in (1, 4, 40)] == [1, 4, 6]
    assert default_workers("cpu", 40, 2) == 2
    assert default_workers("cuda", 40, 8) == default_workers("cuda:1", 40, 8) == 1


@pytest.mark.parametrize(
    ("free", "limit", "expected"),
    [
        (8, "max", 7), (64, "max", 8), (0.5, "max", 1), (3, 64 * GIGABYTE, 2),
        # of what the container uses, 3 gigabytes, it would let one of old files go
        (8, 6 * GIGABYTE, 3), (8, 2 * GIGABYTE, 1),
    ],
)  # fmt: skip
def test_each_worker_has_a_free_gigabyte_of_the_machine_and_of_the_container(
    free, limit, expected, monkeypatch, tmp_path
):
    (tmp_path / "limit").write_text(f"{limit}\n")
    (tmp_path / "used").write_text(f"{3 * GIGABYTE}\n")
    (tmp_path / "memory.stat").write_text(f"cache 7\nidle {GIGABYTE}\n")
    groups = (tmp_path / "not there", "a", "b", "c"), (tmp_path, "limit", "used", "idle")
    monkeypatch.setattr("oal_lite.workers.CGROUPS", groups)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)), raising=False)
    memory = SimpleNamespace(available=int(free * GIGABYTE))
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    assert default_workers("cpu", 80, 8) == expected


def test_one_thread_on_a_cpu_only_and_only_inside():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), one_thread_on_cpu("cpu"):
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before
    with one_thread_on_cpu("cuda"):
        assert torch.get_num_threads() == before


def test_a_wrong_arm_is_named_before_any_process_starts(tiny_preset, tmp_path):
    with pytest.raises(ValueError, match="unknown arm 'magic'"):
        study.run(replace(tiny_preset), ["magic"], [0], runs=tmp_path, device="cpu", workers=2)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def hears_ctrl_c():
    """Ctrl-C interrupts, also where a shell has started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_ctrl_c_waits_until_a_process_has_started_whichever_thread_hears_it(hears_ctrl_c):
    """NumPy's threads do not block the signal; Python then interrupts the main thread."""
    before = signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, [])
    done = []
    with pytest.raises(KeyboardInterrupt):
        with _ctrl_c_held_back():
            assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])

            def hear():
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
                signal.raise_signal(signal.SIGINT)

            thread = threading.Thread(target=hear)
            thread.start()
            thread.join()
            done.append("the process has its orders")
    assert done
    assert before == (signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, []))


def test_no_ctrl_c_no_interruption_and_another_thread_may_start_processes():
    def start():
        with _ctrl_c_held_back():
            done.append(1)

    done = []
    start()
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert done == [1, 1]


def test_jobs_of_several_settings_share_one_pool_and_what_they_have_in_common(
    tiny_preset, tmp_path, monkeypatch
):
    varied = replace(tiny_preset, weights=replace(tiny_preset.weights, kd_logits=1.0))
    jobs = [(["ce", "kd"], tiny_preset), ({"kd": ARMS["kd"]}, tiny_preset),
            ({"kd+weights.kd_logits=1.0": ARMS["kd"]}, varied),
            ({"again": ARMS["kd"]}, varied)]  # fmt: skip
    planned = []
    monkeypatch.setattr(study, "work", lambda tasks, *rest: planned.extend(tasks))
    study.side_by_side(jobs, [0, 1], runs=tmp_path, device="cpu", workers=2)
    names = [t.name for t in planned]
    assert len(names) == len(set(names)), "one pool knows a task by its name"
    assert sum(n.startswith("kd,") for n in names) == 2, "kd of a seed is trained once"
    needs = {t.name: t.needs for t in planned}
    (start, views) = needs["kd+weights.kd_logits=1.0, seed 1"]
    assert start != "start, seed 1" and needs[start] == ("start, seed 1",)
    assert needs[views] == ("views, seed 1",)
    (_, once_more) = needs["again, seed 1"]
    assert needs[once_more] == (views,), "what the first job lacks is shared by those after it"


def test_each_task_waits_only_for_the_models_it_needs(tiny_preset, tmp_path, monkeypatch):
    planned = []
    monkeypatch.setattr(study, "work", lambda tasks, *rest: planned.extend(tasks))
    study.side_by_side([(["ce", "kd", "oal"], tiny_preset)], [3], runs=tmp_path, device="cpu",
                       workers=2, pretrain=True)  # fmt: skip
    needs = {t.name: t.needs for t in planned}
    assert [*needs][:2] == ["model: teacher", "model: pipeline"], "the longest way begins first"
    assert needs["model: teacher"] == needs["start, seed 3"] == ()
    assert needs["model: pipeline"] == needs["views, seed 3"] == ("model: teacher",)
    for what in ("outliers-farthest, seed 3", "id_latents"):
        assert needs[what] == ("model: pipeline",)
    assert needs["ce, seed 3"] == ("start, seed 3",)
    assert needs["kd, seed 3"] == ("start, seed 3", "views, seed 3")
    assert [t.arguments[2] for t in planned[:2]] == [["teacher"], ["teacher", "pipeline"]]


def test_without_arms_that_need_a_diffusion_model_none_is_trained(
    tiny_preset, tmp_path, monkeypatch
):
    planned = []
    monkeypatch.setattr(study, "work", lambda tasks, *rest: planned.extend(tasks))
    for arms in (["ce"], ["kd"]):
        study.side_by_side([(arms, tiny_preset)], [0], runs=tmp_path, device="cpu", workers=2,
                           pretrain=True)  # fmt: skip
    models = [t.name for t in planned if t.name.startswith("model")]
    assert models == ["model: teacher"]


def test_a_worker_repeats_a_run_where_all_is_to_be_made_afresh(monkeypatch, tiny_preset):
    asked = []
    monkeypatch.setattr(study, "run", lambda *a, fresh, **k: asked.append(fresh))
    for fresh in (True, False):
        tasks = study_tasks(
            tiny_preset, [(0, "ce", ARMS["ce"])], runs="runs", device="cpu", fresh=fresh
        )
        tasks[-1].function(*tasks[-1].arguments)
    assert asked == [True, False]
