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

"""Everything that one training run consists of, in one object; signals to stop it."""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import threading
from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import paddle
from paddle import nn
from paddle import optimizer as optim

from ppmat.optimizer.zero1 import Zero1
from ppmat.trainer import meters
from ppmat.trainer.config import TrainerConfig
from ppmat.trainer.meters import StreamingMetrics
from ppmat.trainer.meters import TrainingMeans
from ppmat.trainer.reporting import Reporter
from ppmat.trainer.trainer_state import TrainerState
from ppmat.utils import logger
from ppmat.utils.ema import ExponentialMovingAverage
from ppmat.utils.registry import ConfigError


class TrainingInterrupted(SystemExit):
    """Training stopped on a signal after saving ``latest``.

    The exit status of the process is 128 + signal number, as in a shell: 143 for
    SIGTERM, 130 for SIGINT, 129 for SIGHUP.
    """


class StopSignals:
    """In this context SIGTERM, SIGINT and SIGHUP only set :attr:`received`.

    A second SIGINT raises Python's KeyboardInterrupt. Under ``nohup`` SIGHUP stays
    ignored. Outside the main thread, where Python allows no handlers, the context does
    nothing.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self) -> None:
        self.received = 0
        self._before: dict = {}

    def __enter__(self) -> StopSignals:
        self.received = 0
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                by_nohup = signal.getsignal(number) == signal.SIG_IGN
                if number != signal.SIGHUP or not by_nohup:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: Any) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        # The logger may be writing a line, so this writes to stderr directly.
        name = signal.Signals(number).name
        with contextlib.suppress(OSError):  # the terminal of a SIGHUP is gone
            os.write(2, f"{name}: finishing this step, then saving 'latest'\n".encode())


@dataclass
class Run:
    """The parts of a training run: what the loop, updates and checkpoints share."""

    config: TrainerConfig
    model: nn.Layer  # not wrapped
    reporter: Reporter
    train_dataloader: paddle.io.DataLoader | None = None
    val_dataloader: paddle.io.DataLoader | None = None
    optimizer: optim.Optimizer | None = None  # None to evaluate only
    lr_scheduler: optim.lr.LRScheduler | None = None  # None for a fixed rate
    zero1: Zero1 | None = None  # takes the steps instead of the optimizer
    use_amp: bool = False  # the model computes in mixed precision
    scaler: paddle.amp.GradScaler | None = None  # of float16 training
    ema_model: ExponentialMovingAverage | None = None  # average of the weights
    # Key of ``pred_dict`` and batch to ``metric(pred, label)``
    metrics: dict[str, Callable] = field(default_factory=dict)
    streaming: dict[str, StreamingMetrics] = field(  # one set for each stage
        default_factory=lambda: {s: StreamingMetrics({}, s) for s in ("train", "eval")}
    )
    state: TrainerState = field(default_factory=TrainerState)
    stop: StopSignals = field(default_factory=StopSignals)
    # Means since the last log line, of this rank; of the epoch so far, of all ranks
    window: TrainingMeans = field(default_factory=TrainingMeans)
    epoch_means: TrainingMeans = field(default_factory=TrainingMeans)
    epoch_rng: dict[str, Any] | None = None  # random state when the epoch began
    resume_rng: dict[str, Any] | None = None  # of a checkpoint, still to be restored

    @property
    def stepper(self) -> Any:
        """What takes steps, and has the state of a checkpoint."""
        return self.zero1 or self.optimizer

    def set_up_amp(self) -> None:
        """Prepare model and optimizer for mixed precision, if it is asked for."""
        config = self.config
        if not config.use_amp or self.optimizer is None:
            return
        if paddle.get_device() == "cpu":
            logger.warning(
                "Trainer.use_amp: Paddle has no mixed precision on CPUs; this run "
                "computes in float32"
            )
            return
        if config.amp_level == "O2":
            kept = {"master_weight": True, "save_dtype": "float32"}
            parts = self.model, self.optimizer
            paddle.amp.decorate(*parts, level="O2", dtype=config.amp_dtype, **kept)
        logger.info(f"Mixed precision: {config.amp_level}, {config.amp_dtype}")
        self.use_amp = True
        if config.amp_dtype == "float16":
            self.scaler = paddle.amp.GradScaler()

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return the context in which the model is called."""
        if not self.use_amp:
            return contextlib.nullcontext()
        config = self.config
        return paddle.amp.auto_cast(level=config.amp_level, dtype=config.amp_dtype)

    def add_metrics(self, metrics: Any, **runtime_objs: Any) -> None:
        """Add what :func:`ppmat.metrics.build_metric` returned.

        Args:
            metrics: Name to metric, one streaming metric, or None.
            **runtime_objs: Arguments of ``bind`` of each streaming metric.
        """
        if hasattr(metrics, "update_step"):
            metrics = {"default": metrics}
        elif not isinstance(metrics, Mapping | None):
            raise ConfigError(
                "Metric: a metric of (prediction, label) belongs below the key it "
                "compares: Metric.<key>.__class_name__"
            )
        for name, metric in (metrics or {}).items():
            if not hasattr(metric, "update_step"):
                self.metrics[name] = metric
                continue
            # One object for each stage: an evaluation inside an epoch must not change
            # the sums of the training batches.
            for stage, streaming in self.streaming.items():
                mine = metric if stage == "eval" else copy.deepcopy(metric)
                if hasattr(mine, "bind"):
                    mine.bind(**runtime_objs)
                streaming.metrics[name] = mine

    def add_count(self, name: str, value: float) -> None:
        """Add a time or a number of structures to the window."""
        meters.add_value(self.window.count, name, value)

    def add_batch(self, result: Mapping, batch: Mapping, batch_size: int) -> None:
        """Add the losses and metrics of a training batch to the window."""
        meters.add_losses(self.window.loss, result, batch_size)
        self.add_count("structures", batch_size)
        if self.config.compute_metric_during_train:
            with paddle.no_grad():
                meters.add_metrics(
                    self.window.metric, self.metrics, result, batch, "train"
                )
                self.streaming["train"].update(result, batch)
