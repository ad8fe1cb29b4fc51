"""Loss terms one by one, and what each arm is made of."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from oal_lite.distillation import DISTANCES
from oal_lite.images import LazyImages
from oal_lite.mutual_information import ClubNet
from oal_lite.presets import PRESETS, LossWeights, TrainSettings
from oal_lite.recipes import (
    ARMS,
    LATENT_VECTORS,
    Arm,
    Autoencoded,
    Outliers,
    build_terms,
    column_means,
    gaussian_like,
    get_arm,
    halves,
)
from oal_lite.scores import knn, mahalanobis
from oal_lite.students import LatentStem, ResNet18
from oal_lite.teacher import TeacherOutputs
from oal_lite.terms import (
    Answers,
    CrossEntropy,
    DistanceKD,
    FeatureKD,
    LatentExposure,
    LogitKD,
    Micl,
    OutlierExposure,
    Reconstructions,
    Step,
)
from oal_lite.views import LazyViews, Views

T, D, K = 6, 5, 3  # widths of teacher and student features; classes


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_step(labels=(0, 1, 2, 0, 1, 2, 2, 1), seed=0):
    labels, g = torch.tensor(labels), seeded(seed)
    n = len(labels)
    return Step(
        labels=labels,
        logits=torch.randn(n, K, generator=g).requires_grad_(),
        features=torch.randn(n, D, generator=g).requires_grad_(),
        teacher_features=torch.randn(n, T, generator=g),
        teacher_logits=torch.randn(n, K, generator=g),
        generator=seeded(seed + 1),
    )


def make_outliers(classes=(2, 0, 1, 1, 2, 0, 0, 2, 2, 1)):
    """Outliers whose first number is their class and whose second is their place."""
    classes, g = torch.tensor(classes), seeded(9)
    n = len(classes)
    vectors = torch.randn(n, T, generator=g)
    vectors[:, 0], vectors[:, 1] = classes, torch.arange(n)
    images = torch.randint(256, (n, 3, 8, 8), generator=g, dtype=torch.uint8)
    return Outliers(vectors, classes, torch.randn(n, 4, 8, 8, generator=g), classes, images)


def make_autoencoded(n=6):
    """ID images whose every latent number, and every pixel, is the image's place."""
    places = torch.arange(n).view(-1, 1, 1, 1)
    latents = places.expand(-1, 4, 8, 8).float()
    return Autoencoded(latents, torch.arange(n) % K, places.expand(-1, 3, 8, 8).to(torch.uint8))


def make_known(n=30):
    """What a teacher says of ID images, and their labels."""
    features = torch.randn(n, T, generator=seeded(7))
    return TeacherOutputs(features, torch.randn(n, K, generator=seeded(8))), torch.arange(n) % K


def make_answers(n=24):
    """One view of images whose pixels tell their place, and a teacher's answers to them."""
    place, g = torch.arange(n, dtype=torch.uint8).view(1, n, 1, 1, 1), seeded(11)
    said = [torch.randn(1, n, width, generator=g) for width in (T, K)]
    return Views(place.expand(-1, -1, 3, 8, 8), torch.arange(n) % K, *said)


def terms_of(name, weights=None, outliers=None, answers=None):
    return build_terms(
        ARMS[name] if isinstance(name, str) else name, outliers=outliers or make_outliers(),
        teacher_dim=T, student_dim=D, weights=weights or LossWeights(), settings=TrainSettings(),
        known=make_known(), autoencoded=make_autoencoded(),
        real=torch.full((9, 3, 8, 8), 7, dtype=torch.uint8),
        answers=answers or make_answers(),
    )  # fmt: skip


def make_micl(pairing="class", fit="likelihood", classes=(2, 0, 1, 1, 2, 0, 0, 2, 2, 1), lr=0.01):
    outliers = make_outliers(classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        q = ClubNet(T, D, (16,), (16,))
    return Micl("MICL", 0.1, q, outliers.vectors, outliers.vector_classes,
                pairing=pairing, fit=fit, lr=lr)  # fmt: skip


# --- arms --------------------------------------------------------------------------------------

KD = {"distil logits": 4.0, "distil features": 8.0}
MICL = {"MICL k-NN": 0.1, "MICL diffusion": 0.2}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ce", {}),
        ("kd", KD),
        ("oal-as-released", KD | MICL),
        ("oal-paper", KD | MICL),
        ("oal-noise", KD | MICL),
        ("oe-pixels", KD | {"outlier exposure": 0.5}),
        ("oe-pixels-matched", KD | {"outlier exposure": 0.5, "reconstructions": 1.0}),
        ("oe-real", KD | {"outlier exposure": 0.5}),
        ("kd-distance", KD | {"distil distance": 4.0}),
        ("oal-latent", KD | {"distil distance": 4.0, "latent exposure": 1.0}),
        ("kd-distance-twice", KD | {"distil distance": 4.0, "teacher's answers": 4.0}),
        ("oal", KD | {"distil distance": 4.0, "teacher's answers": 4.0}),
    ],
)
def test_every_arm_is_cross_entropy_and_its_own_terms_at_the_papers_weights(name, expected):
    terms = terms_of(name)
    assert {t.name: t.weight for t in terms} == {"cross-entropy": 1.0} | expected
    assert len({t.name for t in terms}) == len(terms)


def test_weights_come_from_the_settings():
    weights = LossWeights(kd_logits=1, kd_features=2, micl_knn=3, micl_diffusion=5, exposure=7)
    assert [t.weight for t in terms_of("oal-paper", weights)] == [1, 1, 2, 3, 5]
    assert [t.weight for t in terms_of("oe-pixels", weights)] == [1, 1, 2, 7]


@pytest.mark.parametrize(
    ("name", "pairing", "fit", "selection"),
    [
        ("oal-as-released", "random", "bound", "as_released"),
        ("oal-paper", "class", "likelihood", "farthest"),
        ("oal-noise", "class", "likelihood", "noise"),
    ],
)
def test_the_oal_arms_differ_in_selection_pairs_and_q(name, pairing, fit, selection):
    micl = [t for t in terms_of(name) if isinstance(t, Micl)]
    assert [(t.pairing, t.fit) for t in micl] == [(pairing, fit)] * 2
    assert ARMS[name].outliers == selection
    settings = TrainSettings()
    assert {t.lr for t in micl} == {settings.q_fit_lr if fit == "likelihood" else settings.q_lr}


@pytest.mark.parametrize("name", ARMS)
def test_the_terms_of_every_arm_give_a_finite_loss_and_a_gradient(name):
    terms, step = terms_of(name), make_step()
    for term in terms:
        asked = [term.extra_images(8, seeded(3)), term.extra_maps(8, 16, seeded(3))]
        for extra in (x for x in asked if x is not None):
            step.extra[term.name] = torch.randn(len(extra), K), torch.zeros(len(extra), D)
        term.before(step)
    sum(t.weight * t(step) for t in terms).backward()
    assert step.logits.grad.abs().sum() > 0 and step.logits.grad.isfinite().all()


def test_the_two_bounds_read_the_vectors_and_the_column_means_of_the_latents():
    outliers = make_outliers()
    _, _, _, knn, diffusion = terms_of("oal-paper", outliers=outliers)
    assert_close(knn.vectors, outliers.vectors)
    assert_close(diffusion.vectors, outliers.latents.mean(dim=(1, 2)))


def test_an_unknown_arm_is_named_and_the_known_ones_are_listed():
    with pytest.raises(ValueError, match="unknown arm 'oal2'; choose from ce, kd, kd-distance"):
        get_arm("oal2")


def test_a_variation_of_an_arm_changes_what_its_name_says_and_nothing_else():
    varied = get_arm("oal+distance=mahalanobis+hedge=2+answers=outliers-id")
    assert varied == replace(
        ARMS["oal"], distance="mahalanobis", hedge=2, answers=("outliers", "id")
    )
    assert get_arm("oal-paper+micl=random-bound").micl == ("random", "bound")
    assert get_arm("oal-latent+distance=None") == replace(ARMS["oal-latent"], distance=None)
    assert get_arm("oal+hedge=0+answers=").answers == ()


def test_a_preset_names_the_distance_and_a_variation_has_the_last_word():
    preset = replace(PRESETS["shapes"], distance="energy")
    for name, arm in ARMS.items():
        assert get_arm(name, preset).distance == (None if arm.distance is None else "energy")
        assert get_arm(name).distance in (None, "knn")
    assert get_arm("oal+distance=knn", preset) == ARMS["oal"]
    assert get_arm("kd+distance=knn", preset) == replace(ARMS["kd"], distance="knn")


@pytest.mark.parametrize("name", [n for n, arm in ARMS.items() if arm.outliers])
def test_an_arm_that_needs_outliers_says_so(name):
    with pytest.raises(ValueError, match=f"an arm on '{ARMS[name].outliers}' outliers needs them"):
        build_terms(
            ARMS[name], outliers=None, teacher_dim=T, student_dim=D, weights=LossWeights(),
            settings=TrainSettings(),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("oe-pixels-matched", "autoencoded="),
        ("oal-latent", "autoencoded="),
        ("oal", "known="),
        ("oal", "answers="),
        ("oe-real", "real="),
    ],
)
def test_an_arm_that_needs_other_data_says_so(name, missing):
    data = {
        "autoencoded=": make_autoencoded(), "known=": make_known(),
        "answers=": make_answers(),
    }  # fmt: skip
    others = {key.rstrip("="): value for key, value in data.items() if key != missing}
    with pytest.raises(ValueError, match=f"pass {missing}"):
        build_terms(
            ARMS[name], outliers=make_outliers(), teacher_dim=T, student_dim=D,
            weights=LossWeights(), settings=TrainSettings(), **others,
        )  # fmt: skip


@pytest.mark.parametrize("how", LATENT_VECTORS)
def test_every_way_to_make_a_vector_of_a_latent_serves_micl(how):
    outliers = make_outliers()
    arm = Arm("?", "farthest", micl=("random", "bound"), latent_vector=how)
    diffusion = terms_of(arm, outliers=outliers)[-1]
    width = {"column_means": 8, "flattened": 256, "pooled": 64, "spatial": 64}[how]
    assert diffusion.vectors.shape == (10, width) and diffusion.q.x_dim == width


def test_pooling_a_latent_keeps_channels_and_places():
    latent = torch.zeros(1, 2, 8, 8)
    latent[0, 1, :2, 2:4] = torch.tensor([[1.0, 2], [3, 6]])
    pooled = LATENT_VECTORS["pooled"](latent)
    expected = torch.zeros(32)
    expected[17] = 3  # second channel, first row, second column of 4 x 4
    assert_close(pooled[0], expected)


# --- terms that look at the batch only ---------------------------------------------------------


def test_cross_entropy_of_the_published_logits():
    step = make_step(labels=(0, 1))
    step.logits = torch.tensor([[2.0, 0, -1], [5, 5, -5]])
    assert CrossEntropy()(step).item() == pytest.approx(0.43150795, abs=1e-7)


def test_distillation_terms_are_divergences_from_the_teacher():
    step = make_step()
    logits = LogitKD(4.0)(step)
    expected = F.kl_div(
        step.logits.log_softmax(1), step.teacher_logits.softmax(1), reduction="batchmean"
    )
    assert_close(logits, expected)
    term = FeatureKD(8.0, T, D, lr=0.3)
    target = term.adapter(step.teacher_features).softmax(1)
    expected = F.kl_div(step.features.log_softmax(1), target, reduction="batchmean")
    assert_close(term(step), expected)
    assert term.lr == 0.3
    assert set(term.main_parameters()) == set(term.adapter.parameters())


def distances_of(kind, features, logits):
    """By the functions of `scores`, of what the teacher says of other images."""
    known, labels = make_known()
    if kind == "mahalanobis":
        return mahalanobis(features, known.features, labels).sqrt()
    if kind == "knn":  # the 50th neighbour, or the last one that there is
        return knn(features, known.features, min(50, len(labels)))
    return -logits.logsumexp(1)


@pytest.mark.parametrize("kind", ["mahalanobis", "knn", "energy"])
def test_the_distance_term_is_one_minus_the_correlation_of_energy_and_distance(kind):
    (known, labels), step = make_known(), make_step()
    term = DistanceKD(4.0, known, labels, kind)
    distances = distances_of(kind, step.teacher_features, step.teacher_logits)
    energies = -step.logits.logsumexp(1)
    expected = 1 - torch.corrcoef(torch.stack([energies, distances]))[0, 1]
    assert_close(term(step), expected, rtol=1e-4, atol=1e-5)
    assert term.main_parameters() == []


def test_the_distance_term_reaches_head_and_trunk():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = ResNet18(K, width=2)
    step = make_step()
    step.logits, _ = student(torch.randn(8, 3, 16, 16, generator=seeded(2)))
    DistanceKD(4.0, *make_known())(step).backward()
    assert all(p.grad.abs().sum() > 0 for p in student.parameters())


# --- the teacher's answers ---------------------------------------------------------------------


def make_answers_term(distance="knn"):
    """The term as an arm has it, with the answers that it was made from."""
    arm = Arm("?", distance=distance, answers=("halves",))
    (term,) = [t for t in terms_of(arm) if isinstance(t, Answers)]
    return term, make_answers()


def test_answers_ask_for_as_many_images_as_the_batch_has_and_for_all_in_the_end():
    term, made = make_answers_term()
    drawn = term.extra_images(500, seeded())
    assert drawn.shape == (500, 3, 8, 8) and drawn.dtype == torch.uint8
    assert drawn[:, 0, 0, 0].unique().numel() == made.images.shape[1]
    assert torch.equal(drawn, term.extra_images(500, seeded()))


@pytest.mark.parametrize("distance", [None, "knn", "mahalanobis", "energy"])
def test_answers_hold_logits_and_energy_to_what_the_teacher_says_of_the_very_image(distance):
    """Against both losses computed from the images that were drawn, which tell their place."""
    term, made = make_answers_term(distance)
    place = term.extra_images(8, seeded(3))[:, 0, 0, 0].long()
    logits, step = torch.randn(8, K, generator=seeded(4)), make_step()
    step.extra[term.name] = (logits, torch.zeros(8, D))
    expected = F.kl_div(
        logits.log_softmax(1), made.teacher_logits[0, place].softmax(1),
        reduction="batchmean",
    )  # fmt: skip
    if distance is not None:
        seen = made.teacher_features[0, place], made.teacher_logits[0, place]
        distances = distances_of(distance, *seen)
        energies = -logits.logsumexp(1)
        expected += 1 - torch.corrcoef(torch.stack([energies, distances]))[0, 1]
    assert_close(term(step), expected, rtol=1e-4, atol=1e-5)
    assert term.main_parameters() == [] and (term.distances is None) == (distance is None)


@pytest.mark.parametrize("distance", ["knn", "mahalanobis", "energy"])
def test_hedged_answers_are_those_of_the_same_images_by_the_arms_own_distance(distance):
    plain, made = make_answers_term(distance)
    term = terms_of(Arm("?", distance=distance, answers=("halves",), hedge=2))[-1]
    measure = DISTANCES[distance](*make_known())
    said = TeacherOutputs(made.teacher_features[0], made.teacher_logits[0])
    far = measure(said)[:, None] > measure(make_known()[0])
    h = far.float().mean(1, keepdim=True) ** 2
    expected = (1 - h) * plain.logits.softmax(1) + h / K
    assert_close(term.logits.exp(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(term.distances, plain.distances) and h.unique().numel() > 2


def test_an_answer_is_hedged_by_its_place_among_all_id_images():
    """1,001 of them: the last, which alone lies far out, counts like any other."""
    features, labels = torch.randn(1001, T, generator=seeded(7)), torch.arange(1001) % K
    features[:1000] += 20  # a cloud, and one image on the other side of the origin
    features[1000] = -features[0]
    made = make_answers()
    made = replace(made, teacher_features=-features[:24][None].clone())
    arm = Arm("?", distance="knn", answers=("halves",), hedge=1)
    terms = build_terms(
        arm, outliers=None, teacher_dim=T, student_dim=D, weights=LossWeights(),
        settings=TrainSettings(), answers=made,
        known=(TeacherOutputs(features, torch.zeros(1001, K)), labels),
    )  # fmt: skip
    p, c = made.teacher_logits[0].softmax(1), K
    h = (terms[-1].logits.exp() - p) / (1 / c - p)  # of p + h (1 / c - p)
    gaps = h.median(1).values[:, None] - torch.tensor([1000 / 1001, 1.0])
    assert gaps.abs().amin(1).max() < 2e-4  # nearer than the far one, or farther than all
    assert gaps.abs().amin(0).max() < 2e-4, "of both kinds there are some"


def test_images_for_answers_may_be_read_late():
    made, arm = make_answers(), Arm("?", answers=("halves",))
    late = LazyViews(LazyImages(24, 8, lambda i: made.images[0, i]), 1, seeded(5))
    term = terms_of(arm, answers=replace(made, images=late))[-1]
    assert term.extra_images(8, seeded()).shape == (8, 3, 8, 8)
    assert "images" not in dict(term.named_buffers())


# --- outlier exposure --------------------------------------------------------------------------


def test_outlier_exposure_has_the_published_value():
    """Averaged over the OOD rows, as Hendrycks et al. and OpenOOD do."""
    step = make_step(labels=(0, 1))
    step.logits = torch.tensor([[2.0, 0, -1], [5, 5, -5]])
    term = OutlierExposure(0.5, make_outliers().images)
    step.extra[term.name] = (torch.tensor([[0.0, 0, 0], [-3, -2, -1]]), torch.zeros(2, D))
    total = CrossEntropy()(step) + term.weight * term(step)
    assert total.item() == pytest.approx(1.05806255, abs=1e-7)


def test_outlier_exposure_is_smallest_at_the_uniform_distribution():
    step, term = make_step(), OutlierExposure(0.5, make_outliers().images)
    step.extra[term.name] = (torch.full((2, K), 7.0), torch.zeros(2, D))
    assert term(step).item() == pytest.approx(torch.tensor(float(K)).log().item())


def test_outlier_exposure_asks_for_as_many_of_its_images_as_the_batch_has():
    images = make_outliers().images
    term = OutlierExposure(0.5, images)
    drawn = term.extra_images(400, seeded())
    assert drawn.shape == (400, 3, 8, 8) and drawn.dtype == torch.uint8
    same = (drawn[:, None] == images[None]).flatten(2).all(-1)
    assert same.any(1).all(), "an image that is none of the outliers"
    assert same.sum(0).min() > 15  # 40 of each on average
    assert torch.equal(drawn, term.extra_images(400, seeded()))


def test_the_pixel_arms_look_at_decoded_outliers_and_the_oracle_at_real_images():
    outliers = make_outliers()
    for name in ("oe-pixels", "oe-pixels-matched"):
        (term,) = [t for t in terms_of(name, outliers=outliers) if isinstance(t, OutlierExposure)]
        assert torch.equal(term.images, outliers.images)
    (oracle,) = [t for t in terms_of("oe-real") if isinstance(t, OutlierExposure)]
    assert (oracle.images == 7).all() and ARMS["oe-real"].outliers is None


def test_reconstructions_are_half_a_batch_of_id_images_with_their_own_labels():
    made, step = make_autoencoded(), make_step()
    term = Reconstructions(1.0, made.images, made.labels)
    drawn = term.extra_images(8, seeded())
    assert drawn.shape == (4, 3, 8, 8)
    labels = drawn[:, 0, 0, 0].long() % K  # a pixel is the image's place
    logits = torch.randn(4, K, generator=seeded(1))
    step.extra[term.name] = (logits, torch.zeros(4, D))
    assert_close(term(step), F.cross_entropy(logits, labels))


# --- latent exposure ---------------------------------------------------------------------------


class SeesLatents(torch.nn.Module):
    """An entrance that is open."""

    def forward(self, latents, side):
        return latents


def make_latent_exposure(outlier_weight=0.5, stem=None):
    made = make_autoencoded()
    outliers = torch.full((3, 4, 8, 8), -1.0)
    outliers[..., 0] = -2  # the left edge, so that a mirrored one can be told
    return LatentExposure(
        1.0, outlier_weight, stem or SeesLatents(), id_latents=made.latents,
        labels=made.labels, outliers=outliers, lr=0.03,
    )  # fmt: skip


def test_latent_exposure_has_the_value_worked_out_by_hand():
    """CE of (2, 0, -1) at class 0 is 0.169846; to uniform, (-3, -2, -1) costs 1.407606."""
    term, step = make_latent_exposure(outlier_weight=0.5), make_step()
    term._drawn = torch.tensor([0])
    step.extra[term.name] = (torch.tensor([[2.0, 0, -1], [-3, -2, -1]]), torch.zeros(2, D))
    assert term(step).item() == pytest.approx(0.169846 + 0.5 * 1.407606, abs=1e-6)


def test_known_latents_come_first_with_their_labels_and_half_of_all_are_mirrored():
    term = make_latent_exposure()
    maps = term.extra_maps(400, 8, seeded())
    known, unknown = maps.chunk(2)
    assert (known >= 0).all() and (unknown < 0).all() and len(known) == 400
    assert torch.equal(known[:, 0, 0, 0].long() % K, term.labels[term._drawn])
    mirrored = (unknown[..., -1] == -2).all((1, 2))
    assert ((unknown[..., 0] == -2).all((1, 2)) ^ mirrored).all()
    assert 140 < mirrored.sum() < 260
    assert (term.outliers[..., 0] == -2).all(), "the kept outliers have been overwritten"


def test_every_known_latent_is_held_to_its_own_label():
    term, step = make_latent_exposure(outlier_weight=0.0), make_step()
    of_value = {x.mean().item(): y for x, y in zip(term.id_latents, term.labels, strict=True)}
    assert len(of_value) == len(term.labels)
    maps = term.extra_maps(8, 8, seeded(3))
    labels = torch.stack([of_value[x.mean().item()] for x in maps[:8]])
    assert labels.tolist() != labels.flip(0).tolist()  # or a wrong order could not be told
    sure = torch.cat([50 * F.one_hot(labels, K).float(), torch.zeros(8, K)])
    step.extra = {term.name: (sure, torch.zeros(16, D))}
    assert term(step) < 1e-6


def test_outlier_latents_reach_stem_trunk_and_head_and_no_image_only_stage():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student, stem = ResNet18(K, width=2), LatentStem(4, 2)
    term, step = make_latent_exposure(stem=stem), make_step()
    images = torch.randn(8, 3, 32, 32, generator=seeded(2))
    logits, features = student(images, maps=term.extra_maps(8, 16, seeded()))
    assert logits.shape == (24, K)
    step.extra[term.name] = (logits[8:], features[8:])
    unknown = -logits[16:].log_softmax(1).mean()
    own = torch.autograd.grad(unknown, [*stem.parameters(), *student.stages[2:].parameters(),
                                        *student.head.parameters()], retain_graph=True)  # fmt: skip
    assert all(g.abs().sum() > 0 for g in own)
    term(step).backward()
    assert all(p.grad.abs().sum() > 0 for p in student.stages[2:].parameters())
    assert student.stem[0].weight.grad is None or student.stem[0].weight.grad.abs().sum() == 0
    assert set(term.main_parameters()) == set(stem.parameters()) and term.lr == 0.03


# --- MICL: pairs -------------------------------------------------------------------------------


def drawn_by(term, step, monkeypatch):
    """The outliers that a term pairs with a step's features."""
    seen = []
    monkeypatch.setattr(term.q, "bound", lambda x, y: seen.append(x) or y.sum())
    term.before(step)
    term(step)
    return seen[0]


@pytest.mark.parametrize("fit", ["bound", "likelihood"])
def test_pairing_by_class_draws_outliers_of_the_features_own_class_and_all_of_them(
    monkeypatch, fit
):
    labels = torch.arange(K).repeat_interleave(100)
    pairs = drawn_by(make_micl("class", fit), make_step(labels.tolist()), monkeypatch)
    assert pairs[:, 0].tolist() == labels.tolist()
    counts = pairs[:, 1].long().bincount(minlength=10)
    assert counts.min() > 10  # 25 to 33 of each on average
    assert_close(pairs, make_outliers().vectors[pairs[:, 1].long()])


def test_pairing_at_random_draws_any_outlier_for_any_feature(monkeypatch):
    labels = torch.zeros(300, dtype=torch.long)
    pairs = drawn_by(make_micl("random", "bound"), make_step(labels.tolist()), monkeypatch)
    assert pairs[:, 1].long().bincount(minlength=10).min() > 12  # 30 of each on average


def test_pairs_are_drawn_anew_at_every_step_and_fixed_by_the_generator(monkeypatch):
    term, step = make_micl("random", "bound"), make_step()
    first, second = drawn_by(term, step, monkeypatch), drawn_by(term, step, monkeypatch)
    assert not torch.equal(first, second)
    step.generator = seeded(1)
    assert torch.equal(first, drawn_by(term, step, monkeypatch))


def test_pairing_by_class_says_where_a_class_has_no_outlier():
    with pytest.raises(ValueError, match=r"MICL: no outlier of classes \[1\]"):
        make_micl("class", classes=(0, 2, 2))
    term = make_micl("class", classes=(0, 1, 1))
    with pytest.raises(ValueError, match="the first 2 classes only, of 3"):
        term.before(make_step())
    make_micl("random", classes=(0, 2, 2)).before(make_step())  # any outlier will do


# --- MICL: q -----------------------------------------------------------------------------------


def test_a_fitted_q_is_no_business_of_the_main_optimiser_and_its_likelihood_rises():
    term, step = make_micl(fit="likelihood", classes=(0, 1, 2)), make_step()
    pairs = make_outliers((0, 1, 2)).vectors[step.labels]
    before = term.q.log_likelihood(pairs, step.features).item()
    for _ in range(60):
        term.before(step)
    after = term.q.log_likelihood(pairs, step.features).item()
    assert term.main_parameters() == []
    assert after > before + 1


def test_the_bound_of_a_fitted_q_pushes_the_features_and_not_q():
    term, step = make_micl(fit="likelihood"), make_step()
    term.before(step)
    assert step.features.grad is None, "fitting q has moved the student"
    weights = [p.detach().clone() for p in term.q.parameters()]
    gradients = [p.grad.clone() for p in term.q.parameters()]  # of the likelihood step
    term(step).backward()
    assert step.features.grad.abs().sum() > 0
    for p, weight, gradient in zip(term.q.parameters(), weights, gradients, strict=True):
        assert torch.equal(p, weight) and torch.equal(p.grad, gradient)


def test_a_q_that_minimises_the_bound_is_trained_with_the_student():
    term, step = make_micl("random", "bound"), make_step()
    weights = [p.detach().clone() for p in term.q.parameters()]
    term.before(step)
    assert all(torch.equal(p, w) for p, w in zip(term.q.parameters(), weights, strict=True))
    assert set(term.main_parameters()) == set(term.q.parameters()) and term.lr == 0.01
    term(step).backward()
    assert step.features.grad.abs().sum() > 0
    assert any(p.grad.abs().sum() > 0 for p in term.q.parameters())


def test_the_term_is_the_bound_of_its_pairs():
    term, step = make_micl("class", "bound", classes=(0, 1, 2)), make_step()
    term.before(step)
    pairs = make_outliers((0, 1, 2)).vectors[step.labels]
    assert_close(term(step), term.q.bound(pairs, step.features))


# --- outliers ----------------------------------------------------------------------------------


def test_column_means_by_hand():
    latent = torch.tensor([[[[1.0, 2, 3], [3, 4, 5]], [[0, 0, 0], [0, 2, 4]]]])  # (1, 2, 2, 3)
    assert_close(column_means(latent), torch.tensor([[1.0, 2, 3]]))


def test_gaussian_noise_keeps_mean_spread_and_classes_and_nothing_else():
    real = make_outliers(tuple(range(K)) * 200)
    noise, again = (gaussian_like(real, seeded(4)) for _ in range(2))
    for name in ("vectors", "latents", "images"):
        a, b = getattr(real, name).float(), getattr(noise, name).float()
        tolerance = 0.1 * a.std().item()
        assert a.shape == b.shape
        assert b.mean().item() == pytest.approx(a.mean().item(), abs=tolerance)
        if name != "images":  # bytes are cut off at 0 and 255
            assert b.std().item() == pytest.approx(a.std().item(), abs=tolerance)
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.1
        assert torch.equal(getattr(noise, name), getattr(again, name))
    assert noise.images.dtype == torch.uint8
    assert torch.equal(noise.vector_classes, real.vector_classes)
    assert torch.equal(noise.latent_classes, real.latent_classes)


def test_halves_are_of_two_classes_and_meet_in_the_middle():
    labels = torch.arange(6) % 3
    latents = labels.float().view(6, 1, 1, 1).expand(6, 2, 4, 4) + torch.arange(6).view(6, 1, 1, 1)
    made, classes = halves(latents, labels, 40, seeded(3))
    values = latents[:, 0, 0, 0]
    cuts = set()
    for z, c in zip(made, classes, strict=True):
        upright = bool((z[:, :, 0] == z[:, :, 1]).all() and (z[:, 0] == z[:, 3]).all())
        a, b = (z[:, :, :2], z[:, :, 2:]) if upright else (z[:, :2], z[:, 2:])
        assert a.unique().numel() == b.unique().numel() == 1
        of = [labels[values == half.flatten()[0]].unique() for half in (a, b)]
        assert c in of[0] and c not in of[1]
        cuts.add(upright)
    assert cuts == {True, False}
    with pytest.raises(ValueError, match="no other half to offer"):
        halves(latents, labels * 0, 2, seeded(3))


def test_halves_draw_every_image_of_another_class_alike():
    """Classes of 1, 2 and 5 images: beside the one of class 0 each of the other seven."""
    labels = torch.tensor([2, 1, 2, 0, 2, 1, 2, 2])
    x = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 2, 2)
    made, classes = halves(x, labels, 8000, seeded(1))
    first, second = made[:, 0, 0, 0].long(), made[:, 0, 1, 1].long()
    assert torch.equal(labels[first], classes) and (labels[second] != classes).all()
    counts = second[first == 3].bincount(minlength=8)
    assert counts[3] == 0 and counts.sum() > 900  # of 1,000 on average
    share = counts[counts > 0] / counts.sum()
    assert len(share) == 7 and (share - 1 / 7).abs().max() < 0.05  # 4.5 standard deviations


def test_halves_of_images_that_are_read_late_are_the_same_and_read_late():
    images = torch.randint(256, (9, 3, 4, 4), generator=seeded(2), dtype=torch.uint8)
    asked = []

    def read(index):
        asked.append(index)
        return images[index]

    labels = torch.arange(9) % 3
    now, classes = halves(images, labels, 20, seeded(6))
    late, same = halves(LazyImages(9, 4, read), labels, 20, seeded(6))
    assert isinstance(late, LazyImages) and not asked
    assert torch.equal(late[torch.arange(3, 7)], now[3:7]) and torch.equal(classes, same)


@pytest.mark.parametrize(
    ("pairing", "fit", "said"),
    [
        ("classes", "bound", "pairing='classes'; choose one of random, class"),
        ("class", "likelyhood", "fit='likelyhood'; choose one of bound, likelihood"),
    ],
)
def test_a_mistyped_pairing_or_fit_is_refused(pairing, fit, said):
    with pytest.raises(ValueError, match=said):
        Micl(
            "m", 1.0, ClubNet(2, 2), torch.zeros(4, 2), torch.arange(4), pairing=pairing, fit=fit,
            lr=0.1,
        )  # fmt: skip


def test_of_many_outlier_images_a_small_batch_sees_all_in_the_end():
    images = torch.arange(200, dtype=torch.uint8).view(200, 1, 1, 1).expand(200, 3, 2, 2)
    term, generator = OutlierExposure(0.5, images), seeded()
    seen = torch.cat([term.extra_images(8, generator)[:, 0, 0, 0] for _ in range(300)])
    assert seen.unique().numel() > 190  # all but e^-12 of them, on average


def test_outlier_latents_are_drawn_apart_from_the_known_ones():
    made = make_autoencoded()
    n = 2 * len(made.labels)  # more outliers than ID latents: all are drawn in the end
    outliers = -1 - torch.arange(n).float().view(n, 1, 1, 1).expand(n, *made.latents.shape[1:])
    term = LatentExposure(
        1.0, 0.5, SeesLatents(), id_latents=made.latents, labels=made.labels,
        outliers=outliers.clone(), lr=0.03,
    )  # fmt: skip
    drawn = term.extra_maps(1000, 8, seeded())[1000:, 0, 0, 0]
    assert drawn.unique().numel() == n
    assert len(torch.stack([term._drawn, drawn]).unique(dim=1).T) > 2 * n, "always the same pairs"


def test_a_half_keeps_its_place():
    places = 10 * torch.arange(4.0).view(1, 1, 4, 1) + torch.arange(4.0)  # row and column
    numbers = 100.0 * torch.arange(6).view(6, 1, 1, 1)
    made, _ = halves(numbers + places, torch.arange(6) % 3, 40, seeded(3))
    assert torch.equal(made % 100, places.expand_as(made))
