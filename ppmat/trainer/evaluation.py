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
from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle

from ppmat.trainer.utils import STREAM_EVAL
from ppmat.trainer.utils import compute_batch_size
from ppmat.trainer.utils import gather_rows
from ppmat.trainer.utils import loss_weight
from ppmat.trainer.utils import merge_meters
from ppmat.trainer.utils import own_random_stream
from ppmat.trainer.utils import share_statistics
from ppmat.utils import misc

Meters = dict[str, misc.AverageMeter]


class MetricError(RuntimeError):
    """A metric that cannot be computed; never left out silently."""


def look_up(key: str, predictions: Mapping, batch: Mapping, stage: str) -> tuple:
    """Return ``(prediction, label)`` of a metric key.

    Raises:
        MetricError: One of them is not there.
    """
    for name, place in (("the model's pred_dict", predictions), ("the batch", batch)):
        if key not in place:
            hint = (
                "; set Trainer.compute_metric_during_train to false if this model "
                "predicts only in evaluation"
                if stage == "train"
                else ""
            )
            raise MetricError(
                f"Metric.{key}: {name} has no '{key}' during {stage}; it has "
                f"{', '.join(map(str, place)) or 'nothing'}{hint}"
            )
    return predictions[key], batch[key]


def apply_metric(key: str, metric: Any, prediction: Any, label: Any) -> Any:
    """Call a metric.

    Raises:
        MetricError: It failed.
    """
    try:
        return metric(prediction, label)
    except Exception as error:
        raise MetricError(f"Metric.{key} failed: {error}") from error


def update_metric_meters(
    meters: Meters, metrics: Mapping, result: Mapping, batch: Mapping, stage: str
) -> None:
    """Add the metrics of one batch, each weighted by the rows it was computed on."""
    for key, metric in metrics.items():
        prediction, label = look_up(key, result.get("pred_dict", {}), batch, stage)
        value = apply_metric(key, metric, prediction, label)
        meters.setdefault(key, misc.AverageMeter(key)).update(
            _number(value), len(prediction) if hasattr(prediction, "__len__") else 1
        )


def _number(value: Any) -> Any:
    """Return a value for a sum: a float, or a tensor if reading it would wait."""
    if not isinstance(value, paddle.Tensor):
        return float(value)
    value = value.detach().astype("float64").reshape([])
    return float(value) if value.place.is_cpu_place() else value


def update_loss_meters(meters: Meters, result: Mapping, batch_size: int) -> None:
    """Add the losses of one batch, each weighted by what it is a mean over."""
    for name, loss in result.get("loss_dict", {}).items():
        weight = loss_weight(result, name, batch_size)
        weight = _number(weight)
        loss = _number(loss)
        meters.setdefault(name, misc.AverageMeter(name)).update(loss, weight)


class StreamingMetrics:
    """Metrics with a state, one set for one stage.

    Args:
        metrics: Name to object with ``update_step``, ``compute_epoch``, ``reset``.
        stage: ``train`` or ``eval``.
    """

    def __init__(self, metrics: Mapping[str, Any], stage: str) -> None:
        self.metrics = dict(metrics)
        self.stage = stage

    def update(self, result: Mapping, batch: Any) -> None:
        """Hand a batch to all metrics."""
        for name, metric in self.metrics.items():
            try:
                metric.update_step(result=result, batch=batch, stage=self.stage)
            except Exception as error:
                raise MetricError(f"Metric.{name} failed: {error}") from error

    def compute(self) -> Meters:
        """Return the values of the epoch and reset.

        Raises:
            MetricError: A metric failed, or two gave values of one name.
        """
        values: Meters = {}
        for name, metric in self.metrics.items():
            try:
                computed = metric.compute_epoch(stage=self.stage) or {}
            except Exception as error:
                raise MetricError(f"Metric.{name} failed: {error}") from error
            for key, value in computed.items():
                if key in values:
                    raise MetricError(
                        f"Metric.{name} gives '{key}', as another metric does; name "
                        "one of the two otherwise in its __init_params__"
                    )
                values[key] = misc.AverageMeter(key)
                values[key].update(float(value))
            metric.reset()
        return values


def _rows(value: Any) -> np.ndarray:
    if isinstance(value, paddle.Tensor):
        if value.dtype in (paddle.float16, paddle.bfloat16):
            value = value.astype("float32")
        value = value.detach().numpy()
    return np.atleast_1d(value)


class Evaluator:
    """Runs a model over a loader; used by :class:`BaseTrainer`.

    Args:
        trainer: The trainer; its model, metrics, settings and state are used.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def run(self, dataloader: paddle.io.DataLoader) -> tuple[Meters, Meters, Meters]:
        """Return times, losses and metrics over all structures of all ranks.

        The weights are the averaged ones when the trainer keeps an average. Noise
        drawn by the model comes from a stream of its own, the same in every
        evaluation, so neither does an evaluation disturb the training, nor chance
        the comparison of two evaluations.
        """
        trainer = self.trainer
        model, average = trainer.model, trainer.ema_model
        was_training = model.training
        share_statistics(model)
        model.eval()
        if average is not None:
            average.apply_shadow()
        try:
            with own_random_stream(trainer.config.seed, STREAM_EVAL):
                return self._run(dataloader)
        finally:
            if average is not None:
                average.restore()
            if was_training:
                model.train()

    def _run(self, dataloader: paddle.io.DataLoader) -> tuple[Meters, Meters, Meters]:
        trainer, config = self.trainer, self.trainer.config
        state = trainer.state
        by_epoch = config.metric_strategy_during_eval == "epoch"
        losses: Meters = {}
        metrics: Meters = {}
        times = {
            name: misc.AverageMeter(name, postfix="s")
            for name in ("reader_cost", "batch_cost")
        }
        kept: dict[str, list[np.ndarray]] = defaultdict(list)
        state.max_steps_in_eval_epoch = len(dataloader)
        state.step_in_eval_epoch = 0

        tic = time.perf_counter()
        for batch in dataloader:
            state.step_in_eval_epoch += 1
            read = time.perf_counter()
            times["reader_cost"].update(read - tic)
            size = compute_batch_size(batch)
            no_grad = paddle.no_grad if config.eval_with_no_grad else None
            with trainer.autocast(), no_grad() if no_grad else contextlib.nullcontext():
                result = trainer.model(batch)
                if config.sample_params_during_eval is not None:
                    sampled = trainer.model.sample(
                        batch, **config.sample_params_during_eval
                    )
                    result = {**result, **sampled}
            update_loss_meters(losses, result, size)
            trainer.streaming["eval"].update(result, batch)
            if by_epoch:
                for key in trainer.metrics:
                    pair = look_up(key, result.get("pred_dict", {}), batch, "eval")
                    for side, value in zip(("pred", "label"), pair):
                        kept[f"{side}/{key}"].append(_rows(value))
            else:
                update_metric_meters(metrics, trainer.metrics, result, batch, "eval")
            times["batch_cost"].update(time.perf_counter() - tic)
            tic = time.perf_counter()

        losses, metrics = merge_meters(losses), merge_meters(metrics)
        if by_epoch:
            rows = gather_rows(kept)
            for key, metric in trainer.metrics.items():
                if f"pred/{key}" not in rows:
                    continue
                pair = [paddle.to_tensor(rows[f"{s}/{key}"]) for s in ("pred", "label")]
                metrics[key] = misc.AverageMeter(key)
                metrics[key].update(
                    float(apply_metric(key, metric, *pair)), len(pair[0])
                )
        metrics.update(trainer.streaming["eval"].compute())
        return times, losses, metrics
