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

"""Small slabs and batches shared by the tests of the structure networks."""

import numpy as np
import paddle
from pymatgen.core import Lattice
from pymatgen.core import Structure

from ppmat.datasets.collate_fn import DefaultCollator
from ppmat.datasets.custom_data_type import ConcatData
from ppmat.datasets.graph_utils.periodic_graph import PeriodicGraphConverter


def random_slab(rng, n=7, skew=0.8):
    """A skewed cell with ``n`` atoms at least 1.6 Å apart, as plain arrays.

    Returns:
        dict with ``cell`` [3, 3], ``pos`` [n, 3] Å, ``z``, ``tags``, ``fixed`` and
        ``displacement`` [n, 3] Å, zero for fixed atoms.
    """
    cell = np.diag([5.5, 6.0, 14.0]) + rng.normal(0, 1, (3, 3)) * [
        [0, 0, 0],
        [skew, 0, 0],
        [skew, skew, 0],
    ]
    lattice = Lattice(cell)
    frac = np.empty((0, 3))
    while len(frac) < n:
        trial = rng.random(3) * [1, 1, 0.6]
        if not len(frac) or lattice.get_all_distances(trial, frac).min() > 1.6:
            frac = np.vstack([frac, trial])
    tags = np.sort(rng.integers(0, 3, n))
    tags[0], tags[-1] = 0, 2
    fixed = tags == 0
    displacement = rng.normal(0, 0.3, (n, 3)) * ~fixed[:, None]
    return {
        "cell": cell,
        "pos": frac @ cell,
        "z": rng.choice([1, 6, 8, 29, 78], n),
        "tags": tags,
        "fixed": fixed,
        "displacement": displacement,
    }


def repeated(a, n):
    """The cell n times along its first vector."""
    copies = {
        k: np.concatenate([a[k]] * n) for k in ("z", "tags", "fixed", "displacement")
    }
    shifts = np.arange(n)[:, None, None] * a["cell"][0]
    pos = (a["pos"] + shifts).reshape(-1, 3)
    cell = a["cell"] * [[n], [1], [1]]
    return {**copies, "pos": pos, "cell": cell, "num_adsorbates": n}


def sample_of(slab, name="0", dtype="float64", **graph):
    """Turn a slab into a sample of the batch format, graph included."""
    structure = Structure(
        slab["cell"], slab["z"], slab["pos"], coords_are_cartesian=True
    )
    lattice = structure.lattice
    real = {
        "frac_coords": structure.frac_coords,
        "cart_coords": slab["pos"],
        "lattice": slab["cell"][None],
        "lengths": np.array([lattice.abc]),
        "angles": np.array([lattice.angles]),
    }
    whole = {
        "atom_types": slab["z"].astype("int64"),
        "num_atoms": np.array([len(slab["z"])]),
        "num_adsorbates": np.array([slab.get("num_adsorbates", 1)]),
        "tags": slab["tags"].astype("int64"),
        "fixed": slab["fixed"],
    }
    return {
        "structure_array": {
            **{k: ConcatData(v.astype(dtype)) for k, v in real.items()},
            **{k: ConcatData(v) for k, v in whole.items()},
        },
        "graph": PeriodicGraphConverter(**graph)(structure),
        "displacement": ConcatData(slab["displacement"].astype(dtype)),
        "cart_coords_relaxed": ConcatData(
            (slab["pos"] + slab["displacement"]).astype(dtype)
        ),
        "id": name,
    }


def to_tensors(batch):
    """Turn the arrays of a collated batch into tensors."""
    if isinstance(batch, dict):
        return {key: to_tensors(value) for key, value in batch.items()}
    return paddle.to_tensor(batch) if isinstance(batch, np.ndarray) else batch


def batch_of(slabs, dtype="float64", **graph):
    """Collate slabs into a batch of tensors."""
    samples = [sample_of(s, str(i), dtype, **graph) for i, s in enumerate(slabs)]
    return to_tensors(DefaultCollator()(samples))
