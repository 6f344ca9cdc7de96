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

"""Builds the loader of a ``Dataset.<split>`` block of a configuration.

.. code-block:: yaml

    Dataset:
      train:
        dataset:
          __class_name__: OC20IS2REDataset
          __init_params__: {path: ..., split: train}
        loader:
          num_workers: 2          # any argument of paddle.io.DataLoader
          collate_fn: DefaultCollator
          collate_params: {}
        sampler:
          __class_name__: BatchSampler
          __init_params__: {batch_size: 8, shuffle: true, drop_last: false}

Without ``loader`` there are no workers and the collator is DefaultCollator. Without
``sampler`` the batch size is 1, in file order. ``split_dataset_ratio: {train: 0.8, val:
0.1, test: 0.1}`` splits one data set at random; ``{train,val,test}_sampler`` then
replace ``sampler``.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle.distributed as dist
from paddle import io

from ppmat.datasets.batch_sampler import BatchSampler
from ppmat.datasets.batch_sampler import DistributedBatchSampler
from ppmat.datasets.collate_fn import DefaultCollator
from ppmat.datasets.loader import Loader
from ppmat.datasets.loader import WorkerInit
from ppmat.datasets.oc20_is2re_dataset import OC20IS2REDataset
from ppmat.datasets.placement_dataset import PlacementDataset
from ppmat.datasets.potential_dataset import PotentialDataset
from ppmat.datasets.sfin_dataset import SFINDataset
from ppmat.datasets.sfin_synthetic_dataset import SFINSyntheticDataset
from ppmat.datasets.transform import build_transforms
from ppmat.utils import logger
from ppmat.utils.cores import available_cores
from ppmat.utils.errors import nearest
from ppmat.utils.ranges import Range
from ppmat.utils.registry import CLASS_KEY
from ppmat.utils.registry import PARAMS_KEY
from ppmat.utils.registry import ConfigError
from ppmat.utils.registry import Registry
from ppmat.utils.registry import check_call
from ppmat.utils.registry import check_keys
from ppmat.utils.registry import fits

DATASETS = Registry(
    "data set",
    [
        OC20IS2REDataset,
        PlacementDataset,
        PotentialDataset,
        SFINDataset,
        SFINSyntheticDataset,
    ],
)
COLLATORS = Registry("collator", [DefaultCollator])
SAMPLERS = Registry("batch sampler", [BatchSampler, DistributedBatchSampler])

_SPLITS = ("train", "val", "test")
# Arguments that build_dataloader sets itself, or that a batch sampler replaces.
_RESERVED = {"self", "dataset", "feed_list", "places", "return_list", "batch_sampler"}
_RESERVED |= {"batch_size", "shuffle", "drop_last", "worker_init_fn"}
_LOADER_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(io.DataLoader.__init__).parameters.items()
    if name not in _RESERVED
}
_LOADER_DEFAULTS.update(collate_fn="DefaultCollator", collate_params=None)
_LOADER_RANGES = {
    "num_workers": Range(0, 256),
    "prefetch_factor": Range(1, 1024),  # batches of each worker
    "reader_buffer_size": Range(1, 1024),
    "timeout": Range(0, 10**6),  # seconds
}


def build_dataloader(
    cfg: Mapping | None,
    vocab: Any = None,
    *,
    where: str = "Dataset",
    seed: int = 0,
    training: bool = True,
    shared: bool = False,
) -> io.DataLoader | dict[str, io.DataLoader | None] | None:
    """Build the loader of one split.

    Args:
        cfg: The block of a split; it is not changed.
        vocab: Passed to the data set as ``vocab`` if given.
        where: YAML path of ``cfg``, for errors.
        seed: Seed of the sample order, of a random split and of the workers. ``seed``
            in the sampler block has priority for the order.
        training: In several processes, True gives all the same number of batches;
            False uses every sample exactly once (for evaluation).
        shared: ``batch_size`` and ``num_workers`` are those of all processes together;
            workers only run on cores that no process uses.

    Returns:
        The loader; with ``split_dataset_ratio`` a dict of loaders ``train``, ``val``,
        ``test`` (None for an empty part); None for None.

    Raises:
        ConfigError: A part of the block is wrong; the error names its YAML path.
    """
    if cfg is None:
        return None
    check_dataloader(cfg, where)
    ratios = cfg.get("split_dataset_ratio")
    dataset = _build_dataset(cfg["dataset"], vocab, f"{where}.dataset")
    options = _loader_options(cfg.get("loader"), f"{where}.loader")
    if shared:
        options["num_workers"] = _workers_of_rank(options["num_workers"])

    def loader(part: io.Dataset, key: str, even: bool) -> io.DataLoader | None:
        if len(part) == 0:
            return None
        sampler = set_build_sample(
            cfg.get(key),
            dist.get_world_size(),
            part,
            where=f"{where}.{key}",
            seed=seed,
            even=even,
            shared=shared,
        )
        if len(sampler) == 0 and sampler.drop_last:
            raise ConfigError(
                f"{where}.{key}: drop_last leaves no batch: {len(part)} samples, "
                f"batch_size {sampler.batch_size} in {sampler.nranks} processes"
            )
        start = WorkerInit(sampler, seed)
        return Loader(part, batch_sampler=sampler, worker_init_fn=start, **options)

    if not ratios:
        return loader(dataset, "sampler", training)
    parts = _split(dataset, ratios, seed, f"{where}.split_dataset_ratio")
    return {n: loader(p, f"{n}_sampler", n == "train") for n, p in parts.items()}


def check_dataloader(cfg: Any, where: str = "Dataset") -> None:
    """Check the block of a split as :func:`build_dataloader` does; reads no data.

    Raises:
        ConfigError: A part of the block is wrong; the error names its YAML path.
    """
    if cfg is None:
        return
    if not isinstance(cfg, Mapping):
        raise ConfigError(f"{cfg!r}", where=where, wanted="a block with 'dataset'")
    ratios = cfg.get("split_dataset_ratio")
    samplers = [f"{name}_sampler" for name in _SPLITS] if ratios else ["sampler"]
    check_keys(cfg, ("dataset", "loader", "split_dataset_ratio", *samplers), where)
    if "dataset" not in cfg:
        raise ConfigError(f"{where}: the block 'dataset' is missing")
    at = f"{where}.dataset"
    _, params = DATASETS.parse(cfg["dataset"], at)
    given = ["transforms"] if "transforms" in params else []
    DATASETS.check(cfg["dataset"], at, runtime=given)
    build_transforms(params.get("transforms"), f"{at}.{PARAMS_KEY}.transforms")
    _loader_options(cfg.get("loader"), f"{where}.loader")
    for key in samplers:
        if cfg.get(key) is not None:
            SAMPLERS.check(cfg[key], f"{where}.{key}", runtime=["dataset"])
    if ratios:
        _check_ratios(ratios, f"{where}.split_dataset_ratio")


def _workers_of_rank(number: int) -> int:
    """Return the data workers of this rank, of ``number`` for all ranks together.

    Only cores on which no rank computes are used: on others a worker takes the time
    that it saves, and more.
    """
    ranks = dist.get_world_size()
    threads = int(os.environ.get("OMP_NUM_THREADS", "1") or "1")
    spare = max(0, available_cores() - ranks * threads)
    return min(-(-number // ranks), spare // ranks)


def set_build_sample(
    sampler_cfg: Mapping | None,
    world_size: int,
    dataset: io.Dataset,
    *,
    where: str = "sampler",
    seed: int = 0,
    even: bool = True,
    shared: bool = False,
) -> DistributedBatchSampler:
    """Build the batch sampler of a data set.

    In several processes, ``DistributedBatchSampler`` replaces ``BatchSampler``; the
    batch size is that of one process unless it is ``shared``.

    Args:
        sampler_cfg: The block; None means batch size 1 in file order.
        world_size: Number of processes.
        dataset: Anything with a length.
        where: YAML path of the block, for errors.
        seed: Seed of the order unless the block has one.
        even, shared: See
            :class:`~ppmat.datasets.batch_sampler.DistributedBatchSampler`.
    """
    if sampler_cfg is None:
        sampler_cfg = {CLASS_KEY: "BatchSampler", PARAMS_KEY: {"batch_size": 1}}
        logger.message(f"{where} is not given: batch size 1, file order")
    cls, params = SAMPLERS.parse(sampler_cfg, where)
    params = {"seed": seed, **params}
    if cls is BatchSampler and world_size > 1:
        logger.message(f"{where}: DistributedBatchSampler in {world_size} processes")
        cls = DistributedBatchSampler
    if cls is DistributedBatchSampler:
        params = {"even": even, "shared": shared, **params}
    block = {CLASS_KEY: cls.__name__, PARAMS_KEY: params}
    return SAMPLERS.build(block, where, dataset=dataset)


def _build_dataset(cfg: Any, vocab: Any, where: str) -> io.Dataset:
    cls, params = DATASETS.parse(cfg, where)
    runtime = {} if vocab is None else {"vocab": vocab}
    if "transforms" in params:
        runtime["transforms"] = build_transforms(
            params["transforms"], f"{where}.{PARAMS_KEY}.transforms"
        )
    dataset = DATASETS.build(cfg, where, **runtime)
    if len(dataset) == 0:
        raise ConfigError(f"{where}: the data set ({cls.__name__}) is empty")
    return dataset


def _loader_options(cfg: Any, where: str) -> dict[str, Any]:
    """Check a ``loader`` block; return arguments of the DataLoader."""
    cfg = {} if cfg is None else cfg
    if not isinstance(cfg, Mapping):
        raise ConfigError(f"{where}: expected a mapping, got {cfg!r}")
    check_keys(cfg, _LOADER_DEFAULTS, where)
    options = {**_LOADER_DEFAULTS, **cfg}
    for name, value in options.items():
        wanted = type(_LOADER_DEFAULTS[name])
        if wanted in (bool, int) and not fits(value, wanted):
            found = f"{where}.{name}: {type(value).__name__} {value!r}"
            raise ConfigError(found, wanted=wanted.__name__)
        if wanted is int and value not in _LOADER_RANGES[name]:
            raise ConfigError(f"{where}.{name} is {value}", wanted=_LOADER_RANGES[name])
    name, params = options.pop("collate_fn"), options.pop("collate_params")
    if name not in COLLATORS:
        raise ConfigError(
            f"{where}.collate_fn: unknown collator {name!r}. Legal names: "
            f"{', '.join(sorted(COLLATORS))}.{nearest(name, COLLATORS)}"
        )
    params = {} if params is None else params
    if not isinstance(params, Mapping):
        raise ConfigError(f"{where}.collate_params: expected a mapping, got {params!r}")
    check_call(COLLATORS[name], params, f"{where}.collate_params")
    return {**options, "collate_fn": COLLATORS[name](**params)}


def _check_ratios(ratios: Any, where: str) -> dict[str, float]:
    """Return the part of each split, after checking them."""
    if not isinstance(ratios, Mapping):
        raise ConfigError(f"{where}: expected train, val, test, got {ratios!r}")
    check_keys(ratios, _SPLITS, where)
    parts = {name: ratios.get(name) or 0 for name in _SPLITS}
    for name, ratio in parts.items():
        if not fits(ratio, float) or not 0 <= ratio <= 1:
            raise ConfigError(f"{where}.{name} is {ratio!r}", wanted="0 to 1")
    if abs(sum(parts.values()) - 1) > 1e-6:
        raise ConfigError(f"{where}: the parts add up to {sum(parts.values())}, not 1")
    return parts


def _split(
    dataset: io.Dataset, ratios: Any, seed: int, where: str
) -> dict[str, io.Dataset]:
    """Split at random; the last part that is not empty gets the rounding rest."""
    parts = _check_ratios(ratios, where)
    sizes = [int(len(dataset) * ratio + 1e-6) for ratio in parts.values()]
    last = max(i for i, ratio in enumerate(parts.values()) if ratio > 0)
    sizes[last] += len(dataset) - sum(sizes)
    order = np.random.RandomState(seed).permutation(len(dataset))
    logger.info(f"{where}: {', '.join(f'{n} {s}' for n, s in zip(_SPLITS, sizes))}")
    pieces = np.split(order, np.cumsum(sizes)[:-1])
    return {n: io.Subset(dataset, p.tolist()) for n, p in zip(_SPLITS, pieces)}
