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

"""Results of a sampler: projected, checked, summed up; what cannot be checked."""

import numpy as np
import pytest

from ppmat.sampler.distance_projection import DistanceProjection
from ppmat.sampler.slab_results import INFO_KEYS
from ppmat.sampler.slab_results import checks_of
from ppmat.sampler.slab_results import finish_slab
from ppmat.sampler.slab_results import summarise

INITIAL = np.array([[1.0, 1, 1], [1, 1, 3.2], [1, 1, 5.1], [1, 1, 6.25]])


def result(positions=INITIAL, name="a"):
    return {
        "atom_types": [29, 29, 6, 8],
        "tags": [0, 1, 2, 2],
        "fixed": [True, False, False, False],
        "lattice": np.diag([9.0, 9.0, 15.0]).tolist(),
        "cart_coords": np.asarray(positions).tolist(),
        "cart_coords_initial": INITIAL.tolist(),
        "id": name,
    }


def collapsed():
    positions = INITIAL.copy()
    positions[3] = positions[2] + [0.1, 0, 0.1]
    return positions


def test_keys_and_units_of_a_finished_result():
    given = result(collapsed())
    found = finish_slab(given, DistanceProjection())
    assert "overlap" not in given  # the input is not touched
    assert set(found) == {*given, "frac_coords", *INFO_KEYS}
    assert set(checks_of(found)) == set(INFO_KEYS)
    moved = np.array(found["cart_coords"])
    shifts = np.linalg.norm(moved - collapsed(), axis=1)
    assert found["projection_shift"] == pytest.approx(shifts.max())
    assert found["closest_distance"] == pytest.approx(1.065, abs=2e-3)
    assert not found["overlap"] and found["num_adsorbates"] == 1
    np.testing.assert_allclose(found["frac_coords"], moved / [9, 9, 15])
    raw = finish_slab(given, None)
    assert raw["overlap"] and raw["cart_coords"] == given["cart_coords"]
    assert "projection_shift" not in raw


def test_molecules_are_counted_before_they_dissociate():
    positions = INITIAL.copy()
    positions[3] += [3.0, 0, 0]
    found = finish_slab(result(positions), DistanceProjection())
    assert found["dissociated"] and found["num_adsorbates"] == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e13, -1e5])
def test_absurd_positions_are_left_as_they_are(bad):
    positions = INITIAL.copy()
    positions[3, 0] = bad
    given = result(positions)
    assert finish_slab(given, DistanceProjection()) is given
    good = finish_slab(result(), DistanceProjection())
    assert "1 structures: " in summarise([good, given])
    assert summarise([good, given]).endswith("1 more have no usable positions")
    assert summarise([given]) == "no structure; 1 have no usable positions"


def test_what_is_no_slab_is_left_alone():
    crystal = {"atom_types": [1], "lattice": np.eye(3).tolist(), "frac_coords": [[0.0]]}
    assert finish_slab(crystal, DistanceProjection()) is crystal
    assert summarise([crystal]) == "" and summarise([]) == ""


def test_summary_counts_and_names():
    over = [finish_slab(result(collapsed(), f"s{i}"), None) for i in range(7)]
    gone = finish_slab(result(INITIAL + [[0, 0, 0], [0, 0, 0], *[[0, 0, 4]] * 2]), None)
    text = summarise([*over, gone])
    assert text.startswith("8 structures: closest distance 0.14 Å; overlap 7, desorbed")
    assert "desorbed 1, dissociated 0, surface reconstructed 0, intercalated 0" in text
    assert text.endswith(". Overlap in s0, s1, s2, s3, s4, ...")
    apart = [finish_slab(result(collapsed()), DistanceProjection())]
    assert "atoms moved apart in 1, by up to" in summarise(apart)
    assert "Overlap" not in summarise(apart)
