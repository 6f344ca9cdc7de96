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

"""Found columns against true ones."""

import numpy as np
import pytest

from ppmat.metrics.column_matching import match_columns


def test_matching():
    true = np.array([[10.0, 10], [10, 20], [10, 30], [1, 1]])
    found = np.array([[10.0, 10], [10.5, 20], [10.9, 20], [40, 40]])
    match = match_columns(found, true, 2.0)
    assert match.found.tolist() == [0, 1] and match.true.tolist() == [0, 1]
    assert match.missed.tolist() == [2, 3] and match.extra.tolist() == [2, 3]
    assert (match.precision, match.recall, match.f1) == (0.5, 0.5, 0.5)
    assert match.rms == pytest.approx(np.sqrt(0.125))
    inside = match_columns(found, true, 2.0, (50, 50), border=5)
    assert inside.missed.tolist() == [2] and inside.recall == pytest.approx(2 / 3)
    none = match_columns(np.empty((0, 2)), true, 1.0)
    assert none.recall == 0 and none.precision == 1 and none.f1 == 0
    assert np.isnan(none.rms)
    for change, text in [
        ({"radius": 0}, "radius is 0"),
        ({"border": 2}, "needs the shape"),
        ({"found": [[1.0, np.nan]]}, "NaN or infinite"),
        ({"found": [1.0, 2.0]}, "wanted positions"),
    ]:
        with pytest.raises(ValueError, match=text):
            match_columns(**{"found": found, "true": true, "radius": 1.0, **change})
