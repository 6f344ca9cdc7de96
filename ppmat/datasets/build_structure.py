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

"""Crystal structures from CIF text and files, arrays, dictionaries, ASE atoms, records.

Every description of a structure becomes a pymatgen ``Structure`` here.
"""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
from collections.abc import Mapping
from typing import Annotated
from typing import Any

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.cif import CifParser

from ppmat.datasets.oc20_record import OC20Record
from ppmat.utils.errors import InputError
from ppmat.utils.errors import nearest
from ppmat.utils.ranges import Range
from ppmat.utils.registry import ConfigError


def _from_array(data: Mapping) -> Structure:
    found = ", ".join(map(str, data))
    for key in ("frac_coords", "atom_types"):
        if key not in data:
            raise KeyError(f"'{key}' is missing; found {found}")
    if "lattice" in data:
        lattice = Lattice(np.asarray(data["lattice"], dtype=float).reshape(3, 3))
    elif "lengths" in data and "angles" in data:
        lengths = np.asarray(data["lengths"], dtype=float).reshape(3)
        angles = np.asarray(data["angles"], dtype=float).reshape(3)
        lattice = Lattice.from_parameters(*lengths, *angles)
    else:
        need = "'lattice' or 'lengths' and 'angles'"
        raise KeyError(f"the cell is missing: give {need}; found {found}")
    coords = np.asarray(data["frac_coords"], dtype=float)
    return Structure(lattice, list(data["atom_types"]), coords)


def _from_cif_parser(text: str) -> Structure:
    found = CifParser.from_str(text).parse_structures(primitive=True, on_error="ignore")
    if not found:
        raise InputError("the CIF text holds no readable structure")
    return found[0]


def _from_jarvis(data: Mapping) -> Structure:
    return Structure(
        np.asarray(data["lattice_mat"], dtype=float),
        data["elements"],
        np.asarray(data["coords"], dtype=float),
        coords_are_cartesian=bool(data["cartesian"]),
    )


def _from_record(record: OC20Record) -> Structure:
    return Structure(
        Lattice(record.cell),
        record.atomic_numbers.tolist(),
        record.pos.astype(np.float64),
        coords_are_cartesian=True,
    )


_READERS = {
    "cif_str": functools.partial(Structure.from_str, fmt="cif"),
    "array": _from_array,
    "cif_file": Structure.from_file,
    "dict": Structure.from_dict,
    "cif_str_by_CifParser": _from_cif_parser,
    "jarvis": _from_jarvis,
    "ase_atoms": AseAtomsAdaptor.get_structure,
}


class BuildStructure:
    """Builds the pymatgen structure of one description of a crystal, or of a list.

    Args:
        format: What is given (an ``OC20Record`` is accepted with every format):

            - ``cif_str``: text of a CIF.
            - ``cif_str_by_CifParser``: the same, read leniently and always reduced
              to the primitive cell.
            - ``cif_file``: path of a CIF or any file pymatgen reads.
            - ``array``: mapping with ``frac_coords`` [N, 3], ``atom_types`` [N]
              (atomic numbers or symbols) and either ``lattice`` [3, 3] (rows, Å;
              kept as given, orientation and handedness included) or ``lengths`` [3]
              (Å) and ``angles`` [3] (degrees). ``lattice`` has priority.
            - ``dict``: ``Structure.as_dict()``.
            - ``jarvis``: ``Atoms.to_dict()`` of jarvis-tools, which is not needed.
            - ``ase_atoms``: ``ase.Atoms``.
        primitive: Reduce to the primitive cell.
        niggli: Reduce the lattice by Niggli's algorithm. This permutes and rotates the
            axes, so it has to be off for slabs.
        canocial: Rebuild the cell from its lengths and angles, which loses the
            orientation. The spelling is that of PaddleMaterials.
        num_cpus: Processes for a list; None or 1 works in this process.

    Raises:
        ConfigError: Unknown ``format``.

    Example:
        >>> build = BuildStructure("array", niggli=False, canocial=False)
        >>> data = {"frac_coords": [[0, 0, 0]], "atom_types": [29]}
        >>> build({**data, "lattice": 3 * np.eye(3)}).formula
        'Cu1'
    """

    def __init__(
        self,
        format: str,
        primitive: bool = False,
        niggli: bool = True,
        canocial: bool = True,
        num_cpus: Annotated[int, Range(1, 1024)] | None = None,
    ) -> None:
        _check_format(format)
        self.format = format
        self.primitive = primitive
        self.niggli = niggli
        self.canocial = canocial
        self.num_cpus = num_cpus if num_cpus is not None else 1

    @staticmethod
    def build_one(
        crystal_data: Any,
        format: str,
        primitive: bool = False,
        niggli: bool = True,
        canocial: bool = True,
    ) -> Structure:
        """Return the structure of one description; arguments as in the class."""
        _check_format(format)
        known = isinstance(crystal_data, OC20Record)
        crystal = (_from_record if known else _READERS[format])(crystal_data)
        if primitive:
            crystal = crystal.get_primitive_structure()
        if niggli:
            crystal = crystal.get_reduced_structure()
        if canocial:
            crystal = Structure(
                Lattice.from_parameters(*crystal.lattice.parameters),
                crystal.species_and_occu,
                crystal.frac_coords,
                site_properties=crystal.site_properties,
            )
        return crystal

    def __call__(self, crystals_data: Any) -> Structure | list[Structure]:
        """Return the structure of one description, or the structures of a list.

        Raises:
            InputError: An item of a list cannot be built; the error names its position.
        """
        options = (self.format, self.primitive, self.niggli, self.canocial)
        if not isinstance(crystals_data, list):
            return self.build_one(crystals_data, *options)
        jobs = ((i, data, options) for i, data in enumerate(crystals_data))
        if self.num_cpus <= 1 or len(crystals_data) < 2:
            return [_build_item(job) for job in jobs]
        # A forked child of a process with CUDA state may run numpy and pymatgen.
        # "spawn" would import Paddle in each child.
        context = multiprocessing.get_context("fork")
        with concurrent.futures.ProcessPoolExecutor(self.num_cpus, context) as pool:
            return list(pool.map(_build_item, jobs, chunksize=32))


def _build_item(job: tuple) -> Structure:
    index, data, options = job
    try:
        return BuildStructure.build_one(data, *options)
    except Exception as error:
        raise InputError(
            f"item {index} (format '{options[0]}') is not a structure: "
            f"{type(error).__name__}: {error}"
        ) from error


def _check_format(name: Any) -> None:
    if name not in _READERS:
        raise ConfigError(
            f"BuildStructure: unknown format {name!r}. Legal formats: "
            f"{', '.join(_READERS)}.{nearest(name, _READERS)}"
        )
