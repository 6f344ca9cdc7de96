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

"""Read the fields of a file's record, or of a user's structure, and check them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ppmat.datasets.pyg_pickle import OC20FormatError
from ppmat.utils.element_properties import MAX_ATOMIC_NUMBER
from ppmat.utils.periodic import LARGEST_COORDINATE
from ppmat.utils.periodic import check_cell
from ppmat.utils.periodic import check_cell_size

_LARGEST = float(np.finfo(np.float32).max)  # labels become float32


class FieldReader:
    """Reads the fields of one record; every fault names the file and the key.

    Args:
        fields: Arrays and numbers by name, see ``OC20Record.from_fields``.
        where: File and key, for errors.
    """

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        self.fields = fields
        self.prefix = f"{where}: " if where else ""

    def values(self, default_sid: str) -> dict[str, Any]:
        """Return the arguments of ``OC20Record``; the id if the fields have none.

        Raises:
            OC20FormatError: A field is missing, or has a wrong shape or value.
        """
        pos = self.positions("pos", -1, required=True)
        natoms = len(pos)
        if natoms == 0:
            self.fail("the structure has no atoms")
        stated = self.number("natoms")
        if stated is not None and stated != natoms:
            self.fail(f"natoms is {stated:g}, but pos has {natoms} rows")
        numbers = self.array("atomic_numbers", (natoms,), np.int64, required=True)
        if numbers.min() < 1 or numbers.max() > MAX_ATOMIC_NUMBER:
            bad = numbers[(numbers < 1) | (numbers > MAX_ATOMIC_NUMBER)][0]
            self.fail(f"atomic_numbers holds {bad}, which is no element (1 to 118)")
        tags = self.array("tags", (natoms,), np.int64)
        fixed = self.array("fixed", (natoms,), np.int64)
        if fixed is not None and not np.isin(fixed, (0, 1)).all():
            self.fail("fixed holds values other than 0 and 1")
        edge_index = self.array("edge_index", (2, -1), np.int64)
        edges = -1 if edge_index is None else edge_index.shape[1]
        if edges > 0 and not 0 <= edge_index.min() <= edge_index.max() < natoms:
            self.fail(f"edge_index refers to atoms beyond the {natoms} there are")
        force = "force" if "force" in self.fields else "forces"
        return {
            "sid": self.sid(default_sid),
            "atomic_numbers": numbers,
            "pos": pos,
            "cell": self.cell(natoms),
            "tags": np.zeros(natoms, dtype=np.int64) if tags is None else tags,
            "fixed": np.zeros(natoms, bool) if fixed is None else fixed.astype(bool),
            "y_init": self.number("y_init", "y", "energy"),
            "y_relaxed": self.number("y_relaxed"),
            "pos_relaxed": self.positions("pos_relaxed", natoms),
            "edge_index": edge_index,
            "cell_offsets": self.array("cell_offsets", (edges, 3), np.int64),
            "distances": self.array("distances", (edges,), np.float32),
            "force": self.array(force, (natoms, 3), np.float32),
            "num_adsorbates": self.count("num_adsorbates", natoms),
        }

    def fail(self, reason: str) -> None:
        raise OC20FormatError(self.prefix + reason)

    def raw(self, name: str, required: bool = False) -> np.ndarray | None:
        """Return a field as an array of numbers, or None if the record has none."""
        value = self.fields.get(name)
        if value is None:
            if required:
                found = ", ".join(map(str, self.fields)) or "nothing"
                self.fail(f"the record has no {name}; it has {found}")
            return None
        try:
            array = np.asarray(value)
        except ValueError:  # a list of lists of different lengths
            array = np.asarray(None)
        if array.dtype.kind not in "biuf":
            self.fail(f"{name} is no array of numbers")
        return array

    def array(
        self, name: str, shape: tuple[int, ...], dtype: type, required: bool = False
    ) -> np.ndarray | None:
        """Return a field of a shape (-1: any size) as float32 or int64, checked."""
        array = self.raw(name, required)
        if array is None:
            return None
        if array.ndim != len(shape) or any(
            want not in (-1, got) for got, want in zip(array.shape, shape, strict=True)
        ):
            text = ", ".join("any" if size < 0 else str(size) for size in shape)
            self.fail(f"{name} has shape {array.shape}, expected ({text})")
        if dtype is np.int64 and array.dtype.kind == "f":
            if not (np.abs(array) < 1 << 31).all() or (array != np.rint(array)).any():
                self.fail(f"{name} holds numbers that are no integers")
        array = array.astype(dtype, copy=False)
        if dtype is np.float32 and not np.isfinite(array).all():
            self.fail(f"{name} holds NaN or infinite numbers")
        return array

    def positions(
        self, name: str, natoms: int, required: bool = False
    ) -> np.ndarray | None:
        """Return positions as float32 [natoms, 3], none of them absurdly far."""
        pos = self.array(name, (natoms, 3), np.float32, required)
        if pos is None or np.abs(pos).max(initial=0.0) <= LARGEST_COORDINATE:
            return pos
        atom = int(np.abs(pos).max(axis=1).argmax())
        self.fail(
            f"{name} of atom {atom} is {pos[atom].tolist()} Å, more than "
            f"{LARGEST_COORDINATE:g} Å from the origin"
        )

    def cell(self, natoms: int) -> np.ndarray:
        """Return the cell as float32 [3, 3], with a size that fits its atoms."""
        cell = self.raw("cell", required=True)
        if cell.size != 9:
            self.fail(f"cell has shape {cell.shape}, expected (3, 3) or (1, 3, 3)")
        cell = cell.reshape(3, 3).astype(np.float32)
        try:
            check_cell(cell.astype(np.float64))
            check_cell_size(cell.astype(np.float64), natoms)
        except ValueError as err:
            self.fail(str(err))
        return cell

    def number(self, *names: str) -> float | None:
        """Return the first of several fields that the record has."""
        name = next((n for n in names if self.fields.get(n) is not None), names[0])
        array = self.raw(name)
        if array is None:
            return None
        if array.size != 1:
            self.fail(f"{name} has shape {array.shape}, expected one number")
        value = float(array.reshape(()))
        if not abs(value) <= _LARGEST:
            self.fail(f"{name} is {value}, expected a number that fits into float32")
        return value

    def count(self, name: str, most: int) -> int | None:
        """Return a field that counts something, a whole number from 0 to ``most``."""
        value = self.number(name)
        if value is None:
            return None
        if value != int(value) or not 0 <= value <= most:
            self.fail(f"{name} is {value:g}, expected a whole number up to {most}")
        return int(value)

    def sid(self, default: str) -> str:
        value = self.fields.get("sid")
        if isinstance(value, (list, tuple)) and len(value) == 1:
            value = value[0]
        if value is None or isinstance(value, str):
            return default if value is None else value
        array = self.raw("sid")
        if array.size != 1:
            self.fail(f"sid has shape {array.shape}, expected one number or a string")
        value = array.reshape(()).item()
        if not np.isfinite(value) or value != int(value):
            self.fail(f"sid is {value}, expected an integer or a string")
        return str(int(value))
