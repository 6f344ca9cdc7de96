# Copyright (c) 2026 PaddlePaddle Authors. All Rights Reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Find labels of another unit, sign or reference in frames with energies and forces.

Two facts are used, neither of which needs a network:

- Between two frames of the same atoms that differ little, the energy changes by the
  work of the forces, ``dE = -F dx``, and of the stress, ``dE = V S e`` for a strain e.
  The slope of ``dE`` against the work is 1, or it shows sign and unit.
- Atoms of the same elements at the same distances have similar energies. Where the
  energies of the elements leave two groups of residuals, eV/atom apart, labels are
  mixed.

Nothing is said where frames cannot tell: there are too few pairs, the moves are too
large, or energies *and* forces have the same other unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase.units import GPa

from ppmat.datasets.oc20_record import OC20Record
from ppmat.utils import logger
from ppmat.utils.errors import InputError
from ppmat.utils.neighbours import neighbour_pairs
from ppmat.utils.periodic import minimum_image

MOST_PAIRS = 4000  # pairs of frames that are compared, evenly spread
BLOCK = 12  # pairs that are judged together; files joined to one can differ
MOST_BLOCKS = 10
LEAST_PAIRS = 5
NOISE = 1e-4  # eV; smaller differences may be those of self-consistency
SMALL_MOVE = 0.5  # Å; over longer paths the mean of both forces is too rough
SMALL_STRAIN = 0.1
SAME_CELL = 1e-3  # Å
GOOD_SLOPES = (0.5, 1.65)  # real sets have 0.68 to 1.2 by the curvature of the paths
LARGEST_ERROR = 0.15  # of a slope that is believed, relative
LEAST_EXPLAINED = 0.6  # of the energy differences, by the work
NOTHING, ENOUGH_PAIRS = 0.1, 20  # share and pairs of which forces explain nothing
MATCH = (0.15, 0.3)  # logarithm of a slope over that of a unit: paths bend; at most
# A jump is an energy difference that no path explains: JUMP times the work of the
# change of the forces, which real sets stay below, and JUMP_FLOOR for each atom [eV].
JUMP, JUMP_FLOOR = 3.0, 0.05
MANY_JUMPS = 0.2  # share of the pairs
GAP = 2.0  # eV/atom between two groups of residuals
ALIKE = 0.2  # Å, difference of the mean nearest distances of an element
REACH = 5.0  # Å, within which neighbours are looked for
COMPARED = 40  # frames of each group
LARGE_STRESS = 1.0  # eV/Å^3, 160 GPa
PER_ATOM = 0.2  # residual of energies taken per atom, over that of energies per cell

# Slope of dE against the work -> what labels of such a slope are.
FORCE_UNITS = {
    51.422: "forces in Hartree/Bohr",
    25.711: "forces in Ry/Bohr",
    1.8897: "forces in eV/Bohr, or energies in Hartree with forces in Hartree/Bohr",
    0.043364: "forces in kcal/mol/Å",
    0.010364: "forces in kJ/mol/Å",
    0.0010364: "forces in kJ/mol/nm",
    0.036749: "energies in Hartree",
    0.073499: "energies in Ry",
    23.061: "energies in kcal/mol",
    96.485: "energies in kJ/mol",
    1.0: "forces",
}
STRESS_UNITS = {
    GPa: "a stress in GPa",
    GPa / 10: "a stress in kbar",
    1.0: "a stress",
}
OPPOSITE = {
    "forces": " with the opposite sign: gradients of the energy",
    "stress": " with the opposite sign: positive under pressure",
}


class Frame(NamedTuple):
    """A structure, its labels, and which directions are periodic in its file."""

    record: OC20Record
    labels: dict[str, np.ndarray]
    pbc: np.ndarray


class Step(NamedTuple):
    """What changes from one frame to another of the same atoms.

    Attributes:
        first: Row of the first frame.
        second: Row of the second.
        atoms: Number of atoms.
        energy: Difference of the energies [eV].
        work: ``-F dx`` with the mean forces [eV].
        strain_work: ``V S e`` with the mean stress [eV]; 0 in the same cell.
        scale: What the change of forces and stress adds to the work at most [eV].
        strained: Whether the cells differ.
    """

    first: int
    second: int
    atoms: int
    energy: float
    work: float
    strain_work: float
    scale: float
    strained: bool


class Slope(NamedTuple):
    """Slope of energy differences against work; NaN if there are too few pairs."""

    value: float
    error: float
    pairs: int
    explained: float  # share of the energy differences

    @property
    def certain(self) -> bool:
        """Whether the error is small, and most of the differences are explained."""
        small = self.error < LARGEST_ERROR * abs(self.value)
        return bool(small and self.explained > LEAST_EXPLAINED)


def check_labels(frames: Sequence[Frame], where: str) -> None:
    """Check the labels of a set; the log says what was found.

    Args:
        frames: In the order of their files, all with the same labels.
        where: Name of the set, for messages.

    Raises:
        InputError: Energies are of one atom or have two references; forces or stress
            have another sign or unit.
    """
    names = set(frames[0].labels) if frames else set()
    if "energy" in names:
        check_energies(frames, where)
    if {"energy", "forces"} <= names:
        check_forces(frames, where)
    if "stress" in names:
        stress = np.array([frame.labels["stress"] for frame in frames])
        size = float(np.sqrt(np.mean(np.square(stress, dtype="float64"))))
        if size > LARGE_STRESS:
            logger.warning(
                f"{where}: the stress has {size:.3g} in root mean square; in eV/Å^3 "
                f"this is {size / GPa:.0f} GPa. A stress in GPa or kbar must be "
                "converted"
            )


# Energies -----------------------------------------------------------------------------


def check_energies(frames: Sequence[Frame], where: str) -> None:
    """Check that energies are of whole cells, and of one reference.

    Raises:
        InputError: They are not.
    """
    energies = np.array([frame.labels["energy"][0] for frame in frames])
    sizes = np.array([len(frame.record.pos) for frame in frames])
    counts = np.array([np.bincount(f.record.atomic_numbers, minlength=119)
        for f in frames], dtype="float64")  # fmt: skip
    counts = counts[:, counts.any(axis=0)]
    shares = counts / sizes[:, None]
    of_cell = _residuals(shares, energies / sizes)
    of_atom = _residuals(shares, energies)
    several = len(np.unique(counts, axis=0)) > counts.shape[1]
    gap, groups = _largest_gap(of_cell)
    closed = gap >= GAP and _largest_gap(of_atom)[0] < PER_ATOM * gap
    if several and (closed or _size(of_atom) < PER_ATOM * _size(of_cell)):
        raise InputError(
            f"{where}: the energies do not grow with the number of atoms. Taken for "
            f"energies of one atom, energies of the elements explain all but "
            f"{_size(of_atom):.2g} eV; for energies of the cell, all but "
            f"{_size(of_cell):.2g} eV/atom",
            wanted="energies of the whole cell",
            hint="Multiply each by its number of atoms.",
        )
    if gap < GAP or not _are_alike(
        *([frames[i] for i in _spread(rows)] for rows in groups)
    ):
        return
    small, large = sorted(groups, key=len)
    found = "energies of another code, functional or reference"
    for own, other in ((small, large), (large, small)):
        element = np.linalg.lstsq(shares[other], energies[other] / sizes[other])[0]
        as_cell = energies[own] / sizes[own] - shares[own] @ element
        as_atom = energies[own] - shares[own] @ element
        if np.median(np.abs(as_atom)) < PER_ATOM * np.median(np.abs(as_cell)):
            small, found = own, "energies of one atom instead of the cell"
    raise InputError(
        f"{where}: the energies of the elements leave two groups of frames, "
        f"{gap:.3g} eV/atom apart, with atoms at the same distances. {len(small)} of "
        f"{len(frames)} frames seem to have {found}: {_ids(frames, small)}",
        wanted="one reference for all frames",
        hint="Leave these frames out, or convert their energies.",
    )


def _largest_gap(values: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """Return the largest gap between sorted values, and the rows on its two sides."""
    order = np.argsort(values)
    gaps = np.diff(values[order])
    if not gaps.size:
        return 0.0, [order]
    widest = int(np.argmax(gaps))
    return float(gaps[widest]), np.split(order, [widest + 1])


def _residuals(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return what a linear model of y [n] by x [n, elements] leaves."""
    return y - x @ np.linalg.lstsq(x, y)[0]


def _size(values: np.ndarray) -> float:
    """Return the root mean square, with a floor for numbers that are all equal."""
    return float(np.sqrt(np.mean(values**2))) + 1e-9


def _spread(rows: np.ndarray, most: int = COMPARED) -> np.ndarray:
    """Return at most so many of the rows, evenly spread."""
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]


def _are_alike(first: list[Frame], second: list[Frame]) -> bool:
    """Return whether a frame of each list has the same elements and distances."""
    others = [_nearest(frame) for frame in second]
    for one in map(_nearest, first):
        for other in others:
            if one.keys() == other.keys() and all(
                abs(one[element] - other[element]) < ALIKE for element in one
            ):
                return True
    return False


def _nearest(frame: Frame) -> dict[int, float]:
    """Return the mean distance [Å] to the nearest atom, by element.

    Atoms without neighbours have none: NaN, which is like nothing.
    """
    record = frame.record
    pairs = neighbour_pairs(record.pos, record.cell, REACH)
    nearest = np.full(len(record.pos), np.nan)
    order = np.argsort(pairs.distance)[::-1]
    nearest[pairs.centre[order]] = pairs.distance[order]  # the last one counts
    return {
        int(element): float(nearest[record.atomic_numbers == element].mean())
        for element in np.unique(record.atomic_numbers)
    }


# Forces and stress --------------------------------------------------------------------


def check_forces(frames: Sequence[Frame], where: str) -> None:
    """Check forces, and stress if there is one, against differences of energies.

    Raises:
        InputError: The slope is that of another sign or unit, or energies jump.
    """
    steps = [step for pair in _like_pairs(frames) if (step := _step(frames, *pair))]
    plain = [step for step in steps if not step.strained]
    blocks = min(MOST_BLOCKS, max(1, len(plain) // BLOCK))
    for rows in np.array_split(np.arange(len(plain)), blocks):
        part = [plain[row] for row in rows]
        slope = slope_of(part, [s.energy for s in part], [s.work for s in part])
        _refuse_slope(slope, FORCE_UNITS, "forces", frames, part, where)
    whole = slope_of(plain, [s.energy for s in plain], [s.work for s in plain])
    _log_slope(whole, "forces", where)
    if whole.pairs >= ENOUGH_PAIRS and whole.explained < NOTHING:
        logger.warning(
            f"{where}: the forces explain nothing of the differences of energies "
            f"between {whole.pairs} pairs of like frames. Look for forces in another "
            "order of the atoms, of another frame, or of mixed signs"
        )
    _check_jumps(frames, plain, where)
    strained = [step for step in steps if step.strained]
    if strained:
        rest = [step.energy - step.work for step in strained]
        slope = slope_of(strained, rest, [step.strain_work for step in strained])
        _refuse_slope(slope, STRESS_UNITS, "stress", frames, strained, where)
        _log_slope(slope, "stress", where)


def _like_pairs(frames: Sequence[Frame]) -> list[tuple[int, int]]:
    """Return each frame with the one before it that has the same atoms in order."""
    last: dict[tuple, int] = {}
    pairs = []
    for row, frame in enumerate(frames):
        key = (frame.record.atomic_numbers.tobytes(), frame.pbc.tobytes())
        if key in last:
            pairs.append((last[key], row))
        last[key] = row
    return [pairs[i] for i in _spread(np.arange(len(pairs)), MOST_PAIRS)]


def _step(frames: Sequence[Frame], first: int, second: int) -> Step | None:
    """Return what changes between two frames; None if it is too much."""
    a, b = frames[first], frames[second]
    old, new = (f.record.cell.astype("float64") for f in (a, b))
    x, y = (f.record.pos.astype("float64") for f in (a, b))
    force, other = (f.labels["forces"].astype("float64") for f in (a, b))
    strained = np.abs((new - old)[a.pbc]).max(initial=0.0) > SAME_CELL
    strain_work = change = 0.0
    if strained:
        if "stress" not in a.labels or not a.pbc.all():
            return None
        deform = np.linalg.solve(old, new)
        if np.abs(deform - np.eye(3)).max() > SMALL_STRAIN:
            return None
        x = x @ deform
        strain = 2 * np.linalg.solve(deform + np.eye(3), deform - np.eye(3))
        pull = [
            abs(np.linalg.det(f.record.cell)) * f.labels["stress"][0] for f in (a, b)
        ]
        strain_work = float(np.sum((pull[0] + pull[1]) / 2 * strain))
        change = np.abs((pull[1] - pull[0]) * strain).sum() / 2
    if a.pbc.any():
        moved = minimum_image(y - x, new)
    elif len(x) > 1:  # a molecule may turn
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        turn = _turn(y, x)
        moved, other = y @ turn - x, other @ turn
    else:
        return None
    length = np.linalg.norm(moved, axis=-1)
    if length.max() > SMALL_MOVE:
        return None
    change += (np.linalg.norm(other - force, axis=-1) * length).sum() / 2
    return Step(
        first=first,
        second=second,
        atoms=len(x),
        energy=float(b.labels["energy"][0] - a.labels["energy"][0]),
        work=float(-((force + other) / 2 * moved).sum()),
        strain_work=strain_work,
        scale=float(change),
        strained=bool(strained),
    )


def _turn(points: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Return the rotation, points @ R, that brings points [N, 3] nearest to others."""
    u, _, v = np.linalg.svd(points.T @ onto)
    mirror = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ v))])
    return u @ mirror @ v


def slope_of(steps: Sequence[Step], energy: Sequence, work: Sequence) -> Slope:
    """Return the slope of energy differences against work.

    It is that of least absolute deviations, in units of the scale of each step, so that
    a few jumps do not change it.

    Args:
        steps: n steps.
        energy: What is to be explained, [n] eV.
        work: What explains it, [n] eV.
    """
    y, x = np.asarray(energy, dtype="float64"), np.asarray(work, dtype="float64")
    scale = np.array([step.scale for step in steps])
    if scale.size:
        scale = scale + 1e-3 * np.median(scale)
    kept = (np.abs(y) > NOISE) & (np.abs(x) > 0) & (scale > 0)
    if kept.sum() < LEAST_PAIRS:
        return Slope(np.nan, np.nan, int(kept.sum()), np.nan)
    y, x = y[kept] / scale[kept], x[kept] / scale[kept]
    ratios, weights = y / x, np.abs(x)
    order = np.argsort(ratios)
    sums = np.cumsum(weights[order])
    value = float(ratios[order][np.searchsorted(sums, sums[-1] / 2)])
    miss = np.abs(y - value * x)
    # The median deviation is 0.67 of a standard deviation, which that of a median of
    # ratios exceeds 1.25 times.
    error = float(1.25 * np.median(miss) / 0.6745 / np.sqrt(np.sum(x**2)))
    # Without the largest tenth of the deviations, which may be jumps.
    most = miss <= np.quantile(miss, 0.9)
    explained = 1.0 - miss[most].sum() / max(np.abs(y[most]).sum(), 1e-300)
    return Slope(value, error, len(x), float(explained))


def _log_slope(slope: Slope, name: str, where: str) -> None:
    """Log whether labels fit the differences of energies, or that nothing is known."""
    if slope.certain:
        logger.info(
            f"{where}: {name} fit the differences of energies, slope "
            f"{slope.value:.2f} +- {slope.error:.2f} in {slope.pairs} pairs of frames"
        )
    else:
        logger.info(
            f"{where}: sign and unit of the {name} cannot be checked against the "
            f"energies, {slope.pairs} pairs of like frames"
        )


def _refuse_slope(
    slope: Slope,
    units: dict[float, str],
    name: str,
    frames: Sequence[Frame],
    steps: Sequence[Step],
    where: str,
) -> None:
    """Refuse labels whose slope is certain, and not near 1."""
    low, high = GOOD_SLOPES
    if not slope.certain or low < slope.value < high:
        return
    error = slope.error / abs(slope.value)
    sizes = {step.atoms for step in steps}
    if name == "forces" and len(sizes) == 1 and max(sizes) > 1:
        units = {**units, 1.0 / sizes.pop(): "energies of one atom, not of the cell"}
    distance = {unit: abs(np.log(abs(slope.value) / unit)) for unit in units}
    near = sorted(distance, key=distance.get)
    limit = min(MATCH[1], MATCH[0] + 3 * error)
    found = [units[unit] for unit in near if distance[unit] <= limit][:2]
    words = " or ".join(found) or f"{name} of a unit that is not known here"
    if slope.value < 0:
        words += OPPOSITE[name]
    sign = "" if slope.value > 0 else "-"
    factors = [f"{sign}{unit:.5g}" for unit in near[: len(found)]]
    factor = " or ".join(factors) or f"{slope.value:.5g}"
    ends = [frames[row].record.sid for row in (steps[0].first, steps[-1].second)]
    raise InputError(
        f"{where}: {name} and energies do not fit: between {slope.pairs} pairs of like "
        f"frames, {ends[0]!r} to {ends[1]!r}, energies change by {slope.value:.3g} +- "
        f"{slope.error:.1g} times the work of the {name}. This looks like {words}",
        wanted="energies of the cell in eV, forces in eV/Å, stress in eV/Å^3 positive "
        "under tension",
        hint=f"If the energies are right, multiply the {name} by {factor}; if the "
        f"{name} are, divide the energies by it. If both have another unit, convert "
        "both.",
    )


def _check_jumps(frames: Sequence[Frame], steps: Sequence[Step], where: str) -> None:
    """Report energies that no small move explains; refuse many of them."""
    jumps = [
        step
        for step in steps
        if abs(step.energy - step.work) > JUMP * step.scale + JUMP_FLOOR * step.atoms
    ]
    if not jumps:
        return
    largest = max(abs(step.energy - step.work) / step.atoms for step in jumps)
    text = (
        f"{where}: between {len(jumps)} of {len(steps)} pairs of like frames the "
        f"energy jumps by up to {largest:.3g} eV/atom, which their forces do not "
        f"explain: {_ids(frames, [step.second for step in jumps])}"
    )
    if len(jumps) >= LEAST_PAIRS and len(jumps) > MANY_JUMPS * len(steps):
        raise InputError(
            text,
            wanted="energies and forces of the same calculations, with one reference",
        )
    logger.warning(
        f"{text}. Another reference, an electronic state or a calculation that did "
        "not converge can be the reason"
    )


def _ids(frames: Sequence[Frame], rows: Sequence[int], most: int = 3) -> str:
    """Return the first ids of some frames, and how many more there are."""
    names = [repr(frames[row].record.sid) for row in rows[:most]]
    more = f" and {len(rows) - most} more" if len(rows) > most else ""
    return ", ".join(names) + more
