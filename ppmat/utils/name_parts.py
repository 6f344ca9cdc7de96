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

"""Parts of a model by the beginning of dotted names: ``backbone``, ``blocks.0``."""

from __future__ import annotations

from collections.abc import Iterable

from ppmat.utils.errors import InputError
from ppmat.utils.errors import nearest


def names_in_part(names: Iterable[str], part: str, where: str) -> set[str]:
    """Return the names that are ``part``, or begin with it and a dot.

    Args:
        names: Names of parameters and buffers.
        part: The beginning, whole words between dots.
        where: Place of ``part`` in the configuration, for errors.

    Raises:
        InputError: There is no such name.

    Example:
        >>> sorted(names_in_part(["a.w", "a.b.w", "ab.w"], "a", "Optimizer"))
        ['a.b.w', 'a.w']
    """
    names = list(names)
    found = {name for name in names if name == part or name.startswith(f"{part}.")}
    if not found:
        words = (name.split(".") for name in names)
        parts = {".".join(w[:n]) for w in words for n in range(1, len(w) + 1)}
        first = dict.fromkeys(name.split(".")[0] for name in names)
        raise InputError(
            f"no name in the model begins with '{part}'",
            where=where,
            wanted=f"a part of the model: {', '.join(first)}, or one inside",
            hint=nearest(part, parts).strip(),
        )
    return found
