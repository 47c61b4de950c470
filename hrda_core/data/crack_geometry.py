"""Where cracks run and how wide they are: fractal paths, their trees and webs, and the distance field of these."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from hrda_core.data.pixel_operations import Array, as_float

Points = npt.NDArray[np.float64]  # (N, 2), x then y, in pixels

KINDS = ("line", "tree", "web", "ribbon", "braid", "steps", "fragments")
KIND_ODDS = (0.27, 0.24, 0.13, 0.15, 0.10, 0.04, 0.07)


@dataclass(frozen=True)
class Strand:
    """One stretch of a crack: its centre line and its relative width along it."""

    points: Points  # (N, 2) pixels
    width: npt.NDArray[np.float64]  # (N,) 1 = the nominal width of the crack
    level: int  # 0 = main crack, 1 = branch, 2 = twig; levels are rasterised one by one


@dataclass(frozen=True)
class CrackField:
    """Rasterised crack, all (H, W) float32."""

    inside: Array  # signed distance to the border of the crack in pixels, positive inside
    half_width: Array  # half of the crack's width at the nearest point of its centre line, pixels
    distance: Array  # distance to that centre line, pixels


def fractal_path(rng: np.random.Generator, start: Points, end: Points, roughness: float, wander: float) -> Points:
    """Midpoint displacement from start to end: `wander` bends the whole path, `roughness` kinks it at every scale."""
    points = np.stack([start, end])
    for level in range(9):
        step = np.diff(points, axis=0)
        length = np.hypot(step[:, 0], step[:, 1])
        if length.mean() < 3.0:
            break
        amount = wander if level < 2 else roughness
        normal = np.stack([-step[:, 1], step[:, 0]], axis=1)
        # kinks come in bursts: a heavy-tailed amount makes straight runs between sharp corners
        offset = rng.normal(0.0, amount, (len(step), 1)) * rng.choice([0.3, 1.0, 1.6], (len(step), 1))
        along = rng.uniform(0.35, 0.65, (len(step), 1))
        middle = points[:-1] + step * along + normal * np.clip(offset, -0.6, 0.6)
        merged = np.empty((2 * len(points) - 1, 2))
        merged[0::2], merged[1::2] = points, middle
        points = merged
    return points


def _profile(rng: np.random.Generator, count: int, blobs: float, taper: tuple[float, float]) -> npt.NDArray[np.float64]:
    """Relative width along a strand: log-normal noise of three octaves, tapering to the given widths at the ends."""
    place = np.linspace(0.0, 1.0, count)
    logarithm = np.zeros(count)
    for octave in range(3):
        knots = max(2, count // (48 >> (2 * octave)))
        logarithm += np.interp(place, np.linspace(0, 1, knots), rng.normal(0.0, blobs * 0.7**octave, knots))
    ends = np.minimum(taper[0] + place * 5.0, taper[1] + (1.0 - place) * 5.0)
    return np.asarray(np.exp(logarithm) * np.clip(ends, 0.0, 1.0))


def _through(rng: np.random.Generator, size: int) -> tuple[Points, Points]:
    """Two points between which a crack crosses a good part of the picture, often from border to border."""
    angle = rng.choice([0.0, np.pi / 2]) + rng.normal(0.0, 0.35) if rng.random() < 0.7 else rng.uniform(0, np.pi)
    centre = size * rng.uniform(0.2, 0.8, 2)
    direction = np.array([np.cos(angle), np.sin(angle)])
    reach = size * rng.uniform(0.25, 1.1, 2) if rng.random() < 0.45 else np.array([1.2 * size, 1.2 * size])
    return centre - reach[0] * direction, centre + reach[1] * direction


def _branches(rng: np.random.Generator, parent: Strand, count: int, size: int, roughness: float, blobs: float) -> list[Strand]:
    """Side branches that leave the parent at an angle and taper out."""
    strands = []
    seen = np.flatnonzero(((parent.points > 0) & (parent.points < size)).all(axis=1))
    for _ in range(count if len(seen) > 4 else 0):
        at = int(rng.choice(seen[1:-1]))
        tangent = parent.points[min(at + 4, len(parent.points) - 1)] - parent.points[max(at - 4, 0)]
        angle = np.arctan2(tangent[1], tangent[0]) + rng.choice([-1, 1]) * rng.uniform(0.35, 1.4)
        length = size * rng.uniform(0.06, 0.6) / (parent.level + 1)
        end = parent.points[at] + length * np.array([np.cos(angle), np.sin(angle)])
        points = fractal_path(rng, parent.points[at], end, roughness, 0.12)
        width = _profile(rng, len(points), blobs, (1.0, 0.05)) * rng.uniform(0.3, 0.8) * min(parent.width[at], 1.3)
        strands.append(Strand(points, width, parent.level + 1))
    return strands


def _tree(rng: np.random.Generator, size: int, roughness: float, blobs: float) -> list[Strand]:
    start, end = _through(rng, size)
    points = fractal_path(rng, start, end, roughness, rng.uniform(0.04, 0.2))
    main = Strand(points, _profile(rng, len(points), blobs, (0.2, 0.1)), 0)
    branches = _branches(rng, main, int(rng.integers(1, 7)), size, roughness, blobs)
    twigs = [t for b in branches for t in _branches(rng, b, int(rng.integers(0, 3)), size, roughness, blobs)]
    return [main, *branches, *twigs]


def _web(rng: np.random.Generator, size: int, roughness: float, blobs: float) -> list[Strand]:
    """Alligator cracking: borders of Voronoi cells, some healed, within a patch, a band or the whole picture."""
    pitch = size / rng.uniform(2.0, 7.0)
    ticks = np.arange(-pitch, size + pitch, pitch), np.arange(-pitch, 2 * size + pitch, pitch)
    grid = np.stack(np.meshgrid(*ticks), axis=-1).reshape(-1, 2)
    stretch = rng.uniform(0.55, 1.0)
    seeds = (grid + rng.uniform(-0.48, 0.48, grid.shape) * pitch) * np.array([1.0, stretch])
    plane = cv2.Subdiv2D((int(-4 * size), int(-4 * size), 9 * size, 9 * size))
    plane.insert([(float(x), float(y)) for x, y in seeds])
    facets, _ = plane.getVoronoiFacetList([])
    edges: dict[tuple[int, ...], tuple[Points, Points]] = {}  # each border once, though two cells share it
    for facet in facets:
        corners = np.asarray(facet, np.float64)
        if np.abs(corners - size / 2).max() < 1.2 * size:
            for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
                ends = sorted(tuple(int(v) for v in np.round(end)) for end in (a, b))
                edges[ends[0] + ends[1]] = (a, b)
    centre, angle = size * rng.uniform(0.25, 0.75, 2), rng.uniform(0, np.pi)
    extent = size * np.array([rng.uniform(0.3, 1.0), rng.uniform(0.15, 0.6)])
    axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    healed = rng.uniform(0.0, 0.4)
    strands = []
    for a, b in edges.values():
        if np.linalg.norm(axes @ ((a + b) / 2 - centre) / extent) < 1.0 and rng.random() > healed:
            points = fractal_path(rng, a, b, roughness, 0.1)
            width = _profile(rng, len(points), blobs, (0.9, 0.9)) * rng.lognormal(-0.2, 0.4)
            strands.append(Strand(points, width, 0))
    return strands


def _braid(rng: np.random.Generator, size: int, roughness: float, blobs: float) -> list[Strand]:
    """A main crack beside which finer strands split off and rejoin."""
    start, end = _through(rng, size)
    points = fractal_path(rng, start, end, roughness, rng.uniform(0.04, 0.15))
    main = Strand(points, _profile(rng, len(points), blobs, (0.3, 0.3)), 0)
    strands = [main, *_branches(rng, main, int(rng.integers(0, 3)), size, roughness, blobs)]
    for _ in range(int(rng.integers(1, 5))):
        first = int(rng.integers(0, max(1, len(points) - 12)))
        last = min(len(points) - 1, first + int(rng.integers(10, max(12, len(points) // 3))))
        bypass = fractal_path(rng, points[first], points[last], roughness, rng.uniform(0.12, 0.3))
        strands.append(Strand(bypass, _profile(rng, len(bypass), blobs, (0.6, 0.6)) * rng.uniform(0.3, 0.9), 1))
    return strands


def _steps(rng: np.random.Generator, size: int, roughness: float, blobs: float) -> list[Strand]:
    """A staircase along the joints of masonry."""
    rise, run = size * rng.uniform(0.05, 0.2), size * rng.uniform(0.08, 0.3)
    corner = np.array([size * rng.uniform(-0.1, 0.6), size * rng.uniform(-0.1, 0.3)])
    tilt, side = rng.normal(0.0, 0.05), rng.choice([-1, 1])
    rotation = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    points = [corner]
    for leg in range(int(rng.integers(3, 14))):
        move = np.array([0.0, rise]) if leg % 2 else np.array([side * run * rng.choice([0.5, 0.5, 1.0]), 0.0])
        end = points[-1] + rotation @ move
        points.extend(fractal_path(rng, points[-1], end, 0.4 * roughness, 0.02)[1:])
    path = np.stack(points)
    if side < 0:
        path[:, 0] += size * rng.uniform(0.2, 0.6)
    return [Strand(path, _profile(rng, len(path), blobs, (0.2, 0.1)), 0)]


def grow_crack(rng: np.random.Generator, size: int, kind: str) -> list[Strand]:
    """The strands of one crack of the given kind (see KINDS) in a picture of size x size pixels."""
    roughness = float(rng.uniform(0.03, 0.17))
    blobs = float(rng.uniform(0.08, 0.35))
    if kind == "tree":
        return _tree(rng, size, roughness, blobs)
    if kind == "web":
        return _web(rng, size, roughness, blobs)
    if kind == "braid":
        return _braid(rng, size, roughness, blobs)
    if kind == "steps":
        return _steps(rng, size, roughness, blobs)
    if kind == "fragments":  # a crack that surfaces here and there: en-echelon pieces with gaps
        start, end = _through(rng, size)
        path = fractal_path(rng, start, end, roughness, 0.12)
        cuts = np.sort(rng.choice(np.arange(4, len(path) - 4), size=min(8, len(path) // 12) // 2 * 2, replace=False))
        pieces = [path[a:b] for a, b in zip([0, *cuts[1::2]], [*cuts[0::2], len(path)], strict=True) if b - a > 4]
        return [Strand(p + rng.normal(0, 3, 2), _profile(rng, len(p), blobs, (0.1, 0.1)), 0) for p in pieces]
    start, end = _through(rng, size)
    if kind == "ribbon":  # a short or long crevice: width varies a lot, borders are rough
        points = fractal_path(rng, start, end, 0.6 * roughness, rng.uniform(0.02, 0.12))
        return [Strand(points, _profile(rng, len(points), blobs + 0.15, (0.1, 0.05)), 0)]
    points = fractal_path(rng, start, end, roughness, rng.uniform(0.02, 0.2))
    return [Strand(points, _profile(rng, len(points), blobs, (0.3, 0.1)), 0)]


def strand_area(strands: list[Strand], size: int) -> float:
    """Pixels that strands of nominal width 1 px cover inside the picture (overlaps counted twice)."""
    area = 0.0
    for strand in strands:
        middle = (strand.points[1:] + strand.points[:-1]) / 2
        length = np.hypot(*np.diff(strand.points, axis=0).T)
        seen = ((middle >= 0) & (middle < size)).all(axis=1)
        area += float((length * (strand.width[1:] + strand.width[:-1]) / 2)[seen].sum())
    return area


def rasterise(strands: list[Strand], size: int, width: float, border: Array) -> CrackField:
    """Distance field of strands whose nominal width is `width` pixels.

    `border` (size, size), relative, roughens the two borders: half width = (path's half width) x (1 + border).
    Exact to a small part of a pixel: each pixel measures its distance to the nearest of the points that sample the
    centre line every half pixel, found through a labelled distance transform. Pixels farther than a sixteenth
    of the picture from every crack stay at a distance of 4 x size.
    """
    far = np.float32(4 * size)
    inside, half_width, distance = (np.full(size * size, v, np.float32) for v in (-far, 0.0, far))
    for level in sorted({strand.level for strand in strands}):
        samples = np.concatenate([_sample(s, width) for s in strands if s.level == level])
        column, row = np.floor(samples[:, 0] + 0.5).astype(int), np.floor(samples[:, 1] + 0.5).astype(int)
        seen = (column >= 0) & (column < size) & (row >= 0) & (row < size)
        if not seen.any():
            continue
        order = np.argsort(samples[seen, 2], kind="stable")  # the widest sample of a pixel is written last and stays
        samples, column, row = samples[seen][order], column[seen][order], row[seen][order]
        empty = np.full((size, size), 255, np.uint8)
        empty[row, column] = 0
        rough, label = cv2.distanceTransformWithLabels(empty, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
        table = np.zeros((int(label.max()) + 1, 3), np.float32)
        table[label[row, column]] = samples
        near = np.flatnonzero(rough < size / 16 + 2.5 * samples[-1, 2])
        y, x = np.divmod(near, size)
        sample = table[label.ravel()[near]]
        gap = np.hypot(as_float(x) - sample[:, 0], as_float(y) - sample[:, 1])
        half = sample[:, 2] * (1 + border.ravel()[near])
        better = half - gap > inside[near]
        near, half, gap = near[better], half[better], gap[better]
        inside[near], half_width[near], distance[near] = half - gap, half, gap
    return CrackField(*(values.reshape(size, size) for values in (inside, half_width, distance)))


def _sample(strand: Strand, width: float) -> npt.NDArray[np.float32]:
    """(N, 3): x, y and half width in pixels, every half pixel along the strand."""
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(strand.points, axis=0).T))])
    place = np.arange(0.0, max(length[-1], 0.5), 0.5)
    columns = (strand.points[:, 0], strand.points[:, 1], strand.width * width / 2)
    return np.stack([np.interp(place, length, c) for c in columns], axis=1).astype(np.float32)
