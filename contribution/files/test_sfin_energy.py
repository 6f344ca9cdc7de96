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
"""SFINEnergy: contract, symmetries, bare structures, metric, configurations."""

from pathlib import Path

import numpy as np
import paddle
import pytest
from ase.build import add_adsorbate
from ase.build import fcc111
from omegaconf import OmegaConf
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from ppmat.metrics import IS2REMetric
from ppmat.models import SFINEnergy
from ppmat.models import SFINGraphConverter
from ppmat.models import build_model

ROOT = Path(__file__).resolve().parents[1]
BACKBONE = {"channels": 8, "vectors": 4, "num_blocks": 1, "cutoff": 4.0, "k_cut": 0.8}


def setup_module():
    paddle.set_device("cpu")


def slab(metal="Cu", height=1.8, element="O"):
    """Return a slab with an adsorbed atom; tags as in OC20."""
    atoms = fcc111(metal, (2, 2, 3), vacuum=8.0, periodic=True)
    add_adsorbate(atoms, element, height, "fcc")
    atoms.set_tags([0] * 8 + [1] * 4 + [2])
    return atoms


def structure_of(atoms, **properties):
    structure = AseAtomsAdaptor.get_structure(atoms)
    for name, values in properties.items():
        structure.add_site_property(name, values)
    return structure


def batch_of(*slabs):
    convert = SFINGraphConverter(cutoff=4.0, k_cut=0.8)
    return convert([structure_of(atoms) for atoms in slabs])


def model(**options):
    paddle.seed(0)
    return SFINEnergy(BACKBONE, **options)


def energies(network, *slabs):
    network.eval()
    return network.predict(batch_of(*slabs))["y_relaxed"]


def test_loss_and_gradients_are_finite():
    network = model(displacement_weight=[1, 1], predict_error=True)
    batch = batch_of(slab(), slab("Pt"))
    batch["y_relaxed"] = paddle.to_tensor([[-1.0], [0.5]])
    batch["displacement"] = paddle.zeros_like(batch["structure_array"]["cart_coords"])
    result = network(batch)
    assert set(result["loss_dict"]) == {"loss", "energy", "displacement", "error"}
    assert result["pred_dict"]["y_relaxed"].shape == [2, 1]
    result["loss"] = result["loss_dict"]["loss"]
    result["loss"].backward()
    # the last displacements need no vectors that only the energy would read
    norms = [float(p.grad.norm()) for p in network.parameters() if p.grad is not None]
    assert np.isfinite(norms).all() and sum(norms) > 0


def test_energy_is_invariant():
    atoms = slab()
    turned, moved = atoms.copy(), atoms.copy()
    turned.rotate(37.0, (1, 2, 3), rotate_cell=True)
    moved.positions += [0.3, -0.7, 0.2]
    moved.wrap()
    order = np.random.default_rng(0).permutation(len(atoms))
    found = energies(model(), atoms, turned, moved, atoms[order])
    np.testing.assert_allclose(found, found[0], atol=1e-4)
    other = energies(model(), slab(height=1.5))[0]
    assert abs(other - found[0]) > 1e-4  # a constant would pass as well


def test_a_supercell_has_the_energy_of_its_cells():
    atoms = slab()
    network = model(data_mean=-1.0, data_std=2.0)
    single, double = energies(network, atoms, atoms.repeat((2, 1, 1)))
    assert double == pytest.approx(2 * single, rel=1e-3)


def test_batches_do_not_matter():
    network, slabs = model(), [slab(), slab("Pt"), slab("Ag", 1.4)]
    alone = [energies(network, atoms)[0] for atoms in slabs]
    np.testing.assert_allclose(energies(network, *slabs), alone, atol=1e-5)


def test_statistics_are_saved_with_the_weights():
    network = model(data_mean=-1.5, data_std=2.3, element_reference={"O": -2.0})
    other = model()
    other.set_state_dict(network.state_dict())
    np.testing.assert_allclose(energies(other, slab()), energies(network, slab()))


def test_tags_are_guessed_as_oc20_gives_them(monkeypatch):
    atoms = slab()
    tags = atoms.get_tags().tolist()
    said = []
    monkeypatch.setattr("ppmat.utils.logger.warning", said.append)
    for without, word in ((None, "missing"), ([0] * len(atoms), "all 0")):
        bare = atoms.copy()
        bare.set_tags(without)
        convert = SFINGraphConverter(cutoff=4.0, k_cut=0.8)
        found = convert(structure_of(bare))["structure_array"]
        assert found["tags"].tolist() == tags and not found["fixed"].any()
        assert f"structure 0: its tags are {word}" in said[-2]


@pytest.mark.parametrize(
    "change, word",
    [
        (lambda atoms: atoms[:12], "no slab"),
        (lambda atoms: atoms[12:], "no slab"),
        (lambda atoms: slab(element="S"), "no slab"),
        (lambda atoms: slab(height=-3.0), "deeper"),
        (
            lambda atoms: slab(element="C") + slab(height=2.5, element="S")[12:],
            "on top",
        ),
    ],
)
def test_tags_that_are_not_certain_are_asked_for(change, word):
    atoms = change(slab())
    atoms.set_tags(None)
    error = f"structure 1: tags cannot be guessed: .*{word}.*'tags'"
    with pytest.raises(ValueError, match=error):
        SFINGraphConverter()([structure_of(slab()), structure_of(atoms)])


def test_a_slab_without_vacuum_is_refused():
    atoms = slab()
    atoms.set_tags(None)
    atoms.set_cell(atoms.cell * [[1], [1], [0.4]])
    with pytest.raises(ValueError, match="no vacuum"):
        SFINGraphConverter()(structure_of(atoms))


def test_fixed_atoms_of_both_site_properties():
    free = np.ones((13, 3), dtype=bool)
    free[:4] = False
    for name, values in (("fixed", ~free[:, 0]), ("selective_dynamics", free)):
        structure = structure_of(slab(), **{name: values.tolist()})
        fixed = SFINGraphConverter()(structure)["structure_array"]["fixed"]
        assert fixed.tolist() == [True] * 4 + [False] * 9
    free[5, 2] = False
    structure = structure_of(slab(), selective_dynamics=free.tolist())
    with pytest.raises(ValueError, match="some directions"):
        SFINGraphConverter()(structure)


def test_structures_that_cannot_be_read_are_refused():
    structure = structure_of(slab())
    lattice, tags = structure.lattice, structure.site_properties["tags"]
    same = Structure(lattice, ["Cu", "O"], np.zeros((2, 3)))
    mixed = structure.copy()
    mixed.replace(0, {"Cu": 0.5, "Pd": 0.5})
    for other, properties, word in (
        (structure, {"tags": [5, *tags[1:]]}, "tags hold"),
        (structure, {"tags": [None, *tags[1:]]}, "tags is object"),
        (structure, {"tags": [1] * 12 + [0]}, "no atom is an adsorbate"),
        (structure, {"tags": [2] * 4 + [1] * 8 + [0]}, "its own periodic image"),
        (same, {"tags": [1, 2]}, "apart"),
        (mixed, {"tags": tags}, "shared by several elements"),
    ):
        copy = other.copy(site_properties=properties)
        with pytest.raises(ValueError, match=f"structure 0: .*{word}"):
            SFINGraphConverter()(copy)


def test_metric_over_batches():
    metric = IS2REMetric()
    for predicted, true in (([-1.0, 0.5], [-1.01, 0.8]), ([2.0], [2.5])):
        result = {"pred_dict": {"y_relaxed": paddle.to_tensor(predicted)}}
        batch = {"y_relaxed": paddle.to_tensor(true)}
        metric.update_step(result=result, batch=batch, stage="eval")
    scores = metric.compute_epoch(stage="eval")
    assert scores["energy_mae"] == pytest.approx((0.01 + 0.3 + 0.5) / 3, abs=1e-6)
    assert scores["ewt"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", ["10k", "all"])
def test_configurations_build(name):
    folder = ROOT / "property_prediction" / "configs" / "sfin"
    config = OmegaConf.load(folder / f"sfin_oc20_is2re_{name}.yaml")
    config = OmegaConf.to_container(config, resolve=True)
    network = build_model(config["Model"])
    count = sum(p.size for p in network.parameters())
    assert 1e6 < count < 1e7 and config["Predict"]["graph_converter"]
