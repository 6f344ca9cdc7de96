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

"""Groups of records that are held out whole."""

import collections

import numpy as np
import pytest
from helpers_records import make_record

from ppmat.datasets.record_groups import choose_held_out
from ppmat.datasets.record_groups import group_of
from ppmat.utils.errors import InputError


def make(numbers, tags):
    record = make_record(edges=False)
    record.atomic_numbers, record.tags = np.array(numbers), np.array(tags)
    record.pos = np.zeros((len(tags), 3), dtype=np.float32)
    record.fixed = np.zeros(len(tags), dtype=bool)
    return record


def test_groups():
    """Coverage and the number of slab atoms do not matter."""
    record = make([46, 29, 29, 6, 1, 1, 1], [0, 0, 1, 2, 2, 2, 2])
    assert group_of(record, "metals", "") == "Cu-Pd"
    assert group_of(record, "adsorbates", "") == "CH3"
    assert group_of(record, "records", "") == record.sid
    twice = make([29, 46, 46, 1, 1, 1, 6, 1, 1, 1, 6], [0, 1, 1] + [2] * 8)
    assert group_of(twice, "metals", "") == "Cu-Pd"
    assert group_of(twice, "adsorbates", "") == "CH3"
    oxide = make([29, 8, 8], [0, 1, 2])
    assert group_of(oxide, "metals", "") == "Cu-O"


@pytest.mark.parametrize(
    "tags, text", [([0, 1, 1], "no atom has tag 2"), ([2, 2, 2], "all atoms have tag")]
)
def test_records_without_slab_or_adsorbate_are_refused(tags, text):
    record = make([29, 29, 8], tags)
    for by in ("metals", "adsorbates"):
        with pytest.raises(InputError, match=f"file key '3': {text}"):
            group_of(record, by, "file key '3'")
    assert group_of(record, "records", "") == record.sid


def held_share(sizes, share, seed=0):
    groups = [name for name, size in sizes.items() for _ in range(size)]
    held = choose_held_out(groups, share, seed)
    assert held < set(sizes) and held
    return held, sum(sizes[name] for name in held) / len(groups)


@pytest.mark.parametrize("seed", range(5))
def test_share_is_met_as_well_as_whole_groups_can(seed):
    five = dict.fromkeys("abcde", 20)
    assert held_share(five, 0.2, seed)[1] == 0.2
    assert held_share(five, 0.31, seed)[1] == 0.4
    assert held_share(five, 0.001, seed)[1] == 0.2
    assert held_share(five, 0.999, seed)[1] == 0.8
    assert held_share({"a": 90, "b": 10}, 0.2, seed) == ({"b"}, 0.1)
    assert held_share({"a": 60, "b": 40}, 0.1, seed) == ({"b"}, 0.4)
    many = dict.fromkeys(map(str, range(100)), 1)
    assert held_share(many, 0.25, seed)[1] == 0.25


def test_seed_chooses_and_order_of_the_records_does_not():
    groups = [name for name in "abcde" for _ in range(4)]
    chosen = [choose_held_out(groups, 0.2, seed) for seed in range(20)]
    assert collections.Counter(len(held) for held in chosen) == {1: 20}
    assert set.union(*chosen) == set("abcde")
    backwards = [choose_held_out(groups[::-1], 0.2, seed) for seed in range(20)]
    assert chosen == backwards


def test_one_group_cannot_be_split():
    with pytest.raises(InputError, match="all 3 records have Cu; wanted at least two"):
        choose_held_out(["Cu"] * 3, 0.2, 0)
