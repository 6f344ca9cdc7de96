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


"""The base of input errors."""

import pickle

import pytest

from ppmat.utils.errors import InputError
from ppmat.utils.errors import check_choice


class FormatError(InputError):
    pass


def test_an_error_says_where_what_and_what_to_do():
    error = InputError("-3", where="a.yaml: x", wanted="at least 0", hint="Raise it.")
    assert str(error) == "a.yaml: x: -3; wanted at least 0. Raise it."
    assert str(InputError("x.tif holds no image")) == "x.tif holds no image"
    assert str(InputError("no image", hint="Export it.")) == "no image. Export it."


def test_an_error_survives_pickling():
    """It comes out of data workers."""
    error = FormatError("-3", where="x", wanted="3", hint="Raise it.")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is FormatError and str(copy) == str(error)
    assert (copy.found, copy.where, copy.wanted, copy.hint) == (
        *("-3", "x", "3", "Raise it."),
    )


def test_a_choice_outside_the_legal_ones_is_an_error_with_the_nearest():
    check_choice("mode", "bf", ("bf", "haadf"))
    with pytest.raises(InputError) as caught:
        check_choice("mode", "hadf", ("bf", "haadf"))
    assert str(caught.value) == (
        "mode is 'hadf'; wanted one of bf, haadf. Did you mean 'haadf'?"
    )
