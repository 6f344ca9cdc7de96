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

"""Small files of a VASP run, written by hand: two steps, a slab of copper with H."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate
from ase.build import fcc111

_STEPS = ((1.6, -11.0), (1.5, -11.5))  # height of H [Å], energy [eV]


def _slab(height: float) -> Atoms:
    slab = fcc111("Cu", (2, 2, 2), vacuum=6.0, periodic=True)
    add_adsorbate(slab, "H", height, "fcc")
    return slab


def outcar() -> bytes:
    """Return an OUTCAR file: header, cell, positions, forces, energies."""
    kinds = _slab(0).get_chemical_symbols()
    counts = [kinds.count("Cu"), kinds.count("H")]
    lines = [
        " vasp.6.3.0 18Jan22 (build) complex",
        *[" POTCAR:    PAW_PBE Cu 22Jun2005", " POTCAR:    PAW_PBE H 15Jun2001"] * 2,
        "   ISPIN  =      1    spin polarized calculation?",
        "   ions per type =         " + "".join(f"{count:4d}" for count in counts),
        "   k-points           NKPTS =      1   k-points in BZ  NKDIM = 1 NBANDS= 1",
        " k-points in reciprocal lattice and weights: Automatic",
        "   0.00000000  0.00000000  0.00000000       1.000",
        "",
    ]
    for number, (height, energy) in enumerate(_STEPS, start=1):
        slab = _slab(height)
        lines.append(f"----- Iteration      {number}(   1)  -----")
        lines.append("      direct lattice vectors                 reciprocal vectors")
        lines += [_row([*row, 0, 0, 0]) for row in slab.cell]
        lines.append(" POSITION                    TOTAL-FORCE (eV/Angst)")
        lines.append(" " + "-" * 80)
        lines += [_row([*place, 0.0, 0.0, 0.01]) for place in slab.positions]
        lines.append(" " + "-" * 80)
        lines.append("  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)")
        lines.append("  ---------------------------------------------------")
        lines.append(f"  free  energy   TOTEN  =   {energy:.8f} eV")
        lines.append("")
        lines.append(f"  energy  without entropy= {energy:.8f}  energy(sigma->0) = ")
        lines[-1] += f"  {energy:.8f}"
        lines.append("")
    return "\n".join(lines).encode()


def _row(values: list) -> str:
    return "".join(f"{value:13.5f}" for value in values)


def vasprun() -> bytes:
    """Return a ``vasprun.xml``: atoms, first structure with held atoms, two steps."""
    slab = _slab(_STEPS[0][0])
    kinds = slab.get_chemical_symbols()
    rows = "".join(f"<rc><c>{k}</c><c>{1 + (k == 'H')}</c></rc>" for k in kinds)
    free = "".join(
        f'<v type="logical">{" ".join("FT"[tag < 2] * 3)}</v>'
        for tag in slab.get_tags().tolist()
    )
    points = '<varray name="kpointlist"><v>0 0 0</v></varray>'
    points += '<varray name="weights"><v>1</v></varray>'
    text = '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n'
    text += f"<kpoints>{points}</kpoints>\n"
    text += f'<atominfo><array name="atoms"><set>{rows}</set></array></atominfo>\n'
    text += f'<structure name="initialpos">{_structure(slab)}\n'
    text += f'<varray name="selective">{free}</varray></structure>\n'
    for height, energy in _STEPS:
        slab = _slab(height)
        names = ("e_fr_energy", "e_0_energy")
        energies = "".join(f'<i name="{name}">{energy}</i>' for name in names)
        text += f"<calculation><structure>{_structure(slab)}</structure>\n"
        text += f'<varray name="forces">{_vectors(np.zeros((len(slab), 3)))}</varray>\n'
        text += f"<scstep><energy>{energies}</energy></scstep>\n"
        text += f"<energy>{energies}</energy></calculation>\n"
    return f"{text}</modeling>\n".encode()


def _structure(slab: Atoms) -> str:
    cell, places = _vectors(slab.cell.array), _vectors(slab.get_scaled_positions())
    text = f'<crystal><varray name="basis">{cell}</varray></crystal>\n'
    return f'{text}<varray name="positions">{places}</varray>'


def _vectors(rows: np.ndarray) -> str:
    return "\n".join(f"<v>{x:.8f} {y:.8f} {z:.8f}</v>" for x, y, z in rows)
