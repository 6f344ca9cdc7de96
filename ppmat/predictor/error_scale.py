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


"""Scale expected errors to the size of true errors, by one factor from labelled data.

A model learns its expected errors on its training structures. Its energies are more
accurate there than elsewhere, above all if the training set is small. The expected
errors are therefore too small for new structures.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from ppmat.utils.registry import ConfigError
from ppmat.utils.save_load import write_set

MIN_STRUCTURES = 10  # fewer give no reliable mean


def measure_factor(pairs: Iterable[tuple[float, float]]) -> float:
    """Return mean absolute error divided by mean expected error.

    Args:
        pairs: Absolute and expected error of each structure, eV.

    Raises:
        ConfigError: Too few structures.

    Example:
        >>> measure_factor([(0.3, 0.2)] * 10)
        1.5
    """
    pairs = list(pairs)
    if len(pairs) < MIN_STRUCTURES:
        raise ConfigError(
            f"--calibrate: {len(pairs)} structures with a label and an expected error, "
            f"wanted at least {MIN_STRUCTURES}"
        )
    return sum(error for error, _ in pairs) / sum(expected for _, expected in pairs)


def scale_expected_errors(model: Any, factor: float, path: str) -> None:
    """Multiply the expected errors of a model by a factor and write its weights.

    Args:
        model: A model with the buffer ``error_factor``.
        factor: Ratio of true to expected errors, see :func:`measure_factor`.
        path: The file, ``<name>.pdparams``.

    Raises:
        CheckpointError: The file cannot be written.
    """
    model.error_factor.set_value(model.error_factor * factor)
    folder, name = os.path.split(path)
    stem = name.removesuffix(".pdparams")
    write_set(folder or ".", stem, {f"{stem}.pdparams": model.state_dict()})
