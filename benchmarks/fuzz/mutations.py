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

"""Damaged copies of valid inputs, as functions of a random generator.

Half of the changes are blind, as those of a bad disk or a broken transfer. The others
know that files hold sizes, offsets and numbers, and write extreme ones.
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable
from collections.abc import Sequence

_MAX_GROWTH = 4  # an input has at most this many times the bytes of its seed, plus 64
_EXTREME = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
_EXTREME += ((1 << 63) - 1, (1 << 64) - 1, 1 << 20, 1 << 30, 1 << 40)
_NUMBER = re.compile(rb"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")
_ODD_NUMBERS = (b"0", b"-1", b"1e308", b"-1e308", b"nan", b"inf", b"1e-320", b"9" * 20)
_ODD_NUMBERS += (b"", b"1e8", b"1e10", b"0.0000001", b"2147483648", b"x", b"1_000")


def _flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set_bytes(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 8, 64))):
        data[rng.randrange(len(data))] = rng.randrange(256)


def _cut_off(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _remove(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.choice((1, 2, 4, 16, 256, 4096))]


def _clear(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((1, 4, 16, 512, 4096, len(data))))
    data[start:end] = bytes(end - start)


def _repeat(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    piece = data[start : start + rng.choice((1, 8, 64, 1024))]
    data[start:start] = piece * rng.choice((1, 2, 16))


def _move(data: bytearray, rng: random.Random) -> None:
    size = rng.choice((4, 16, 256))
    source, target = rng.randrange(len(data)), rng.randrange(len(data))
    data[target : target + size] = data[source : source + size]


def _insert(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data) + 1)
    data[start:start] = rng.randbytes(rng.choice((1, 2, 4, 16)))


def _set_integer(data: bytearray, rng: random.Random) -> None:
    size = rng.choice((1, 2, 4, 8))
    if len(data) < size:
        return
    value = (rng.choice(_EXTREME) + rng.randrange(-2, 3)) % (1 << 8 * size)
    # Headers stand at the beginning or the end of most formats.
    reach = rng.choice((min(len(data), 512), len(data)))
    start = min(rng.randrange(reach), len(data) - size)
    data[start : start + size] = value.to_bytes(size, rng.choice(("little", "big")))


def _set_float(data: bytearray, rng: random.Random) -> None:
    value = rng.choice((float("nan"), float("inf"), -1.0, 0.0, 1e30, 1e-30))
    form = rng.choice(("<f", ">f", "<d", ">d"))
    size = struct.calcsize(form)
    if len(data) >= size:
        start = rng.randrange(len(data) - size + 1)
        data[start : start + size] = struct.pack(form, value)


def _set_number(data: bytearray, rng: random.Random) -> None:
    found = list(_NUMBER.finditer(data))
    if found:
        match = rng.choice(found)
        data[match.start() : match.end()] = rng.choice(_ODD_NUMBERS)


def _swap_lines(data: bytearray, rng: random.Random) -> None:
    lines = bytes(data).splitlines(keepends=True)
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    data[:] = b"".join(lines)


_BLIND = (_flip_bits, _set_bytes, _cut_off, _remove, _clear, _repeat, _move, _insert)
_BINARY = (*_BLIND, _set_integer, _set_integer, _set_integer, _set_integer, _set_float)
_TEXT = (*_BLIND, _set_number, _set_number, _set_number, _swap_lines)


def mutate(seeds: Sequence[bytes], text: bool, rng: random.Random) -> bytes:
    """Return a damaged copy of one of the seeds.

    Args:
        seeds: Valid inputs.
        text: Whether they are text, whose numbers are written in digits.
        rng: Decides everything.
    """
    seed = rng.choice(seeds)
    data = bytearray(seed)
    if rng.random() < 0.05:  # the end of another input
        other = rng.choice(seeds)
        data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]
    changes: Sequence[Callable] = _TEXT if text else _BINARY
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if data:
            rng.choice(changes)(data, rng)
    return bytes(data[: _MAX_GROWTH * len(seed) + 64])
