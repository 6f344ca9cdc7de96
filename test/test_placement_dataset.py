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

"""Ways from random placements to low-energy ones."""

import numpy as np
import pytest
from ase.build import fcc111

from ppmat.datasets import PlacementDataset
from ppmat.datasets.adsorbates import read_adsorbate
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.oc20_writer import write_lmdb
from ppmat.datasets.placement_dataset import nearest_target
from ppmat.datasets.placements import clean_slab
from ppmat.datasets.placements import heuristic_placements
from ppmat.utils.errors import InputError
from ppmat.utils.periodic import minimum_image
from ppmat.utils.rigid_motion import motion_to
from ppmat.utils.rigid_motion import move

GRAPH = {
    "__class_name__": "PeriodicGraphConverter",
    "__init_params__": {"cutoff": 4.0, "max_neighbors": None, "k_cut": 0.7},
}


def records(adsorbate="CO", energies=(0.0, 0.05, 0.3), swap=False):
    """Return relaxations on one slab: sites, with the adsorbate sunk by 0.1 Å."""
    slab = fcc111("Cu", (3, 3, 2), vacuum=9)
    if swap:  # 3 x 1 periods
        slab.symbols[[0, 3, 6]] = "Pd"
    slab.set_tags([0] * 9 + [1] * 9)
    slab = clean_slab(slab)
    found = []
    placed = heuristic_placements(slab, read_adsorbate(adsorbate), len(energies), 0)
    for number, (atoms, energy) in enumerate(zip(placed, energies)):
        relaxed = atoms.positions.copy()
        relaxed[atoms.get_tags() == 2, 2] -= 0.1
        relaxed[atoms.get_tags() == 1, 2] += 0.02
        fixed = np.isin(np.arange(len(atoms)), atoms.constraints[0].index)
        found.append(
            OC20Record(
                sid=str(number),
                atomic_numbers=atoms.numbers.astype("int64"),
                pos=atoms.positions.astype("float32"),
                cell=atoms.cell.array.astype("float32"),
                tags=atoms.get_tags().astype("int64"),
                fixed=fixed,
                y_relaxed=energy,
                pos_relaxed=relaxed.astype("float32"),
            )
        )
    return found


def data_set(folder, rows, split="train", **options):
    write_lmdb(folder / split / "data.lmdb", rows, overwrite=True)
    return PlacementDataset(str(folder), split, GRAPH, **options)


def test_relaxations_of_a_slab_are_one_system(tmp_path):
    data = data_set(tmp_path, [*records(), *records("O")], draws=3)
    assert [len(s.adsorbate) for s in data.systems] == [2, 1]
    assert len(data) == 6
    # two of three are low enough; the slab has nine periods
    assert [s.relaxed.shape for s in data.systems] == [(18, 2, 3), (18, 1, 3)]
    assert len(data_set(tmp_path, [*records(), *records("O")], max_systems=1)) == 8
    every = data_set(tmp_path, records(), max_energy=1.0)
    assert every.systems[0].relaxed.shape == (27, 2, 3)


def test_copies_are_those_of_the_slab(tmp_path):
    system = data_set(tmp_path, records(energies=(0.0,), swap=True)).systems[0]
    assert system.relaxed.shape == (3, 2, 3)
    positions, cell = system.slab.positions, system.slab.cell.array
    wanted = None
    for relaxed in system.relaxed:
        away = minimum_image(relaxed[1] - positions, cell)
        key = sorted(zip(np.linalg.norm(away, axis=1).round(2), system.slab.numbers))
        wanted = wanted or key
        assert key == wanted  # the surroundings of the carbon atom


def test_slab_atoms_move_with_their_copies(tmp_path):
    rows = records(energies=(0.0,))
    own = rows[0].tags == 2
    carbon = rows[0].pos[own][1]
    away = minimum_image(rows[0].pos[~own] - carbon, rows[0].cell)
    nearest = np.linalg.norm(away, axis=1).argmin()
    rows[0].pos_relaxed[np.flatnonzero(~own)[nearest]] += [0.2, 0, 0]
    system = data_set(tmp_path, rows).systems[0]
    for relaxed, moves in zip(system.relaxed, system.slab_moves):
        away = minimum_image(system.slab.positions - relaxed[1], system.slab.cell.array)
        mover = np.linalg.norm(moves[:, :2], axis=1).argmax()
        assert mover == np.linalg.norm(away, axis=1).argmin()


def test_the_nearest_target_is_taken_across_cell_faces(tmp_path):
    system = data_set(tmp_path, records("O", (0.0, 0.0))).systems[0]
    cell = system.slab.cell.array
    rng = np.random.default_rng(0)
    for _ in range(20):
        start = system.relaxed[0] + rng.random(2) @ cell[:2] + 3 * cell[0]
        target, _ = nearest_target(system, start)
        all_ways = minimum_image(system.relaxed[:, 0] - start[0], cell)
        shortest = np.linalg.norm(all_ways, axis=1).min()
        assert np.linalg.norm(target - start) == pytest.approx(shortest, abs=1e-6)


def test_a_sample_is_on_the_way_to_a_target(tmp_path):
    data = data_set(tmp_path, records(), draws=12, noise_std=0.0)
    system = data.systems[0]
    cell = system.slab.cell.array
    times = []
    for i in range(len(data)):
        sample = data[i]
        arrays = sample["structure_array"]
        own = arrays["tags"].data == 2
        now = arrays["cart_coords"].data.astype(float)
        motion = sample["displacement"].data.astype(float)
        end = move(now[own], motion[own])
        away = minimum_image(end - system.relaxed, cell)
        assert np.linalg.norm(away, axis=2).max(axis=1).min() < 1e-3
        time = float(sample["time"][0])
        lifted = now[~own] - system.slab.positions
        assert np.allclose(lifted[:, 2].max(), 0.02 * time, atol=1e-4)
        assert np.allclose(motion[~own][:, 2].max(), 0.02 * (1 - time), atol=1e-4)
        assert not motion[arrays["fixed"].data].any()
        times.append(time)
        # where it came from: a molecule that is not deformed
        start = move(now[own], motion_to(now[own], end) * -time / (1 - time))
        assert np.linalg.norm(start[0] - start[1]) == pytest.approx(1.15, abs=0.01)
    assert 0 <= min(times) < 0.3 and 0.7 < max(times) < 1


def test_noise_is_beside_the_way_and_the_motion_leads_back(tmp_path):
    still = data_set(tmp_path, records(), draws=100, noise_std=0.0)
    noisy = data_set(tmp_path, records(), draws=100, noise_std=0.3)
    own = still[0]["structure_array"]["tags"].data == 2
    shifts, single = [], []
    for i in range(100):
        one, two = still[i], noisy[i]
        places = [s["structure_array"]["cart_coords"].data for s in (one, two)]
        motions = [s["displacement"].data.astype(float) for s in (one, two)]
        ends = [move(p[own].astype(float), m[own]) for p, m in zip(places, motions)]
        assert np.abs(ends[0] - ends[1]).max() < 1e-3
        slab = [(p + m)[~own] for p, m in zip(places, motions)]
        assert np.abs(slab[0] - slab[1]).max() < 1e-4
        noise = places[1] - places[0]
        fixed = one["structure_array"]["fixed"].data
        assert not noise[fixed].any()
        shifts.append(noise[own].mean(axis=0))
        single.append(noise[~own & ~fixed])
    assert np.std(shifts) == pytest.approx(0.3, rel=0.2)
    assert np.std(single) == pytest.approx(0.075, rel=0.1)


def test_epochs_draw_anew_in_training_only(tmp_path):
    for split in ("train", "val_id"):
        data = data_set(tmp_path, records(), split)
        first = data[2]["structure_array"]["cart_coords"].data
        data.set_epoch(1)
        second = data[2]["structure_array"]["cart_coords"].data
        assert np.allclose(first, second) == (split == "val_id")
        data.set_epoch(0)
        assert np.array_equal(first, data[2]["structure_array"]["cart_coords"].data)


def test_wrapped_records_are_put_together(tmp_path):
    whole, cut = records(energies=(0.0,)), records(energies=(0.0,))
    cell = cut[0].cell.astype(float)
    for name in ("pos", "pos_relaxed"):
        moved = getattr(cut[0], name) - 1e-3 * cell[0]
        share = moved @ np.linalg.inv(cell) % 1.0
        setattr(cut[0], name, (share @ cell).astype("float32"))
    one = data_set(tmp_path, whole).systems[0]
    other = data_set(tmp_path, cut).systems[0]
    assert np.allclose(
        np.linalg.norm(np.diff(other.relaxed, axis=1), axis=2), 1.15, atol=1e-3
    )
    heights = [
        s.relaxed.mean(axis=(0, 1))[2] - s.slab.positions[:, 2].max()
        for s in (one, other)
    ]
    assert heights[0] == pytest.approx(heights[1], abs=1e-3)


def test_dissociated_ones_are_no_targets(tmp_path):
    rows = records(energies=(0.0, 0.0))
    rows[1].pos_relaxed[-1, 0] += 2.5
    data = data_set(tmp_path, rows)
    assert data.systems[0].relaxed.shape == (9, 2, 3)
    with pytest.raises(InputError, match="all 1 relaxations fail"):
        data_set(tmp_path, rows[1:])
    rows[0].pos_relaxed = None
    with pytest.raises(InputError, match="no relaxed positions"):
        data_set(tmp_path, rows[:1])
