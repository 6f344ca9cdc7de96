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

"""Further columns of a table: names, units, CSV, stacks of tables."""

import numpy as np
import pytest
from helpers_columns import lattice
from helpers_columns import moved
from helpers_columns import table_of

from ppmat.stem.columns.analysis import analyse
from ppmat.stem.columns.column_table import COLUMNS
from ppmat.stem.columns.column_table import ColumnTable
from ppmat.stem.columns.lattice_fit import LatticeError
from ppmat.utils.errors import InputError

ALL = ("sublattices", "displacement", "strain", "voronoi")


def analysed(pixel_size=(0.02, 0.025)):
    place, intensity, kind = lattice(160)
    table = table_of(moved(place, 0.1), intensity, 0.1, pixel_size)
    table.background = np.full(len(table), 3.0)
    return analyse(table, ALL, image=np.full((160, 160), 5.0)), table, kind


@pytest.mark.parametrize("pixel_size", [(0.02, 0.025), None])
def test_csv_round_trip(tmp_path, pixel_size):
    table, plain, kind = analysed(pixel_size)
    assert plain.extra == {} and len(table.extra) == (25 if pixel_size else 19)
    np.testing.assert_array_equal(table.extra["sublattice [1]"], kind)
    table.to_csv(tmp_path / "a.csv")
    plain.to_csv(tmp_path / "plain.csv")
    lines = [(tmp_path / f"{n}.csv").read_text().splitlines() for n in ("a", "plain")]
    assert all(a.startswith(p) for a, p in zip(*lines))
    back = ColumnTable.from_csv(tmp_path / "a.csv")
    assert list(back.extra) == list(table.extra)
    for name, values in table.extra.items():
        assert back.extra[name].dtype == values.dtype
        np.testing.assert_array_equal(back.extra[name], values)
    again = analyse(back, ALL, image=np.full((160, 160), 5.0))
    for name, values in table.extra.items():
        np.testing.assert_allclose(again.extra[name], values, atol=1e-9, err_msg=name)


def test_units_and_values():
    table, _, _ = analysed()
    extra = table.extra
    for k, axis in enumerate("yx"):
        for name in ("displacement_{}", "shift_{}", "shift_{}_error"):
            pixels = extra[f"{name.format(axis)} [px]"] * table.pixel_size[k]
            np.testing.assert_array_equal(extra[f"{name.format(axis)} [nm]"], pixels)
    area = extra["voronoi_area [px^2]"]
    above = extra["voronoi_above_background [image units px^2]"]
    np.testing.assert_allclose(above, 2 * area)
    np.testing.assert_allclose(extra["voronoi_intensity [image units px^2]"], 5 * area)
    (crystal,) = table.info["lattices"]
    assert crystal["rms_px"] == pytest.approx(0.1 * np.sqrt(2), rel=0.1)
    assert sum(crystal["columns_of_sublattices"]) == crystal["columns"] == len(table)


def test_rows_are_selected_and_joined():
    table, plain, _ = analysed()
    some = table.select(np.arange(5))
    assert all(len(values) == 5 for values in some.extra.values())
    joined = ColumnTable.concatenate([plain, some])
    assert len(joined) == len(plain) + 5 and joined.pixel_size == table.pixel_size
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(joined, name)[-5:], getattr(some, name))
    assert np.isnan(joined.extra["e_yy [1]"][:-5]).all()
    np.testing.assert_array_equal(joined.extra["e_yy [1]"][-5:], some.extra["e_yy [1]"])


def test_what_cannot_be_done():
    table, plain, _ = analysed()
    with pytest.raises(InputError, match="analysis is 'starin'.*Did you mean 'strain'"):
        analyse(plain, ["starin"])
    with pytest.raises(InputError, match="voronoi needs the image"):
        analyse(plain, ["voronoi"])
    with pytest.raises(LatticeError, match="there are no columns"):
        analyse(plain.select(np.arange(0)), ["strain"])
    assert len(analyse(plain, ["voronoi"], image=np.ones((160, 160))).extra) == 3
