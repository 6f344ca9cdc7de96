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

"""What a checkpoint of a run holds, so that a resumed run gives the same results."""

from __future__ import annotations

import shutil

import paddle.distributed as dist

from ppmat.trainer.meters import TrainingMeans
from ppmat.trainer.run import Run
from ppmat.trainer.trainer_state import TrainerState
from ppmat.trainer.utils import get_random_state
from ppmat.utils import logger
from ppmat.utils import save_load
from ppmat.utils.errors import InputError
from ppmat.utils.files import make_folder
from ppmat.utils.misc import gather_objects
from ppmat.utils.save_load import CheckpointError


def save(run: Run, prefix: str, print_log: bool = True) -> None:
    """Write ``latest``, ``best``, ``epoch_<k>``, ``step_<n>``; all ranks call this.

    Besides the weights, the optimizer and the counters it holds the means of the epoch.
    For each rank it holds the states of the random generators, now and at the start of
    the epoch, and the means that are not logged yet.
    """
    run.state.log_rows = run.reporter.num_rows
    mine = {
        "rng": get_random_state(),
        "epoch_rng": run.epoch_rng,
        "window": run.window.pack(),
    }
    extra = {
        "optimizer": type(run.optimizer).__name__,
        "batches_per_epoch": len(run.train_dataloader),
        "micro_batches": run.config.gradient_accumulation_steps,
        "epoch_sums": run.epoch_means.pack(),
        "ranks": gather_objects(mine),
    }
    save_load.save_checkpoint(
        run.model,
        run.stepper,
        {**run.state.to_dict(), "run": extra},
        run.scaler,
        output_dir=run.config.output_dir,
        prefix=prefix,
        print_log=print_log,
        ema_model=run.ema_model,
        params_from_ema=run.ema_model is not None and prefix == "best",
    )


def check_space(run: Run) -> None:
    """Check that the disk has room for ``latest``, the one it replaces, and ``best``.

    Raises:
        InputError: It has not.
    """
    if dist.get_rank() != 0:
        return
    weights = sum(t.size * t.element_size() for t in run.model.state_dict().values())
    copies = 3 + (run.ema_model is not None)  # two moments of each weight at most
    needed = 3 * copies * weights
    folder = run.config.output_dir
    make_folder(folder)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"the disk has {free / 1e6:,.1f} MB free",
            where=folder,
            wanted=f"{needed / 1e6:,.1f} MB, for three checkpoints",
        )


def restore(run: Run, path: str) -> None:
    """Continue from the checkpoint ``path`` (without suffix), also inside an epoch.

    Raises:
        CheckpointError: It does not fit this model, optimizer or data.
    """
    loaded = save_load.load_checkpoint(
        path, run.model, run.stepper, run.scaler, run.ema_model
    )
    run.state = state = TrainerState.from_dict(loaded)
    saved = loaded.get("run")
    where = f"epoch {state.epoch}, step {state.global_step}"
    if saved is None:
        logger.warning(
            f"{path} has no random states: training goes on from {where} with fresh "
            "noise"
        )
        return
    optimizer = type(run.optimizer).__name__
    if saved["optimizer"] != optimizer:
        raise CheckpointError(
            f"{path} was trained with {saved['optimizer']}, this run uses {optimizer}"
        )
    ranks, world_size = saved["ranks"], dist.get_world_size()
    micro = run.config.gradient_accumulation_steps
    found = (len(ranks), saved["batches_per_epoch"], saved["micro_batches"])
    wanted = (world_size, len(run.train_dataloader), micro)
    if not state.epoch_finished and found != wanted:
        raise CheckpointError(
            f"{path} was written inside epoch {state.epoch} with (processes, "
            f"batches per epoch, micro-batches) = {found}, this run has {wanted}; "
            "resume from the end of an epoch, or restore these settings"
        )
    if len(ranks) == world_size:
        mine = ranks[dist.get_rank()]
        run.resume_rng, run.epoch_rng = mine["rng"], mine["epoch_rng"]
        run.window, run.epoch_means = TrainingMeans(), TrainingMeans()
        run.window.add(mine["window"])
        run.epoch_means.add(saved["epoch_sums"])
    else:
        logger.warning(
            f"{path} was written by {len(ranks)} processes, this run has "
            f"{world_size}: training goes on from {where} with fresh noise"
        )
    logger.message(f"Resuming from {where}")
