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


"""The triples of numbers that stand for positions, and the way back.

Shapes: ``N`` atoms, ``S`` structures. ``atoms`` is the ``structure_array`` of a batch.
"""

from __future__ import annotations

import paddle

from ppmat.utils.errors import InputError


class Coordinates:
    """Positions as triples, in one of two ways.

    With ``scale_coords`` a triple is a fractional position times this factor. A relaxed
    one is the image next to the initial one, so it may lie just outside the cell. With
    ``displacement_std`` an initial triple is a Cartesian position in Å, and a relaxed
    one is the displacement over this length, whatever the size of the cell. Initial
    positions are wrapped into the cell.

    Args:
        scale_coords: Factor of fractional positions.
        displacement_std: Root mean square of a component of the displacements of the
            training data [Å].

    Raises:
        InputError: Both or neither are given.
    """

    def __init__(
        self, scale_coords: float | None, displacement_std: float | None
    ) -> None:
        if (scale_coords is None) == (displacement_std is None):
            raise InputError(
                f"scale_coords is {scale_coords}, displacement_std {displacement_std}",
                wanted="a number for one of them, and null for the other",
            )
        self.scale_coords = scale_coords
        self.displacement_std = displacement_std

    def initial(self, atoms: dict) -> paddle.Tensor:
        """Return the triples of the initial positions, [N, 3]."""
        fractional = self._wrapped(atoms)
        if self.displacement_std is None:
            return self.scale_coords * fractional
        return _times(fractional, _per_atom(atoms["lattice"], atoms))

    def relaxed(self, atoms: dict, displacement: paddle.Tensor) -> paddle.Tensor:
        """Return the triples of the relaxed positions, [N, 3]."""
        if self.displacement_std is not None:
            return displacement / self.displacement_std
        moved = _times(displacement, _inverse(atoms))
        return self.scale_coords * (self._wrapped(atoms) + moved)

    def displacement(self, atoms: dict, relaxed: paddle.Tensor) -> paddle.Tensor:
        """Return the displacements [N, 3] Å that triples of relaxed positions mean."""
        if self.displacement_std is not None:
            return relaxed * self.displacement_std
        moved = relaxed / self.scale_coords - self._wrapped(atoms)
        return _times(moved, _per_atom(atoms["lattice"], atoms))

    def _wrapped(self, atoms: dict) -> paddle.Tensor:
        """Return the fractional initial positions, from 0 to 1, [N, 3]."""
        fractional = _times(atoms["cart_coords"], _inverse(atoms))
        return fractional - fractional.floor()


def _per_atom(cells: paddle.Tensor, atoms: dict) -> paddle.Tensor:
    """Return the matrix [S, 3, 3] of each atom's structure, [N, 3, 3]."""
    return paddle.repeat_interleave(cells, atoms["num_atoms"], axis=0)


def _inverse(atoms: dict) -> paddle.Tensor:
    return _per_atom(paddle.linalg.inv(atoms["lattice"]), atoms)


def _times(rows: paddle.Tensor, matrices: paddle.Tensor) -> paddle.Tensor:
    """Return the row vectors [N, 3] times their matrices [N, 3, 3]."""
    return paddle.matmul(rows.unsqueeze(1), matrices).squeeze(1)
