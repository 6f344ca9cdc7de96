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

"""Evaluation of a model over a data loader, alone or on several ranks."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict

import numpy as np
import paddle

from ppmat.trainer.meters import Meters
from ppmat.trainer.meters import add_losses
from ppmat.trainer.meters import add_metrics
from ppmat.trainer.meters import add_value
from ppmat.trainer.meters import call_metric
from ppmat.trainer.meters import find_pair
from ppmat.trainer.meters import merge_ranks
from ppmat.trainer.run import Run
from ppmat.trainer.utils import STREAM_EVAL
from ppmat.trainer.utils import compute_batch_size
from ppmat.trainer.utils import gather_rows
from ppmat.trainer.utils import own_random_stream
from ppmat.trainer.utils import share_statistics
from ppmat.utils.progress import Progress

_SIDES = ("pred", "label")


def evaluate(
    run: Run, dataloader: paddle.io.DataLoader
) -> tuple[Meters, Meters, Meters]:
    """Return times, losses and metrics over all structures of all ranks.

    Averaged weights are evaluated if the run keeps them. Noise comes from a random
    stream that every evaluation starts anew. So the training does not change, and two
    evaluations can be compared.
    """
    was_training = run.model.training
    share_statistics(run.model)
    run.model.eval()
    if run.ema_model is not None:
        run.ema_model.apply_shadow()
    try:
        with own_random_stream(run.config.seed, STREAM_EVAL):
            return _evaluate(run, dataloader)
    finally:
        if run.ema_model is not None:
            run.ema_model.restore()
        if was_training:
            run.model.train()


def _evaluate(
    run: Run, dataloader: paddle.io.DataLoader
) -> tuple[Meters, Meters, Meters]:
    by_epoch = run.config.metric_strategy_during_eval == "epoch"
    times, losses, metrics = {}, {}, {}
    rows: dict[str, list[np.ndarray]] = defaultdict(list)
    run.state.max_steps_in_eval_epoch = len(dataloader)
    run.state.step_in_eval_epoch = 0

    tic = time.perf_counter()
    hidden = paddle.distributed.get_rank() != 0
    for batch in Progress(
        dataloader, "evaluating", hidden, unit="batches", leave=False
    ):
        run.state.step_in_eval_epoch += 1
        add_value(times, "reader_cost", time.perf_counter() - tic)
        size = compute_batch_size(batch)
        result = _predict(run, batch)
        add_losses(losses, result, size)
        run.streaming["eval"].update(result, batch)
        if by_epoch:
            for key in run.metrics:
                pair = find_pair(key, result, batch, "eval")
                for side, value in zip(_SIDES, pair):
                    rows[f"{side}/{key}"].append(_rows(value))
        else:
            add_metrics(metrics, run.metrics, result, batch, "eval")
        add_value(times, "batch_cost", time.perf_counter() - tic)
        tic = time.perf_counter()

    losses, metrics = merge_ranks(losses), merge_ranks(metrics)
    if by_epoch:
        joined = gather_rows(rows)
        for key, metric in run.metrics.items():
            if f"pred/{key}" in joined:
                pair = [paddle.to_tensor(joined[f"{s}/{key}"]) for s in _SIDES]
                value = float(call_metric(key, metric, *pair))
                add_value(metrics, key, value, len(pair[0]))
    metrics.update(run.streaming["eval"].compute())
    return times, losses, metrics


def _predict(run: Run, batch: dict) -> dict:
    """Return what the model makes of a batch, with samples if the settings say so."""
    config = run.config
    graph = paddle.no_grad() if config.eval_with_no_grad else contextlib.nullcontext()
    with run.autocast(), graph:
        result = run.model(batch)
        if config.sample_params_during_eval is not None:
            sampled = run.model.sample(batch, **config.sample_params_during_eval)
            result = {**result, **sampled}
    return result


def _rows(value: paddle.Tensor | np.ndarray | float) -> np.ndarray:
    """Return a prediction or label as an array with one axis at least."""
    if isinstance(value, paddle.Tensor):
        if value.dtype in (paddle.float16, paddle.bfloat16):
            value = value.astype("float32")
        value = value.detach().numpy()
    return np.atleast_1d(value)
