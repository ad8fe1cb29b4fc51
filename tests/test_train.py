"""The training loop, on students of a few thousand parameters and images of 16 px."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from oal_lite import train as train_module
from oal_lite.checkpoint import load as load_checkpoint
from oal_lite.presets import LossWeights, TrainSettings
from oal_lite.recipes import ARMS, Autoencoded, Outliers, build_terms
from oal_lite.students import ResNet18
from oal_lite.teacher import TeacherOutputs, to_float
from oal_lite.terms import CrossEntropy, Term
from oal_lite.train import fit, predict
from oal_lite.views import FreshViews, Views, augment, draw_views

SETTINGS = TrainSettings(width=2, epochs=2, batch_size=24, n_views=2)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_images(n, size=16, seed=0):
    return torch.randint(256, (n, 3, size, size), generator=seeded(seed), dtype=torch.uint8)


def coloured(n=120, size=16, seed=0):
    """Three classes that differ in colour: red, green and blue on noise."""
    labels = torch.arange(n) % 3
    images = random_images(n, size, seed) // 4
    images[torch.arange(n), labels] += 120
    return images, labels


def make_views(n=120, n_views=2, seed=0):
    """Views with made-up teacher outputs: 6-d features that know the class, and logits."""
    images, labels = coloured(n, seed=seed)
    g = seeded(seed + 1)
    views = torch.stack([augment(images, g) for _ in range(n_views)])
    logits = 3 * torch.nn.functional.one_hot(labels, 3) + torch.randn(n_views, n, 3, generator=g)
    features = torch.cat([logits, torch.randn(n_views, n, 3, generator=g)], -1)
    return Views(views, labels, features, logits)


def make_outliers(n=12):
    g, classes = seeded(5), torch.arange(n) % 3
    return Outliers(torch.randn(n, 6, generator=g), classes, torch.randn(n, 4, 8, 8, generator=g),
                    classes, random_images(n))  # fmt: skip


def make_student(width=2, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResNet18(3, width=width)


def make_terms(arm, student):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return build_terms(
            ARMS[arm], outliers=make_outliers(), teacher_dim=6, student_dim=student.feature_dim,
            weights=LossWeights(), settings=SETTINGS, real=random_images(12), answers=make_views(1),
            known=(
                TeacherOutputs(*torch.randn(9, 9, generator=seeded(7)).split([6, 3], dim=1)),
                torch.arange(9) % 3,
            ),
            autoencoded=Autoencoded(
                torch.randn(9, 4, 8, 8, generator=seeded(6)), torch.arange(9) % 3, random_images(9)
            ),
        )  # fmt: skip


def train(arm="ce", settings=SETTINGS, views=None, seed=0, student=None, terms=None, **how):
    student = student or make_student()
    terms = terms or make_terms(arm, student)
    history = fit(
        student, terms, views or make_views(), settings=settings, generator=seeded(seed),
        device="cpu", progress=False, **how,
    )  # fmt: skip
    return student, history


# --- views -------------------------------------------------------------------------------------


def test_every_augmented_image_is_a_flip_and_a_shift_of_its_own():
    images = random_images(40, 12)
    out = augment(images, seeded(), padding=2)
    assert out.shape == images.shape and out.dtype == torch.uint8
    moves = []
    for before, after in zip(images, out, strict=True):
        matches = [
            (flip, top, left)
            for flip in (False, True)
            for top in range(5)
            for left in range(5)
            if torch.equal(
                torch.nn.functional.pad(
                    (before.flip(-1) if flip else before).float()[None], (2,) * 4, mode="reflect"
                )[0, :, top : top + 12, left : left + 12],
                after.float(),
            )
        ]
        assert len(matches) == 1
        moves.append(matches[0])
    flips, tops, lefts = zip(*moves, strict=True)
    assert 10 < sum(flips) < 30
    assert set(tops) == set(lefts) == set(range(5))


def test_augmentation_follows_the_generator():
    images = random_images(20)
    first, again, other = (augment(images, seeded(s)) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_without_padding_an_image_is_flipped_or_left_alone():
    images = random_images(20)[:, :, ::2]  # not square
    out = augment(images, seeded(), padding=0)
    flipped, same = ((out == x).flatten(1).all(1) for x in (images.flip(-1), images))
    assert (flipped ^ same).all() and flipped.any() and same.any()


def test_the_teachers_answers_belong_to_the_very_view(tiny_teacher):
    images, labels = random_images(6, 32), torch.arange(6) % 3
    views = draw_views(images, labels, tiny_teacher, n_views=3, generator=seeded())
    assert views.images.shape == (3, 6, 3, 32, 32) and torch.equal(views.labels, labels)
    for v in range(3):
        seen = tiny_teacher(views.images[v])
        assert_close(views.teacher_features[v], seen.features, atol=1e-5, rtol=1e-5)
        assert_close(views.teacher_logits[v], seen.logits, atol=1e-5, rtol=1e-5)
    assert len(views.images.flatten(0, 1).unique(dim=0)) == 18


def test_at_least_one_view_is_needed(tiny_teacher):
    with pytest.raises(ValueError, match="n_views=0"):
        draw_views(random_images(2), torch.zeros(2).long(), tiny_teacher, n_views=0,
                   generator=seeded())  # fmt: skip


# --- one run -----------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_trains_and_records_finite_terms(arm):
    val = coloured(30, seed=7)
    student, history = train(arm, val=val)
    names = [t.name for t in make_terms(arm, student)]
    assert [list(epoch) for epoch in history.terms] == [names] * 2
    assert all(math.isfinite(v) for epoch in history.terms for v in epoch.values())
    assert len(history.train_accuracy) == len(history.val_accuracy) == 2
    assert history.seconds > 0
    assert all(p.isfinite().all() for p in student.parameters())
    assert not student.training
    share = (predict(student, val[0])[0].argmax(1) == val[1]).float().mean().item()
    assert history.val_accuracy[-1] == pytest.approx(share)


def test_one_seed_gives_the_same_weights_bit_by_bit_and_another_does_not():
    weights = [train("oal-paper", seed=s)[0].state_dict() for s in (0, 0, 1)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert not torch.equal(weights[0]["head.weight"], weights[2]["head.weight"])


def test_the_global_generator_neither_matters_nor_moves():
    torch.manual_seed(1)
    first = train("oal-as-released")[0].state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = train("oal-as-released")[0].state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[k], again[k]) for k in first)


def test_a_student_learns_an_easy_task():
    settings = replace(SETTINGS, width=4, epochs=8, n_views=1)
    student, history = train(settings=settings, student=make_student(4))
    images, labels = coloured(60, seed=11)
    accuracy = (predict(student, images)[0].argmax(1) == labels).float().mean()
    assert history.train_accuracy[-1] > 0.9 and accuracy > 0.9
    assert history.terms[-1]["cross-entropy"] < 0.5 * history.terms[0]["cross-entropy"]


@pytest.mark.parametrize("epochs", [1, 2, 5, 10])
def test_any_number_of_steps_can_be_scheduled(epochs):
    """Ten steps in all used to divide by zero in torch's warm-up."""
    _, history = train(settings=replace(SETTINGS, epochs=epochs), views=make_views(24))
    assert len(history.terms) == epochs


def test_the_student_sees_whole_batches_of_single_views_in_training_mode():
    seen = []
    student = make_student()
    student.register_forward_pre_hook(lambda m, x: seen.append((x[0].clone(), m.training)))
    views = make_views(60)
    train(student=student, settings=replace(SETTINGS, epochs=1), views=views)
    assert [len(x) for x, _ in seen] == [24, 24]  # of 60 images, 12 wait for the next epoch
    assert all(training for _, training in seen)
    known = to_float(views.images.flatten(0, 1)).flatten(1)
    shown = torch.cat([x for x, _ in seen]).flatten(1)
    matches = (shown[:, None] == known).all(-1)
    places = matches.float().argmax(1)
    assert matches.any(1).all(), "an image that is none of the views"
    assert len(set((places % 60).tolist())) == 48, "an image was shown twice in one epoch"
    assert (places < 60).any() and (places >= 60).any(), "only one of the two views was shown"


class Spy(Term):
    """A term that keeps the steps it sees and gives 1, 2, 3, ... for its values."""

    def __init__(self, extra=None):
        super().__init__("spy", 0.5)
        self.steps, self.extra, self.training_seen = [], extra, []

    def extra_images(self, n, generator):
        return None if self.extra is None else self.extra[:n]

    def before(self, step):
        self.steps.append(step)
        self.training_seen.append(self.training)

    def forward(self, step):
        return step.logits.sum() * 0 + len(self.steps)


def spied(spy, **how):
    student = make_student()
    terms = torch.nn.ModuleList([CrossEntropy(), spy])
    return train(student=student, terms=terms, **how)


def test_the_history_holds_the_mean_of_each_term_over_the_steps_of_an_epoch():
    _, history = spied(Spy(), views=make_views(72))
    assert [h["spy"] for h in history.terms] == [2.0, 5.0]  # of 1, 2, 3 and of 4, 5, 6


def test_the_loss_is_the_weighted_sum_of_the_terms():
    """Twice the weight and half the rate: without momentum and decay the same step."""
    weights = {}
    for weight, lr in ((1.0, 0.02), (2.0, 0.01)):
        student, term = make_student(), CrossEntropy()
        term.weight = weight
        settings = replace(SETTINGS, momentum=1e-12, weight_decay=0.0, lr=lr, epochs=1)
        train(student=student, terms=torch.nn.ModuleList([term]), settings=settings)
        weights[weight] = student.head.weight
    assert_close(weights[1.0], weights[2.0], atol=1e-5, rtol=1e-4)


def steps_and_places(spy, views):
    """Every step of a training, and where its images lie among all views of all images."""
    spied(spy, views=views)
    features = views.teacher_features.flatten(0, 1)
    return [
        (step, (step.teacher_features[:, None] == features).all(-1).float().argmax(1))
        for step in spy.steps
    ]


def test_a_step_holds_the_teachers_answers_to_the_views_it_shows():
    spy, views = Spy(), make_views()
    features = views.teacher_features.flatten(0, 1)
    for step, places in steps_and_places(spy, views):
        assert_close(step.teacher_features, features[places], atol=0, rtol=0)
        assert_close(step.teacher_logits, views.teacher_logits.flatten(0, 1)[places])
        assert torch.equal(step.labels, views.labels[places % 120])
        assert step.logits.shape == (24, 3) and step.features.shape == (24, 16)
    assert all(spy.training_seen)


@pytest.mark.parametrize("own_batch", [True, False])
def test_extra_images_go_through_the_student_beside_the_batch(own_batch):
    seen = []
    extra = random_images(30, seed=4)
    spy, student = Spy(extra), make_student()
    student.register_forward_pre_hook(
        lambda m, x, how: seen.append((len(x[0]), x[1].clone(), x[2], how["own_batch"])),
        with_kwargs=True,
    )
    settings = replace(SETTINGS, own_batch=own_batch)
    terms = torch.nn.ModuleList([CrossEntropy(), spy])
    train(student=student, terms=terms, settings=settings)
    for (n, x, maps, how), step in zip(seen, spy.steps, strict=True):
        assert n == 24 and maps is None and how is own_batch
        assert_close(x, to_float(extra[:24]))
        logits, features = step.extra["spy"]
        assert logits.shape == (24, 3) and features.shape == (24, 16)
        assert step.logits.shape == (24, 3)


def test_a_term_gets_back_the_rows_of_its_own_images_and_of_its_own_maps():
    """Two terms at once, in evaluation mode, where a row does not depend on the others."""
    images, maps = random_images(6, seed=4), torch.randn(5, 4, 8, 8, generator=seeded(3))
    student, spies = make_student(), [Spy(images), Spy()]
    spies[1].name = "maps"
    spies[1].extra_maps = lambda n, side, generator: maps
    settings = replace(SETTINGS, epochs=1, lr=1e-30, batch_size=120)
    frozen = student.eval()
    student.train = lambda mode=True: frozen
    terms = torch.nn.ModuleList([CrossEntropy(), *spies])
    train(student=student, terms=terms, settings=settings)
    (step,) = spies[0].steps
    assert_close(step.extra["spy"][0], student(to_float(images))[0])
    assert_close(step.extra["maps"][0], student(to_float(images), maps=maps)[0][6:])


def test_a_terms_own_parameters_are_trained_at_their_own_rate():
    start = make_terms("kd", make_student()).state_dict()
    moved = {}
    for lr in (0.0, 0.1):
        student = make_student()
        terms = make_terms("kd", student)
        terms[2].lr = lr
        train(student=student, terms=terms)
        key = "2.adapter.layers.1.weight"
        moved[lr] = (terms.state_dict()[key] - start[key]).abs().max().item()
    assert moved[0.0] == 0 and moved[0.1] > 1e-3


def test_the_optimiser_has_the_momentum_and_the_decay_of_the_settings(monkeypatch):
    made, sgd = [], torch.optim.SGD
    monkeypatch.setattr(torch.optim, "SGD", lambda *a, **k: made.append(sgd(*a, **k)) or made[-1])
    train("kd", replace(SETTINGS, momentum=0.5, weight_decay=0.03))
    assert len(made[0].param_groups) == 2
    for group in made[0].param_groups:
        assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.5, 0.03, True)


def test_images_fewer_than_a_batch_are_named():
    with pytest.raises(ValueError, match="20 training images are fewer than one batch of 24"):
        train(views=make_views(20))


def test_a_loss_that_explodes_is_named_with_its_terms():
    with pytest.raises(FloatingPointError, match="cross-entropy.*lower the learning rate"):
        train(settings=replace(SETTINGS, lr=1e30))


# --- prediction --------------------------------------------------------------------------------


def test_prediction_uses_evaluation_mode_and_leaves_the_mode_as_it_was():
    student = make_student().train()
    images = random_images(7)
    logits, features = predict(student, images, batch_size=3)
    assert student.training
    assert logits.shape == (7, 3) and features.shape == (7, 16) and not logits.requires_grad
    whole = student.eval()(to_float(images))
    assert_close(logits, whole[0], atol=1e-5, rtol=1e-5)
    assert_close(features, whole[1], atol=1e-5, rtol=1e-5)
    predict(student, images)
    assert not student.training


class Watch(Term):
    """Adds nothing; keeps the gradient of the head and the labels that each step begins with."""

    def __init__(self, student):
        super().__init__("watch", 0.0)
        self.student, self.gradients, self.labels = [student], [], []  # in a list: no parameters

    def before(self, step):
        gradient = self.student[0].head.weight.grad
        self.gradients.append(None if gradient is None else gradient.clone())
        self.labels.append(step.labels.clone())

    def forward(self, step):
        return step.logits.sum() * 0


def watched(n, **changes):
    student = make_student()
    watch, g = Watch(student), seeded(3)
    views = Views(coloured(n)[0][None], torch.arange(n) % 3, *torch.randn(2, 1, n, 3, generator=g))
    settings = replace(SETTINGS, **{"n_views": 1, "lr": 0.0, "weight_decay": 0.0} | changes)
    fit(
        student, torch.nn.ModuleList([CrossEntropy(), watch]), views, settings=settings,
        generator=seeded(), device="cpu", progress=False,
    )  # fmt: skip
    return watch


def test_every_step_begins_without_the_gradients_of_the_last():
    """At a rate of zero and one batch an epoch, every epoch has the same gradient."""
    first, *gradients = watched(24, epochs=4).gradients
    assert first is None and gradients[0].abs().max() > 0.01
    for gradient in gradients[1:]:
        assert_close(gradient, gradients[0], atol=1e-5, rtol=1e-3)


def test_a_device_that_is_named_is_the_one_that_accelerate_takes(monkeypatch):
    asked, plain = [], train_module._accelerator
    monkeypatch.setattr(
        train_module, "_accelerator", lambda *how: asked.append(how) or plain("no", True)
    )
    for device in ("cpu", torch.device("cpu"), None):
        fit(
            make_student(), torch.nn.ModuleList([CrossEntropy()]), make_views(), settings=SETTINGS,
            generator=seeded(), device=device, progress=False,
        )  # fmt: skip
    assert asked == [("no", True), ("no", True), ("no", False)]


def test_every_epoch_has_an_order_of_its_own_and_every_image_once():
    watch = watched(96, epochs=2)
    epochs = [torch.cat(watch.labels[i : i + 4]).tolist() for i in (0, 4)]
    assert epochs[0] != epochs[1] != (torch.arange(96) % 3).tolist() != epochs[0]
    assert all([epoch.count(c) for c in range(3)] == [32] * 3 for epoch in epochs)


# --- fresh views, half precision ---------------------------------------------------------------


def fresh(seed=5):
    images, labels = coloured()
    unsaid = [torch.full((1, len(labels), d), torch.nan) for d in (1, 3)]
    return Views(FreshViews(images, seeded(seed)), labels, *unsaid)


def test_a_fresh_view_is_another_at_every_look_and_its_generator_decides_which():
    views, pick = fresh().images, torch.arange(40)
    one, two = (views[torch.zeros(40, dtype=torch.long), pick] for _ in range(2))
    assert len(views) == 1 and views.shape == (1, 120, 3, 16, 16)
    assert not torch.equal(one, two)
    assert torch.equal(one, augment(coloured()[0][:40], seeded(5)))


def test_a_training_on_fresh_views_goes_on_bit_equal_from_any_kept_epoch(tmp_path):
    class Stop(Exception):
        pass

    def stop(history):
        if len(history.terms) == 3:
            raise Stop

    def run(path=None, on_epoch=None):
        terms = torch.nn.ModuleList([CrossEntropy()])
        settings = replace(SETTINGS, epochs=5, keep_every=2)
        return train(settings=settings, views=fresh(), terms=terms, checkpoint=path,
                     on_epoch=on_epoch)  # fmt: skip

    student, history = run()
    path = tmp_path / "c.safetensors"
    with pytest.raises(Stop):
        run(path, stop)
    assert load_checkpoint(path)["progress"]["epochs"] == 2, "two epochs were asked to be kept"
    again, resumed = run(path)
    assert resumed.terms == history.terms
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), again.parameters(),
                                                 strict=True))  # fmt: skip
    assert load_checkpoint(path)["progress"]["epochs"] == 5, "the last epoch is always kept"


def test_after_training_in_half_precision_scores_are_taken_in_full():
    student, _ = train(mixed_precision="bf16", val=coloured(30, seed=7))
    images = coloured(20, seed=8)[0]
    logits, _ = predict(student, images)
    assert not torch.equal(logits, logits.bfloat16().float()), "logits of two or three digits"


def test_fusing_layers_is_for_gpus_and_changes_nothing_on_a_cpu():
    plain, fused = (train(fuse=f)[0] for f in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), fused.parameters(),
                                                 strict=True))  # fmt: skip


# --- what a GPU would be told ------------------------------------------------------------------


def test_a_gpu_with_a_number_becomes_torchs_own_choice(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in ("cuda:1", "cuda", "cpu"):
        train_module._choose(torch.device(name))
    assert chosen == [torch.device("cuda:1")]
    monkeypatch.setenv("WORLD_SIZE", "2")  # the launcher has given each process its own
    train_module._choose(torch.device("cuda:1"))
    assert len(chosen) == 1


def test_scores_are_taken_with_all_digits_and_training_keeps_its_setting():
    cudnn, seen = torch.backends.cudnn, []

    class Student(ResNet18):
        def forward(self, *args, **how):
            seen.append(cudnn.conv.fp32_precision)
            return super().forward(*args, **how)

    before = cudnn.conv.fp32_precision
    predict(Student(3, width=2), random_images(4))
    assert seen == ["ieee"] and cudnn.conv.fp32_precision == before


def test_a_batch_too_large_for_memory_is_scored_in_parts(monkeypatch):
    student, images = make_student(), random_images(10)
    whole, _ = predict(student, images)
    forward, sizes = student.forward, []

    def short_of_memory(x, *args, **how):
        sizes.append(len(x))
        if len(x) > 5:
            raise RuntimeError("CUDA out of memory.")
        return forward(x, *args, **how)

    monkeypatch.setattr(student, "forward", short_of_memory)
    assert_close(predict(student, images)[0], whole)
    assert sizes == [10, 5, 5]


def test_a_student_of_another_kind_is_named():
    with pytest.raises(ValueError, match="student is a Linear; expected students.ResNet18, or a"):
        train(student=torch.nn.Linear(2, 2), terms=torch.nn.ModuleList([CrossEntropy()]))


def test_every_image_of_a_batch_has_a_view_of_its_own():
    for _, places in steps_and_places(Spy(), make_views()):
        assert (places // 120).unique().numel() == 2, "one view for the whole batch"


def test_the_learning_rate_warms_up_and_is_at_its_floor_in_the_last_step(monkeypatch):
    rates = []

    class Spy(torch.optim.SGD):
        def step(self, *args, **how):
            rates.append(self.param_groups[0]["lr"])
            return super().step(*args, **how)

    monkeypatch.setattr(torch.optim, "SGD", Spy)
    train(settings=replace(SETTINGS, epochs=10))
    n, top = len(rates), max(rates)
    assert n >= 20 and top == pytest.approx(SETTINGS.lr, rel=0.05)
    assert rates.index(top) == round(0.1 * n) - 1  # torch counts the warm-up's steps from 0
    assert rates[-1] == pytest.approx(SETTINGS.lr / 25e4)  # OneCycleLR ends at lr / 25 / 10,000
