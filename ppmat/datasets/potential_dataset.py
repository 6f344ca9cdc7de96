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

"""Frames with energies and forces, as samples for an interatomic potential.

A sample has ``structure_array``, ``graph`` and ``id`` as ``oc20_is2re_dataset`` lists
them, and the labels that are asked for::

    energy   [1] float64, eV, of the whole cell
    forces   ConcatData [N, 3], eV/Å
    stress   ConcatData [1, 3, 3], eV/Å^3, positive under tension as in ASE

Files are read by ASE, in whose units labels are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Annotated
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from paddle import io

from ppmat.datasets.custom_data_type import ConcatData
from ppmat.datasets.graph_utils.periodic_graph import PeriodicGraphConverter
from ppmat.datasets.label_checks import Frame
from ppmat.datasets.label_checks import check_labels
from ppmat.datasets.oc20_is2re_dataset import graph_converter
from ppmat.datasets.oc20_is2re_dataset import record_to_sample
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.repeated_frames import warn_of_repeated
from ppmat.datasets.structure_reader import Unreadable
from ppmat.datasets.structure_reader import iter_structures
from ppmat.datasets.structure_record import structure_to_record
from ppmat.utils import logger
from ppmat.utils.errors import InputError
from ppmat.utils.errors import check_choice
from ppmat.utils.ranges import Range

LABELS = ("energy", "forces", "stress")
CLOSEST = 0.3  # Å; H2 has 0.74 Å, and a compressed bond is longer than this
LONGEST_VACUUM = 50.0  # Å; of a given cell vector where nothing is periodic
LARGEST_FORCE = 1000.0  # eV/Å; a larger one has another unit, or no meaning


class PotentialDataset(io.Dataset):
    """Frames of structure files, with energies, forces and stress.

    All frames are read at the start, their graphs when they are requested.

    Args:
        path: Files, folders and patterns, as
            :func:`~ppmat.datasets.structure_reader.find_inputs` takes them.
        property_names: Labels that every frame must have: of ``energy``, ``forces``,
            ``stress``.
        keys: Where labels are that ASE's reader does not know as such, by label: a name
            in ``atoms.info``, ``atoms.arrays`` or ``atoms.calc.results``, in eV, eV/Å
            or eV/Å^3. For instance ``{energy: REF_energy, forces: REF_forces}``, or
            ``{energy: free_energy}``.
        build_graph_cfg: Block of the graph converter. Without ``max_neighbors: null``
            forces would jump when neighbours change.
        max_samples: Use only the first frames.
        transforms: Applied to each sample; in YAML a list of blocks.

    Raises:
        InputError: A frame cannot be read, or lacks a label; labels have another unit,
            sign or reference; an illegal argument.
    """

    nested_params = {"build_graph_cfg": [PeriodicGraphConverter]}

    def __init__(
        self,
        path: str | Sequence[str],
        property_names: Sequence[str] = ("energy", "forces"),
        keys: Mapping[str, str] | None = None,
        build_graph_cfg: dict | None = None,
        max_samples: Annotated[int, Range(1, 10**9)] | None = None,
        transforms: Callable[[dict], dict] | None = None,
    ) -> None:
        super().__init__()
        for name in (*property_names, *(keys or {})):
            check_choice("label", name, LABELS)
        self.build_graph = graph_converter(build_graph_cfg)
        if self.build_graph and self.build_graph.max_neighbors is not None:
            raise InputError(
                f"build_graph_cfg: max_neighbors is {self.build_graph.max_neighbors}",
                wanted="null: with a limit energies jump when neighbours change",
            )
        self.transforms = transforms
        reach = self.build_graph.cutoff if self.build_graph else 0.0
        paths = [path] if isinstance(path, str) else list(path)
        self.frames: list[Frame] = []
        for structure in iter_structures(paths):
            if isinstance(structure, Unreadable):
                raise InputError(str(structure))
            self.frames.append(
                frame_of(structure, tuple(property_names), keys or {}, reach)
            )
            if len(self.frames) == max_samples:
                break
        where = ", ".join(paths)
        names = ", ".join(property_names)
        logger.info(f"{where}: {len(self.frames)} frames with {names}")
        check_labels(self.frames, where)
        warn_of_repeated(self.frames, where)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self.frames):
            raise IndexError(f"frame {index} of {len(self.frames)}")
        record, labels, _ = self.frames[index]
        sample = record_to_sample(record, build_graph=self.build_graph, labels=())
        for name, value in labels.items():
            sample[name] = value if name == "energy" else ConcatData(value)
        return sample if self.transforms is None else self.transforms(sample)


def frame_of(
    structure: Atoms | OC20Record,
    names: Sequence[str],
    keys: Mapping[str, str],
    reach: float,
) -> Frame:
    """Return the record and the labels of a structure.

    Args:
        structure: Atoms with labels, or a record, whose ``y_init`` and ``force`` count.
        names: The labels that are wanted.
        keys: As in :class:`PotentialDataset`.
        reach: Smallest distance [Å] to the next image along directions that are not
            periodic.

    Raises:
        InputError: A label is missing, is not finite or has another shape.
    """
    if isinstance(structure, OC20Record):
        record, found = structure, {"energy": structure.y_init}
        pbc = np.ones(3, dtype=bool)
        found["forces"] = structure.force
        where = f"sid {record.sid}"
    else:
        sid = str(structure.info.get("sid", ""))
        where = f"frame {sid!r}"
        plain, pbc = periodic_box(structure, reach), structure.pbc.copy()
        record = structure_to_record(plain, sid, CLOSEST, warn=False)
        found = _labels_of(structure, keys, where)
    labels = {}
    shapes = {"energy": (1,), "forces": (len(record.pos), 3), "stress": (1, 3, 3)}
    for name in names:
        if found.get(name) is None:
            have = ", ".join(key for key, value in found.items() if value is not None)
            raise InputError(
                f"{where} has no {name}; it has {have or 'no label'}",
                hint="keys names other entries of info or arrays, e.g. "
                "{energy: REF_energy, forces: REF_forces}",
            )
        try:
            value = np.asarray(found[name], dtype="float64")
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{where}: {name} is {found[name]!r}", wanted="numbers"
            ) from error
        if name == "stress" and not pbc.all():
            raise InputError(
                f"{where} has a stress, and open directions (pbc "
                f"{pbc.astype(int).tolist()}), which have no volume",
                hint="Set pbc in all directions if the calculation had it, or leave "
                "stress out of the labels.",
            )
        if name == "stress" and value.shape == (6,):
            value = voigt_6_to_full_3x3_stress(value)
        if value.size != np.prod(shapes[name]) or not np.isfinite(value).all():
            raise InputError(
                f"{where}: {name} has the shape {value.shape}, or is not finite",
                wanted=f"{shapes[name]} finite numbers",
            )
        labels[name] = value.reshape(shapes[name])
    largest = np.abs(labels.get("forces", 0.0)).max()
    if largest > LARGEST_FORCE:
        raise InputError(
            f"{where}: a force of {largest:.3g} eV/Å",
            wanted=f"at most {LARGEST_FORCE:g} eV/Å",
            hint="Convert the forces to eV/Å, or leave the frame out.",
        )
    for name in ("forces", "stress"):
        if name in labels:
            labels[name] = labels[name].astype("float32")
    return Frame(record, labels, pbc)


def _labels_of(atoms: Atoms, keys: Mapping[str, str], where: str) -> dict[str, Any]:
    """Return the labels of ASE's reader, and those that ``keys`` names instead."""
    results = atoms.calc.results if atoms.calc is not None else {}
    found = {name: results.get(name) for name in LABELS}
    entries = {**results, **atoms.arrays, **atoms.info}
    for name, key in keys.items():
        if entries.get(key) is None:
            have = ", ".join(entries)
            raise InputError(f"{where} has no {key!r} for {name}; it has {have}")
        found[name] = entries[key]
    return found


def periodic_box(atoms: Atoms, reach: float) -> Atoms:
    """Return atoms alone, periodic in all directions, without tags and constraints.

    A direction that is not periodic gets a cell vector normal to the periodic ones. It
    is as long as the given one (at most 50 Å), or longer, so that more than ``reach`` Å
    are between images.

    Raises:
        InputError: There is no atom, or no volume between periodic cell vectors.
    """
    if not len(atoms):
        raise InputError("the structure has no atoms")
    periodic = atoms.cell.array[atoms.pbc]
    finite = np.isfinite(periodic).all()
    if not finite or np.linalg.matrix_rank(periodic) < len(periodic):
        raise InputError(
            f"cell vectors of the periodic directions are {periodic.tolist()}",
            wanted="vectors that are not zero and not parallel",
        )
    plain = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    plain.info["sid"] = atoms.info.get("sid", "")
    if not atoms.pbc.all():
        cell = atoms.cell.copy()
        cell[~atoms.pbc] = 0.0
        cell = cell.complete().array  # the new vectors have length 1
        inverse = np.linalg.inv(cell)
        for axis in np.flatnonzero(~atoms.pbc):
            extent = np.ptp(atoms.positions @ inverse[:, axis])
            given = min(abs(atoms.cell[axis] @ cell[axis]), LONGEST_VACUUM)
            cell[axis] *= max(given, extent + reach + 1.0)
        plain.cell, plain.pbc = cell, True
    return plain
