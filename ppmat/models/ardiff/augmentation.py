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


"""Random changes of training structures, because the network has no symmetry built in.

Shapes: ``N`` atoms, ``S`` structures. Lengths in Å, cell vectors are rows.
"""

from __future__ import annotations

import math
from typing import Annotated

import paddle

from ppmat.models.sfin.structure_geometry import free_atoms
from ppmat.utils.ranges import Range


class Augmentation:
    """Changes structures and their displacements together.

    Args:
        rotate: Turn structures about the normal of their surface, ``a x b``.
        translate: Shift structures along ``a`` and ``b``.
        reorder: Shuffle the atoms of each structure.
        jitter: Standard deviation [Å] of noise on the coordinates that the network
            reads: the initial positions of free atoms, which then have the same
            relaxed positions, and the relaxed positions of the slots before. In
            sampling these come with errors too.
    """

    def __init__(
        self,
        rotate: bool = False,
        translate: bool = False,
        reorder: bool = False,
        jitter: Annotated[float, Range(0, 10)] = 0.0,
    ) -> None:
        self.rotate = rotate
        self.translate = translate
        self.reorder = reorder
        self.jitter = jitter

    def __call__(
        self, atoms: dict, displacement: paddle.Tensor
    ) -> tuple[dict, paddle.Tensor]:
        """Return a changed ``structure_array`` and its displacements [N, 3].

        Of the array, ``frac_coords``, ``lengths`` and ``angles`` are left out: no
        network of this folder reads them.
        """
        kept = ("atom_types", "tags", "fixed", "num_atoms", "lattice", "cart_coords")
        atoms = {key: atoms[key] for key in kept}
        if self.jitter:
            noise = self.noise(displacement) * free_atoms(
                atoms, displacement.dtype
            ).unsqueeze(-1)
            atoms["cart_coords"] = atoms["cart_coords"] + noise
            displacement = displacement - noise
        if self.translate:
            share = paddle.rand([len(atoms["lattice"]), 1, 2], displacement.dtype)
            shift = paddle.matmul(share, atoms["lattice"][:, :2])  # [S, 1, 3]
            atoms["cart_coords"] = atoms["cart_coords"] + paddle.repeat_interleave(
                shift.squeeze(1), atoms["num_atoms"], axis=0
            )
        if self.rotate:
            turn = random_turns(atoms["lattice"])  # [S, 3, 3]
            of_atoms = paddle.repeat_interleave(turn, atoms["num_atoms"], axis=0)
            atoms["lattice"] = paddle.matmul(atoms["lattice"], turn)
            both = paddle.stack([atoms["cart_coords"], displacement], axis=1)
            atoms["cart_coords"], displacement = paddle.matmul(both, of_atoms).unbind(1)
        if self.reorder:
            count = len(atoms["num_atoms"])
            structure = paddle.repeat_interleave(
                paddle.arange(count, dtype="float64"), atoms["num_atoms"]
            )
            order = (structure + paddle.rand(structure.shape, "float64")).argsort()
            for key in ("atom_types", "tags", "fixed", "cart_coords"):
                atoms[key] = atoms[key][order]
            displacement = displacement[order]
        return atoms, displacement

    def noise(self, like: paddle.Tensor) -> paddle.Tensor:
        """Return noise of the jitter's size, of the shape of ``like``."""
        return self.jitter * paddle.randn(like.shape, like.dtype)


def random_turns(lattice: paddle.Tensor) -> paddle.Tensor:
    """Return matrices [S, 3, 3] that turn row vectors about ``a x b`` at random."""
    normal = paddle.cross(lattice[:, 0], lattice[:, 1], axis=1)
    normal = normal / normal.norm(axis=1, keepdim=True)  # [S, 3]
    angle = 2 * math.pi * paddle.rand([len(lattice), 1, 1], lattice.dtype)
    along = normal.unsqueeze(2) * normal.unsqueeze(1)  # [S, 3, 3]
    across = paddle.cross(  # row i is e_i x normal
        paddle.eye(3, dtype=lattice.dtype).expand([len(lattice), 3, 3]),
        normal.unsqueeze(1).expand([-1, 3, 3]),
        axis=2,
    )
    one = paddle.eye(3, dtype=lattice.dtype)
    return angle.cos() * (one - along) + along + angle.sin() * across
