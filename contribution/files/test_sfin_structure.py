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
"""The structure network: invariances, batches, gradients."""

import numpy as np
import paddle
import pytest
from ase.build import add_adsorbate
from ase.build import fcc111

from ppmat.datasets.collate_fn import DefaultCollator
from ppmat.datasets.graph_utils.periodic_graph import PeriodicGraphConverter
from ppmat.datasets.oc20_is2re_dataset import record_to_sample
from ppmat.datasets.oc20_record import OC20Record
from ppmat.models.sfin.sfin_structure import SFINBackbone

SMALL = {"channels": 8, "vectors": 4, "num_blocks": 1, "cutoff": 4.0, "k_cut": 0.8}


def setup_module():
    paddle.set_device("cpu")


def slab(metal="Cu", height=1.8):
    """Return a slab with an oxygen atom; tags as in OC20."""
    atoms = fcc111(metal, (2, 2, 3), vacuum=8.0, periodic=True)
    add_adsorbate(atoms, "O", height, "fcc")
    atoms.set_tags([0] * 8 + [1] * 4 + [2])
    return atoms


def batch_of(*slabs):
    graph = PeriodicGraphConverter(cutoff=4.0, max_neighbors=None, k_cut=0.8)
    samples = []
    for atoms in slabs:
        fields = {
            "pos": atoms.positions,
            "cell": atoms.cell.array[None],
            "atomic_numbers": atoms.numbers,
            "tags": atoms.get_tags(),
            "fixed": np.zeros(len(atoms)),
        }
        record = OC20Record.from_fields(fields)
        samples.append(record_to_sample(record, build_graph=graph, labels=()))
    batch = DefaultCollator()(samples)
    for part in ("structure_array", "graph"):
        batch[part] = {k: paddle.to_tensor(v) for k, v in batch[part].items()}
    return batch


def features(*slabs, **options):
    """Return scalars and vectors of all atoms of a batch of slabs."""
    paddle.seed(0)
    network = SFINBackbone(**SMALL, **options)
    network.eval()
    result, _ = network(batch_of(*slabs))
    return result.s.numpy(), result.v.numpy()


@pytest.mark.parametrize("halves", ["both", "spatial", "frequency"])
def test_vectors_turn_with_the_structure_and_scalars_do_not(halves):
    atoms = slab()
    turned = atoms.copy()
    turned.rotate(37.0, (1, 2, 3), rotate_cell=True)
    s, v = features(atoms, halves=halves)
    s_turned, v_turned = features(turned, halves=halves)
    np.testing.assert_allclose(s_turned, s, atol=1e-4)
    turn = np.linalg.lstsq(atoms.positions, turned.positions, rcond=None)[0]
    np.testing.assert_allclose(v_turned, np.einsum("nac,ab->nbc", v, turn), atol=1e-4)
    assert np.abs(v_turned - v).max() > 1e-2  # the twin that does not turn
    assert np.abs(features(slab(height=1.5), halves=halves)[0] - s).max() > 1e-3


def test_origin_basis_order_and_copies_do_not_matter():
    atoms = slab()
    moved, skewed = atoms.copy(), atoms.copy()
    moved.positions += [0.3, -0.7, 0.2]
    moved.wrap()
    cell = atoms.cell.array
    skewed.set_cell([cell[0], cell[0] + cell[1], cell[2]])
    order = np.random.default_rng(0).permutation(len(atoms))
    s, v = features(atoms)
    for other, rows in (
        (moved, slice(None)),
        (skewed, slice(None)),
        (atoms.repeat((2, 1, 1)), slice(None)),  # the first copy is compared
        (atoms[order], order),
    ):
        found = [part[: len(atoms)] for part in features(other)]
        np.testing.assert_allclose(found[0], s[rows], atol=1e-4)
        np.testing.assert_allclose(found[1], v[rows], atol=1e-4)


def test_batches_do_not_matter():
    slabs = [slab(), slab("Pt"), slab("Ag", 1.4)]
    together = features(*slabs)
    alone = [features(atoms) for atoms in slabs]
    for i, part in enumerate(together):
        single = np.concatenate([found[i] for found in alone])
        np.testing.assert_allclose(part, single, atol=1e-4)


@pytest.mark.parametrize("option", [{"exchange": False}, {"frequency_ratio": 1.0}])
def test_gradients_reach_all_parameters(option):
    paddle.seed(0)
    network = SFINBackbone(**SMALL, **option)
    result, _ = network(batch_of(slab()))
    (result.s.square().sum() + result.v.square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert np.isfinite(parameter.grad.numpy()).all(), name
