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

"""A user's structures as records that a model can use, and those that cannot be used.

Structures in memory become records once. Rows of an LMDB file are checked in one pass,
and read again on access, so that a large data set needs no memory.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import numpy as np

from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.structure_reader import JoinedSequences
from ppmat.datasets.structure_reader import UniqueIds
from ppmat.datasets.structure_reader import Unreadable
from ppmat.datasets.structure_reader import add_to_hash
from ppmat.datasets.structure_reader import fault_line
from ppmat.datasets.structure_reader import fingerprint_rows
from ppmat.datasets.structure_reader import id_of
from ppmat.datasets.structure_reader import iter_rows
from ppmat.datasets.structure_reader import place_of
from ppmat.datasets.structure_reader import shortest_names
from ppmat.datasets.structure_record import structure_to_record
from ppmat.utils.errors import InputError
from ppmat.utils.errors import check_choice
from ppmat.utils.progress import Progress

MISSING_TAGS = ("raise", "guess")
ON_ERROR = ("raise", "flag")
_MAX_FAULTS = 20  # named in one error


class PreparedRecords(Sequence):
    """The records of the structures that can be used, in the order of the input.

    Args:
        structures: ``ase.Atoms``, pymatgen ``Structure``, ``OC20Record`` or
            ``Unreadable``: a list, an ``OC20LMDB``, or several as ``JoinedSequences``.
        missing_tags: ``raise`` or ``guess``, see
            :func:`~ppmat.datasets.structure_record.structure_to_record`.
        repeated: For an id that occurred before: ``keep``, ``rename`` as in
            :class:`~ppmat.datasets.structure_reader.UniqueIds`, or ``refuse``, which
            leaves the structure out.
        progress: Show a progress bar while the structures are checked.

    Attributes:
        rows: Numbers of these structures in the input.
        left_out: The others.
    """

    def __init__(
        self,
        structures: Sequence,
        missing_tags: str = "raise",
        repeated: str = "keep",
        progress: bool = False,
    ) -> None:
        check_choice("missing_tags", missing_tags, MISSING_TAGS)
        check_choice("repeated", repeated, ("keep", "rename", "refuse"))
        self.structures = structures
        self.missing_tags = missing_tags
        self.rows: list[int] = []
        self.left_out: list[Unreadable] = []
        self._free: dict[int, bool] = {}  # whether no atom is held
        self._sizes: dict[int, int] = {}  # numbers of atoms
        self._kept: dict[int, OC20Record] = {}  # records that are not in a data set
        self._renamed: dict[int, str] = {}
        self._repeated, self._ids = repeated, UniqueIds()
        pieces = getattr(structures, "pieces", ())
        self._names = shortest_names(_sources(pieces))
        items = Progress(
            _each(structures), "checking", not progress, total=len(structures)
        )
        for row, (structure, stored) in enumerate(items):
            self._add(row, structure, stored)
        self._ids.report()
        del self._ids, self._names

    def _add(self, row: int, structure: Any, stored: bool) -> None:
        if isinstance(structure, Unreadable):
            self.left_out.append(structure)
            return
        sid, place = id_of(structure) or str(row), place_of(structure)
        try:
            record = self._record(structure, sid)
            self._check_id(row, sid, place)
        except TypeError as error:
            raise TypeError(fault_line(sid, None, row, error)) from error
        except ValueError as error:
            source, frame = place if place[0] is not None else (None, row)
            self.left_out.append(Unreadable(sid, str(error), source, frame))
            return
        self.rows.append(row)
        self._free[row] = not record.fixed.any()
        self._sizes[row] = len(record.pos)
        if not stored:
            self._kept[row] = record

    def _check_id(self, row: int, sid: str, place: tuple) -> None:
        holder = self._ids.holder(sid)
        if holder and self._repeated == "refuse":
            raise InputError(f"sid {sid} is already that of {holder}")
        if self._repeated != "keep":
            unique = self._ids(sid, *place, self._names.get(place[0], ""))
            if unique != sid:
                self._renamed[row] = unique

    def _record(self, structure: Any, sid: str) -> OC20Record:
        record = structure_to_record(
            structure, sid, warn=False, missing_tags=self.missing_tags
        )
        source, frame = place_of(structure)
        return dataclasses.replace(record, sid=sid, source=source, frame=frame)

    def _plain(self, row: int) -> OC20Record:
        if row in self._kept:
            return self._kept[row]
        record = self.structures[row]
        return self._record(record, record.sid)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> OC20Record:
        row = self.rows[index]
        record = self._plain(row)
        sid = self._renamed.get(row)
        return record if sid is None else dataclasses.replace(record, sid=sid)

    @property
    def all_free(self) -> int:
        """Number of the structures without any held atom."""
        return sum(self._free[row] for row in self.rows)

    def leave_out_larger(self, most: int) -> None:
        """Leave out the structures of more than ``most`` atoms."""
        for index, row in enumerate(self.rows):
            if self._sizes[row] > most:
                record = self[index]
                reason = f"{self._sizes[row]} atoms; the model takes at most {most}"
                frame = row if record.source is None else record.frame
                fault = Unreadable(record.sid, reason, record.source, frame)
                self.left_out.append(fault)
                self._kept.pop(row, None)
        self.rows = [row for row in self.rows if self._sizes[row] <= most]

    def check(self, on_error: str) -> None:
        """Raise ``InputError`` if there is no record, or one is missing with ``raise``.

        The error lists the structures that were left out.
        """
        check_choice("on_error", on_error, ON_ERROR)
        if self.rows and (not self.left_out or on_error == "flag"):
            return
        lines = [str(fault) for fault in self.left_out[:_MAX_FAULTS]]
        more = len(self.left_out) - len(lines)
        lines += [f"... and {more} more"] if more else []
        found = "no structure can be used"
        if self.rows:
            found = (
                f"{len(self.left_out)} of {len(self.structures)} structures cannot be "
                "used (on_error='flag' leaves them out and continues)"
            )
        raise InputError("\n  ".join([found, *lines]))

    def fingerprint(self) -> Any:
        """Return plain values that change when the records change."""
        pieces = getattr(self.structures, "pieces", [self.structures])
        data_sets = [fingerprint_rows(p) for p in pieces if isinstance(p, OC20LMDB)]
        digest = hashlib.sha256()
        if data_sets:
            digest.update(np.array(self.rows).tobytes())
            digest.update(repr((self.missing_tags, self._renamed)).encode())
        for row, record in self._kept.items():
            digest.update(self._renamed.get(row, record.sid).encode())
            add_to_hash(digest, record)
        return [*data_sets, digest.hexdigest()[:16]]


class Templates(Sequence):
    """The structures of prepared records as they were given."""

    def __init__(self, records: PreparedRecords) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Any:
        return self.records.structures[self.records.rows[index]]


def _sources(pieces: Sequence) -> set[str]:
    """Return the files of joined structures."""
    sources: set[str] = set()
    for piece in pieces:
        if isinstance(piece, OC20LMDB):
            sources |= {str(file) for file in piece.files}
        else:
            sources |= {source for source, _ in map(place_of, piece) if source}
    return sources


def _each(structures: Sequence) -> Iterator[tuple[Any, bool]]:
    """Yield each structure, and whether it is a row of a data set."""
    if isinstance(structures, JoinedSequences):
        for piece in structures.pieces:
            yield from _each(piece)
    elif isinstance(structures, OC20LMDB):
        yield from ((row, True) for row in iter_rows(structures))
    else:
        yield from ((structure, False) for structure in structures)
