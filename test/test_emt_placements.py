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

"""The EMT set of placements, and the success rates measured on such systems."""

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111

from benchmarks.data import emt_placements
from benchmarks.data.emt_placements import System
from benchmarks.data.emt_placements import Systems
from benchmarks.data.emt_placements import emt
from benchmarks.data.emt_placements import lowest
from benchmarks.placement import Way
from benchmarks.placement import of_system
from benchmarks.placement import score
from benchmarks.placement import success_rate
from ppmat.datasets import PlacementDataset
from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.placements import clean_slab


def test_a_system_depends_on_seed_split_and_number_only():
    systems = [Systems(0, 36).draw("val_ood_cat", 1) for _ in range(2)]
    assert systems[0].name == systems[1].name
    assert np.array_equal(systems[0].slab.positions, systems[1].slab.positions)
    assert len(systems[0].slab) <= 36
    other = Systems(0, 36).draw("val_ood_cat", 2)
    assert other.name != systems[0].name
    held = Systems(0, 36).catalogue.held_compositions
    metals = "-".join(sorted(set(other.slab.get_chemical_symbols())))
    assert metals in held


def test_the_set_is_made_and_goes_on(tmp_path, monkeypatch):
    argv = [str(tmp_path), "--train=1", "--val=1", "--random=3", "--heuristic=3"]
    monkeypatch.setattr(emt_placements, "MAX_STEPS", 60)
    monkeypatch.setattr(emt_placements, "FMAX", 0.3)
    argv += ["--max-atoms=36", "--window=0.5"]
    assert emt_placements.main(argv) == 0
    records = OC20LMDB(str(tmp_path), "train")
    energies = [record.y_relaxed for record in records]
    assert min(energies) == 0.0 and max(energies) <= 0.5
    data = PlacementDataset(str(tmp_path), "train", max_energy=1.0)
    assert len(data.systems) == 1 and np.isfinite(data[0]["displacement"].data).all()
    made = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "systems").iterdir()}
    assert emt_placements.main(argv) == 0
    again = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "systems").iterdir()}
    assert made == again and len(made) == 4
    with pytest.raises(SystemExit):  # other settings
        emt_placements.main([*argv, "--seed=1"])


def test_only_low_distinct_ones_are_kept():
    system = Systems(0, 36).draw("train", 0)
    atoms = [system.slab + system.adsorbate for _ in range(4)]
    tags = np.repeat([1, 2], [len(system.slab), len(system.adsorbate)])
    for number, (each, energy) in enumerate(zip(atoms, (0.0, 0.01, 0.05, 0.3))):
        each.set_tags(tags)
        each.positions[tags == 2, 2] += 1.0 * (number == 2)
        names = ("overlap", "desorbed", "dissociated")
        names += ("surface_reconstructed", "intercalated")
        each.info = dict.fromkeys(names, False) | {"converged": True}
        each.info |= {"placement": number, "total_energy": energy}
    kept = lowest([(each, each) for each in atoms], 0.1)
    assert [each.info["placement"] for each, _ in kept] == [0, 2]


def test_a_system_is_measured_once(tmp_path):
    slab = clean_slab(fcc111("Cu", (2, 2, 2), vacuum=8))
    system = System("Cu|O", slab, Atoms("O"))
    path, ways = tmp_path / "0.json", {"same": Way(list)}
    found = of_system(path, lambda attempt: system, 0, ways, 3, emt(), 2)
    assert [len(found[k]) for k in ("random", "heuristic", "same")] == [2, 2, 3]
    assert all(p["before"] > p["energy"] for p in found["same"])
    assert found == of_system(path, lambda attempt: system, 0, ways, 3, None, 2)


def test_success_rate_is_the_mean_over_all_choices():
    good = [True, False, True, False, False]
    for tried in range(1, 6):
        choices = list(itertools.combinations(good, tried))
        assert success_rate(2, 5, tried) == pytest.approx(
            np.mean([any(choice) for choice in choices])
        )


def test_scores_compare_with_the_best_of_the_search():
    def found(energies, calls):
        names = ("energy", "valid", "force_calls", "before")
        return [dict(zip(names, (e, e < 9, calls, e + 1))) for e in energies]

    systems = [
        {
            "random": found([0.0, 1.0] * 5, 40),
            "heuristic": found([0.5] * 10, 20),
            "flow": found([-0.5, 9.5] * 5, 100),
        }
    ]
    names = ("random", "heuristic", "flow")
    random, heuristic, flow = (score(systems, name) for name in names)
    assert random["SR@1"] == 0.5 and random["SR@10"] == 1.0
    assert random["SR at 10 heuristic costs"] == pytest.approx(1 - 1 / 252, abs=1e-3)
    assert heuristic["SR@10"] == 0.0
    assert [each["SR@5 ranked"] for each in (random, heuristic, flow)] == [1, 0, 1]
    assert flow["calls of 5 ranked"] == 10 + 5 * 100
    for placed in systems[0]["random"]:
        placed["before"] = -placed["before"]  # the good ones look bad
    assert score(systems, "random")["SR@5 ranked"] == 0
    assert flow["below best known"] == 1 and flow["anomalies"] == 0.5
    assert flow["SR at 10 heuristic costs"] == pytest.approx(1 - 2 / 9, abs=1e-3)
