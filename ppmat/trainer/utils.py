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


"""Sizes of batches, sums over ranks and random states of the training loop."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist

from ppmat.utils import misc
from ppmat.utils.misc import gather_objects

# Streams drawn from one seed; each is independent of the others.
STREAM_TRAIN = 1
STREAM_EVAL = 2
STREAM_DATA = 3


# Batches ---------------------------------------------------------------------------


def _leading_sizes(value: Any) -> Iterator[int]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _leading_sizes(item)
    elif isinstance(value, (list, tuple)) and any(hasattr(v, "shape") for v in value):
        for item in value:
            yield from _leading_sizes(item)
    elif hasattr(value, "shape") and len(value.shape) > 0:
        yield int(value.shape[0])


def compute_batch_size(batch: Any) -> int:
    """Return the number of structures (or images) in a batch.

    It is, in this order, the length of ``num_atoms`` (in the batch or in one of its
    blocks, ``structure_array`` first), the length of the list ``id``, the
    ``num_graph`` of a graph, the common first axis of all arrays.

    Raises:
        ValueError: None of them exists, or the first axes differ.

    Example:
        >>> compute_batch_size({"image": np.zeros([5, 1, 8, 8]), "y": np.zeros([5])})
        5
    """
    if isinstance(batch, Mapping):
        blocks = [batch.get("structure_array"), batch, *batch.values()]
        for block in blocks:
            if isinstance(block, Mapping) and hasattr(block.get("num_atoms"), "shape"):
                return int(block["num_atoms"].shape[0])
        if isinstance(batch.get("id"), (list, tuple)):
            return len(batch["id"])
        for value in batch.values():
            if isinstance(getattr(value, "num_graph", None), int):
                return value.num_graph
    sizes = set(_leading_sizes(batch))
    if len(sizes) == 1:
        return sizes.pop()
    raise ValueError(
        "the number of structures in a batch is unknown: it has no 'num_atoms' and no "
        f"'id', and its arrays have first axes {sorted(sizes)}. Return 'id' from the "
        "dataset"
    )


def batch_ids(batch: Any) -> list[str] | None:
    """Return the ids of a batch, or None."""
    ids = batch.get("id") if isinstance(batch, Mapping) else None
    if ids is None:
        return None
    return [str(i) for i in (ids if isinstance(ids, (list, tuple)) else ids.tolist())]


def loss_weight(result: Mapping, name: str, batch_size: int) -> Any:
    """Return the weight of the loss ``name`` of a batch in a mean over batches.

    The weight of a mean over structures is their number. A model whose loss is a mean
    over other items returns ``loss_weight`` beside ``loss_dict``: the number of items
    (a number or 0-d tensor), or a mapping from loss name to that.
    """
    weight = result.get("loss_weight")
    if isinstance(weight, Mapping):
        weight = weight.get(name)
    return batch_size if weight is None else weight


# Ranks -----------------------------------------------------------------------------


def share_statistics(model: paddle.nn.Layer) -> None:
    """Copy the untrained state of rank 0, such as running means, to all ranks.

    Rank 0 writes the checkpoints, so its state is the one to evaluate.
    """
    if dist.get_world_size() > 1:
        misc.wait_for_all()
        for tensor in model.state_dict().values():
            if tensor.stop_gradient:
                dist.broadcast(tensor, src=0)


def gather_rows(parts: Mapping[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    """Join the rows of all batches of all ranks, in rank order."""
    joined = {k: np.concatenate(v) for k, v in parts.items() if v}
    everywhere = gather_objects(joined)
    names = {name: None for part in everywhere for name in part}
    return {
        name: np.concatenate([part[name] for part in everywhere if name in part])
        for name in names
    }


# Random states ---------------------------------------------------------------------


def seed_stream(seed: int, stream: int) -> None:
    """Seed all generators; other seeds, streams and ranks give unrelated numbers."""
    sequence = np.random.SeedSequence([seed, stream, dist.get_rank()])
    misc.set_random_seed(int(sequence.generate_state(1)[0]))


def _plain(state: Any) -> tuple:
    device, seed, offset, engine = state.__getstate__()
    return device, seed, offset, np.array(engine, dtype="uint8")


def _generator_state(like: Any, plain: tuple) -> Any:
    state = type(like).__new__(type(like))
    state.__setstate__((*plain[:3], plain[3].tolist()))
    return state


def get_random_state() -> dict[str, Any]:
    """Return the state of all generators of this process, as plain values."""
    version, numbers, spare = random.getstate()
    name, keys, pos, has_gauss, gauss = np.random.get_state()
    return {
        "python": [version, np.array(numbers, dtype="uint32"), spare],
        "numpy": [name, keys, pos, has_gauss, gauss],
        "paddle": {d: list(map(_plain, paddle.get_rng_state(d))) for d in _devices()},
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore what :func:`get_random_state` returned.

    The states of devices that this process does not use are ignored.
    """
    version, numbers, spare = state["python"]
    random.setstate((version, tuple(numbers.tolist()), spare))
    np.random.set_state(tuple(state["numpy"]))
    for device in _devices():
        saved = state["paddle"].get(device, [])
        now = paddle.get_rng_state(device)
        if len(now) == len(saved):
            states = [_generator_state(a, b) for a, b in zip(now, saved)]
            paddle.set_rng_state(states, device)


def _devices() -> list[str]:
    """Return the kinds of device whose generators a model may draw from."""
    kind = paddle.get_device().partition(":")[0]
    return ["cpu"] if kind == "cpu" else ["cpu", kind]


@contextlib.contextmanager
def own_random_stream(seed: int, stream: int) -> Iterator[None]:
    """Use another random stream inside the block; the outer one continues after it."""
    before = get_random_state()
    seed_stream(seed, stream)
    try:
        yield
    finally:
        set_random_state(before)
