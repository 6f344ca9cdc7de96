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

"""Small generative models and slabs for the tests of predictors and samplers."""

import os

import numpy as np
import paddle
from ase import Atoms
from ase.constraints import FixAtoms

from ppmat.datasets.oc20_writer import write_lmdb
from ppmat.datasets.structure_record import structure_to_record
from ppmat.models import MODELS
from ppmat.models.generated_structures import random_streams
from ppmat.models.generated_structures import structure_results
from ppmat.utils.config import save_config

GRAPH = {
    "__class_name__": "PeriodicGraphConverter",
    "__init_params__": {"cutoff": 4.0, "k_cut": 0.0},
}


@MODELS.register
class ToyRelaxer(paddle.nn.Layer):
    """Moves free atoms by (0, 0, lift) and noise named by seed, id and sample."""

    supports_num_atoms_sampling = False
    calls = []  # ids of each batch, over all objects

    def __init__(self, lift: float = 0.1, needs_graph: bool = True) -> None:
        super().__init__()
        self.lift = self.create_parameter([1])
        self.lift.set_value(paddle.to_tensor([lift]))
        self.needs_graph = needs_graph

    def sample(self, batch, noise=0.05, seed=0, num_samples=1):
        type(self).calls.append(list(batch["id"]))
        if self.needs_graph:
            assert batch["graph"]["num_edges"].shape == [len(batch["id"])]
        arrays = {k: v.numpy() for k, v in batch["structure_array"].items()}
        free, start = ~arrays["fixed"][:, None], arrays["cart_coords"]
        draws = []
        for sample in range(num_samples):
            streams = zip(random_streams(batch, seed, sample), arrays["num_atoms"])
            moves = np.concatenate([r.normal(size=(n, 3)) for r, n in streams])
            moves = noise * moves + [0, 0, self.lift.item()]
            draws.append(start + (moves * free).astype("float32"))
        return structure_results(batch, draws)


@MODELS.register
class ToyCrystals(paddle.nn.Layer):
    """Makes cubes from scratch with the global generator, as upstream models do."""

    condition_names = ["density", "space_group"]

    def __init__(self, broken: int = -1) -> None:
        super().__init__()
        self.weight = self.create_parameter([1])
        self.broken = broken  # number of the result that is no structure
        self.batches = []

    def sample(self, batch_data, num_inference_steps=3):
        self.batches.append(batch_data)
        arrays = batch_data["structure_array"]
        result = []
        counts = arrays["num_atoms"].tolist()
        types = arrays.get("atom_types")
        types = [1] * sum(counts) if types is None else types.tolist()
        for i, count in enumerate(counts):
            first = sum(counts[:i])
            entry = {
                "num_atoms": count,
                "atom_types": types[first : first + count],
                "frac_coords": paddle.rand([count, 3]).tolist(),
                "lattice": (4.0 * np.eye(3)).tolist(),
            }
            if i == self.broken:
                entry["atom_types"] = [999] * count
            result.append(entry)
        return {"result": result}


def make_slab(number, rng, tags=True):
    """A triclinic slab of 4 Cu (2 fixed) with O on it, in an order no sorter makes."""
    cell = np.array([[5.2, 0, 0], [1.3, 5.0, 0], [0.4, -0.7, 16.0]])
    layer = np.array([[0, 0], [0.5, 0.5]])
    frac = np.concatenate(
        [np.c_[layer, [0.1, 0.1]], [[0.3, 0.2, 0.36]], np.c_[layer + 0.25, [0.25] * 2]]
    )
    numbers = [29, 8 if number % 2 else 29, 1, 29, 29]
    pos = frac @ cell + rng.normal(0, 0.05, (5, 3))
    atoms = Atoms(numbers, positions=pos, cell=cell, pbc=(True, True, False))
    if tags:
        atoms.set_tags([0, 0, 2, 1, 1])
        atoms.set_constraint(FixAtoms([0, 1]))
    atoms.info["sid"] = f"sid{number}"
    atoms.arrays["charge"] = rng.normal(size=5)
    return atoms


def make_slabs(count, seed=0):
    """Several slabs."""
    rng = np.random.default_rng(seed)
    return [make_slab(i, rng) for i in range(count)]


def write_split(folder, count, seed=0):
    """An LMDB of slabs with relaxed positions; returns the records."""
    rng = np.random.default_rng(seed + 1)
    records = []
    for atoms in make_slabs(count, seed):
        record = structure_to_record(atoms)
        move = rng.normal(0, 0.2, record.pos.shape) * ~record.fixed[:, None]
        record.pos_relaxed = (record.pos + move).astype("float32")
        record.y_relaxed = -1.0
        records.append(record)
    os.makedirs(folder, exist_ok=True)
    write_lmdb(os.path.join(folder, "data.lmdb"), records)
    return records


def write_model(folder, name="ToyRelaxer", sample=None, **params):
    """Write YAML and weights of a toy; returns arguments of the sampler."""
    os.makedirs(folder, exist_ok=True)
    config = {"Model": {"__class_name__": name, "__init_params__": params}}
    if sample is not None:
        config["Sample"] = sample
    config_path = os.path.join(folder, "model.yaml")
    save_config(config, config_path)
    weights = os.path.join(folder, "w.pdparams")
    paddle.save(MODELS[name](**params).state_dict(), weights)
    return {"config_path": config_path, "checkpoint_path": weights}


def data_block(root, split="val_id", batch_size=2, **params):
    """A block of ``Sample.data``."""
    return {
        "dataset": {
            "__class_name__": "OC20IS2REDataset",
            "__init_params__": {
                "path": str(root),
                "split": split,
                "build_graph_cfg": GRAPH,
                **params,
            },
        },
        "sampler": {
            "__class_name__": "BatchSampler",
            "__init_params__": {"batch_size": batch_size},
        },
    }
