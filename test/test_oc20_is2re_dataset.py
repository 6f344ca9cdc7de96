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


"""OC20 records as samples: exact geometry, labels, bad records, users' structures."""

import dataclasses
import pickle

import lmdb
import numpy as np
import pytest
from ase.build import add_adsorbate
from ase.build import fcc111
from pymatgen.core import Structure

import ppmat.datasets.oc20_is2re_dataset as module
from ppmat.datasets import build_dataloader
from ppmat.datasets import pyg_pickle
from ppmat.datasets.build_structure import BuildStructure
from ppmat.datasets.collate_fn import DefaultCollator
from ppmat.datasets.graph_utils import PeriodicGraphConverter
from ppmat.datasets.oc20_is2re_dataset import OC20IS2REDataset
from ppmat.datasets.oc20_is2re_dataset import record_to_sample
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.oc20_writer import write_lmdb
from ppmat.datasets.pyg_pickle import OC20FormatError
from ppmat.datasets.record_checks import SMALLEST_DISTANCE
from ppmat.utils import neighbours
from ppmat.utils.errors import InputError
from ppmat.utils.registry import ConfigError

GRAPH = {
    "__class_name__": "PeriodicGraphConverter",
    "__init_params__": {"cutoff": 5.0, "max_neighbors": 20, "k_cut": 1.0},
}
# Left-handed and turned: lengths and angles alone cannot give it back.
CELL = np.array([[0.0, 6.1, 0.7], [5.8, 0.4, 0.0], [0.3, 0.0, 19.0]], dtype="float32")


def make_record(seed=0, num_atoms=8, relaxed=True, edges=False):
    rng = np.random.default_rng(seed)
    grid = np.mgrid[0:3, 0:3, 0:2].reshape(3, -1).T[:num_atoms]
    frac = (grid + rng.uniform(0.0, 0.3, (num_atoms, 3))) / [3, 3, 6]
    pos = (frac @ CELL).astype("float32")
    tags = np.array([0] * (num_atoms - 4) + [1, 1, 2, 2])
    record = OC20Record(
        sid=str(1000 + seed),
        atomic_numbers=rng.choice([29, 78, 6, 8], num_atoms),
        pos=pos,
        cell=CELL,
        tags=tags,
        fixed=tags == 0,
    )
    if relaxed:
        move = rng.normal(0, 0.3, (num_atoms, 3)) * ~record.fixed[:, None]
        # As in the official files, the relaxed atoms are wrapped by themselves.
        wrap = rng.integers(-1, 2, (num_atoms, 3)) @ CELL
        record.pos_relaxed = (pos + move + wrap).astype("float32")
        record.y_relaxed = float(rng.normal())
        record.y_init = record.y_relaxed + 1.0
    if edges:
        graph = PeriodicGraphConverter(6.0, 50)(
            Structure(CELL, record.atomic_numbers, pos, coords_are_cartesian=True)
        )
        record.edge_index = graph["edge_index"].data.T[::-1].copy()
        record.cell_offsets = graph["pbc_offset"].data
    return record


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lmdb(path, records)
    return str(path)


def put(path, rows):
    """Overwrite rows of a file with other bytes or fields."""
    env = lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 24)
    with env.begin(write=True) as txn:
        for row, value in rows.items():
            data = value if isinstance(value, bytes) else pyg_pickle.dumps(value)
            txn.put(str(row).encode(), data)
    env.close()


@pytest.fixture
def split(tmp_path):
    records = [make_record(i, 6 + i % 3) for i in range(7)]
    return write(tmp_path / "train" / "data.lmdb", records)


def edge_set(graph):
    rows = np.hstack([graph["edge_index"].data, graph["pbc_offset"].data])
    return sorted(map(tuple, rows.tolist()))


# Samples -----------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["ase_atoms", "array"])
def test_geometry_is_kept_exactly(format):
    record = make_record(3)
    build = BuildStructure(format, niggli=False, canocial=False)
    array = record_to_sample(record, build)["structure_array"]
    assert np.linalg.det(CELL) < 0
    np.testing.assert_array_equal(array["lattice"].data[0], CELL)
    np.testing.assert_array_equal(array["cart_coords"].data, record.pos)
    np.testing.assert_allclose(array["frac_coords"].data @ CELL, record.pos, atol=2e-6)
    np.testing.assert_allclose(
        array["lengths"].data[0], np.linalg.norm(CELL, axis=1), rtol=1e-6
    )


def test_a_standardised_cell_is_refused():
    """Broken twin: Niggli reduction or 'canocial' would turn the slab silently."""
    for options in ({"niggli": True, "canocial": False}, {"niggli": False}):
        with pytest.raises(ValueError, match="changes the cell"):
            record_to_sample(make_record(3), BuildStructure("ase_atoms", **options))


def test_fields_of_a_sample(split):
    data = OC20IS2REDataset(split, build_graph_cfg=GRAPH)
    record, sample = make_record(1, 7), data[1]
    array = {k: v.data for k, v in sample["structure_array"].items()}
    shapes = {k: (v.shape, str(v.dtype)) for k, v in array.items()}
    assert shapes == {
        "frac_coords": ((7, 3), "float32"),
        "cart_coords": ((7, 3), "float32"),
        "atom_types": ((7,), "int64"),
        "lattice": ((1, 3, 3), "float32"),
        "lengths": ((1, 3), "float32"),
        "angles": ((1, 3), "float32"),
        "num_atoms": ((1,), "int64"),
        "num_adsorbates": ((1,), "int64"),
        "tags": ((7,), "int64"),
        "fixed": ((7,), "bool"),
    }
    np.testing.assert_array_equal(array["atom_types"], record.atomic_numbers)
    np.testing.assert_array_equal(array["tags"], record.tags)
    np.testing.assert_array_equal(array["fixed"], record.fixed)
    np.testing.assert_array_equal(
        sample["cart_coords_relaxed"].data, record.pos_relaxed
    )
    np.testing.assert_array_equal(sample["y_relaxed"], np.float32([record.y_relaxed]))
    assert sample["id"] == "1001"


def test_displacement_is_the_minimum_image(split):
    data = OC20IS2REDataset(split)
    for i in range(len(data)):
        sample, record = data[i], make_record(i, 6 + i % 3)
        displacement = sample["displacement"].data
        assert displacement.dtype == np.float32
        assert np.abs(displacement).max() < 1.5
        np.testing.assert_allclose(displacement[record.fixed], 0, atol=1e-5)
        raw = record.pos_relaxed - record.pos
        images = (raw - displacement) @ np.linalg.inv(CELL)
        np.testing.assert_allclose(images, np.rint(images), atol=1e-5)
        assert np.abs(raw).max() > 3  # broken twin: the plain difference


def test_the_graph_belongs_to_the_initial_positions(split):
    sample = OC20IS2REDataset(split, build_graph_cfg=GRAPH)[2]
    array = {k: v.data for k, v in sample["structure_array"].items()}
    i, j = sample["graph"]["edge_index"].data.T
    vector = (
        array["cart_coords"][j]
        + sample["graph"]["pbc_offset"].data @ array["lattice"][0]
        - array["cart_coords"][i]
    )
    length = np.linalg.norm(vector, axis=1)
    assert len(length) == sample["graph"]["num_edges"].data[0] > 0
    assert 0.5 < length.min() and length.max() < 5.0


def test_stored_edges_are_reused(tmp_path):
    path = write(tmp_path / "data.lmdb", [make_record(i, edges=True) for i in range(3)])
    searched = OC20IS2REDataset(path, build_graph_cfg=GRAPH)
    reused = OC20IS2REDataset(path, build_graph_cfg=GRAPH, reuse_edges=True)
    for i in range(3):
        assert edge_set(reused[i]["graph"]) == edge_set(searched[i]["graph"])


def test_adsorbates_are_counted(tmp_path):
    record = make_record(3)
    record.pos[-2:] = record.pos[-1] + [[0.0, 0.0, 1.1], [0.0, 0.0, 0.0]]
    record.atomic_numbers[-2:] = 8, 6
    pair = dataclasses.replace(record, tags=np.where(record.tags > 0, 2, 0))
    clean = dataclasses.replace(record, tags=np.minimum(record.tags, 1))
    pair.pos[-4:-2] = pair.pos[-1] + [[0.1, 3.0, 0.1], [0.1, 3.0, 1.1]]
    pair.atomic_numbers[-4:-2] = 6, 8
    path = str(tmp_path / "d.lmdb")
    write_lmdb(path, [record, pair, clean])
    data = OC20IS2REDataset(path)
    wanted = [1, 2, 0]
    assert [data.read_num_adsorbates(i) for i in range(3)] == wanted
    samples = [data[i]["structure_array"]["num_adsorbates"] for i in range(3)]
    assert [int(x.data[0]) for x in samples] == wanted
    batch = DefaultCollator()([data[i] for i in range(3)])
    assert batch["structure_array"]["num_adsorbates"].tolist() == wanted


def test_neighbours_are_searched_once_a_sample(split, monkeypatch):
    calls = []

    def counted(points, *args, **kwargs):
        if len(points) > 2:  # not only the adsorbate
            calls.append(kwargs["r"])
        return search(points, *args, **kwargs)

    search = neighbours.find_points_in_spheres
    monkeypatch.setattr(neighbours, "find_points_in_spheres", counted)
    for options, wanted in (
        ({"build_graph_cfg": GRAPH}, [5.0]),
        ({}, [SMALLEST_DISTANCE]),
        ({"build_graph_cfg": GRAPH, "on_error": "skip"}, [5.0]),
        ({"on_error": "skip"}, []),
    ):
        data = OC20IS2REDataset(split, **options)
        calls.clear()
        data[1]
        assert calls == wanted


def test_close_atoms_are_found_by_the_search_for_the_graph(split):
    spoiled(split)
    for options in ({}, {"build_graph_cfg": GRAPH}):
        with pytest.raises(OC20FormatError, match="sid 1004.*at the same place"):
            OC20IS2REDataset(split, **options)[4]


def test_a_file_without_edges_says_so(split):
    with pytest.raises(
        OC20FormatError, match="sid 1000 has no edge_index.*reuse_edges"
    ):
        OC20IS2REDataset(split, build_graph_cfg=GRAPH, reuse_edges=True)


@pytest.mark.parametrize(
    "params", [{"cutoff": 6.5}, {"max_neighbors": None}, {"max_neighbors": 60}]
)
def test_stored_edges_do_not_reach_everywhere(split, params):
    graph = {**GRAPH, "__init_params__": params}
    with pytest.raises(ValueError, match="OC20 stores edges up to 6.0 Å and 50"):
        OC20IS2REDataset(split, build_graph_cfg=graph, reuse_edges=True)
    with pytest.raises(ValueError, match="no build_graph_cfg"):
        OC20IS2REDataset(split, reuse_edges=True)


def test_a_test_split_has_no_labels(tmp_path):
    path = write(
        tmp_path / "test_id" / "data.lmdb",
        [make_record(i, relaxed=False) for i in range(2)],
    )
    data = OC20IS2REDataset(path, split="test_id")
    assert set(data[1]) == {"structure_array", "id"}
    assert not data.labels


def test_a_batch(split):
    data = OC20IS2REDataset(split, build_graph_cfg=GRAPH)
    batch = DefaultCollator()([data[0], data[1], data[2]])
    assert batch["structure_array"]["num_atoms"].tolist() == [6, 7, 8]
    assert batch["structure_array"]["cart_coords"].shape == (21, 3)
    assert batch["structure_array"]["lattice"].shape == (3, 3, 3)
    assert batch["y_relaxed"].shape == (3, 1)
    assert batch["graph"]["num_edges"].sum() == len(batch["graph"]["edge_index"])
    assert batch["id"] == ["1000", "1001", "1002"]


def test_transforms_are_applied(split):
    cfg = {
        "dataset": {
            "__class_name__": "OC20IS2REDataset",
            "__init_params__": {
                "path": split,
                "transforms": [
                    {
                        "__class_name__": "Normalize",
                        "__init_params__": {
                            "mean": 2.0,
                            "std": 0.5,
                            "apply_keys": ["y_relaxed"],
                        },
                    }
                ],
            },
        }
    }
    plain = OC20IS2REDataset(split)[0]["y_relaxed"]
    (batch, *_) = build_dataloader(cfg)
    np.testing.assert_allclose(batch["y_relaxed"].numpy(), [(plain - 2) / 0.5])


# The data set in its surroundings ----------------------------------------------------


def test_length_and_bounds(split):
    assert len(OC20IS2REDataset(split)) == 7
    data = OC20IS2REDataset(split, max_samples=3)
    assert [sample["id"] for sample in data] == ["1000", "1001", "1002"]
    assert len(OC20IS2REDataset(split, max_samples=99)) == 7
    for idx in (3, -1):
        with pytest.raises(IndexError, match="of 3"):
            data[idx]


def test_workers_read_the_same_file(split):
    def loader(num_workers):
        params = {"path": split, "build_graph_cfg": GRAPH}
        return build_dataloader(
            {
                "dataset": {
                    "__class_name__": "OC20IS2REDataset",
                    "__init_params__": params,
                },
                "loader": {"num_workers": num_workers},
                "sampler": {
                    "__class_name__": "BatchSampler",
                    "__init_params__": {"batch_size": 3, "shuffle": True},
                },
            },
            seed=5,
        )

    for plain, forked in zip(loader(0), loader(2), strict=True):
        assert plain["id"] == forked["id"]
        for part in ("structure_array", "graph"):
            for name, tensor in plain[part].items():
                np.testing.assert_array_equal(
                    tensor.numpy(), forked[part][name].numpy()
                )


def test_the_data_set_can_be_pickled_and_stays_small(split, tmp_path):
    data = OC20IS2REDataset(split, build_graph_cfg=GRAPH)
    data[0]
    copy = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(copy[3]["y_relaxed"], data[3]["y_relaxed"])
    many = write(tmp_path / "b" / "data.lmdb", [make_record(i) for i in range(60)])
    large = OC20IS2REDataset(many, build_graph_cfg=GRAPH)
    for i in range(60):
        large[i]
    assert abs(len(pickle.dumps(large)) - len(pickle.dumps(data))) < 50


def test_download_is_asked_for(split, tmp_path, monkeypatch):
    asked = []

    def fetch(url, md5):
        asked.append((url, md5))
        return str(tmp_path)

    monkeypatch.setattr(module, "get_datasets_path_from_url", fetch)
    with pytest.raises(FileNotFoundError, match="download: true.*8.1 GB"):
        OC20IS2REDataset(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="download: true"):
        OC20IS2REDataset()
    assert len(OC20IS2REDataset(split, download=True)) == 7
    assert not asked
    assert len(OC20IS2REDataset(download=True)) == 7
    assert asked == [(OC20IS2REDataset.url, "cfc04dd2f87b4102ab2f607240d25fb1")]
    (tmp_path / "empty").mkdir()
    assert len(OC20IS2REDataset(str(tmp_path / "empty"), download=True)) == 7
    assert len(asked) == 2
    assert OC20IS2REDataset.url.startswith("https://dl.fbaipublicfiles.com/")


@pytest.mark.parametrize(
    "params, match",
    [
        ({"subset": "10K"}, r"subset is '10K'; wanted one of 10k"),
        ({"on_error": "ignore"}, "on_error is 'ignore'.*raise, skip"),
        ({"max_samples": 0}, "max_samples.* 0"),
        (
            {"build_structure_cfg": {"format": "cif_str"}},
            "format is 'cif_str'.*ase_atoms",
        ),
        ({"build_structure_cfg": {"niggli": True}}, "niggli is on"),
        ({"build_structure_cfg": {"canonical": False}}, "Did you mean 'canocial'"),
        ({"build_graph_cfg": {"__class_name__": "Radius"}}, "'Radius'.*PeriodicGraphC"),
        ({"build_graph_cfg": {**GRAPH, "x": 1}}, "build_graph_cfg: .*key.* 'x'"),
        (
            {
                "build_graph_cfg": {
                    **GRAPH,
                    "__init_params__": {"max_neighbours": 3},
                }
            },
            "'max_neighbours'.*Did you mean 'max_neighbors'",
        ),
        (
            {"build_graph_cfg": {**GRAPH, "__init_params__": {"cutoff": -1}}},
            "build_graph_cfg.__init_params__.*cutoff.* -1",
        ),
        (
            {"build_graph_cfg": {**GRAPH, "__init_params__": {"cutoff": "5"}}},
            "build_graph_cfg.__init_params__",
        ),
    ],
)
def test_arguments_that_cannot_be_meant(split, params, match):
    with pytest.raises(ValueError, match=match):
        OC20IS2REDataset(split, **params)
    cfg = {
        "dataset": {
            "__class_name__": "OC20IS2REDataset",
            "__init_params__": {"path": split, **params},
        }
    }
    with pytest.raises(
        ConfigError, match=f"^Dataset.val.dataset.__init_params__.*{match}"
    ):
        build_dataloader(cfg, where="Dataset.val")


# Bad records -------------------------------------------------------------------------


def spoiled(split):
    """Rows 1..5 of the file become bad, each in its own way."""
    nan = make_record(1).to_fields()
    nan["pos"] = nan["pos"] * np.float32("nan")
    flat = make_record(2).to_fields()
    flat["cell"] = flat["cell"] * np.float32([1, 1, 0])
    layers = make_record(3)
    layers.tags = layers.tags + 1
    twins = make_record(4)
    twins.pos[1] = twins.pos[0] + CELL[2]
    unlabelled = make_record(5)
    unlabelled.pos_relaxed = None
    put(
        split,
        {
            1: nan,
            2: flat,
            3: layers.to_fields(),
            4: twins.to_fields(),
            5: unlabelled.to_fields(),
        },
    )
    return {
        1: "pos holds NaN",
        2: "no volume",
        3: "tags hold",
        4: "at the same place",
        5: "no pos_relaxed",
    }


def test_raise_stops_at_the_record(split):
    faults = spoiled(split)
    data = OC20IS2REDataset(split)
    assert len(data) == 7
    assert data[6]["id"] == "1006"
    for row, fault in faults.items():
        with pytest.raises(OC20FormatError, match=f"data.lmdb key '{row}'.*{fault}"):
            data[row]


def test_skip_leaves_out_and_lists(split, capsys):
    faults = spoiled(split)
    data = OC20IS2REDataset(split, on_error="skip", build_graph_cfg=GRAPH)
    assert [data[i]["id"] for i in range(len(data))] == ["1000", "1006"]
    assert len(data.skipped) == 5
    log = capsys.readouterr().out
    assert "5 of 7 records are bad" in log
    for row, fault in faults.items():
        assert any(f"key '{row}'" in s and fault in s for s in log.splitlines())
    for sid in (1003, 1004, 1005):
        assert f"sid {sid}" in log


def test_skip_with_a_bad_first_record_and_a_limit(split):
    put(split, {0: b"\x80\x04 no pickle", 2: b""})
    data = OC20IS2REDataset(split, on_error="skip", max_samples=3)
    assert [sample["id"] for sample in data] == ["1001", "1003", "1004"]
    assert set(data[0]) >= {"displacement", "y_relaxed"}
    with pytest.raises(OC20FormatError, match="key '0'"):
        OC20IS2REDataset(split)


def test_skip_needs_one_good_record(split):
    put(split, dict.fromkeys(range(7), b"junk"))
    with pytest.raises(OC20FormatError, match="none of its 7 records.*key '0'"):
        OC20IS2REDataset(split, on_error="skip")


def layer_record(sid, tags, layers=2):
    """A slab of ASE with the given tags, its layer numbers if None."""
    atoms = fcc111("Cu", (2, 2, layers), vacuum=8.0)
    add_adsorbate(atoms, "O", 1.5, "fcc")
    numbers = atoms.get_tags() if tags is None else np.array(tags)
    arrays = atoms.numbers, atoms.positions, atoms.cell.array, numbers
    record = OC20Record(sid, *arrays, fixed=np.zeros(len(atoms), dtype=bool))
    record.y_relaxed = -1.0
    return record


@pytest.mark.parametrize("layers", [2, 4])
def test_layer_numbers_in_a_file(tmp_path, layers):
    right = layer_record("2", [0] * 4 * (layers - 1) + [1] * 4 + [2], layers)
    bare = layer_record("3", [0] * (4 * layers + 1), layers)
    records = [right, layer_record("1", None, layers), bare]
    path = write(tmp_path / "data.lmdb", records)
    data = OC20IS2REDataset(path)
    with pytest.raises(OC20FormatError, match="key '1'.*layer numbers of ASE's"):
        data[1]
    assert not data.read_atoms(2)[1].any()
    assert len(OC20IS2REDataset(path, on_error="skip").skipped) == 1
    with pytest.raises(OC20FormatError, match="key '2'.*there are no tags"):
        OC20IS2REDataset(path, missing_tags="raise")[2]
    guessed = OC20IS2REDataset(
        path, missing_tags="guess", on_error="skip", readout_tags=[1, 2]
    )
    assert not guessed.skipped
    for i in range(3):
        tags = guessed[i]["structure_array"]["tags"].data
        np.testing.assert_array_equal(tags, right.tags)
        np.testing.assert_array_equal(guessed.read_atoms(i)[1], right.tags)
    with pytest.raises(ValueError, match="missing_tags is 'gues'"):
        OC20IS2REDataset(path, missing_tags="gues")


def test_a_record_with_too_many_atoms_is_bad(tmp_path):
    small, large = make_record(0), make_record(1)
    for name in ("atomic_numbers", "pos", "tags", "fixed", "pos_relaxed"):
        setattr(small, name, getattr(small, name)[1:])
    path = write(tmp_path / "data.lmdb", [small, large])
    data = OC20IS2REDataset(path, max_atoms=7)
    assert len(data[0]["structure_array"]["tags"].data) == 7
    with pytest.raises(OC20FormatError, match="sid .* has 8 atoms.* on_error: skip"):
        data[1]
    skipped = OC20IS2REDataset(path, max_atoms=7, on_error="skip")
    assert (len(skipped), len(skipped.skipped)) == (1, 1)
    assert "on_error" not in skipped.skipped[0]
    with pytest.raises(InputError, match="max_atoms is 0"):
        OC20IS2REDataset(path, max_atoms=0)
    assert len(OC20IS2REDataset(path, max_atoms=8, on_error="skip")) == 2


def test_a_record_without_an_atom_that_the_model_reads_is_bad(tmp_path):
    bare, deep = make_record(1), make_record(2)
    bare.tags, deep.tags = np.zeros(8, int), np.repeat([0, 1], 4)
    path = write(tmp_path / "data.lmdb", [make_record(0), bare, deep])
    data = OC20IS2REDataset(path, readout_tags=[2])
    assert data[0]["structure_array"]["tags"].data.tolist().count(2) == 2
    with pytest.raises(OC20FormatError, match="key '1': the structure has no tags"):
        data[1]
    with pytest.raises(OC20FormatError, match=r"key '2': no atom .* among \[2\]"):
        data[2]
    skipped = OC20IS2REDataset(path, readout_tags=[1, 2], on_error="skip")
    assert (len(skipped), len(skipped.skipped)) == (2, 1)
    assert len(OC20IS2REDataset(path, on_error="skip")) == 3  # nobody reads tags
