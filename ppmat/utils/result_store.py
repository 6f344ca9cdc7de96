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

"""Results on disk while they are made, so that a run can stop and go on.

Results are what ``model.sample`` returns: one dict of plain lists and numbers a
structure. Each batch becomes one file ``part_<batch>.json.gz``, written under another
name and renamed. Runs with different settings (weights, data, seed, ...) have folders
of their own, named by a hash of the settings; ``run.json`` tells them in clear.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import Dict
from typing import List
from typing import Union

Result = Dict[str, Any]


class ResultStore(Sequence):
    """The results of one run, readable as a sequence once every part is there.

    Args:
        folder: Folder of all runs; made if missing.
        settings: What decides the results, as plain values.
        num_parts: Number of batches of the run.
        part_size: Results in each part; the last may hold fewer.
        num_results: Results in all.
    """

    def __init__(
        self,
        folder: Union[str, os.PathLike],
        settings: Mapping[str, Any],
        num_parts: int,
        part_size: int,
        num_results: int,
    ) -> None:
        text = _dumps({**settings, "results": num_results}, sort_keys=True, indent=1)
        name = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.folder = Path(folder) / name
        self.num_parts = num_parts
        self._part_size = part_size
        self._num_results = num_results
        self._cached: tuple = (-1, [])
        self.folder.mkdir(parents=True, exist_ok=True)
        _replace(self.folder / "run.json", text.encode())

    def _path(self, part: int) -> Path:
        return self.folder / f"part_{part:06d}.json.gz"

    def has(self, part: int) -> bool:
        """Tell whether the results of batch ``part`` are there."""
        return self._path(part).exists()

    def write(self, part: int, results: List[Result]) -> None:
        """Store the results of one batch, whole or not at all."""
        _replace(self._path(part), gzip.compress(_dumps(results).encode(), 1, mtime=0))

    def read(self, part: int) -> List[Result]:
        """Return the results of one batch."""
        if self._cached[0] != part:
            path = self._path(part)
            try:
                results = json.loads(gzip.decompress(path.read_bytes()))
            except (EOFError, gzip.BadGzipFile, ValueError) as error:
                raise ValueError(
                    f"{path} is damaged; delete it and run again"
                ) from error
            self._cached = (part, results)
        return self._cached[1]

    def __len__(self) -> int:
        return self._num_results

    def __getitem__(self, index: int) -> Result:
        if not -len(self) <= index < len(self):
            raise IndexError(f"result {index} of {len(self)}")
        part, row = divmod(index % len(self), self._part_size)
        return self.read(part)[row]

    def __iter__(self) -> Iterator[Result]:
        for part in range(self.num_parts):
            yield from self.read(part)


def _dumps(value: Any, **options: Any) -> str:
    return json.dumps(value, default=lambda array: array.tolist(), **options)


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
