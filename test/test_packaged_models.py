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


"""The trained models inside the tree: whole, small, and of use."""

import re

import numpy as np
import paddle
import pytest
from ase import Atoms
from ase.build import add_adsorbate
from ase.build import bulk
from ase.build import fcc111
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.optimize import FIRE
from omegaconf import OmegaConf

from ppmat.calculator import SFINCalculator
from ppmat.calculator.sfin_calculator import DEFAULT_MODEL
from ppmat.commands.place import SHIPPED_FLOW
from ppmat.datasets.placements import clean_slab
from ppmat.datasets.placements import random_placements
from ppmat.models import PACKAGES
from ppmat.predictor import SpectrumPredictor
from ppmat.predictor import enhance
from ppmat.predictor.packaged_models import MODELS_OF_TASK
from ppmat.predictor.packaged_models import PACKAGED_MODELS
from ppmat.sampler import StructureSampler
from ppmat.stem.scenes.random_scenes import SceneRecipe
from ppmat.stem.scenes.random_scenes import make_scene
from ppmat.utils.model_package import find_packages

FOUND = find_packages(PACKAGES)
MOST_BYTES = 4_000_000  # together
MADE_UP = {DEFAULT_MODEL: "not DFT", SHIPPED_FLOW: "not DFT"}  # images: synthetic
MODE_OF = {name: mode for mode, name in PACKAGED_MODELS.items()}


def test_each_mode_has_a_package_and_together_they_are_small():
    named = [name for models in MODELS_OF_TASK.values() for name in models.values()]
    assert set(FOUND) == {*named, *MADE_UP} and len(named) == len(set(named))
    files = [path for path in PACKAGES.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES


@pytest.mark.parametrize("name", sorted(FOUND))
def test_a_package_is_whole(name):
    folder = PACKAGES / name
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    texts = {f"{name}.yaml", "results.yaml", "train.log"}
    assert files == {*texts, "checkpoints/best.pdparams"}
    for file in texts:
        text = (folder / file).read_text(encoding="utf-8")
        assert text.strip()
        assert not re.search(r"(?<![\w.~])/(home|root|tmp|work|Users)/", text), file
    results = OmegaConf.load(folder / "results.yaml")
    assert {"command", "machine", "date", "trained_on", "rows"} <= set(results)
    assert MADE_UP.get(name, "synthetic") in results.trained_on
    assert len(results.rows) > 0


def noisy_scene(mode):
    """Return a scene and the same with white noise and jitter of the lines."""
    rng = np.random.default_rng(11)
    truth = make_scene(rng, (128, 128), SceneRecipe(mode=mode)).gt_enhance
    noise = rng.normal(scale=20, size=truth.shape) + rng.normal(scale=3, size=(128, 1))
    return truth, truth + noise


def error(image, truth):
    return float(np.sqrt(np.mean((image - truth) ** 2)))


@pytest.mark.parametrize("name", sorted(MODE_OF))
def test_a_package_cleans_an_image(name, capsys):
    predictor = SpectrumPredictor(model_name=name, device="cpu")
    about = predictor.describe()["package"]
    assert about["results"] == f"ppmat/models/packages/{name}/results.yaml"
    assert about["trained_on"] in capsys.readouterr().out

    def eager(tiles):  # the program of a tile's size takes seconds to compile
        with paddle.no_grad():
            return predictor.model(paddle.to_tensor(tiles)).numpy()

    truth, noisy = noisy_scene(MODE_OF[name])
    clean = enhance(noisy, eager, tile_size=predictor.defaults.tile_size)
    assert clean.shape == truth.shape and np.isfinite(clean).all()
    assert error(clean, truth) < 0.6 * error(noisy, truth)


@pytest.mark.parametrize(
    ("metal", "length"), [("Cu", 3.63), ("Pt", 3.97), ("Ag", 4.15)]
)
def test_the_potential_knows_the_lattice_constants_of_pbe(metal, length):
    """The stress crosses zero near them."""
    calculator = SFINCalculator()
    pressures = []
    for scale in (0.985, 1.015):
        crystal = bulk(metal, a=scale * length, cubic=True)
        crystal.calc = calculator
        pressures.append(-crystal.get_stress()[:3].mean())
    assert pressures[0] > 0 > pressures[1]


def test_the_potential_relaxes_an_adsorbate():
    slab = fcc111("Cu", (2, 2, 3), a=3.63, vacuum=8.0)
    add_adsorbate(slab, molecule("CO"), 2.1, "ontop", mol_index=1)
    slab.set_constraint(FixAtoms([atom.index for atom in slab if atom.tag > 1]))
    slab.calc = SFINCalculator()
    assert FIRE(slab, logfile=None).run(fmax=0.1, steps=100)
    carbon, oxygen = slab.symbols.search("C")[0], slab.symbols.search("O")[0]
    assert 1.1 < slab.get_distance(carbon, oxygen) < 1.25
    assert 1.7 < slab.get_distances(carbon, range(12), mic=True).min() < 2.1


def test_the_flow_moves_each_placement_to_a_better_one():
    """N on Pd(111), which is not on top, at the energies of EMT."""
    slab = clean_slab(fcc111("Pd", (2, 2, 3), vacuum=8.0))
    starts = list(random_placements(slab, Atoms("N"), 6, 3))
    sampler = StructureSampler(model_name=SHIPPED_FLOW)
    placed = list(sampler.from_structures(starts, progress=False))
    assert max(map(energy, placed)) < min(map(energy, starts)) - 0.2


def energy(atoms):
    alone = atoms.copy()
    alone.calc = EMT()
    return alone.get_potential_energy()
