"""Curves of a clip: how much of each ARKit unit every frame holds, fitted to its vertices.

The unknown curves c solve a bounded least squares in every frame: the offsets from the neutral face
are the sum of c_k times the displacement of unit k, with 0 <= c_k <= 1. Many units nearly depend on
each other, so a fit over all of them divides a small residue among units that do not take part, and
flickers. The fit therefore begins with the channels that move in speech, left and right tied, and
adds or unties units only where the motion needs them: until the residue of every frame is near that
of all units together. The choice holds for the whole clip, so no unit comes and goes with noise.

T frames, V vertices, C units. Lengths in mm.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from export.bounded import bounded_solution
from export.clip import SYNTHETIC, Clip
from export.frames import release_pages, template_of
from export.registration import largest_part
from export.unit_cache import units_on
from synthetic.coarticulation import CHANNELS
from synthetic.head import SIDES, load_head

EXTRA = "tongueUp"  # a unit of our head, not of ARKit, which has no raised tongue
EXTRA_LIMIT = 1.5  # the raised tongue of l and t exceeds its unit; ARKit's curves end at 1
NEAR = 1.0  # accepted residue of a frame beyond that of all units, in mean residues of all units
FLOOR_MM = 1e-4  # rms residue that counts as none; float32 in metres resolves 1e-5 mm
RIDGE = 1e-9  # of each unit's own square, for a unique solution
MAX_RMS_MM, MAX_WORST_MM = 0.5, 5.0  # a fit with a larger error is refused
MAX_SHARE = 0.5  # of the motion's rms, the same on other topologies, whose units are approximate
BLOCK = 128  # frames read at once
CONNECTED = 0.25  # share of the vertices that the skin has at least; FLAME: 0.78


@dataclass(frozen=True, eq=False)
class Curves:
    """names: of the units (C); values: (T, C) float32, 0 to 1.

    The synthetic head has ARKit's 52 units and "tongueUp", which may reach 1.5. Other topologies
    lack those of eyes and tongue. rms_mm, worst_mm: distance between the clip's vertices and those
    of the curves, over all vertices and frames. motion_mm: rms distance of the clip's vertices from
    the neutral face.
    """

    names: tuple[str, ...]
    values: NDArray[np.float32]
    rms_mm: float
    worst_mm: float
    motion_mm: float


@dataclass(frozen=True, eq=False)
class Normal:
    """The normal equations of a clip in all units.

    gram: (C, C) mm^2; product: (T, C) mm^2; energy: (T,) mm^2, the squared offsets; upper: (C,).
    """

    gram: NDArray[np.float64]
    product: NDArray[np.float64]
    energy: NDArray[np.float64]
    upper: NDArray[np.float64]

    def solve(self, groups: list[tuple[int, ...]]) -> NDArray[np.float64]:
        """Curves (T, C) where the units of a group move together and all others rest."""
        tied = np.zeros((len(groups), len(self.gram)))
        for row, group in zip(tied, groups, strict=True):
            row[list(group)] = 1.0
        gram = tied @ self.gram @ tied.T
        gram += RIDGE * np.diag(np.diag(gram))
        upper = np.array([self.upper[list(group)].min() for group in groups])
        return bounded_solution(gram, self.product @ tied.T, upper) @ tied

    def residue(self, curves: NDArray) -> NDArray[np.float64]:
        """Squared distance (T,) mm^2 between the clip and `curves` (T, C)."""
        return self.energy + np.einsum("tc,tc->t", curves, curves @ self.gram - 2 * self.product)


def unit_basis() -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """(names (C), displacement (C, V, 3) mm at 1.0) of the synthetic head's units."""
    units = load_head().units
    return tuple(units), 1000.0 * np.stack(list(units.values())).astype(np.float64)


@lru_cache(maxsize=1)  # several formats of one clip need the same units
def units_of(clip: Clip) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """(names (C), displacement (C, V, 3) mm at 1.0) of the units on a clip's topology.

    Those of the synthetic head, or transferred from it. Raises `UserError` for a mesh that is not
    a face.
    """
    if clip.topology == SYNTHETIC:
        names, basis = unit_basis()
        if basis.shape[1] != len(clip.template):
            raise UserError(
                f"clip {clip.name}: {len(clip.template)} vertices, expected {basis.shape[1]} as in "
                "the synthetic head"
            )
        return names, basis
    faces = np.asarray(clip.faces, np.int32).reshape(-1, 3)
    share = len(np.unique(largest_part(faces, len(clip.template)))) / len(clip.template)
    if share < CONNECTED:
        raise UserError(
            f"curves of {clip.topology}: {100 * share:.0f} % of its vertices are connected by "
            f"triangles, expected a skin of at least {100 * CONNECTED:.0f} %; merge vertices at "
            "the same place, or give the triangles with --faces"
        )
    try:
        names, units = units_on(template_of(clip), clip.faces)
    except ValueError as error:
        raise UserError(
            f"curves of {clip.topology}: no nose, lips and chin on its neutral face; expected a "
            "face in metres with closed lips, y up, looking towards +z"
        ) from error
    return names, 1000.0 * units.astype(np.float64)


def curves_of(clip: Clip) -> Curves:
    """The curves of a clip, fitted and added, times its gains; errors are those of the fit.

    An added curve closes what the fitted one leaves open: c + a (1 - c). Units that the topology
    lacks come last. Raises `UserError` as `fitted_curves`.
    """
    curves = fitted_curves(clip)
    more = tuple(name for name in clip.added if name not in curves.names)
    values = np.pad(curves.values, ((0, 0), (0, len(more))))
    names = curves.names + more
    for name, added in clip.added.items():
        column = names.index(name)
        values[:, column] += added * (1.0 - values[:, column])
    return replace(curves, names=names, values=with_gains(clip, names, values))


def with_gains(
    clip: Clip, names: tuple[str, ...], values: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Curves (T, C) times the gains of a clip, at most their `limits`."""
    factors = dict(clip.curve_gains)
    scale = np.array([factors.get(name, 1.0) for name in names])
    return np.minimum(values * scale, limits(names)).astype(np.float32)


@lru_cache(maxsize=1)  # and the same curves
def fitted_curves(clip: Clip) -> Curves:
    """The curves of a clip's vertices, without `added`; raises `UserError` for a bad fit and a mesh
    that is not a face."""
    names, basis = units_of(clip)
    normal = normal_equations(clip, basis, limits(names))
    values = fit(normal, names).astype(np.float32)
    rms, worst = error_mm(clip, basis, values)
    motion = float(np.sqrt(normal.energy.mean() / len(clip.template)))
    check_fit(clip, rms, worst, motion)
    return Curves(names, values, rms, worst, motion)


def check_fit(clip: Clip, rms: float, worst: float, motion: float) -> None:
    """Raise `UserError` for a bad fit; rms, worst, motion: mm, as in `Curves`."""
    if clip.topology == SYNTHETIC:
        is_good = rms <= MAX_RMS_MM and worst <= MAX_WORST_MM
        limits = f"{MAX_RMS_MM} and {MAX_WORST_MM:g}"
    else:
        is_good = rms <= MAX_SHARE * motion
        limits = f"{MAX_SHARE * motion:.2f} rms, half of its motion"
    if not is_good:
        raise UserError(
            f"clip {clip.name}: curves miss its vertices by {rms:.2f} mm rms and {worst:.1f} mm at "
            f"worst, expected at most {limits}; is the neutral face the one that it was made with?"
        )


def limits(names: tuple[str, ...]) -> NDArray[np.float64]:
    """The largest value of each unit (C,)."""
    return np.array([EXTRA_LIMIT if name == EXTRA else 1.0 for name in names])


def normal_equations(clip: Clip, basis: NDArray, upper: NDArray) -> Normal:
    """The normal equations of a clip; basis: (C, V, 3) mm. Reads the clip in blocks."""
    columns = basis.reshape(len(basis), -1)
    product, energy = [], []
    for offsets in offsets_mm(clip):
        product.append(offsets @ columns.T)
        energy.append(np.einsum("ti,ti->t", offsets, offsets))
    squares = np.concatenate(energy)
    if not np.isfinite(squares).all():
        frame = int(np.argmin(np.isfinite(squares)))
        raise UserError(f"clip {clip.name}: frame {frame} has NaN or infinite vertices")
    return Normal(columns @ columns.T, np.concatenate(product), squares, upper)


def offsets_mm(clip: Clip) -> Iterator[NDArray[np.float64]]:
    """Yield the offsets of up to BLOCK frames (B, V * 3) float64 in mm."""
    scale = 1000.0 * clip.metres_per_unit
    vertices = clip.vertices if clip.unmoved is None else clip.unmoved
    for start in range(0, len(vertices), BLOCK):
        block = np.asarray(vertices[start : start + BLOCK], np.float64) - clip.template
        yield scale * block.reshape(len(block), -1)
        release_pages(vertices)


def error_mm(clip: Clip, basis: NDArray, values: NDArray) -> tuple[float, float]:
    """(rms, largest) distance in mm between the clip's vertices and those of the curves."""
    columns, squares, worst, frame = basis.reshape(len(basis), -1), 0.0, 0.0, 0
    for offsets in offsets_mm(clip):
        missed = offsets - values[frame : frame + len(offsets)] @ columns
        distance2 = (missed.reshape(len(offsets), -1, 3) ** 2).sum(axis=2)
        squares, worst = squares + float(distance2.sum()), max(worst, float(distance2.max()))
        frame += len(offsets)
    return float(np.sqrt(squares / (frame * basis.shape[1]))), float(np.sqrt(worst))


def fit(normal: Normal, names: tuple[str, ...]) -> NDArray[np.float64]:
    """Curves (T, C) of the fewest units that fit nearly as well as all of them.

    Forward selection from the channels of speech. A step adds the spare units, or unties the pairs,
    that would lower the residue of some frame at least half as much as the best of them.
    """
    least = normal.residue(normal.solve([(k,) for k in range(len(names))]))
    floor = FLOOR_MM**2 * normal.energy.size
    accepted = least + max(NEAR * least.mean(), floor)
    used, spare = start_groups(names)
    while True:
        curves = normal.solve(used)
        if (normal.residue(curves) <= accepted).all() or not (spare or any(map(_is_pair, used))):
            return curves
        pull = normal.product - curves @ normal.gram  # (T, C), minus half the slope
        square = np.diag(normal.gram)
        gains = {g: _gain(np.maximum(pull[:, list(g)].sum(axis=1), 0.0), square, g) for g in spare}
        for left, right in filter(_is_pair, used):
            gains[left, right] = _gain(pull[:, left] - pull[:, right], square, (left, right))
        enough = 0.5 * max(gains.values())
        chosen = [group for group, gain in gains.items() if gain >= enough]
        for group in chosen:
            if group in spare:
                spare.remove(group)
                used.append(group)
            else:
                used.remove(group)
                used += [(k,) for k in group]


def start_groups(names: tuple[str, ...]) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """(channels of speech, all others) as groups of unit indices; two sides are one group."""
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        stem = next((name.removesuffix(s) for s in SIDES if name.endswith(s)), name)
        both = all(stem + side in names for side in SIDES)
        directed = stem in ("jaw", "mouth")  # jawLeft and jawRight are opposite motions
        groups.setdefault(stem if both and not directed else name, []).append(index)
    used = [tuple(groups.pop(channel)) for channel in CHANNELS if channel in groups]
    return used, [tuple(group) for group in groups.values()]


def _is_pair(group: tuple[int, ...]) -> bool:
    return len(group) == 2


def _gain(pull: NDArray, square: NDArray, group: tuple[int, ...]) -> float:
    """Bound of the squared mm that a move along `group` can save in a frame."""
    return float((pull**2).max() / square[list(group)].sum())
