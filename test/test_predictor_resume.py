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


"""PropertyPredictor: rows on the disk, going on after an interruption, memory."""

import gc
import itertools
import os
import weakref

import numpy as np
import paddle
import pytest
from ase import Atoms
from helpers_predictor import ToyEnergy
from helpers_predictor import write_energy_model
from helpers_sampler import make_slab
from helpers_sampler import make_slabs

from ppmat.predictor import PropertyPredictor
from ppmat.utils.files import StoredRunError

SILENT = {"progress": False}


def setup_module():
    paddle.set_device("cpu")


@pytest.fixture
def predictor(tmp_path):
    ToyEnergy.calls.clear()
    return PropertyPredictor(**write_energy_model(tmp_path / "model"))


def endless(rng=None):
    """Slabs that are made when asked for."""
    rng = rng or np.random.default_rng(0)
    for i in itertools.count():
        yield make_slab(i, rng)


def test_rows_on_the_disk_are_those_in_memory(predictor, tmp_path):
    slabs = make_slabs(5)
    slabs[1].info["sid"] = 'a, "b"'
    slabs[3].positions[0] = np.nan
    options = {"batch_size": 2, "on_error": "flag", **SILENT}
    kept = predictor.from_structures(slabs, **options)
    path = tmp_path / "deep" / "energies.csv"
    stored = predictor.from_structures(slabs, save_path=path, **options)
    assert list(stored) == list(kept) and stored[3] == kept[3] and len(stored) == 5
    assert stored[-1] == kept[-1] and stored[1:3] == kept[1:3]
    kept.to_csv(tmp_path / "kept.csv")
    assert path.read_text() == (tmp_path / "kept.csv").read_text()
    assert sorted(os.listdir(path.parent)) == [path.name, f"{path.name}.run.json"]
    one = predictor.from_structures(slabs[0], save_path=tmp_path / "one.csv")
    assert one == kept[0]


class Interrupted(Exception):
    """Stands for a killed process."""


def test_interrupted_run_goes_on_where_it_stopped(predictor, tmp_path):
    slabs = make_slabs(7)
    whole = list(predictor.from_structures(slabs, **SILENT))
    path = tmp_path / "energies.csv"
    options = {"batch_size": 2, "save_path": path, **SILENT}

    def stops():
        yield from slabs[:5]
        raise Interrupted

    with pytest.raises(Interrupted):
        predictor.from_structures(stops(), **options)
    assert len(path.read_text().splitlines()) == 5  # head and two batches
    with open(path, "a") as file:
        file.write("sid4,0.1")  # a row that was being written
    ToyEnergy.calls.clear()
    table = predictor.from_structures(iter(slabs), **options)
    assert ToyEnergy.calls == [["sid4", "sid5"], ["sid6"]]
    assert list(table) == whole
    ToyEnergy.calls.clear()
    assert list(predictor.from_structures(slabs, **options)) == whole
    assert ToyEnergy.calls == []
    more = predictor.from_structures(make_slabs(9), **options)
    assert ToyEnergy.calls == [["sid7", "sid8"]] and list(more)[:7] == whole


def test_flags_and_errors_do_not_hinder_going_on(predictor, tmp_path):
    far = Atoms("CuO", [[0, 0, 0], [0, 0, 9]], cell=[20] * 3, tags=[1, 2])
    bad = make_slabs(1)[0]
    bad.positions[0] = np.nan
    options = {"save_path": tmp_path / "a.csv", "on_error": "flag", **SILENT}
    first = list(predictor.from_structures([far, bad], **options))
    assert "isolated_atoms" in first[0]["flags"] and first[1]["error"]
    table = predictor.from_structures([far, bad, far], **options)
    assert list(table)[:2] == first
    assert {**table[2], "id": "0"} == first[0]


def test_file_of_another_run_is_refused(predictor, tmp_path):
    slabs = make_slabs(3)
    path = tmp_path / "energies.csv"
    options = {"save_path": path, **SILENT}
    predictor.from_structures(slabs, **options)
    text = path.read_text()
    other = PropertyPredictor(**write_energy_model(tmp_path / "other", weight=2.0))
    with pytest.raises(StoredRunError, match="other weights. Choose another"):
        other.from_structures(slabs, **options)
    with pytest.raises(StoredRunError, match="other missing_tags"):
        predictor.from_structures(slabs, missing_tags="guess", **options)
    for inputs in (slabs[::-1], slabs[:2], make_slabs(3, seed=1)):
        with pytest.raises(StoredRunError, match="not the first 3 given now. Choose"):
            predictor.from_structures(inputs, **options)
    assert path.read_text() == text
    path.write_text(text.replace("sid1", "sid9"))
    with pytest.raises(StoredRunError, match="was changed since"):
        predictor.from_structures(slabs, **options)
    path.write_text(text[:-9])
    with pytest.raises(StoredRunError, match="was changed since"):
        predictor.from_structures(slabs, **options)
    manifest = tmp_path / "energies.csv.run.json"
    manifest.write_text("{}")
    with pytest.raises(StoredRunError, match="is damaged"):
        predictor.from_structures(slabs, **options)
    manifest.unlink()
    with pytest.raises(StoredRunError, match="not written by such a run"):
        predictor.from_structures(slabs, **options)
    path.unlink()
    assert len(predictor.from_structures(slabs, **options)) == 3


def live_at_most(predictor, count, **options):
    """Return how many of ``count`` generated slabs were alive at once, at most."""
    made = []
    most = 0

    def alive():
        return sum(ref() is not None for ref in made)

    def slabs():
        nonlocal most
        for slab in itertools.islice(endless(), count):
            made.append(weakref.ref(slab))
            most = max(most, alive())
            yield slab

    table = predictor.from_structures(slabs(), batch_size=4, **options, **SILENT)
    gc.collect()
    assert len(table) == count and not alive()
    return most


def test_memory_does_not_grow_with_the_input(predictor, tmp_path):
    """At most the structures of a batch are alive, and no row with ``save_path``."""
    assert live_at_most(predictor, 60) <= 8
    assert live_at_most(predictor, 60, save_path=tmp_path / "a.csv") <= 8
    alive = []

    class Watched(dict):
        def __init__(self, *args):
            super().__init__(*args)
            alive.append(weakref.ref(self))

    predict = predictor._predict

    def watched(*args):
        rows = [Watched(row) for row in predict(*args)]
        assert sum(ref() is not None for ref in alive) <= 8
        return rows

    predictor._predict = watched
    live_at_most(predictor, 60, save_path=tmp_path / "b.csv")
    assert len(alive) == 60
    with pytest.raises(AssertionError):  # the probe sees rows that are kept
        live_at_most(predictor, 60)
