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
                      [1, 3] (degrees), num_atoms [1], num_adsorbates [1]
                      (molecules), tags [N] (0 sub-surface, 1 surface, 2 adsorbate),
                      fixed [N] (bool)
    graph             see PeriodicGraphConverter; only with a build_graph_cfg
    cart_coords_relaxed, displacement   [N, 3] (Å); where the file has them
    y_relaxed         [1] (adsorption energy, eV); where the file has it
    id                sid, a string

All but ``y_relaxed`` and ``id`` are ``ConcatData``. The displacement is the minimum
image of relaxed minus initial position, because OC20 files wrap the two separately.

Source: Chanussot et al., The Open Catalyst 2020 (OC20) Dataset and Community
Challenges, ACS Catal. 11 (2021) 6059, and the fairchem documentation. CC BY 4.0.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from typing import Any

import numpy as np
import paddle.distributed as dist
from paddle import io

from ppmat.datasets.build_structure import BuildStructure
from ppmat.datasets.custom_data_type import ConcatData
from ppmat.datasets.graph_utils.periodic_graph import PeriodicGraphConverter
from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_lmdb import SUBSETS
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.pyg_pickle import OC20FormatError
from ppmat.datasets.record_checks import MISSING_TAGS
from ppmat.datasets.record_checks import SMALLEST_DISTANCE
from ppmat.datasets.record_checks import check_record
from ppmat.datasets.record_checks import num_adsorbates
from ppmat.datasets.record_checks import with_wanted_tags
from ppmat.datasets.surface_tags import check_readout
from ppmat.datasets.surface_tags import check_tags
from ppmat.utils import logger
from ppmat.utils.download import get_datasets_path_from_url
from ppmat.utils.errors import InputError
from ppmat.utils.errors import check_choice
from ppmat.utils.progress import Progress
from ppmat.utils.ranges import Range

LABELS = ("pos_relaxed", "y_relaxed")
# Labels as a sample names them, and the field of a record each one comes from.
_LABEL_FIELDS = {
    "y_relaxed": "y_relaxed",
    "cart_coords_relaxed": "pos_relaxed",
    "displacement": "pos_relaxed",
}
STORED_CUTOFF = 6.0  # Å, of the edges in the official files
STORED_NEIGHBORS = 50  # largest number of edges of an atom in the official files

_SKIP_HINT = ". on_error: skip leaves such records out at the start"

_STRUCTURE_FORMATS = ("ase_atoms", "array")  # both keep the cell of a record
_CELL_CHANGES = ("primitive", "niggli", "canocial")


class OC20IS2REDataset(io.Dataset):
    """One split of OC20 IS2RE as samples, read row by row from its LMDB file.

    Nothing is cached: the workers decode a row and make its graph when it is requested.

    Args:
        path: Root of the OC20 files, the folder of the split, or an LMDB file; see
            ``ppmat.datasets.oc20_lmdb.find_split`` for the layouts. May be None with
            ``download``.
        split: ``train``, ``val_id``, ``val_ood_ads``, ``val_ood_cat``,
            ``val_ood_both``, ``test_...``, or the name of a folder. A ``path`` that
            is itself a file or holds LMDB files has no splits, so any name will do.
        subset: ``10k``, ``100k`` or ``all``; selects one of the train splits.
        property_names: Labels every record must have, as a sample names them; a record
            without one is bad. None takes the labels of the first record.
        build_structure_cfg: Arguments of ``BuildStructure``; format ``ase_atoms``
            (default) or ``array``. ``primitive``, ``niggli`` and ``canocial`` are off,
            since the labels are Cartesian.
        build_graph_cfg: Block of the graph converter; None leaves ``graph`` out.
        reuse_edges: Use the edges stored in the file (at most 6 Å and 50 neighbours)
            instead of searching neighbours.
        on_error: ``raise`` stops at a bad record when it is read. ``skip`` reads the
            whole file at the start (about 0.5 ms a record), leaves the bad records
            out and lists them in the log, so that ``len`` is exact.
        max_samples: Use only the first (good) records.
        download: Fetch the official archive (8.1 GB, 97 GB unpacked) if ``path``
            does not exist, or is a folder without any LMDB file.
        transforms: Applied to each sample; in YAML a list of blocks.
        missing_tags: For a record without tags (all 0): ``keep`` it, ``raise``, or
            ``guess`` them as in :func:`~ppmat.datasets.surface_tags.guess_tags`. Layer
            numbers of ASE's surface builders make a record bad, unless ``guess``
            replaces them.
        readout_tags: Tags of the atoms that the model reads an energy from; a record
            without such an atom is bad. None for models that read all atoms.
        max_atoms: A record with more atoms is bad, for models with a limited context.

    Attributes:
        labels: Those of ``pos_relaxed`` and ``y_relaxed`` that the first (good) record
            has. A later record without one is bad.
        skipped: One line for each record left out.

    Raises:
        FileNotFoundError: Nothing at ``path``.
        OC20FormatError: The file is not an OC20 file, or a record is bad.
        InputError: An illegal argument.
    """

    name = "oc20_is2re"
    url = (
        "https://dl.fbaipublicfiles.com/opencatalystproject/data/"
        "is2res_train_val_test_lmdbs.tar.gz"
    )
    md5 = "cfc04dd2f87b4102ab2f607240d25fb1"

    nested_params = {"build_graph_cfg": [PeriodicGraphConverter]}

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
        max_samples: Annotated[int, Range(1, 10**9)] | None = None,
        download: bool = False,
        transforms: Callable[[dict], dict] | None = None,
        missing_tags: str = "keep",
        readout_tags: Annotated[Sequence[int], Range(0, 2)] | None = None,
        max_atoms: Annotated[int, Range(1, 10**6)] | None = None,
    ) -> None:
        super().__init__()
        check_choice("subset", subset, SUBSETS)
        check_choice("on_error", on_error, ("raise", "skip"))
        check_choice("missing_tags", missing_tags, MISSING_TAGS)
        for what, most in (("max_samples", max_samples), ("max_atoms", max_atoms)):
            if most is not None and most < 1:
                raise InputError(f"{what} is {most}", wanted="at least 1")
        if isinstance(property_names, str):
            property_names = [property_names]
        for name in property_names or ():
            check_choice("property_names: label", name, _LABEL_FIELDS)
        self.property_names = tuple(property_names or ())
        self.build_structure = _structure_builder(build_structure_cfg)
        self.build_graph = graph_converter(build_graph_cfg)
        self.transforms = transforms
        self.missing_tags = missing_tags
        self.readout_tags = readout_tags
        self.max_atoms, self.on_error = max_atoms, on_error
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
            self._read(0, closest=SMALLEST_DISTANCE)
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
                # Rows that were chosen at the start are checked already.
                closest=SMALLEST_DISTANCE if self._rows is None else 0.0,
            )
        except ValueError as error:
            raise OC20FormatError(
                f"{self.records.where(row)} (sid {record.sid}): {error}"
            ) from error
        return sample if self.transforms is None else self.transforms(sample)

    def read_label(self, idx: int, name: str) -> np.ndarray:
        """Return one label of a sample without making its structure and graph.

        With transforms the whole sample is made, since they may change the label.

        Args:
            idx: Index of the sample.
            name: ``y_relaxed`` [1], ``cart_coords_relaxed`` or ``displacement`` [N, 3].

        Raises:
            OC20FormatError: The record is bad or has no such label.
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
        record = self._record(self._row(idx))
        return record.atomic_numbers, record.tags

    def read_num_adsorbates(self, idx: int) -> int:
        """Return the number of adsorbates of a record, without its graph."""
        return num_adsorbates(self.records[self._row(idx)])

    def _row(self, idx: int) -> int:
        return idx if self._rows is None else int(self._rows[idx])

    def _record(self, row: int) -> OC20Record:
        """Return a record with the tags that are wanted."""
        record = self.records[row]
        try:
            return with_wanted_tags(record, self.missing_tags)
        except ValueError as error:
            raise OC20FormatError(
                f"{self.records.where(row)} (sid {record.sid}): {error}"
            ) from error

    def _check_label(self, record: OC20Record, row: int, name: str) -> None:
        if getattr(record, _LABEL_FIELDS[name]) is None:
            raise OC20FormatError(
                f"{self.records.where(row)}: sid {record.sid} has no "
                f"{_LABEL_FIELDS[name]}, which the label '{name}' needs"
            )

    def _locate(self, path: str | None, download: bool) -> str:
        found = path is not None and os.path.exists(path)
        if found and download and os.path.isdir(path):
            below = Path(path).rglob("*")
            found = any(file.suffix in (".lmdb", ".mdb") for file in below)
        if found:
            return path
        if download:
            return get_datasets_path_from_url(self.url, self.md5)
        raise FileNotFoundError(
            f"{path!r} does not exist; wanted the root of the OC20 files, the folder "
            f"of a split or an LMDB file. 'download: true' fetches {self.url} (8.1 GB, "
            "97 GB unpacked)"
        )

    def _read(self, row: int, closest: float | None = None) -> OC20Record:
        """Return a record that has all a sample needs, or raise ``OC20FormatError``.

        With ``closest``, no atoms may be closer than this [Å].
        """
        record = self._record(row)
        try:
            if closest is None:
                check_tags(record)
            else:
                check_record(record, closest)
            if self.readout_tags is not None:
                check_readout(record.tags, self.readout_tags)
        except ValueError as error:
            raise OC20FormatError(f"{self.records.where(row)}: {error}") from error
        if self.max_atoms is not None and len(record.pos) > self.max_atoms:
            raise OC20FormatError(
                f"{self.records.where(row)}: sid {record.sid} has {len(record.pos)} "
                f"atoms, wanted at most {self.max_atoms} (max_atoms)"
                + ("" if self.on_error == "skip" else _SKIP_HINT)
            )
        for name in self.property_names:
            self._check_label(record, row, name)
        if self.labels is None:
            self.labels = _known_labels(record)
        reasons = dict.fromkeys(self.labels, ", unlike the first record")
        if self.reuse_edges:
            hint = "; set reuse_edges to false to search the neighbours"
            reasons |= dict.fromkeys(("edge_index", "cell_offsets"), hint)
        for name, reason in reasons.items():
            if getattr(record, name) is None:
                raise OC20FormatError(
                    f"{self.records.where(row)}: sid {record.sid} has no {name}{reason}"
                )
        return record

    def _good_rows(self, max_samples: int | None) -> np.ndarray:
        rows: list[int] = []
        path = self.records.path
        quiet = dist.get_rank() != 0
        rows_of_file = range(len(self.records))
        for row in Progress(rows_of_file, desc=f"checking {path}", disable=quiet):
            try:
                self._read(row, closest=SMALLEST_DISTANCE)
                rows.append(row)
            except OC20FormatError as error:
                self.skipped.append(str(error))
            if len(rows) == max_samples:
                break
        if not rows:
            raise OC20FormatError(
                f"{path}: none of its {len(self.records)} records can be used; the "
                f"first: {self.skipped[0]}"
            )
        if self.skipped:
            logger.warning(
                f"{path}: {len(self.skipped)} of {row + 1} records are bad, left out:"
            )
            for line in self.skipped:
                logger.warning(f"  {line}")
        return np.array(rows, dtype=np.int64)


def record_to_sample(
    record: OC20Record,
    build_structure: BuildStructure | None = None,
    build_graph: PeriodicGraphConverter | None = None,
    *,
    reuse_edges: bool = False,
    labels: Sequence[str] | None = None,
    closest: float = 0.0,
) -> dict[str, Any]:
    """Make a sample of a record; the docstring of the module lists its fields.

    Args:
        record: The record.
        build_structure: A builder that keeps the cell; None makes one.
        build_graph: None leaves ``graph`` out.
        reuse_edges: Make the graph of the record's own edges.
        labels: Which of ``pos_relaxed``, ``y_relaxed`` become labels; None takes those
            the record has.
        closest: Atoms closer than this [Å] are an error.

    Raises:
        InputError: ``build_structure`` would change the cell, or two atoms are closer
            than ``closest``.
    """
    if build_structure is None:
        build_structure = _structure_builder(None)
    _check_cell_is_kept(build_structure)
    structure = build_structure(record)
    lattice = structure.lattice
    sample: dict[str, Any] = {
        "structure_array": {
            "frac_coords": ConcatData(structure.frac_coords.astype("float32")),
            "cart_coords": ConcatData(record.pos),
            "atom_types": ConcatData(record.atomic_numbers),
            "lattice": ConcatData(record.cell[None]),
            "lengths": ConcatData(np.array([lattice.abc], dtype="float32")),
            "angles": ConcatData(np.array([lattice.angles], dtype="float32")),
            "num_atoms": ConcatData(np.array([len(record.pos)], dtype="int64")),
            "num_adsorbates": ConcatData(np.array([num_adsorbates(record)])),
            "tags": ConcatData(record.tags),
            "fixed": ConcatData(record.fixed),
        }
    }
    if build_graph is not None and not reuse_edges:
        sample["graph"] = build_graph(structure, closest)  # one search does both
    elif closest > 0:
        check_record(record, closest)
    if reuse_edges:
        edges = record.edge_index, record.cell_offsets
        sample["graph"] = build_graph.from_edges(structure, *edges)
    if labels is None:
        labels = _known_labels(record)
    if "pos_relaxed" in labels:
        sample["cart_coords_relaxed"] = ConcatData(record.pos_relaxed)
        sample["displacement"] = ConcatData(record.displacement)
    if "y_relaxed" in labels:
        sample["y_relaxed"] = np.array([record.y_relaxed], dtype="float32")
    sample["id"] = record.sid
    return sample


def _known_labels(record: OC20Record) -> tuple[str, ...]:
    return tuple(name for name in LABELS if getattr(record, name) is not None)


def _structure_builder(cfg: Mapping | None) -> BuildStructure:
    cfg = {"format": "ase_atoms", "niggli": False, "canocial": False, **(cfg or {})}
    legal = inspect.signature(BuildStructure).parameters
    _check_names(cfg, legal, "build_structure_cfg")
    check_choice("build_structure_cfg.format", cfg["format"], _STRUCTURE_FORMATS)
    builder = BuildStructure(**cfg)
    _check_cell_is_kept(builder)
    return builder


def _check_cell_is_kept(builder: BuildStructure) -> None:
    for name in _CELL_CHANGES:
        if getattr(builder, name):
            raise InputError(
                f"build_structure_cfg.{name} is on, which changes the cell",
                hint="OC20 labels are Cartesian, so it has to be false",
            )


def graph_converter(cfg: Mapping | None) -> PeriodicGraphConverter | None:
    """Return the converter of a block; None for None."""
    if cfg is None:
        return None
    where = "build_graph_cfg"
    _check_names(cfg, ("__class_name__", "__init_params__"), where)
    name = cfg.get("__class_name__")
    check_choice(f"{where}.__class_name__", name, ("PeriodicGraphConverter",))
    params, where = cfg.get("__init_params__") or {}, f"{where}.__init_params__"
    _check_names(params, inspect.signature(PeriodicGraphConverter).parameters, where)
    try:
        return PeriodicGraphConverter(**params)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error


def _check_names(cfg: Any, legal: Iterable[str], where: str) -> None:
    if not isinstance(cfg, Mapping):
        raise InputError(f"{where}: expected a mapping, got {cfg!r}")
    for key in cfg:
        check_choice(f"{where}: key", key, legal)


def _check_reuse(build_graph: PeriodicGraphConverter | None) -> None:
    if build_graph is None:
        raise InputError("reuse_edges is on, but there is no build_graph_cfg")
    limit = build_graph.max_neighbors
    if build_graph.cutoff > STORED_CUTOFF or limit is None or limit > STORED_NEIGHBORS:
        raise InputError(
            f"reuse_edges: OC20 stores edges up to {STORED_CUTOFF} Å and "
            f"{STORED_NEIGHBORS} neighbours, build_graph_cfg wants "
            f"{build_graph.cutoff} Å and {limit or 'all'}; set it to false"
        )
