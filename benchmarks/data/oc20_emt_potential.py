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

"""Effective-medium theory for periodic structures, all pairs of atoms at once.

The same energies and forces as ``ase.calculators.emt.EMT`` (which loops over atoms in
Python) from the parameter table of ASE, several times faster. Equations: Jacobsen,
Stoltze and Nørskov, Surf. Sci. 366, 394 (1996). Units: eV and Å.
"""

from math import log
from math import sqrt

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.calculator import all_changes
from ase.calculators.emt import parameters as EMT_TABLE
from ase.data import chemical_symbols
from ase.units import Bohr

from ppmat.datasets.graph_utils.periodic_graph import neighbour_pairs

BETA = 1.809  # nearest-neighbour distance over Wigner-Seitz radius of fcc
SKIN = 0.6  # Å, range of the stored pairs beyond the cut-off
TAIL = 0.5  # Å, distance from the middle of the switching function to the cut-off


class VectorEMT(Calculator):
    """Replacement of ASE's ``EMT()`` for structures periodic in all directions.

    ``calculate`` gives ``energy`` and ``forces``, but no stress. The stored pairs are
    used until an atom has moved by half the skin.

    Example:
        >>> from ase.build import bulk
        >>> copper = bulk("Cu", cubic=True)
        >>> copper.calc = VectorEMT()
        >>> round(float(copper.get_potential_energy()), 4)
        -0.0227
    """

    implemented_properties = ["energy", "free_energy", "forces"]

    def __init__(self) -> None:
        super().__init__()
        # The largest atom of the table sets the switching function, also where that
        # element is absent, so that energies of different systems are comparable.
        nearest = BETA * Bohr * max(row[1] for row in EMT_TABLE.values())
        self.middle = nearest * (sqrt(3.0) + 2.0) / 2.0
        self.slope = log(1.0e4 - 1.0) / (2.0 * nearest - self.middle)
        self.reach = self.middle + TAIL
        self._numbers: np.ndarray | None = None

    def _switch(self, distance: np.ndarray) -> np.ndarray:
        return 1.0 / (1.0 + np.exp(self.slope * (distance - self.middle)))

    def _set_elements(self, numbers: np.ndarray) -> None:
        """Set the parameters of each atom, [N], in eV and Å."""
        rows = np.array([EMT_TABLE[chemical_symbols[z]][:7] for z in numbers])
        self.e0, radius, self.v0, eta, kappa, decay, self.density = rows.T
        self.radius = radius * Bohr
        self.eta, self.kappa, self.decay = eta / Bohr, kappa / Bohr, decay / Bohr
        # Sums over the first three shells of fcc at the equilibrium distance.
        count = np.array([12.0, 6.0, 24.0])
        shell = BETA * self.radius[:, None] * np.sqrt([1.0, 2.0, 3.0])
        weight = count * self._switch(shell)
        stretch = shell - BETA * self.radius[:, None]
        self.gamma1 = (weight * np.exp(-self.eta[:, None] * stretch)).sum(1)
        gamma2 = (weight * np.exp(-self.kappa[:, None] / BETA * stretch)).sum(1) / 12.0
        self.pair_strength = -0.5 * self.v0 / gamma2
        self._numbers = numbers.copy()
        self._listed = None

    def _update_pairs(self, atoms: Atoms) -> None:
        if self._listed is not None:
            moved = atoms.positions - self._listed.positions
            same_box = np.array_equal(atoms.cell.array, self._listed.cell.array)
            if same_box and (moved**2).sum(1).max() < (SKIN / 2) ** 2:
                return
        self._listed = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell)
        self.i, self.j, image, _ = neighbour_pairs(
            atoms.positions, atoms.cell.array, self.reach + SKIN
        )
        self.offset = image @ atoms.cell.array
        self.chi = self.density[self.j] / self.density[self.i]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms
        if self._numbers is None or not np.array_equal(self._numbers, atoms.numbers):
            self._set_elements(atoms.numbers)
        self._update_pairs(atoms)

        # Directed pairs: the density that neighbour j leaves at the centre i.
        vector = atoms.positions[self.j] + self.offset - atoms.positions[self.i]
        distance = np.sqrt((vector**2).sum(1))
        inside = distance < self.reach
        i, j, vector = self.i[inside], self.j[inside], vector[inside]
        distance, chi = distance[inside], self.chi[inside]
        switch = self._switch(distance)
        amplitude = chi * switch
        eta, kappa = self.eta[j], self.kappa[j] / BETA
        stretch = distance - BETA * self.radius[j]
        part1 = np.exp(-eta * stretch) * amplitude
        part2 = np.exp(-kappa * stretch) * amplitude

        size = len(atoms)
        # An isolated atom has density 0; the bound keeps the logarithm finite.
        total = np.maximum(np.bincount(i, part1, size), 1.0e-300)
        expansion = -np.log(total / self.gamma1) / (BETA * self.eta)
        scaled = self.decay * expansion
        cohesive = self.e0 * np.exp(-scaled)
        repulsive = 6.0 * self.v0 * np.exp(-self.kappa * expansion)
        strength = self.pair_strength[i]
        energy = (cohesive * (1.0 + scaled) + repulsive - self.e0).sum()
        energy += (strength * part2).sum()

        # derivative by the expansion, then, through the logarithm, by the density
        slope = -self.decay * scaled * cohesive - self.kappa * repulsive
        slope = -slope / (BETA * self.eta * total)
        fading = self.slope * (1.0 - switch)
        change = -slope[i] * part1 * (fading + eta)
        change -= strength * part2 * (fading + kappa)
        pull = (change / distance)[:, None] * vector
        forces = np.stack(
            [np.bincount(i, p, size) - np.bincount(j, p, size) for p in pull.T], axis=1
        )
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}
