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

"""Mean and standard deviation that normalise a target (``Dataset.transform``).

Every scaling takes the training loader and the name of the target. It returns
``(mean, std)`` in the unit of the target; ``composition_scaling`` also returns the
energies of the elements, and ``surface_scaling`` how those of an adsorbate depend on
the metals of the surface. A mean is that of one adsorbate: a record with n adsorbates
(``num_adsorbates``) is described by n times the mean.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from typing import Annotated
from typing import Any

import numpy as np
import paddle.distributed as dist
from paddle import io
from pymatgen.core import Element

from ppmat.datasets.custom_data_type import ConcatData
from ppmat.datasets.surface_tags import ADSORBATE
from ppmat.datasets.surface_tags import SURFACE
from ppmat.utils import logger
from ppmat.utils.element_energies import element_energies
from ppmat.utils.element_properties import MAX_ATOMIC_NUMBER
from ppmat.utils.element_properties import element_properties
from ppmat.utils.misc import gather_objects
from ppmat.utils.progress import Progress
from ppmat.utils.ranges import Range
from ppmat.utils.registry import ConfigError

NUM_ELEMENTS = MAX_ATOMIC_NUMBER + 1  # row 0 is no element
NUM_TAGS = ADSORBATE + 1
_FEW = 5  # records; the energy of an element in fewer is not known well
Target = str | Sequence[str]


def no_scaling(train_loader: io.DataLoader, target: Target) -> tuple[float, float]:
    """Return 0 and 1: the target is not scaled."""
    return 0.0, 1.0


def mean_std_scaling(
    train_loader: io.DataLoader, target: Target
) -> tuple[float, float]:
    """Return mean and standard deviation (``n - 1``) over the training data.

    With several adsorbates in a record, the mean is the best of one adsorbate (least
    squares), and the standard deviation is that of the rest.

    Each record counts once, whatever the sampler does with it. Each of several
    processes reads its share; all return the numbers of a single process.

    Args:
        train_loader: Loader of the training data; only its data set is read.
        target: Name of the label, or a list of that one name.

    Raises:
        ConfigError: Several targets, a label that is missing or not finite, no spread.
    """
    name = single_target(target)
    rows = _read_all(train_loader.dataset, _read_label_and_adsorbates, name)
    labels = np.concatenate([label for label, _ in rows])
    adsorbates = np.repeat([n for _, n in rows], [len(label) for label, _ in rows])
    mean, std = _mean_and_std(labels, adsorbates)
    if not std > 0:
        raise ConfigError(
            f"mean_std_scaling: the {len(labels)} training labels '{name}' have no "
            "spread to normalise by; use no_scaling or custom_scaling"
        )
    return mean, std


def composition_scaling(
    train_loader: io.DataLoader,
    target: Target,
    tags: Annotated[Sequence[int], Range(0, 2)] = (1, 2),
    ridge: Annotated[float, Range(0, 10**9)] = 1.0,
) -> tuple[float, float, dict[str, float]]:
    """Return mean and standard deviation of the labels minus a composition model.

    The model is ``mean * adsorbates + sum of the energies of the atoms``, with one
    energy for each element, fitted by ridge regression.

    Args:
        train_loader: Loader of the training data; only its data set is read.
        target: Name of the label, or a list of that one name.
        tags: Tags of the atoms that are counted; those that the model sums over.
        ridge: Penalty on the square of an energy, in records.

    Returns:
        Mean and standard deviation (``n - 1``) of the residuals, energy by symbol.

    Raises:
        ConfigError: See :func:`mean_std_scaling`.
    """
    labels, adsorbates, counts = _read_compositions(train_loader, target)
    x = counts[:, list(tags)].sum(axis=1)
    mean, std, energies = _fit(labels, adsorbates, x, ridge)
    _warn_of_rare_elements(x)
    return mean, std, _by_symbol(energies)


def surface_scaling(
    train_loader: io.DataLoader,
    target: Target,
    tags: Annotated[Sequence[int], Range(0, 2)] = (1, 2),
    ridge: Annotated[float, Range(0, 10**9)] = 1.0,
) -> tuple[float, float, dict[str, float], dict[str, list[float]]]:
    """Return the composition model with energies that depend on the surface.

    The energy of an adsorbate's atom gets one slope for each of the
    :data:`~ppmat.utils.element_properties.PROPERTIES`, times the mean property of
    the atoms of the surface (tag 1). Adsorption energies on different metals are close
    to linear in each other (scaling relations, Abild-Pedersen et al., Phys. Rev. Lett.
    2007, 99, 016105), so this says something of metals that are not in the training
    data.

    Args:
        train_loader: As in :func:`composition_scaling`.
        target: As there.
        tags: As there.
        ridge: Penalty on the square of an energy or slope, in records.

    Returns:
        Mean, standard deviation around :func:`composition_scaling`, the spread of
        adsorption energies, energy by symbol, slopes by symbol.

    Raises:
        ConfigError: See :func:`mean_std_scaling`; a record has no surface atoms.
    """
    labels, adsorbates, counts = _read_compositions(train_loader, target)
    atoms = counts[:, list(tags)].sum(axis=1)  # [n, 119]
    _, std, _ = _fit(labels, adsorbates, atoms, ridge)
    size = counts[:, SURFACE].sum(axis=1, keepdims=True)  # [n, 1]
    if not size.all():
        raise ConfigError(
            f"surface_scaling: {(size == 0).sum()} of {len(size)} training records "
            "have no atoms of the surface (tag 1), whose properties it reads; set "
            "their tags, or use composition_scaling"
        )
    surface = counts[:, SURFACE] @ element_properties() / size  # [n, P]
    products = counts[:, ADSORBATE, :, None] * surface[:, None]  # [n, 119, P]
    x = np.concatenate([atoms, products.reshape(len(labels), -1)], axis=1)
    mean, _, weights = _fit(labels, adsorbates, x, ridge)
    _warn_of_rare_elements(atoms)
    energies, slopes = np.split(weights, [NUM_ELEMENTS])
    slopes = slopes.reshape(NUM_ELEMENTS, -1)
    return mean, std, _by_symbol(energies), _by_symbol(slopes)


def potential_scaling(
    train_loader: io.DataLoader,
    target: Target,
    ridge: Annotated[float, Range(0, 10**9)] = 1e-6,
) -> tuple[float, dict[str, float]]:
    """Return the scale of an interatomic potential, and the energies of the elements.

    The energies of the elements explain the energies of the cells best, by least
    squares. Where compositions cannot tell elements apart, for instance in one
    compound, the energy is shared evenly.

    Args:
        train_loader: Loader of the training data; only its data set is read.
        target: Names of the labels, among them ``energy`` [1] eV and ``forces``.
        ridge: Penalty on the square of an energy above the mean of an atom.

    Returns:
        Root mean square of the components of forces [eV/Å]; energy by symbol [eV].

    Raises:
        ConfigError: All forces are zero.
    """
    rows = _read_all(train_loader.dataset, _read_frame)
    energies = np.array([energy for energy, _, _, _ in rows])
    counts = np.array([count for _, _, _, count in rows])  # [n, 119]
    squares, components = np.sum([(s, c) for _, s, c, _ in rows], axis=0)
    if not squares > 0:
        raise ConfigError(f"potential_scaling: the forces of {len(rows)} frames are 0")
    found = element_energies(counts, energies, ridge)
    return float(np.sqrt(squares / components)), _by_symbol(found)


def _read_frame(dataset: Any, index: int) -> tuple[float, float, int, np.ndarray]:
    """Return energy, sum of squares and number of forces, and atoms by element."""
    record, labels, _ = dataset.frames[index]
    counts = np.bincount(record.atomic_numbers, minlength=NUM_ELEMENTS)
    forces = labels["forces"].astype("float64")
    return labels["energy"][0], np.square(forces).sum(), forces.size, counts


def _read_compositions(
    train_loader: io.DataLoader, target: Target
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels [n], numbers of adsorbates [n], and atoms by tag, [n, 3, 119]."""
    name = single_target(target)
    rows = _read_all(train_loader.dataset, _read_label_and_composition, name)
    labels = np.concatenate([label for label, _, _ in rows])
    if len(labels) != len(rows):
        raise ConfigError(
            f"energies of elements want one label a record, got {len(labels)} in "
            f"{len(rows)} records"
        )
    return labels, np.array([n for _, n, _ in rows]), np.array([c for _, _, c in rows])


def _fit(
    labels: np.ndarray, adsorbates: np.ndarray, x: np.ndarray, ridge: float
) -> tuple[float, float, np.ndarray]:
    """Fit ``labels = mean * adsorbates + x @ weights``.

    Returns:
        Mean; standard deviation of the residuals; weights, 0 where a column of x is.
    """
    met = np.flatnonzero(x.any(axis=0))
    kept = x[:, met]
    moved = kept - np.outer(adsorbates, _per_one(kept, adsorbates))
    y = labels - adsorbates * _per_one(labels, adsorbates)
    weights = np.zeros(x.shape[1])
    matrix = moved.T @ moved + ridge * np.eye(len(met))
    weights[met] = np.linalg.solve(matrix, moved.T @ y)
    mean, std = _mean_and_std(labels - x @ weights, adsorbates)
    if not std > 0:
        raise ConfigError(
            f"Dataset.transform: the {len(labels)} training labels do not differ from "
            "what the composition explains, so they have no spread to divide by; use "
            "custom_scaling with numbers of your own"
        )
    return mean, std, weights


def _warn_of_rare_elements(x: np.ndarray) -> None:
    """Log elements of few records; ``x`` [n, 119] counts the atoms that are read."""
    records = (x > 0).sum(axis=0)
    rare = np.flatnonzero((records > 0) & (records < _FEW))
    if len(rare):
        found = [f"{Element.from_Z(int(z)).symbol} {records[z]}" for z in rare]
        logger.warning(
            f"elements in fewer than {_FEW} training records: {', '.join(found)}. "
            "Their energies are not known well, and other structures with them may be "
            "wrong by several eV: docs/oc20/small_sets.md"
        )


def _by_symbol(rows: np.ndarray) -> dict[str, Any]:
    """Return the rows [119, ...] that are not 0, by the symbol of their element."""
    met = np.flatnonzero(rows.reshape(len(rows), -1).any(axis=1))
    return {Element.from_Z(int(z)).symbol: rows[z].tolist() for z in met}


def _per_one(values: np.ndarray, adsorbates: np.ndarray) -> np.ndarray:
    """Return ``m`` for which ``m * adsorbates`` is nearest to the values [n, ...]."""
    weights = adsorbates.reshape(-1, *[1] * (values.ndim - 1))
    return (weights * values).sum(axis=0) / (adsorbates**2).sum()


def _mean_and_std(values: np.ndarray, adsorbates: np.ndarray) -> tuple[float, float]:
    """Return the mean of one adsorbate, and the standard deviation around it."""
    if len(values) < 2:
        return float(values.sum()), 0.0
    mean = _per_one(values, adsorbates)
    rest = values - mean * adsorbates
    return float(mean), float(np.sqrt((rest**2).sum() / (len(values) - 1)))


def custom_scaling(
    train_loader: io.DataLoader,
    target: Target,
    mean: Annotated[float, Range(-(10**9), 10**9)] | None = None,
    std: Annotated[float, Range(above=0, most=10**9)] | None = None,
    rmsd: Annotated[float, Range(above=0, most=10**9)] | None = None,
) -> tuple[float, float]:
    """Return given numbers: ``mean`` and ``std``, or 0 and ``rmsd``.

    Raises:
        ConfigError: Neither the pair nor ``rmsd`` is given, or both are.

    Example:
        >>> custom_scaling(None, "y_relaxed", mean=-1.5, std=2.0)
        (-1.5, 2.0)
    """
    pair = mean is not None and std is not None
    if pair == (rmsd is not None) or pair != (mean is not None or std is not None):
        raise ConfigError(
            "custom_scaling: give mean and std, or rmsd alone; got "
            f"mean={mean}, std={std}, rmsd={rmsd}"
        )
    return (float(mean), float(std)) if pair else (0.0, float(rmsd))


def single_target(target: Target) -> str:
    """Return the only name of a target; ``ConfigError`` for several or none."""
    names = [target] if isinstance(target, str) else list(target)
    if len(names) != 1:
        found = f"{len(names)}: {names}"
        raise ConfigError(f"statistics need exactly one target, got {found}")
    return names[0]


def _read_all(dataset: io.Dataset, read: Callable, *args: Any) -> list[Any]:
    """Return ``read(dataset, index, *args)`` of all records, in their order.

    An error of one process is raised in all of them.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    total = len(dataset)
    share = range(total * rank // world_size, total * (rank + 1) // world_size)
    found: list[Any] = []
    failure: Exception | None = None
    quiet = rank != 0
    try:
        for index in Progress(share, desc="reading the training labels", disable=quiet):
            source, row = dataset, index
            while isinstance(source, io.Subset):
                source, row = source.dataset, source.indices[row]
            found.append(read(source, row, *args))
    except Exception as error:  # the other processes wait for this one
        failure = error
    text = None if failure is None else f"{type(failure).__name__}: {failure}"
    answers = gather_objects((found, text))
    if failure is not None:
        raise failure
    for other, (_, fault) in enumerate(answers):
        if fault is not None:
            raise ConfigError(f"process {other} could not read its share: {fault}")
    return [row for part, _ in answers for row in part]


def _read_label_and_composition(
    dataset: io.Dataset, index: int, name: str
) -> tuple[np.ndarray, int, np.ndarray]:
    """Return label, number of adsorbates and composition of a record, by tag.

    The record is built once at most.
    """
    source = dataset if hasattr(dataset, "read_atoms") else {index: dataset[index]}
    return (
        *_read_label_and_adsorbates(source, index, name),
        _read_composition(source, index),
    )


def _read_label_and_adsorbates(
    dataset: Any, index: int, name: str
) -> tuple[np.ndarray, int]:
    """Return label and number of adsorbates of a record; 1 if that is not known."""
    if hasattr(dataset, "read_num_adsorbates"):
        count = dataset.read_num_adsorbates(index)
    else:
        if hasattr(dataset, "read_label"):
            return _read_label(dataset, index, name), 1
        dataset = {index: dataset[index]}
        atoms = dataset[index].get("structure_array") or {}
        count = atoms["num_adsorbates"].data[0] if "num_adsorbates" in atoms else 1
    return _read_label(dataset, index, name), max(int(count), 1)


def _read_composition(dataset: Any, index: int) -> np.ndarray:
    """Return how many atoms have each tag and atomic number, [3, 119]."""
    if hasattr(dataset, "read_atoms"):
        atom_types, atom_tags = dataset.read_atoms(index)
    else:
        atoms = dataset[index]["structure_array"]
        atom_types, atom_tags = atoms["atom_types"].data, atoms["tags"].data
    counts = np.zeros((NUM_TAGS, NUM_ELEMENTS))
    np.add.at(counts, (np.asarray(atom_tags), np.asarray(atom_types)), 1.0)
    return counts


def _read_label(dataset: Any, index: int, name: str) -> np.ndarray:
    if hasattr(dataset, "read_label"):
        label = dataset.read_label(index, name)
    else:
        sample = dataset[index]
        if sample.get(name) is None:
            raise ConfigError(
                f"training record {index} (id {sample.get('id')!r}) has no '{name}', "
                f"which Dataset.transform needs; it has {', '.join(map(str, sample))}"
            )
        label = sample[name]
        label = label.data if isinstance(label, ConcatData) else label
    label = np.asarray(label, dtype="float64").reshape(-1)
    if not np.isfinite(label).all():
        raise ConfigError(f"training record {index}: '{name}' is {label.tolist()}")
    return label
