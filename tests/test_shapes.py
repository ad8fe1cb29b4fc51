"""The renderer: distances against closed forms, images against what their docstrings promise."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oal_lite import shapes
from oal_lite.shapes import (
    ID_SHAPES,
    NEAR_SHAPES,
    SHAPES,
    VALIDATION_SHAPES,
    corners,
    coverage,
    disc,
    paint,
    polygon,
    render,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def scatter(n=400, seed=0, reach=1.8):
    """Random points (1, n, 2) in a square, in float64."""
    return (torch.rand(1, n, 2, generator=seeded(seed), dtype=torch.float64) * 2 - 1) * reach


coordinate = st.floats(-2, 2, allow_subnormal=False).map(lambda v: round(v, 3))
polygons = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=7, unique=True)

# --- distances ---------------------------------------------------------------------------------


@given(x=coordinate, y=coordinate, radius=st.floats(0.1, 2), cx=coordinate, cy=coordinate)
def test_disc_is_the_distance_to_the_centre_less_the_radius(x, y, radius, cx, cy):
    points = torch.tensor([[[x, y]]], dtype=torch.float64)
    expected = math.hypot(x - cx, y - cy) - radius
    assert disc(points, radius, (cx, cy)).item() == pytest.approx(expected, abs=1e-12)


def test_polygon_distance_of_a_square_has_its_closed_form():
    points, half = scatter(), 0.7
    gap = points.abs() - half
    expected = gap.clamp_min(0).norm(dim=-1) + gap.amax(-1).clamp_max(0)
    square = [[-half, -half], [half, -half], [half, half], [-half, half]]
    torch.testing.assert_close(polygon(points, square), expected)


def crosses_upward_ray(point, a, b):
    """Whether the edge a-b meets the vertical ray above the point (the package uses another)."""
    (x, y), (ax, ay), (bx, by) = point, a, b
    return (ax > x) != (bx > x) and y < ay + (by - ay) * (x - ax) / (bx - ax)


@settings(max_examples=60, deadline=None)
@given(vertices=polygons)
def test_polygon_sign_follows_the_even_odd_rule(vertices):
    points = scatter(40)
    edges = list(zip(vertices, [*vertices[1:], vertices[0]], strict=True))
    inside = [
        sum(crosses_upward_ray(p, a, b) for a, b in edges) % 2 == 1 for p in points[0].tolist()
    ]
    distance = polygon(points, vertices)[0]
    off_the_outline = distance.abs() > 1e-9
    assert ((distance < 0) == torch.tensor(inside))[off_the_outline].all()


@settings(max_examples=40, deadline=None)
@given(vertices=polygons)
def test_polygon_size_is_the_distance_to_the_nearest_point_of_the_outline(vertices):
    points = scatter(40)
    corner = torch.tensor(vertices, dtype=torch.float64)
    share = torch.linspace(0, 1, 501, dtype=torch.float64)[:, None, None]
    outline = (corner + share * (corner.roll(-1, 0) - corner)).view(1, -1, 2)
    brute = torch.cdist(points, outline).amin(-1)
    # Neighbouring samples of an edge of length 6 are 0.012 apart.
    assert ((brute - polygon(points, vertices).abs()).abs() < 0.0061).all()


@settings(max_examples=40, deadline=None)
@given(vertices=polygons, angle=st.floats(0, 2 * math.pi))
def test_polygon_distance_does_not_change_when_all_is_turned(vertices, angle):
    cos, sin = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)
    points = scatter(40)
    turned = (torch.tensor(vertices, dtype=torch.float64) @ turn).tolist()
    still, moved = polygon(points, vertices), polygon(points @ turn, turned)
    torch.testing.assert_close(moved.abs(), still.abs(), atol=1e-9, rtol=0)
    off_the_outline = still.abs() > 1e-6
    assert torch.equal(moved.sign()[off_the_outline], still.sign()[off_the_outline])


def test_corners_start_at_the_top_and_repeat_the_radii():
    expected = [[0, -1], [0.5, 0], [0, 1], [-0.5, 0]]  # y points down, as in an image
    torch.testing.assert_close(torch.tensor(corners(4, (1.0, 0.5))), torch.tensor(expected))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_a_solid_about_the_unit_disc_with_slopes_of_at_most_one(shape):
    points = scatter(3000)
    distance = SHAPES[shape](points)
    assert (distance < 0).any()
    assert (distance[points.norm(dim=-1) > 1.3] > 0).all()
    step = 1e-3 * torch.nn.functional.normalize(scatter(3000, seed=1), dim=-1)
    slope = (SHAPES[shape](points + step) - distance).abs() / 1e-3
    # A slope above one would blur the outline by less than a pixel; the fold of a sign, by more.
    assert slope.max() < 1 + 1e-6


def test_no_two_shapes_look_the_same_in_one_pose():
    points = scatter(3000)
    inside = torch.cat([SHAPES[shape](points) < 0 for shape in SHAPES])
    differs = (inside[:, None] != inside[None]).float().mean(-1) + torch.eye(len(inside))
    assert differs.min() > 0.01


# --- groups ------------------------------------------------------------------------------------


def test_the_three_groups_share_no_shape():
    groups = [ID_SHAPES, NEAR_SHAPES, VALIDATION_SHAPES]
    assert [len(g) for g in groups] == [10, 6, 6]
    assert sorted(sum(groups, ())) == sorted(SHAPES)


# --- images ------------------------------------------------------------------------------------


def test_the_generator_fixes_every_pixel():
    first, again, other = (render("star", 5, generator=seeded(s)) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert (first != other).float().mean() > 0.9


@pytest.mark.parametrize(("n", "size"), [(0, 32), (1, 16), (1003, 8)])
def test_images_are_bytes_of_the_asked_number_and_size(n, size):
    images = render("moon", n, size=size, generator=seeded())
    assert images.shape == (n, 3, size, size) and images.dtype == torch.uint8
    assert len(images.unique(dim=0)) == n, "two images are the same"


def test_images_use_the_whole_range_of_bytes():
    images = render("heart", 100, generator=seeded())
    assert images.min() == 0 and images.max() == 255


def test_an_unknown_shape_is_named_and_the_known_ones_are_listed():
    with pytest.raises(ValueError, match="unknown shape 'blob'; choose one of circle, square"):
        render("blob", 1, generator=seeded())


def test_coverage_is_a_share_and_its_sum_is_the_area():
    masks = coverage("circle", 4000, size=32, generator=seeded())
    assert masks.min() == 0 and masks.max() == 1
    # Area pi (0.9 r)^2 of a frame of area 4, r even on [0.50, 0.85]; the stretch keeps areas.
    mean_square = (0.85**3 - 0.50**3) / (3 * 0.35)
    assert masks.mean().item() == pytest.approx(math.pi * 0.81 * mean_square / 4, rel=0.02)
    assert ((masks > 0) & (masks < 1)).float().mean() < 0.15, "the outline is not sharp"


def half_masks(n, size=16):
    mask = torch.zeros(n, size, size)
    mask[:, :, : size // 2] = 1
    return mask


def test_base_colours_are_at_least_040_apart_and_already_distant_ones_stay(monkeypatch):
    bases = []

    def spy(base, size, generator):
        bases.append(base)
        return base[:, :, None, None].expand(-1, -1, size, size)

    monkeypatch.setattr(shapes, "_texture", spy)
    paint(half_masks(5000), generator=seeded())
    contrast = (bases[0] - bases[1]).norm(dim=1)
    assert contrast.min() >= 0.40 - 1e-6
    pushed = (contrast < 0.40 + 1e-5).float().mean()
    assert 0.05 < pushed < 0.30  # of random colour pairs, this share was too close
    drawn = [torch.rand(5000, 3, generator=g) for g in [seeded()] for _ in range(2)]
    assert torch.allclose((drawn[0] - drawn[1]).norm(dim=1)[contrast > 0.41],
                          contrast[contrast > 0.41])  # fmt: skip


def test_painted_halves_differ_in_colour_and_keep_a_clear_edge():
    images = paint(half_masks(2000), generator=seeded()).float() / 255
    left, right = images[..., :8].mean((2, 3)), images[..., 8:].mean((2, 3))
    contrast = (left - right).norm(dim=1)
    # Texture and clipping move a mean by about 0.06 a channel; a contrast near zero is no chance.
    assert (contrast > 0.30).float().mean() > 0.95
    assert contrast.min() > 0.1


def test_noise_has_a_standard_deviation_of_004():
    flat = paint(torch.ones(400, 16, 16), generator=seeded()).float() / 255
    inner = flat[(flat.amin((1, 2, 3)) > 0.01) & (flat.amax((1, 2, 3)) < 0.99)]
    assert len(inner) > 20
    # Second differences remove the smooth texture; white noise leaves them sqrt(6) times itself.
    rough = inner.diff(n=2, dim=-1).std() / math.sqrt(6)
    assert rough.item() == pytest.approx(0.04, rel=0.1)


def moments(name, n):
    """Variances down and across, and the covariance, of what each drawn shape covers."""
    masks = coverage(name, n, size=32, generator=torch.Generator().manual_seed(0))
    share = masks / masks.sum((1, 2), keepdim=True)
    place = torch.arange(32.0) - 15.5
    y, x = share.sum(2) @ place, share.sum(1) @ place
    yy, xx = share.sum(2) @ place**2 - y**2, share.sum(1) @ place**2 - x**2
    return yy, xx, torch.einsum("nyx,y,x->n", share, place, place) - x * y


def test_a_shape_is_stretched_one_way_and_turned_to_either_side():
    """Of a circle, height over width runs from 1 / 1.17 to 1.17; an arrow leans left and right."""
    down, across, _ = moments("circle", 4000)
    ratio = (down / across).log() / 2
    assert ratio.abs().max() < 0.17 and ratio.std() > 0.06 and ratio.mean().abs() < 0.01
    *_, covariance = moments("arrow", 2000)
    assert 0.4 < (covariance > 0).float().mean() < 0.6


def test_a_shape_is_turned_by_at_most_30_degrees():
    down, across, both = moments("capsule", 1000)  # it lies on its side
    angle = torch.rad2deg(torch.atan2(2 * both, across - down) / 2)
    assert 28 < angle.max() < 31 and -31 < angle.min() < -28 and angle.mean().abs() < 2
