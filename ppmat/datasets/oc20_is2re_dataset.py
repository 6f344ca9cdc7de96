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


"""OC20 IS2RE / IS2RS: slabs with adsorbates before and after relaxation.

A sample (``N`` atoms, ``E`` edges, ``K`` reciprocal vectors, one structure)::

    structure_array   frac_coords [N, 3], cart_coords [N, 3] (Å), atom_types [N] (atomic
                      number), lattice [1, 3, 3] (rows, Å), lengths [1, 3] (Å), angles
                      [1, 3] (degrees), num_atoms [1], tags [N] (0 sub-surface,
                      1 surface, 2 adsorbate), fixed [N] (bool)
    graph             see PeriodicGraphConverter; only with a build_graph_cfg
    cart_coords_relaxed, displacement   [N, 3] (Å); where the file has them
    y_relaxed         [1] (adsorption energy, eV); where the file has it
    id                sid, a string

All but ``y_relaxed`` and ``id`` are ``ConcatData``. The displacement is the minimum
image of relaxed minus initial position: OC20 files wrap the two separately.

Source: Chanussot et al., The Open Catalyst 2020 (OC20) Dataset and Community
Challenges, ACS Catal. 11 (2021) 6059, and the fairchem documentation. CC BY 4.0.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import ase
import numpy as np
import paddle.distributed as dist
from paddle import io
from pymatgen.core.structure import IStructure
from pymatgen.core.structure import Structure
from pymatgen.optimization.neighbors import find_points_in_spheres
from tqdm import tqdm

from ppmat.datasets.build_structure import BuildStructure
from ppmat.datasets.custom_data_type import ConcatData
from ppmat.datasets.graph_utils.periodic_graph import PeriodicGraphConverter
from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_lmdb import SUBSETS
from ppmat.datasets.oc20_lmdb import OC20FormatError
from ppmat.datasets.oc20_lmdb import OC20Record
from ppmat.datasets.oc20_record import fixed_atoms
from ppmat.utils import logger
from ppmat.utils.download import get_datasets_path_from_url
from ppmat.utils.errors import check_choice

LABELS = ("pos_relaxed", "y_relaxed")
# Labels as a sample names them, and the fields of a record they are made of.
_LABEL_FIELDS = {
    "y_relaxed": "y_relaxed",
    "cart_coords_relaxed": "pos_relaxed",
    "displacement": "pos_relaxed",
}
STORED_CUTOFF = 6.0  # Å, of the edges in the official files
STORED_NEIGHBORS = 50
CLOSEST = 0.05  # Å; nearer atoms are two copies of one

_GRAPH_CONVERTERS = {"PeriodicGraphConverter": PeriodicGraphConverter}


class OC20IS2REDataset(io.Dataset):
    """One split of OC20 IS2RE as samples, read row by row from its LMDB file.

    Nothing is cached and nothing converted beforehand: a row is decoded, checked and
    given its graph when it is asked for, in the loader's workers, so memory does not
    grow with the number of rows.

    Args:
        path: Root of the OC20 files, the folder of the split, or an LMDB file; see
            ``ppmat.datasets.oc20_lmdb.find_split`` for the layouts. May be None with
            ``download``.
        split: ``train``, ``val_id``, ``val_ood_ads``, ``val_ood_cat``,
            ``val_ood_both``, ``test_...``, or the name of a folder.
        subset: ``10k``, ``100k`` or ``all``; which train split is meant.
        property_names: Labels every record must have, as a sample names them; a record
            without one is bad. None takes what the first record has.
        build_structure_cfg: Arguments of ``BuildStructure``; format ``ase_atoms``
            (default) or ``array``. ``primitive``, ``niggli`` and ``canocial`` are off,
            since the labels are Cartesian.
        build_graph_cfg: Block of the graph converter; None leaves ``graph`` out.
        reuse_edges: Take the edges stored in the file (at most 6 Å and 50 neighbours)
            instead of searching neighbours.
        on_error: ``raise`` stops at a bad record when it is met. ``skip`` reads the
            whole file once at the start (about 0.5 ms a record), leaves the bad
            records out of the data set and lists them in the log, so that ``len`` and
            the batches are exact.
        max_samples: Use the first (good) records only.
        download: Fetch the official archive (8.1 GB, 97 GB unpacked) if ``path``
            does not exist.
        transforms: Applied to each sample; in YAML a list of blocks.

    Attributes:
        labels: Fields of the record that become labels: those of ``pos_relaxed`` and
            ``y_relaxed`` the first (good) record has. A later record without one is
            bad.
        skipped: One line for each record left out.

    Raises:
        FileNotFoundError: Nothing at ``path``.
        OC20FormatError: The file is none of OC20, or a bad record was met.
        ValueError: An argument that cannot be meant.
    """

    name = "oc20_is2re"
    url = (
        "https://dl.fbaipublicfiles.com/opencatalystproject/data/"
        "is2res_train_val_test_lmdbs.tar.gz"
    )
    md5 = "cfc04dd2f87b4102ab2f607240d25fb1"

    def __init__(
        self,
        path: str | None = None,
        split: str = "train",
        subset: str = "all",
        property_names: str | Sequence[str] | None = None,
        build_structure_cfg: dict | None = None,
        build_graph_cfg: dict | None = None,
        reuse_edges: bool = False,
        on_error: str = "raise",
        max_samples: int | None = None,
        download: bool = False,
        transforms: Callable[[dict], dict] | None = None,
    ) -> None:
        super().__init__()
        check_choice("subset", subset, SUBSETS)
        check_choice("on_error", on_error, ("raise", "skip"))
        if max_samples is not None and max_samples < 1:
            raise ValueError(f"max_samples is {max_samples}, wanted at least 1")
        if isinstance(property_names, str):
            property_names = [property_names]
        for name in property_names or ():
            check_choice("property_names: label", name, _LABEL_FIELDS)
        self.property_names = tuple(property_names or ())
        self.build_structure = _structure_builder(build_structure_cfg)
        self.build_graph = _graph_converter(build_graph_cfg)
        self.transforms = transforms
        self.reuse_edges = reuse_edges
        if reuse_edges:
            _check_reuse(self.build_graph)

        self.records = OC20LMDB(self._locate(path, download), split, subset)
        self.labels: Sequence[str] | None = None
        self.skipped: list[str] = []
        self._rows: np.ndarray | None = None
        if on_error == "skip":
            self._rows = self._good_rows(max_samples)
            self.num_samples = len(self._rows)
        else:
            self._read(0)
            self.num_samples = min(max_samples or len(self.records), len(self.records))
        logger.info(
            f"OC20 IS2RE {split}: {self.num_samples} of {len(self.records)} records "
            f"of {self.records.path}, labels: {', '.join(self.labels) or 'none'}"
        )

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, idx: int) -> dict[str, Any]:
        if not 0 <= idx < self.num_samples:
            raise IndexError(f"sample {idx} of {self.num_samples}")
        row = self._row(idx)
        record = self._read(row)
        try:
            sample = record_to_sample(
                record,
                self.build_structure,
                self.build_graph,
                reuse_edges=self.reuse_edges,
                labels=self.labels,
            )
        except ValueError as error:
            raise OC20FormatError(
                f"{self.records.where(row)} (sid {record.sid}): {error}"
            ) from error
        return sample if self.transforms is None else self.transforms(sample)

    def read_label(self, idx: int, name: str) -> np.ndarray:
        """Return one label of a sample without making its structure and graph.

        Where there are transforms the whole sample is made, since they may change it.

        Args:
            idx: Index of the sample.
            name: As a sample names it: ``y_relaxed`` [1], ``cart_coords_relaxed`` or
                ``displacement`` [N, 3].

        Raises:
            OC20FormatError: The record is bad or has no such label.
            ValueError: There is no label of that name.
        """
        check_choice("label", name, _LABEL_FIELDS)
        row = self._row(idx)
        record = self.records[row]
        self._check_label(record, row, name)
        if self.transforms is not None:
            label = self[idx][name]
            return label.data if isinstance(label, ConcatData) else label
        if name == "y_relaxed":
            return np.array([record.y_relaxed], dtype="float32")
        return record.displacement if name == "displacement" else record.pos_relaxed

    def read_atoms(self, idx: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a record's atomic numbers and tags, [N] each, without its graph."""
        record = self.records[self._row(idx)]
        return record.atomic_numbers, record.tags

    def _row(self, idx: int) -> int:
        return idx if self._rows is None else int(self._rows[idx])

    def _check_label(self, record: OC20Record, row: int, name: str) -> None:
        if getattr(record, _LABEL_FIELDS[name]) is None:
            raise OC20FormatError(
                f"{self.records.where(row)}: sid {record.sid} has no "
                f"{_LABEL_FIELDS[name]}, but the label '{name}' is asked for"
            )

    def _locate(self, path: str | None, download: bool) -> str:
        if path is not None and os.path.exists(path):
            return path
        if download:
            return get_datasets_path_from_url(self.url, self.md5)
        raise FileNotFoundError(
            f"{path!r} does not exist; wanted the root of the OC20 files, the folder "
            f"of a split or an LMDB file. 'download: true' fetches {self.url} (8.1 GB, "
            "97 GB unpacked)"
        )

    def _read(self, row: int) -> OC20Record:
        """Return a record that can become a sample, or raise ``OC20FormatError``."""
        record = self.records[row]
        try:
            check_record(record)
        except ValueError as error:
            raise OC20FormatError(f"{self.records.where(row)}: {error}") from error
        for name in self.property_names:
            self._check_label(record, row, name)
        if self.labels is None:
            self.labels = tuple(
                name for name in LABELS if getattr(record, name) is not None
            )
        wanted = [*self.labels]
        if self.reuse_edges:
            wanted += ["edge_index", "cell_offsets"]
        for name in wanted:
            if getattr(record, name) is None:
                raise OC20FormatError(
                    f"{self.records.where(row)}: sid {record.sid} has no {name}"
                    + (
                        "; set reuse_edges to false to search the neighbours"
                        if name not in LABELS
                        else ", unlike the first record"
                    )
                )
        return record

    def _good_rows(self, max_samples: int | None) -> np.ndarray:
        rows = []
        total = len(self.records)
        for row in tqdm(
            range(total),
            desc=f"checking {self.records.path}",
            disable=None if dist.get_rank() == 0 else True,
        ):
            try:
                self._read(row)
            except OC20FormatError as error:
                self.skipped.append(str(error))
            else:
                rows.append(row)
                if len(rows) == max_samples:
                    break
        if not rows:
            raise OC20FormatError(
                f"{self.records.path}: none of its {total} records can be used; the "
                f"first: {self.skipped[0]}"
            )
        if self.skipped:
            logger.warning(
                f"{self.records.path}: {len(self.skipped)} of {row + 1} records are "
                "bad and left out:"
            )
            for line in self.skipped:
                logger.warning(f"  {line}")
        return np.array(rows, dtype=np.int64)


def record_to_sample(
    record: OC20Record,
    build_structure: BuildStructure | None = None,
    build_graph: PeriodicGraphConverter | None = None,
    reuse_edges: bool = False,
    labels: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Turn a record into a sample, see the module's docstring.

    Args:
        record: A record that passes :func:`check_record`.
        build_structure: Format ``ase_atoms`` or ``array``, nothing else switched on;
            None makes one.
        build_graph: None leaves ``graph`` out.
        reuse_edges: Make the graph of the record's own edges.
        labels: Which of ``pos_relaxed``, ``y_relaxed`` become labels; None takes what
            the record has.

    Raises:
        ValueError: ``build_structure`` turned the cell or changed the atoms.
    """
    if build_structure is None:
        build_structure = _structure_builder(None)
    structure = build_structure(_DESCRIPTIONS[build_structure.format](record))
    lattice = structure.lattice
    if len(structure) != len(record.pos) or not np.allclose(
        lattice.matrix, record.cell, atol=1e-4
    ):
        raise ValueError(
            f"BuildStructure (format '{build_structure.format}') changed the cell from "
            f"{record.cell.tolist()} to {lattice.matrix.tolist()}; use format "
            "'ase_atoms' with primitive, niggli and canocial off"
        )
    sample: dict[str, Any] = {
        "structure_array": {
            "frac_coords": ConcatData(structure.frac_coords.astype("float32")),
            "cart_coords": ConcatData(record.pos),
            "atom_types": ConcatData(record.atomic_numbers),
            "lattice": ConcatData(record.cell[None]),
            "lengths": ConcatData(np.array([lattice.abc], dtype="float32")),
            "angles": ConcatData(np.array([lattice.angles], dtype="float32")),
            "num_atoms": ConcatData(np.array([len(record.pos)], dtype="int64")),
            "tags": ConcatData(record.tags),
            "fixed": ConcatData(record.fixed),
        }
    }
    if build_graph is not None:
        sample["graph"] = (
            build_graph.from_edges(structure, record.edge_index, record.cell_offsets)
            if reuse_edges
            else build_graph(structure)
        )
    if labels is None:
        labels = [name for name in LABELS if getattr(record, name) is not None]
    if "pos_relaxed" in labels:
        sample["cart_coords_relaxed"] = ConcatData(record.pos_relaxed)
        sample["displacement"] = ConcatData(record.displacement)
    if "y_relaxed" in labels:
        sample["y_relaxed"] = np.array([record.y_relaxed], dtype="float32")
    sample["id"] = record.sid
    return sample


def check_record(record: OC20Record, closest: float = CLOSEST) -> None:
    """Raise ``ValueError`` for tags beyond 0..2 and atoms nearer than ``closest`` [Å].

    Everything else a record must satisfy was checked when it was made.
    """
    if record.tags.min() < 0 or record.tags.max() > 2:
        raise ValueError(
            f"sid {record.sid}: tags hold {np.unique(record.tags).tolist()}; OC20 "
            "uses 0 (sub-surface), 1 (surface), 2 (adsorbate). The surface builders "
            "of ASE number layers instead: set the tags anew"
        )
    pos = record.pos.astype(np.float64)
    i, j, image, distance = find_points_in_spheres(
        pos,
        pos,
        r=closest,
        pbc=np.array([1, 1, 1], dtype=np.int64),
        lattice=record.cell.astype(np.float64),
        min_r=3.0,  # size of the search grid; a fine one costs ten times as much
    )
    if len(i) > len(pos):
        pair = np.flatnonzero((i != j) | image.any(axis=1))[0]
        raise ValueError(
            f"sid {record.sid}: atoms {i[pair]} and {j[pair]} are at the same place "
            f"({distance[pair]:.2g} Å apart; wanted at least {closest} Å)"
        )


def structure_to_record(
    structure: ase.Atoms | Structure | OC20Record,
    sid: str = "",
    closest: float = CLOSEST,
    warn: bool = True,
) -> OC20Record:
    """Turn a structure of a user into a record without labels.

    - ``ase.Atoms``: tags from ``get_tags()`` in OC20's meaning, fixed atoms from
      ``FixAtoms``, id from ``info["sid"]``. All three directions count as periodic.
    - pymatgen ``Structure``: site properties ``tags`` and ``fixed`` (or
      ``selective_dynamics``), where they exist.
    - ``OC20Record``: itself.

    Without tags every atom counts as sub-surface, and without constraints none is
    fixed; the log says so.

    Args:
        structure: The structure.
        sid: Id of the record; "" takes the structure's own if it has one.
        closest: Atoms nearer than this [Å] are an error.
        warn: Say in the log that tags or fixed atoms are missing.

    Raises:
        ValueError: No cell, NaN, unknown elements, tags beyond 0..2, atoms in one
            place, a constraint that is not ``FixAtoms``, partial occupation.
        TypeError: Another kind of object.
    """
    if isinstance(structure, OC20Record):
        record = structure
    elif isinstance(structure, ase.Atoms):
        record = _from_atoms(structure, sid, warn)
    elif isinstance(structure, IStructure):
        record = _from_pymatgen(structure, sid, warn)
    else:
        raise TypeError(
            f"structure {sid!r} is {type(structure).__name__}; wanted ase.Atoms, a "
            "pymatgen Structure (a molecule has no cell) or an OC20Record"
        )
    check_record(record, closest)
    return record


def _from_atoms(atoms: ase.Atoms, sid: str, warn: bool) -> OC20Record:
    sid = sid or str(atoms.info.get("sid", ""))
    if atoms.cell.rank < 3:
        raise ValueError(
            f"structure {sid!r} ({atoms.get_chemical_formula()}) has no cell in all "
            "three directions; a slab needs one, with vacuum along its normal "
            "(atoms.center(vacuum=10, axis=2))"
        )
    fixed = fixed_atoms(atoms, f"structure {sid!r}")
    tags = atoms.get_tags() if atoms.has("tags") else None
    return _record(atoms.numbers, atoms.positions, atoms.cell, tags, fixed, sid, warn)


def _from_pymatgen(structure: Structure, sid: str, warn: bool) -> OC20Record:
    if not structure.is_ordered:
        raise ValueError(
            f"structure {sid!r} has partly occupied sites; choose one ordering"
        )
    properties = structure.site_properties
    for name in ("tags", "fixed", "selective_dynamics"):
        missing = [i for i, v in enumerate(properties.get(name, ())) if v is None]
        if missing:
            raise ValueError(
                f"structure {sid!r}: atom {missing[0]} has no site property '{name}', "
                "unlike others"
            )
    fixed = properties.get("fixed")
    if fixed is None and "selective_dynamics" in properties:
        fixed = ~np.array(properties["selective_dynamics"], dtype=bool).any(axis=1)
    return _record(
        [site.specie.Z for site in structure],
        structure.cart_coords,
        structure.lattice.matrix,
        properties.get("tags"),
        np.zeros(len(structure), dtype=bool) if fixed is None else fixed,
        sid,
        warn,
    )


def _record(numbers, pos, cell, tags, fixed, sid: str, warn: bool) -> OC20Record:
    if tags is None and warn:
        logger.warning(
            f"structure {sid!r} has no tags (0 sub-surface, 1 surface, 2 adsorbate): "
            "every atom counts as sub-surface"
        )
    fields = {
        "atomic_numbers": np.asarray(numbers),
        "pos": np.asarray(pos),
        "cell": np.asarray(cell),
        "tags": tags,
        "fixed": fixed,
        "sid": sid,
    }
    record = OC20Record.from_fields(fields, f"structure {sid!r}")
    if warn and not record.fixed.any():
        logger.warning(f"structure {sid!r} has no fixed atoms: all of them may move")
    return record


def _as_atoms(record: OC20Record) -> ase.Atoms:
    return ase.Atoms(
        numbers=record.atomic_numbers, positions=record.pos, cell=record.cell, pbc=True
    )


def _as_array(record: OC20Record) -> dict[str, np.ndarray]:
    cell = record.cell.astype(np.float64)
    return {
        "frac_coords": record.pos @ np.linalg.inv(cell),
        "atom_types": record.atomic_numbers,
        "lattice": cell.tolist(),
    }


_DESCRIPTIONS: dict[str, Callable[[OC20Record], Any]] = {
    "ase_atoms": _as_atoms,
    "array": _as_array,
}


def _structure_builder(cfg: Mapping | None) -> BuildStructure:
    cfg = {"format": "ase_atoms", "niggli": False, "canocial": False, **(cfg or {})}
    _check_names(cfg, BuildStructure, "build_structure_cfg")
    check_choice("build_structure_cfg.format", cfg["format"], _DESCRIPTIONS)
    for name in ("primitive", "niggli", "canocial"):
        if cfg.get(name):
            raise ValueError(
                f"build_structure_cfg.{name} is on, which changes the cell; OC20 "
                "labels are Cartesian, so it has to be false"
            )
    return BuildStructure(**cfg)


def _graph_converter(cfg: Mapping | None) -> PeriodicGraphConverter | None:
    if cfg is None:
        return None
    where = "build_graph_cfg"
    for key in cfg:
        check_choice(f"{where}: key", key, ("__class_name__", "__init_params__"))
    name = cfg.get("__class_name__")
    check_choice(f"{where}.__class_name__", name, _GRAPH_CONVERTERS)
    params = cfg.get("__init_params__") or {}
    _check_names(params, _GRAPH_CONVERTERS[name], f"{where}.__init_params__")
    try:
        return _GRAPH_CONVERTERS[name](**params)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}.__init_params__: {error}") from error


def _check_reuse(build_graph: PeriodicGraphConverter | None) -> None:
    if build_graph is None:
        raise ValueError("reuse_edges is on, but there is no build_graph_cfg")
    limit = build_graph.max_neighbors
    if build_graph.cutoff > STORED_CUTOFF or limit is None or limit > STORED_NEIGHBORS:
        raise ValueError(
            f"reuse_edges: OC20 stores edges up to {STORED_CUTOFF} Å and "
            f"{STORED_NEIGHBORS} neighbours, but build_graph_cfg wants "
            f"{build_graph.cutoff} Å and {limit or 'all'} neighbours; set reuse_edges "
            "to false"
        )


def _check_names(params: Any, cls: type, where: str) -> None:
    if not isinstance(params, Mapping):
        raise ValueError(f"{where}: expected a mapping, got {params!r}")
    for key in params:
        check_choice(f"{where}: key", key, inspect.signature(cls).parameters)
