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
"""OC20 IS2RE records: samples, graphs, batches, bad files."""

import pickle
from pathlib import Path

import lmdb
import numpy as np
import paddle
import pytest
from ase.neighborlist import neighbor_list

from ppmat.datasets import OC20IS2REDataset
from ppmat.datasets import build_dataloader
from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.oc20_record import check_readout
from ppmat.datasets.oc20_record import check_record
from ppmat.datasets.oc20_record import num_adsorbates
from ppmat.datasets.pyg_pickle import OC20FormatError
from ppmat.datasets.pyg_pickle import loads

ROOT = Path(__file__).resolve().parents[1]
FILES = ROOT / "structure_generation" / "example_data" / "oc20_emt"
GRAPH = {
    "__class_name__": "PeriodicGraphConverter",
    "__init_params__": {"cutoff": 5.0, "max_neighbors": None, "k_cut": 0.8},
}


def setup_module():
    paddle.set_device("cpu")


@pytest.fixture(scope="module")
def data():
    return OC20IS2REDataset(str(FILES), "val_id", build_graph_cfg=GRAPH)


def rows(tmp_path, **changed):
    """Write three records of the example, some of them changed; return the file."""
    source = OC20LMDB(FILES / "val_id")
    raw = {str(i).encode(): source.raw(i) for i in range(3)}
    raw.update({key[3:].encode(): value for key, value in changed.items()})
    path = tmp_path / "data.lmdb"
    with lmdb.open(str(path), subdir=False, map_size=1 << 22) as env:
        with env.begin(write=True) as transaction:
            for key, value in raw.items():
                transaction.put(key, value)
    return str(path)


def test_fields_of_a_sample(data):
    assert len(data) == 40
    sample = data[0]
    atoms = {key: value.data for key, value in sample["structure_array"].items()}
    count = int(atoms["num_atoms"][0])
    for key in ("frac_coords", "cart_coords"):
        assert atoms[key].shape == (count, 3)
    for key in ("atom_types", "tags", "fixed"):
        assert atoms[key].shape == (count,)
    assert atoms["lattice"].shape == (1, 3, 3)
    assert set(atoms["tags"]) == {0, 1, 2} and atoms["num_adsorbates"][0] == 1
    np.testing.assert_allclose(
        atoms["frac_coords"] @ atoms["lattice"][0], atoms["cart_coords"], atol=1e-4
    )
    assert sample["y_relaxed"].shape == (1,) and isinstance(sample["id"], str)
    moved = sample["displacement"].data
    assert not moved[atoms["fixed"].astype(bool)].any()
    # wrapped positions jump by a cell vector; displacements are minimum images
    assert np.linalg.norm(moved, axis=1).max() < 5.0


def test_edges_are_those_of_ase(data):
    for index in (0, 7):
        atoms = data.records[index].to_atoms()
        graph = {key: value.data for key, value in data[index]["graph"].items()}
        i, j, offset = neighbor_list("ijS", atoms, 5.0)
        wanted = {(a, b, *image) for a, b, image in zip(i, j, offset.tolist())}
        edges = np.concatenate([graph["edge_index"], graph["pbc_offset"]], axis=1)
        assert {tuple(edge) for edge in edges.tolist()} == wanted
        assert len(edges) == len(wanted) == graph["num_edges"][0]


def test_reciprocal_vectors_fill_a_half_sphere(data):
    cell = data.records[0].cell.astype(float)
    found = {tuple(m) for m in data[0]["graph"]["k_index"].data.tolist()}
    grid = np.stack(np.meshgrid(*[np.arange(-12, 13)] * 3), axis=-1).reshape(-1, 3)
    length = 2 * np.pi * np.linalg.norm(grid @ np.linalg.inv(cell).T, axis=1)
    inside = {tuple(m) for m in grid[(length > 0) & (length <= 0.8)].tolist()}
    opposite = {tuple(-x for x in m) for m in found}
    assert found | opposite == inside and not found & opposite


def test_batches_of_the_loader(data):
    block = {
        "dataset": {
            "__class_name__": "OC20IS2REDataset",
            "__init_params__": {
                "path": str(FILES),
                "split": "val_id",
                "build_graph_cfg": GRAPH,
            },
        },
        "loader": {"num_workers": 0},
        "sampler": {
            "__class_name__": "BatchSampler",
            "__init_params__": {"batch_size": 3, "shuffle": False, "drop_last": False},
        },
    }
    batch = next(iter(build_dataloader(block)))
    counts = batch["structure_array"]["num_atoms"].tolist()
    assert counts == [len(data.records[i].pos) for i in range(3)]
    assert batch["structure_array"]["cart_coords"].shape == [sum(counts), 3]
    assert batch["y_relaxed"].shape == [3, 1]
    assert batch["graph"]["num_edges"].sum() == batch["graph"]["edge_index"].shape[0]


def record_of(positions, numbers=(29, 6, 8), side=8.0, **changed):
    """Return a record of one metal atom and adsorbate atoms, [Å]."""
    fields = {
        "pos": np.array([[0.0, 0.0, 0.0], *positions]),
        "atomic_numbers": np.array(numbers, dtype="float32"),
        "cell": side * np.eye(3)[None],
        "tags": np.array([1] + [2] * len(positions)),
        "fixed": np.zeros(len(numbers)),
        **changed,
    }
    return OC20Record.from_fields(fields, "here")


def test_adsorbates_are_counted_by_their_bonds(data):
    counts = [data[i]["structure_array"]["num_adsorbates"].data for i in range(40)]
    assert set(np.concatenate(counts)) == {1}
    # carbon monoxide: whole, across the face of the cell, broken
    for height, count in ((3.1, 1), (-4.9, 1), (11.1, 1), (5.0, 2)):
        assert num_adsorbates(record_of([(0, 0, 2.0), (0, 0, height)])) == count
    with pytest.raises(ValueError, match="its own periodic image"):
        chain = [(2.0, 0, 0), (2.0, 1.3, 0)]
        num_adsorbates(record_of(chain, (29, 6, 6), side=2.6))


@pytest.mark.parametrize(
    "changed, word",
    [
        ({"tags": None}, "no tags"),
        ({"fixed": None}, "no fixed"),
        ({"tags": np.zeros(2)}, "tags is float64"),
        ({"tags": np.full(3, 2**64 - 1, dtype="uint64")}, "no integers"),
        ({"fixed": np.array([0, 1, 7])}, "other than 0 and 1"),
        ({"natoms": 4}, "natoms is .4., but pos has 3"),
        ({"y_relaxed": np.float64(1e39)}, "y_relaxed holds NaN or infinite"),
        ({"pos_relaxed": np.full((3, 3), 1e39)}, "pos_relaxed holds NaN or infinite"),
        ({"pos_relaxed": np.full((3, 3), np.nan)}, "NaN"),
        ({"atomic_numbers": np.array([29, 6, 119])}, "elements"),
        ({"cell": np.ones((1, 3, 3))}, "no volume"),
        ({"edge_index": np.array([[0, 3], [1, 1]])}, "beyond the 3"),
        ({"sid": np.array([1, 2])}, "sid is"),
        ({"sid": float("inf")}, "sid is inf"),
    ],
)
def test_bad_fields_are_refused(changed, word):
    with pytest.raises(OC20FormatError, match=f"here: .*{word}"):
        record_of([(0, 0, 2.0), (0, 0, 3.1)], **changed)


def test_bad_tags_and_close_atoms_are_refused():
    near = [(0, 0, 2.0), (0, 0, 2.01)]
    with pytest.raises(ValueError, match="Å apart"):
        check_record(record_of(near))
    check_record(record_of([(0, 0, 2.0), (0, 0, 3.1)]))
    with pytest.raises(ValueError, match="tags hold"):
        check_record(record_of(near, tags=np.array([1, 2, 3])))
    with pytest.raises(ValueError, match="no atom has a tag"):
        check_readout(np.zeros(3), [1, 2])


def test_displacements_in_a_skewed_cell():
    cell = np.array([[[10.0, 0, 0], [9, 1, 0], [0, 0, 10]]])
    pos = np.array([[0.0, 0, 0], [5, 0, 2], [5, 0.5, 3.1]])
    relaxed = pos + [[0, 0, 0], [4.9, 0, 0], [0, 0, 9.9]]
    record = record_of(pos[1:], cell=cell, pos_relaxed=relaxed)
    n = np.stack(np.meshgrid(*[np.arange(-9, 10)] * 3), -1).reshape(-1, 1, 3)
    lengths = np.linalg.norm(relaxed - pos + n @ cell[0], axis=2).min(axis=0)
    found = np.linalg.norm(record.displacement, axis=1)
    np.testing.assert_allclose(found, lengths, atol=1e-5)


class Harmful:
    def __reduce__(self):
        return exec, ("raise SystemExit",)


@pytest.mark.parametrize(
    "record, word",
    [
        (b"", "exhausted"),
        (pickle.dumps(Harmful()), "refused"),
        (pickle.dumps({"pos": 1}), "no Data"),
        (pickle.dumps(b"", 4) + b"." * 9, "no Data"),
        (b"\x80\x04K\x01r\xff\xff\xff\x7f.", "LONG_BINPUT"),  # takes 16 GB of memory
    ],
)
def test_bad_records_are_refused_and_run_nothing(record, word, tmp_path):
    with pytest.raises(OC20FormatError, match=word):
        loads(record, "here")
    path = rows(tmp_path, row1=record)
    with pytest.raises(OC20FormatError, match="key '1'"):
        OC20IS2REDataset(path, on_error="skip").records[1]
    kept = OC20IS2REDataset(path, on_error="skip")
    assert len(kept) == 2 and len(kept.skipped) == 1


def test_records_that_a_sample_refuses_are_skipped(tmp_path):
    records = OC20LMDB(FILES / "val_id")
    tags = records[1].tags
    layer = records.raw(1).replace(tags.tobytes(), np.full_like(tags, 2).tobytes())
    kept = OC20IS2REDataset(rows(tmp_path, row1=layer), on_error="skip")
    assert [kept[i]["id"] for i in range(len(kept))] == [records[0].sid, records[2].sid]
    assert "its own periodic image" in kept.skipped[0]


def test_names_of_fields_are_text():
    raw = OC20LMDB(FILES / "val_id").raw(0)
    at = raw.index(b"X\x04\x00\x00\x00tags")  # the text "tags" becomes bytes
    with pytest.raises(OC20FormatError, match="here: .*is no text"):
        loads(raw[:at] + b"B" + raw[at + 1 :], "here")
    with pytest.raises(OC20FormatError, match="here: .*no pos"):
        OC20Record.from_fields({("pos",): 1}, "here")


def test_files_that_are_cut_short_are_refused(tmp_path):
    whole = Path(rows(tmp_path)).read_bytes()
    for size in (100, 5000, len(whole) // 2, len(whole) - 1):  # read, they end Python
        path = tmp_path / f"{size}.lmdb"
        path.write_bytes(whole[:size])
        with pytest.raises(OC20FormatError, match=f"{size}.lmdb: "):
            OC20IS2REDataset(str(path), on_error="skip")


def test_cut_records_are_refused(tmp_path):
    whole = OC20LMDB(FILES / "val_id").raw(0)
    for size in range(0, len(whole) - 1, 97):
        with pytest.raises(OC20FormatError):
            loads(whole[:size])


def test_a_missing_folder_is_downloaded(monkeypatch, tmp_path):
    called = []

    def fetch(url, md5):
        called.append((url, md5))
        return str(FILES)

    module = "ppmat.datasets.oc20_is2re_dataset.get_datasets_path_from_url"
    monkeypatch.setattr(module, fetch)
    missing = str(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="download"):
        OC20IS2REDataset(missing, "val_id")
    assert len(OC20IS2REDataset(missing, "val_id", download=True)) == 40
    assert called == [(OC20IS2REDataset.url, OC20IS2REDataset.md5)]
    (tmp_path / "missing").mkdir()  # an empty folder is no better
    assert len(OC20IS2REDataset(missing, "val_id", download=True)) == 40
    assert len(OC20IS2REDataset(str(FILES), "val_id", download=True)) == 40
    assert len(called) == 2
