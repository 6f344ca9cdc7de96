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

"""Generated structures: random numbers of each, and the results that samplers read.

Shapes: ``N`` atoms and ``S`` structures of a batch.
"""

from __future__ import annotations

import zlib

import numpy as np

from ppmat.utils.errors import InputError


def check_initial_structures(batch: dict) -> None:
    """Raise an InputError for a batch of formulas or numbers of atoms."""
    if "cart_coords" not in batch["structure_array"]:
        raise InputError(
            "the batch has no positions",
            wanted="initial structures: the model relaxes, it invents none",
            hint="Sample for a data set (--mode=by_dataloader) or for files of "
            "structures, not by_chemical_formula or by_num_atoms.",
        )


def structure_ids(batch: dict) -> list[str]:
    """Return the ids of a batch, or numbers if it has none."""
    count = batch["structure_array"]["num_atoms"].shape[0]
    return batch.get("id") or [str(i) for i in range(count)]


def random_streams(batch: dict, seed: int, sample: int) -> list[np.random.Generator]:
    """Return a random generator for each structure.

    Seed, structure id and sample number start it. A structure therefore gets the same
    noise in any batch.
    """
    return [
        np.random.default_rng([seed, zlib.crc32(str(name).encode()), sample])
        for name in structure_ids(batch)
    ]


def structure_results(batch: dict, draws: list[np.ndarray]) -> dict:
    """Return relaxed positions as the results of ``model.sample``.

    Args:
        batch: ``structure_array``, ``id`` and, if known, ``cart_coords_relaxed``.
        draws: Positions [N, 3] Å of each sample, not wrapped.

    Returns:
        ``{"result": [...]}``, one dict of plain lists and numbers for each sample; the
        samples of a structure are neighbours. Keys: ``num_atoms``, ``atom_types``,
        ``lattice`` (rows, Å), ``frac_coords``, ``cart_coords`` (Å, not wrapped),
        ``tags``, ``fixed``, ``id``, ``sample`` (its number), and of the batch
        ``cart_coords_initial`` and, if known, ``cart_coords_relaxed`` (Å).
    """
    atoms = batch["structure_array"]
    counts = atoms["num_atoms"].tolist()
    ids = structure_ids(batch)
    rows = np.cumsum([0, *counts])  # [S + 1]
    lattice = atoms["lattice"].numpy()
    fields = {key: atoms[key].numpy() for key in ("atom_types", "tags", "fixed")}
    fields["cart_coords_initial"] = atoms["cart_coords"].numpy()
    if "cart_coords_relaxed" in batch:
        fields["cart_coords_relaxed"] = batch["cart_coords_relaxed"].numpy()
    result = []
    for i, (n, name) in enumerate(zip(counts, ids)):
        part = slice(rows[i], rows[i + 1])
        inverse = np.linalg.inv(lattice[i].astype("float64"))
        for sample, positions in enumerate(draws):
            result.append(
                {
                    "num_atoms": n,
                    "lattice": lattice[i].tolist(),
                    "cart_coords": positions[part].tolist(),
                    "frac_coords": (positions[part] @ inverse).tolist(),
                    **{key: value[part].tolist() for key, value in fields.items()},
                    "id": name,
                    "sample": sample,
                }
            )
    return {"result": result}
