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


"""The ionic generator: energies, gaps, what a cut-off cannot see, command line."""

import json
import math

import numpy as np
import paddle
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list
from helpers import to_tensors

from benchmarks.data import ionic_clusters as ionic
from ppmat.datasets.collate_fn import DefaultCollator
from ppmat.datasets.graph_utils.periodic_graph import PeriodicGraphConverter
from ppmat.datasets.graph_utils.periodic_graph import neighbour_pairs
from ppmat.datasets.oc20_is2re_dataset import OC20IS2REDataset
from ppmat.datasets.oc20_is2re_dataset import record_to_sample
from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.models.sfin.sfin_energy import SFINEnergy

NA, CL = 11, 17
ERFC = np.vectorize(math.erfc)
CUTOFF = 6.0  # Å, of the graphs that must fall apart
SMALL = ["--train", "4", "--val", "2", "--twins", "1"]


@pytest.fixture(scope="module")
def records():
    return [ionic.Task(0, "train", index)() for index in range(8)]


@pytest.fixture(scope="module")
def twins():
    return [ionic.Task(0, "val_id", 0, copy)() for copy in range(3)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a tiny set, made through the command line."""
    out = tmp_path_factory.mktemp("ionic")
    assert ionic.main([str(out), *SMALL]) == 0
    return out


# ----------------------------------------------------------------------------- energy


def rock_salt(distance):
    """Numbers, positions and cell of NaCl with nearest neighbours at a distance."""
    cell = 2.0 * distance * np.eye(3)
    sites = np.indices((2, 2, 2)).reshape(3, -1).T
    return np.where(sites.sum(axis=1) % 2, CL, NA), sites * distance, cell


def test_rock_salt_has_the_energy_and_the_distance_of_born_and_mayer():
    r_0 = 2.83
    energy = ionic.crystal_energy(*rock_salt(r_0)) / 4
    # tables: alpha = 1.747565, e^2 / (4 pi eps_0) = 14.39964 eV Å
    expected = -1.747565 * 14.39964 / r_0 * (1 - 0.32 / r_0)
    assert energy == pytest.approx(expected, abs=3e-3)  # second shell left out
    assert -8.3 < energy < -7.7  # measured: 8.1 eV for a pair of ions
    curve = [ionic.crystal_energy(*rock_salt(r_0 + d)) for d in (-0.05, 0, 0.05)]
    assert min(curve) == curve[1]


def test_the_madelung_constant_of_caesium_chloride():
    numbers, positions = np.array([NA, CL]), np.array([[0.0] * 3, [10.0] * 3])
    cell = 20.0 * np.eye(3)  # so wide that the repulsion is nothing
    energy = ionic.crystal_energy(numbers, positions, cell)
    nearest = 10.0 * math.sqrt(3)
    assert energy == pytest.approx(-1.762675 * 14.39964 / nearest, rel=1e-5)


def ewald(record, width):
    """Coulomb energy from sums written out here; ``width`` [Å] splits them."""
    q = ionic.CHARGE[record.atomic_numbers]
    cell, pos = record.cell.astype(float), record.pos.astype(float)
    volume, eta = abs(np.linalg.det(cell)), 1 / width
    box = np.array(list(np.ndindex(3, 3, 3))) - 1
    images = (box @ cell)[None, None]
    r = np.linalg.norm(pos[:, None, None] - pos[None, :, None] + images, axis=-1)
    there = r > 1e-9
    real = np.where(there, ERFC(eta * r) / np.where(there, r, 1.0), 0.0)
    energy = 0.5 * (q[:, None] * q * real.sum(axis=-1)).sum()
    n = np.array(list(np.ndindex(25, 25, 25))) - 12
    k = 2 * np.pi * n[n.any(axis=1)] @ np.linalg.inv(cell).T
    square = (k**2).sum(axis=1)
    factor = np.abs(np.exp(1j * k @ pos.T) @ q) ** 2
    energy += (
        2 * np.pi / volume * (factor * np.exp(-square / 4 / eta**2) / square).sum()
    )
    return 14.39964 * (energy - eta / math.sqrt(math.pi) * (q**2).sum())


def test_energies_agree_with_sums_written_out(records):
    shortest = min(records, key=lambda r: np.linalg.norm(r.cell, axis=1).max())
    values = [ewald(shortest, width) for width in (2.8, 3.2)]
    assert values[0] == pytest.approx(values[1], abs=1e-3)  # converged
    arrays = (shortest.atomic_numbers, shortest.pos.astype(float))
    whole = ionic.crystal_energy(*arrays, shortest.cell.astype(float))
    i, j, _, r = neighbour_pairs(arrays[1], shortest.cell, 9)
    pairs = 0.5 * ionic.repulsion(arrays[0][i], arrays[0][j], r).sum()
    assert whole - pairs == pytest.approx(values[1], abs=2e-3)


def test_like_ions_do_not_repel_beyond_coulomb():
    numbers = np.array([NA, NA, CL])
    r = np.array([1.0, 1.0, 1.0])
    assert ionic.repulsion(numbers, np.array([NA, CL, CL]), r)[[0, 2]].tolist() == [
        0,
        0,
    ]
    energy = ionic.cluster_energy(
        np.array([NA, NA]), np.array([[0.0] * 3, [0, 0, 2.0]])
    )
    assert energy == pytest.approx(14.39964 / 2, rel=1e-5)


def inflated(motifs, scale):
    """Energy between motifs whose centres and cell grow while they stay as they are."""
    rng = np.random.default_rng(5)
    cell = scale * (20.0 * np.eye(3) + rng.uniform(-3, 3, (3, 3)))
    centres = np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]]) / 2 @ cell
    pos = np.concatenate([m.positions + c for m, c in zip(motifs, centres)])
    numbers = np.concatenate([m.kind.numbers for m in motifs])
    alone = sum(ionic.cluster_energy(m.kind.numbers, m.positions) for m in motifs)
    return ionic.crystal_energy(numbers, pos, cell) - alone


def test_charged_motifs_act_on_each_other_as_one_over_their_distance():
    rng = np.random.default_rng(0)
    motifs = [m for m in ionic.draw_motifs(rng) if m.kind.charge]
    motifs = motifs[:2] + motifs[-2:]
    assert [m.kind.charge for m in motifs] == [1, 1, -1, -1]
    near, far = inflated(motifs, 4.0), inflated(motifs, 8.0)
    assert near / far == pytest.approx(2.0, rel=0.02)


# ------------------------------------------------------------------------- structures


def test_kinds_are_all_different_and_carry_their_charge():
    seen = set()
    for kind in ionic.KINDS:
        assert kind.charge == sum(ionic.CHARGE[kind.numbers])
        np.testing.assert_allclose(kind.sites.mean(axis=0), 0, atol=1e-12)
        order = np.lexsort((*np.abs(kind.sites.T).round(6), kind.numbers))
        seen.add((tuple(kind.numbers[order]), tuple(kind.sites.std(axis=0).round(6))))
    assert len(seen) == len(ionic.KINDS)
    charges = [kind.charge for kind in ionic.KINDS]
    assert charges.count(1) == charges.count(-1) > 0 < charges.count(0)


def components(number, edges):
    """Number of connected parts."""
    part = np.arange(number)
    for i, j in edges:
        part[part == part[i]] = part[j]
    return len(np.unique(part))


def test_motifs_are_out_of_reach_of_each_other(records):
    for index, record in enumerate(records):
        motifs = ionic.draw_motifs(np.random.default_rng([0, 0, index]))
        atoms = Atoms(record.atomic_numbers, record.pos, cell=record.cell, pbc=True)
        i, j, shift = neighbor_list("ijS", atoms, CUTOFF)
        owner = np.repeat(np.arange(len(motifs)), [len(m.positions) for m in motifs])
        assert (owner[i] == owner[j]).all() and not shift[i == j].any()
        sample = record_to_sample(record, build_graph=PeriodicGraphConverter(CUTOFF))
        edges = sample["graph"]["edge_index"].data
        assert components(len(atoms), edges) == len(motifs)
        # and the check can fail: a wider graph joins them
        assert (owner[i] == owner[j]).all()
        i, j = neighbor_list("ij", atoms, 2 * CUTOFF)
        assert components(len(atoms), zip(i, j)) < len(motifs)


def test_records_are_neutral_free_and_of_the_promised_size(records):
    for record in records:
        assert ionic.CHARGE[record.atomic_numbers].sum() == 0
        assert ionic.ATOMS[0] <= len(record.pos) <= ionic.ATOMS[1]
        assert (record.tags == 1).all() and not record.fixed.any()
        assert record.pos_relaxed is None
        assert np.linalg.det(record.cell) > 0
        lengths = np.linalg.norm(record.cell, axis=1)
        assert lengths.argmax() == 2
        assert np.abs(record.cell / lengths[:, None] - np.eye(3)).max() > 0.1


def test_rotations_are_proper():
    for seed in range(5):
        q = ionic.random_rotation(np.random.default_rng(seed))
        np.testing.assert_allclose(q @ q.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(q) == pytest.approx(1.0)


def test_twins_share_their_motifs_and_local_energy_only(twins):
    first = twins[0]
    for twin in twins[1:]:
        assert (twin.atomic_numbers == first.atomic_numbers).all()
        assert twin.y_init == first.y_init
        assert abs(twin.y_relaxed - first.y_relaxed) > 1e-3
    size = len(ionic.draw_motifs(np.random.default_rng([0, 1, 0]))[0].positions)
    inner = [np.linalg.norm(t.pos[:size] - t.pos[0], axis=1) for t in twins]
    np.testing.assert_allclose(inner[1], inner[0], atol=1e-4)
    outer = [np.linalg.norm(t.pos - t.pos[0], axis=1) for t in twins]
    assert np.abs(outer[1] - outer[0]).max() > 1.0


def energies(halves, records):
    paddle.seed(0)
    backbone = {"channels": 8, "vectors": 4, "num_blocks": 2, "cutoff": CUTOFF}
    model = SFINEnergy(backbone_cfg={**backbone, "halves": halves})
    graph = PeriodicGraphConverter(CUTOFF, max_neighbors=None)
    samples = [record_to_sample(record, build_graph=graph) for record in records]
    model.eval()
    return model.predict(to_tensors(DefaultCollator()(samples)))["y_relaxed"]


def test_four_layers_with_a_cutoff_cannot_tell_twins_and_the_full_network_can(twins):
    spatial, full = energies("spatial", twins), energies("both", twins)
    assert np.ptp(spatial) < 1e-5 * max(1.0, np.abs(spatial).max())
    assert np.ptp(full) > 1e-3 * np.abs(full).max()


# ---------------------------------------------------------------------------- data set


def test_a_record_depends_on_seed_split_and_index_only(records):
    again = ionic.Task(0, "train", 3)()
    np.testing.assert_array_equal(again.pos, records[3].pos)
    others = [ionic.Task(1, "train", 3)(), ionic.Task(0, "val_id", 3)()]
    for other in others:
        assert other.pos.shape != again.pos.shape or (other.pos != again.pos).any()


def test_the_number_of_jobs_changes_nothing(finished, tmp_path):
    assert ionic.main([str(tmp_path), *SMALL, "--jobs", "2"]) == 0
    for split in ("train", "val_id", "twins"):
        one, two = OC20LMDB(finished / split), OC20LMDB(tmp_path / split)
        assert len(one) == len(two)
        assert [one.raw(i) for i in range(len(one))] == [
            two.raw(i) for i in range(len(two))
        ]


def test_the_data_set_reads_the_files(finished):
    data = OC20IS2REDataset(str(finished), split="val_id")
    assert len(data) == 2 and data.labels == ("y_relaxed",)
    first = OC20LMDB(finished / "twins")
    assert len(first) == ionic.ARRANGEMENTS
    np.testing.assert_array_equal(
        data[0]["structure_array"]["cart_coords"].data, first[0].pos
    )
    assert [data[0]["id"], first[1].sid] == ["10000000", "10000000-1"]


def test_statistics(finished):
    statistics = json.loads((finished / "statistics.json").read_text())
    rows = OC20LMDB(finished / "train")
    total = np.array([rows[i].y_relaxed for i in range(4)])
    local = np.array([rows[i].y_init for i in range(4)])
    found = statistics["train"]
    assert found["records"] == 4
    assert found["total"][:2] == pytest.approx([total.mean(), total.std()])
    share = (total - local).var() / total.var()
    assert found["long_range_share"] == pytest.approx(share)
    assert statistics["cutoff_floor"]["structures"] == 1


def test_the_floor_brackets_what_is_known():
    rng = np.random.default_rng(0)
    rows = np.zeros((500 * ionic.ARRANGEMENTS, 4))
    means = np.repeat(rng.normal(0, 5, 500), ionic.ARRANGEMENTS)
    rows[:, 2] = means + rng.normal(0, 2.0, len(rows))
    floor = ionic.cutoff_floor(rows, variance=29.0)
    low, high = floor["mae"]
    assert low < 2.0 * math.sqrt(2 / math.pi) < high < 1.15 * low
    assert floor["rmse"] == pytest.approx(2.0, rel=0.03)
    assert floor["share"] == pytest.approx(4 / 29, rel=0.06)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--train", "0"], "--train is 0; wanted at least 1"),
        (["--seed", "-1"], "--seed is -1; wanted at least 0"),
    ],
)
def test_a_senseless_command_is_refused(words, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        ionic.main([str(tmp_path), *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_an_unwritable_folder_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        ionic.main([str(tmp_path / "file"), *SMALL])
    assert stop.value.code == 1
    assert str(tmp_path / "file") in capsys.readouterr().err
