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

"""Records as frames, and back."""

import ase.io
import numpy as np
import pytest
from helpers_records import make_record
from test_relaxations import make_relaxation

from ppmat.datasets.relaxation_export import export_records
from ppmat.datasets.relaxations import RelaxationOptions
from ppmat.datasets.relaxations import read_relaxations
from ppmat.datasets.structure_record import record_from_frames
from ppmat.utils.errors import InputError


def make_records(count):
    records = []
    for seed in range(count):
        record = record_from_frames(make_relaxation(2, seed=seed), str(seed))
        record.y_init, record.y_relaxed = 0.5 - seed, -1.25 - seed
        wrapped = record.pos_relaxed @ np.linalg.inv(record.cell) % 1.0 @ record.cell
        record.pos_relaxed = wrapped.astype(np.float32)
        records.append(record)
    return records


@pytest.mark.parametrize("suffix, atol", [("extxyz", 2e-8), ("traj", 0), ("db", 0)])
def test_records_come_back(tmp_path, suffix, atol):
    records = make_records(3)
    path = tmp_path / "new" / f"a.{suffix}"
    assert export_records(records, path) == 6
    options = RelaxationOptions(energy_key="adsorption_energy")
    found = list(read_relaxations([str(path)], options))
    for got, want in zip(found, records, strict=True):
        assert (got.sid, got.y_init, got.y_relaxed) == (
            *(want.sid, want.y_init, want.y_relaxed),
        )
        for name in ("atomic_numbers", "tags", "fixed"):
            np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
        for name in ("pos", "pos_relaxed", "cell"):
            np.testing.assert_allclose(
                getattr(got, name),
                getattr(want, name),
                rtol=1e-7 * (atol > 0),
                atol=atol,
            )


def test_frames_say_what_they_are(tmp_path):
    initial = make_record(0, labels=False)
    export_records([*make_records(1), initial], tmp_path / "a.extxyz")
    frames = ase.io.read(tmp_path / "a.extxyz", ":")
    states = [atoms.info["state"] for atoms in frames]
    assert states == ["initial", "relaxed", "initial"]
    assert "adsorption_energy" not in frames[2].info


def test_nothing_is_overwritten_or_left(tmp_path):
    path = tmp_path / "a.traj"
    path.write_text("old")
    with pytest.raises(FileExistsError, match="a.traj exists"):
        export_records(make_records(1), path)
    with pytest.raises(InputError, match="unknown format; wanted .extxyz, .traj, .db"):
        export_records(make_records(1), tmp_path / "a.cif")

    def broken():
        yield make_records(1)[0]
        raise ValueError("row 1")

    with pytest.raises(ValueError, match="row 1"):
        export_records(broken(), path, overwrite=True)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    assert export_records(make_records(1), path, overwrite=True) == 2
