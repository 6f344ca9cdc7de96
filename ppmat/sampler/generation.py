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

"""Run a generative model over a data set, batch by batch, to memory or disk."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from typing import Any
from typing import NamedTuple

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import io

from ppmat.datasets.loader import batches_in_order
from ppmat.sampler.distance_projection import DistanceProjection
from ppmat.sampler.slab_results import finish_slab
from ppmat.utils import logger
from ppmat.utils import misc
from ppmat.utils.progress import Progress
from ppmat.utils.registry import ConfigError
from ppmat.utils.result_store import Result
from ppmat.utils.result_store import ResultStore


@dataclass(frozen=True)
class SampleOptions:
    """Options that all ways of sampling share; each has a default."""

    # Folder of the output; each batch is written as it is made, to
    # ``<save_path>/results``. None keeps the results in memory
    save_path: str | os.PathLike | None = None
    # Structures sampled at once; None takes 16, or the number in the sampler block of a
    # data set
    batch_size: int | None = None
    # Of the noise; None leaves the seed to ``Sample.model_sample_params``
    seed: int | None = None
    # Results for each structure, or structures from scratch; None makes one, or as many
    # as ``Sample.model_sample_params`` says
    num_samples: int | None = None
    # ``extxyz``, ``traj`` or ``cif`` (which loses tags and constraints); None writes
    # extxyz for slabs (results with tags), else CIF
    format: str | None = None
    # Arguments of ``model.sample``; None takes ``Sample.model_sample_params``
    sample_params: Mapping[str, Any] | None = None
    # Keeps the distances in relaxed slabs physical. False leaves the positions as the
    # model returned them; True is the projection with its defaults; None takes
    # ``Sample.projection``
    projection: DistanceProjection | bool | None = None
    num_workers: int = 0  # processes that search neighbours; 0 uses this one
    progress: bool | None = None  # show a progress bar; None shows it on a terminal


class Source(NamedTuple):
    """The structures to generate for."""

    dataset: io.Dataset  # one structure each
    # Plain values that identify the data, so that stored results of other data are not
    # taken for results of this run
    key: Any
    collate_fn: Callable | None = None  # None takes ``DefaultCollator``
    num_workers: int = 0
    # What is added to the results of the structures with these numbers in the data set
    annotate: Callable[[range], list[dict[str, Any]]] | None = None


def sample_arguments(model: paddle.nn.Layer) -> list[str] | None:
    """Return the options of ``model.sample``; None if it accepts any."""
    parameters = list(inspect.signature(model.sample).parameters.values())
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters[1:]]


def sample_batch(
    sampler: Any, batch: Mapping[str, Any], number: int, options: SampleOptions
) -> list[Result]:
    """Return ``num_samples`` results for each structure, next to each other.

    A model whose ``sample`` has the arguments ``seed`` and ``num_samples`` receives
    them. Another model is run ``num_samples`` times. Before each run the global
    generators are seeded with a number that depends on seed, batch and run.
    """
    params = dict(options.sample_params)
    accepted = sample_arguments(sampler.model) or ()
    seed, draws = options.seed, options.num_samples
    if "num_samples" in accepted:
        params["num_samples"] = draws
        draws = 1
    drawn = []
    for draw in range(draws):
        if seed is not None and "seed" in accepted:
            params["seed"] = seed + draw
        elif seed is not None:
            state = np.random.SeedSequence([seed, number, draw]).generate_state(1)
            misc.set_random_seed(int(state[0]) >> 1)
        drawn.append(sampler.sample(batch, params)["result"])
    if draws == 1:
        return drawn[0]
    return [
        {**result, "sample": draw}
        for results in zip(*drawn, strict=True)
        for draw, result in enumerate(results)
    ]


def generate(sampler: Any, source: Source, options: SampleOptions) -> Sequence:
    """Generate for a whole data set.

    With ``save_path``, batches that are stored already are left out, and the others
    are shared among the processes.

    Args:
        sampler: Provides ``model`` and ``sample(batch, params)``.
        source: The data.
        options: With ``batch_size``, ``num_samples``, ``sample_params`` and
            ``projection`` filled in.

    Returns:
        The results in the order of the data set: a list, or a :class:`ResultStore`.
    """
    batch_size, num_samples = options.batch_size, options.num_samples
    for name, value in (("batch_size", batch_size), ("num_samples", num_samples)):
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} is {value!r}, wanted an integer >= 1")
    total = len(source.dataset)
    num_parts = -(-total // batch_size)
    store, kept, wanted = None, [], range(num_parts)
    if options.save_path is not None:
        store = _open_store(sampler, source, options, num_parts)
        mine = range(dist.get_rank(), num_parts, dist.get_world_size())
        wanted = [i for i in mine if not store.has(i)]
        if len(wanted) < len(mine):
            logger.message(
                f"{store.folder} holds {len(mine) - len(wanted)} of {len(mine)} "
                "batches already"
            )
    loader = batches_in_order(
        source.dataset, batch_size, wanted, source.collate_fn, source.num_workers
    )
    shown = options.progress if dist.get_rank() == 0 else False
    quiet = None if shown is None else not shown
    bar = Progress(desc="sampling", unit=" batches", total=len(wanted), disable=quiet)
    for number, batch in zip(wanted, loader, strict=True):
        rows = range(number * batch_size, min((number + 1) * batch_size, total))
        results = sample_batch(sampler, batch, number, options)
        if len(results) != len(rows) * num_samples:
            raise ValueError(
                f"{type(sampler.model).__name__}.sample returned {len(results)} "
                f"results for {len(rows)} structures x {num_samples} samples"
            )
        if source.annotate is not None:
            extra = source.annotate(rows)
            results = [r | extra[i // num_samples] for i, r in enumerate(results)]
        results = [finish_slab(r, options.projection or None) for r in results]
        if store is None:
            kept.extend(results)
        else:
            store.write(number, results)
        bar.update()
    bar.close()
    if store is None:
        return kept
    misc.wait_for_all()
    return store


def _open_store(
    sampler: Any, source: Source, options: SampleOptions, num_parts: int
) -> ResultStore:
    settings = {
        **sampler.settings(),
        "data": source.key,
        "parameters": dict(options.sample_params),
        "seed": options.seed,
        "num_samples": options.num_samples,
        "batch_size": options.batch_size,
        "projection": asdict(options.projection) if options.projection else None,
    }
    return ResultStore(
        os.path.join(options.save_path, "results"),
        settings,
        num_parts=num_parts,
        part_size=options.batch_size * options.num_samples,
        num_results=len(source.dataset) * options.num_samples,
    )


def positions_of_records(records: Sequence, rows: range) -> list[dict[str, Any]]:
    """Return initial and, if known, relaxed positions of some records, as lists."""
    extra: list[dict[str, Any]] = []
    for i in rows:
        record = records[i]
        extra.append({"cart_coords_initial": record.pos.tolist()})
        if record.pos_relaxed is not None:
            extra[-1]["cart_coords_relaxed"] = record.pos_relaxed.tolist()
    return extra
