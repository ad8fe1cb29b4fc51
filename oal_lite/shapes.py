"""Coloured shapes drawn from signed distance functions: the images of the embedded benchmark.

A signed distance function says how far a point is from the outline of a shape: negative
inside, zero on the outline, positive outside. From it the coverage of a pixel follows at once,
so an image needs no drawing library: distance -> coverage -> a smooth random colour texture
for the shape, another for the background, and a little sensor noise.

Every random number comes from the generator that is passed in, so a seed fixes every pixel.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from oal_lite.arguments import need_generator, need_room, need_whole

Points = Float[Tensor, "n p 2"]
Distances = Float[Tensor, "n p"]

# --- distance functions, in a frame where a shape fills about the disc of radius one ----------


def disc(points: Points, radius: float = 1.0, centre: Sequence[float] = (0.0, 0.0)) -> Distances:
    """Distance to a filled disc: |p - centre| - radius."""
    return (points - points.new_tensor(centre)).norm(dim=-1) - radius


def polygon(points: Points, vertices: Sequence[Sequence[float]]) -> Distances:
    """Distance to a filled polygon: to its nearest edge, negative where the crossing number is odd.

    Args:
        points: where to measure.
        vertices: the corners in order, not necessarily convex.
    """
    px, py = points.unbind(-1)
    squared = torch.full_like(px, math.inf)
    inside = torch.zeros_like(px, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(vertices, [*vertices[1:], vertices[0]], strict=True):
        ex, ey = bx - ax, by - ay
        wx, wy = px - ax, py - ay
        along = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        squared = torch.minimum(squared, (wx - along * ex) ** 2 + (wy - along * ey) ** 2)
        if ay != by:  # a ray to the right meets this edge, if it meets its height at all
            inside ^= ((ay > py) != (by > py)) & (wx < ex * wy / ey)
    return torch.where(inside, -1.0, 1.0) * squared.sqrt()


def corners(n: int, radii: Sequence[float] = (1.0,), turn: float = 0.0) -> list[list[float]]:
    """Vertices of an n-cornered polygon, the radii repeating; the first corner points up."""
    angles = [2 * math.pi * i / n + turn for i in range(n)]
    r = [radii[i % len(radii)] for i in range(n)]
    return [[q * math.sin(a), -q * math.cos(a)] for q, a in zip(r, angles, strict=True)]


def _heart(p: Points) -> Distances:
    # A square on its corner with a disc on each of its two upper sides.
    lobes = torch.minimum(disc(p, 0.5, (-0.45, -0.25)), disc(p, 0.5, (0.45, -0.25)))
    return torch.minimum(lobes, polygon(p, [[0, -0.25], [0.86, 0.05], [0, 1.0], [-0.86, 0.05]]))


def _moon(p: Points) -> Distances:
    return torch.maximum(disc(p), -disc(p, 0.82, (0.5, -0.15)))


def _drop(p: Points) -> Distances:
    return torch.minimum(
        disc(p, 0.62, (0, 0.38)), polygon(p, [[0, -1], [0.56, 0.12], [-0.56, 0.12]])
    )


def _ellipse(p: Points) -> Distances:
    # Exact on the outline and near enough to a distance for one pixel of smoothing.
    return disc(p / p.new_tensor([1.0, 0.55])) * 0.55


def _capsule(p: Points) -> Distances:
    x, y = p.unbind(-1)
    return torch.hypot(x - x.clamp(-0.6, 0.6), y) - 0.4


def _semicircle(p: Points) -> Distances:
    return torch.maximum(disc(p, 1.0, (0, 0.4)), p[..., 1] - 0.4)


_CROSS = [[-.33, -1], [.33, -1], [.33, -.33], [1, -.33], [1, .33], [.33, .33],
          [.33, 1], [-.33, 1], [-.33, .33], [-1, .33], [-1, -.33], [-.33, -.33]]  # fmt: skip
_ARROW = [
    [0, -1],
    [0.85, -0.05],
    [0.32, -0.05],
    [0.32, 1],
    [-0.32, 1],
    [-0.32, -0.05],
    [-0.85, -0.05],
]
_TEE = [
    [-0.9, -0.9],
    [0.9, -0.9],
    [0.9, -0.3],
    [0.3, -0.3],
    [0.3, 0.95],
    [-0.3, 0.95],
    [-0.3, -0.3],
    [-0.9, -0.3],
]
_ELL = [[-0.7, -0.95], [-0.1, -0.95], [-0.1, 0.35], [0.8, 0.35], [0.8, 0.95], [-0.7, 0.95]]
_BOLT = [[0.25, -1], [-0.65, 0.15], [-0.05, 0.15], [-0.25, 1], [0.65, -0.2], [0.05, -0.2]]
_TRAPEZOID = [[-0.45, -0.7], [0.45, -0.7], [0.95, 0.7], [-0.95, 0.7]]

SHAPES: dict[str, Callable[[Points], Distances]] = {
    # in-distribution
    "circle": lambda p: disc(p, 0.9),
    "square": lambda p: polygon(p, corners(4, (1.1,), math.pi / 4)),
    "triangle": lambda p: polygon(p, corners(3, (1.1,))),
    "star": lambda p: polygon(p, corners(10, (1.1, 0.48))),
    "heart": _heart,
    "cross": lambda p: polygon(p, _CROSS),
    "ring": lambda p: (disc(p, 0.72)).abs() - 0.24,
    "moon": _moon,
    "hexagon": lambda p: polygon(p, corners(6)),
    "arrow": lambda p: polygon(p, _ARROW),
    # near-OOD, for the final table only
    "pentagon": lambda p: polygon(p, corners(5)),
    "ellipse": _ellipse,
    "diamond": lambda p: polygon(p, corners(4, (1.1, 0.66))),
    "tee": lambda p: polygon(p, _TEE),
    "drop": _drop,
    "burst": lambda p: polygon(p, corners(16, (1.05, 0.66))),
    # validation-OOD, the only ones that a choice may look at
    "trapezoid": lambda p: polygon(p, _TRAPEZOID),
    "capsule": _capsule,
    "semicircle": _semicircle,
    "ell": lambda p: polygon(p, _ELL),
    "bolt": lambda p: polygon(p, _BOLT),
    "shuriken": lambda p: polygon(p, corners(8, (1.1, 0.42))),
}

ID_SHAPES = tuple(SHAPES)[:10]
NEAR_SHAPES = tuple(SHAPES)[10:16]
VALIDATION_SHAPES = tuple(SHAPES)[16:]

# --- from distance to image -------------------------------------------------------------------


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator) * (high - low) + low


def coverage(
    shape: str, n: int, *, size: int, generator: torch.Generator
) -> Float[Tensor, "n h w"]:
    """Draw `n` copies of a shape in random poses, as the covered part (0..1) of every pixel.

    The pose is a centre within 15 % of the image, a radius of 50 to 85 % of half the image, a
    turn of at most 30 degrees to either side, and a stretch of at most 8 %.

    Raises:
        ValueError: if the shape has no distance function.
    """
    if not isinstance(shape, str) or shape not in SHAPES:
        raise ValueError(f"unknown shape {shape!r}; choose one of {', '.join(SHAPES)}")
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).view(1, -1, 2)
    centre = torch.stack([_uniform(n, -0.15, 0.15, generator) for _ in range(2)], -1)
    radius = _uniform(n, 0.50, 0.85, generator).view(n, 1)
    turn = _uniform(n, -math.pi / 6, math.pi / 6, generator)
    stretch = _uniform(n, -0.08, 0.08, generator).exp()

    x, y = (grid - centre[:, None]).unbind(-1)
    cos, sin = turn.cos()[:, None], turn.sin()[:, None]
    local = torch.stack(
        [(cos * x + sin * y) / (radius * stretch[:, None]),
         (cos * y - sin * x) / (radius / stretch[:, None])], -1)  # fmt: skip
    pixels = SHAPES[shape](local) * radius * size / 2
    return (0.5 - pixels).clamp(0, 1).view(n, size, size)


def _texture(base: Float[Tensor, "n 3"], size: int, generator: torch.Generator) -> Tensor:
    waves = torch.randn(len(base), 3, 4, 4, generator=generator) * 0.11
    smooth = F.interpolate(waves, size=(size, size), mode="bicubic", align_corners=False)
    return base[:, :, None, None] + smooth


def paint(mask: Float[Tensor, "n h w"], *, generator: torch.Generator) -> UInt8[Tensor, "n 3 h w"]:
    """Colour a coverage mask: one random smooth texture inside, another outside, plus noise.

    The two base colours are at least 0.40 apart in RGB (0..1), so that the outline can be seen.
    Noise has a standard deviation of 0.04.
    """
    n, size, _ = mask.shape
    inside, outside = (torch.rand(n, 3, generator=generator) for _ in range(2))
    gap = inside - outside
    distance = gap.norm(dim=1, keepdim=True).clamp_min(1e-3)
    # Too close: push the pair apart along its own direction; the clamp below keeps colours legal.
    push = (0.40 - distance).clamp_min(0) / 2 * gap / distance
    front = _texture(inside + push, size, generator)
    back = _texture(outside - push, size, generator)
    alpha = mask[:, None]
    image = alpha * front + (1 - alpha) * back
    image = image + 0.04 * torch.randn(image.shape, generator=generator)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def render(
    shape: str, n: int, *, size: int = 32, generator: torch.Generator
) -> UInt8[Tensor, "n 3 h w"]:
    """Render `n` images of one shape, every one in its own pose and colours.

    Args:
        shape: a key of `SHAPES`.
        n: how many.
        size: side of the image in pixels.
        generator: source of all randomness.

    Raises:
        ValueError: if the shape is unknown, n negative or the size below one.
    """
    need_whole(n=n, size=size)
    need_generator(generator, or_none=False)
    if n < 0 or size < 1:
        raise ValueError(f"n={n}, size={size}: expected n of at least 0 and size of at least 1")
    need_room(3 * n * size**2, n=n, size=size)
    chunks = []
    for start in range(0, n, 1000):  # 1,000 images of 32 px keep the polygon's temporaries in cache
        mask = coverage(shape, min(1000, n - start), size=size, generator=generator)
        chunks.append(paint(mask, generator=generator))
    return torch.cat(chunks) if chunks else torch.empty(0, 3, size, size, dtype=torch.uint8)
