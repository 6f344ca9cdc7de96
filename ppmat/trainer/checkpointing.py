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


"""What a checkpoint of a run holds, so that a resumed run is the same run."""

from __future__ import annotations

from typing import Any

import paddle.distributed as dist

from ppmat.trainer.trainer_state import TrainerState
from ppmat.trainer.utils import gather_objects
from ppmat.trainer.utils import get_random_state
from ppmat.utils import logger
from ppmat.utils import misc
from ppmat.utils import save_load
from ppmat.utils.save_load import CheckpointError


def _pack(meters: dict) -> dict:
    return {k: [float(m.sum), float(m.count)] for k, m in meters.items()}


def _unpack(packed: dict) -> dict:
    meters = {}
    for name, (total, count) in packed.items():
        meters[name] = misc.AverageMeter(name)
        meters[name].sum, meters[name].count = total, count
    return meters


def save(trainer: Any, prefix: str, print_log: bool = True) -> None:
    """Write a checkpoint; to be called by all ranks.

    Besides the weights, the optimizer and the counters it holds, for each rank, the
    states of the random generators now and at the start of the epoch, and the sums of
    the values not logged yet.
    """
    trainer.state.log_rows = trainer.reporter.num_rows
    ranks = gather_objects(
        {
            "rng": get_random_state(),
            "epoch_rng": trainer.epoch_rng,
            "window": {k: _pack(m) for k, m in trainer.window.items()},
        }
    )
    run = {
        "optimizer": type(trainer.optimizer).__name__,
        "batches_per_epoch": len(trainer.train_dataloader),
        "micro_batches": trainer.config.gradient_accumulation_steps,
        "epoch_sums": {k: _pack(m) for k, m in trainer.epoch_sums.items()},
        "ranks": ranks,
    }
    save_load.save_checkpoint(
        trainer.model,
        trainer.optimizer,
        {**trainer.state.to_dict(), "run": run},
        trainer.scaler,
        output_dir=trainer.config.output_dir,
        prefix=prefix,
        print_log=print_log,
        ema_model=trainer.ema_model,
        params_from_ema=trainer.ema_model is not None and prefix == "best",
    )


def restore(trainer: Any, path: str) -> None:
    """Continue from a checkpoint, inside an epoch if it was written there.

    Raises:
        CheckpointError: It does not fit this model, optimizer or data.
    """
    loaded = save_load.load_checkpoint(
        path, trainer.model, trainer.optimizer, trainer.scaler, trainer.ema_model
    )
    trainer.state = state = TrainerState.from_dict(loaded)
    run = loaded.get("run")
    where = f"epoch {state.epoch}, step {state.global_step}"
    if run is None:
        logger.warning(
            f"{path} has no random states: training goes on from {where} with fresh "
            "noise"
        )
        return
    if run["optimizer"] != type(trainer.optimizer).__name__:
        raise CheckpointError(
            f"{path} was trained with {run['optimizer']}, this run uses "
            f"{type(trainer.optimizer).__name__}"
        )
    ranks = run["ranks"]
    same_ranks = len(ranks) == dist.get_world_size()
    if not state.epoch_finished:
        found = (len(ranks), run["batches_per_epoch"], run["micro_batches"])
        wanted = (
            dist.get_world_size(),
            len(trainer.train_dataloader),
            trainer.config.gradient_accumulation_steps,
        )
        if found != wanted:
            raise CheckpointError(
                f"{path} was written inside epoch {state.epoch} with (processes, "
                f"batches per epoch, micro-batches) = {found}, this run has {wanted}; "
                "resume from the end of an epoch, or restore these settings"
            )
    if same_ranks:
        mine = ranks[dist.get_rank()]
        trainer.resume_rng = mine["rng"]
        trainer.epoch_rng = mine["epoch_rng"]
        trainer.window = {k: _unpack(m) for k, m in mine["window"].items()}
        trainer.epoch_sums = {k: _unpack(m) for k, m in run["epoch_sums"].items()}
    else:
        logger.warning(
            f"{path} was written by {len(ranks)} processes, this run has "
            f"{dist.get_world_size()}: training goes on from {where} with fresh noise"
        )
    logger.message(f"Resuming from {where}")
