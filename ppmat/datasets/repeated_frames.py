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

"""Find frames that occur twice: in one set, and in training and evaluation.

:func:`~ppmat.utils.periodic.geometry_key` says which frames are the same. Not seen: a
frame that is moved, turned, wrapped or repeated; and neighbours of one trajectory,
which differ but hold nothing new.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence

from paddle import io

from ppmat.datasets.label_checks import Frame
from ppmat.utils import logger
from ppmat.utils.errors import InputError
from ppmat.utils.periodic import geometry_key

SHOWN = 5  # ids in a message


def key_of(frame: Frame) -> bytes:
    """Return bytes that are equal for the same geometry.

    The box of a structure that is not periodic depends on its atoms alone.
    """
    record = frame.record
    return geometry_key(record.atomic_numbers, record.pos, record.cell, frame.pbc)


def frames_of(dataset: io.Dataset) -> Sequence[Frame]:
    """Return the frames of a data set or of a part of it; of other kinds none."""
    if isinstance(dataset, io.Subset):
        frames = frames_of(dataset.dataset)
        return [frames[row] for row in dataset.indices] if frames else []
    return getattr(dataset, "frames", [])


def warn_of_repeated(frames: Sequence[Frame], where: str) -> None:
    """Warn of frames that occur again in a set, and of labels that differ between them.

    Args:
        frames: The frames of the set.
        where: Its name, for the message.
    """
    seen: dict[bytes, Frame] = {}
    again, largest = [], 0.0
    for frame in frames:
        first = seen.setdefault(key_of(frame), frame)
        if first is frame:
            continue
        again.append(f"{frame.record.sid!r} = {first.record.sid!r}")
        if "energy" in frame.labels:
            miss = abs(float(frame.labels["energy"][0] - first.labels["energy"][0]))
            largest = max(largest, miss / len(frame.record.pos))
    if again:
        logger.warning(
            f"{where}: {len(again)} of {len(frames)} frames occur before, with "
            f"energies up to {largest:.2g} eV/atom apart: {_some(again)}"
        )


def check_splits(splits: Mapping[str, Sequence[Frame]]) -> None:
    """Check that no frame is in two sets.

    Args:
        splits: Frames by the name of the set, ``train`` first.

    Raises:
        InputError: A frame is in two of them, which makes scores too good.
    """
    seen: dict[bytes, tuple[str, str]] = {}
    shared: dict[tuple[str, str], list[str]] = {}
    for split, frames in splits.items():
        for frame in frames:
            name, sid = seen.setdefault(key_of(frame), (split, frame.record.sid))
            if name != split:
                shared.setdefault((name, split), []).append(
                    f"{frame.record.sid!r} = {sid!r}"
                )
    for (first, second), ids in shared.items():
        raise InputError(
            f"{len(ids)} of {len(splits[second])} frames of Dataset.{second} are in "
            f"Dataset.{first} too: {_some(ids)}",
            wanted="no frame in two sets: its error would say nothing of new frames",
            hint=f"Take them out of one of the two. A frame of {second} that is moved, "
            "turned or a neighbour in time is not found here.",
        )


def _some(ids: Sequence[str]) -> str:
    """Return the first ids, and how many more there are."""
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(ids[:SHOWN]) + more
