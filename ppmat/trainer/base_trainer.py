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


"""The training loop."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import paddle
import paddle.distributed as dist
from paddle import nn
from paddle import optimizer as optim
from paddle.optimizer.lr import ReduceOnPlateau

from ppmat.trainer import checkpointing
from ppmat.trainer.config import TrainerConfig
from ppmat.trainer.evaluation import Evaluator
from ppmat.trainer.evaluation import Meters
from ppmat.trainer.evaluation import StreamingMetrics
from ppmat.trainer.evaluation import update_loss_meters
from ppmat.trainer.evaluation import update_metric_meters
from ppmat.trainer.reporting import Reporter
from ppmat.trainer.reporting import named_values
from ppmat.trainer.stop_signals import StopSignals
from ppmat.trainer.stop_signals import TrainingInterrupted
from ppmat.trainer.trainer_state import TrainerState
from ppmat.trainer.update import Update
from ppmat.trainer.utils import STREAM_TRAIN
from ppmat.trainer.utils import gather_objects
from ppmat.trainer.utils import get_random_state
from ppmat.trainer.utils import log_paddle_version
from ppmat.trainer.utils import merge_meters
from ppmat.trainer.utils import seed_stream
from ppmat.trainer.utils import set_random_state
from ppmat.trainer.utils import unwrapped_hook
from ppmat.utils import logger
from ppmat.utils import misc
from ppmat.utils import save_load
from ppmat.utils.ema import ExponentialMovingAverage
from ppmat.utils.registry import ConfigError


class BaseTrainer:
    """Trains and evaluates a model; alone or as one rank of several.

    Args:
        config: The ``Trainer`` section, see
            :class:`~ppmat.trainer.config.TrainerConfig`.
        model: Returns ``{"loss_dict": {"loss": scalar, ...}, "pred_dict": {...}}`` for
            a batch. ``loss`` is the mean over the structures of the batch, or comes
            with ``loss_weight`` (see :func:`~ppmat.trainer.utils.loss_weight`). Must
            not be wrapped.
        train_dataloader: Batches for training. If its batch sampler has
            ``set_epoch``, it is told the epoch, from 0; if it has ``start_batch``, a
            resumed epoch starts there.
        val_dataloader: Batches for evaluation; ranks may hold different numbers.
        optimizer: From :func:`ppmat.optimizer.build_optimizer`; None to evaluate only.
        lr_scheduler: Its schedule, with the attribute ``by_epoch``; None for a fixed
            rate.
        compute_metric_func_dict: Key of ``pred_dict`` and batch to ``metric(pred,
            label)``; or any name to a streaming metric; or one streaming metric.

    Raises:
        ConfigError: A setting is unknown, missing or of the wrong type.
    """

    def __init__(
        self,
        config: dict,
        model: nn.Layer,
        train_dataloader: paddle.io.DataLoader | None = None,
        val_dataloader: paddle.io.DataLoader | None = None,
        optimizer: optim.Optimizer | None = None,
        lr_scheduler: optim.lr.LRScheduler | None = None,
        compute_metric_func_dict: dict | None = None,
    ) -> None:
        self.config = TrainerConfig.from_dict(config)
        if isinstance(model, paddle.DataParallel):
            raise ConfigError("give the bare model: the trainer wraps it itself")
        self.model = model
        self.train_dataloader = train_dataloader
        self.val_dataloader = val_dataloader
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler

        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        if self.world_size > 1 and not dist.is_initialized():
            dist.init_parallel_env()

        if self.config.pretrained_model_path is not None:
            save_load.load_pretrain(
                self.model,
                self.config.pretrained_model_path,
                self.config.pretrained_weight_name,
            )
        self.use_amp, self.scaler = self._set_up_amp()
        self.ema_model = None
        self.updater: Update | None = None
        if self.optimizer is not None:
            self.updater = Update(self)
            if self.config.ema_decay > 0:
                self.ema_model = ExponentialMovingAverage(
                    self.model, self.config.ema_decay, warmup=True
                )
        self.metrics: dict[str, Any] = {}
        self.streaming = {s: StreamingMetrics({}, s) for s in ("train", "eval")}
        self._take_metrics(compute_metric_func_dict)

        self.state = TrainerState()
        self.stop = StopSignals()
        self.reporter = Reporter(self.config, self.rank == 0)
        self.window: dict[str, Meters] = {"loss": {}, "metric": {}, "count": {}}
        self.epoch_sums: dict[str, Meters] = {"loss": {}, "metric": {}, "count": {}}
        self.epoch_rng: Any = None
        self.resume_rng: Any = None
        log_paddle_version()

    # Set-up ------------------------------------------------------------------------

    def _set_up_amp(self) -> tuple[bool, paddle.amp.GradScaler | None]:
        config = self.config
        if not config.use_amp or self.optimizer is None:
            return False, None
        if paddle.get_device() == "cpu":
            logger.warning(
                "Trainer.use_amp: Paddle has no mixed precision on CPUs; this run "
                "computes in float32"
            )
            return False, None
        if config.amp_level == "O2":
            paddle.amp.decorate(
                self.model,
                self.optimizer,
                level="O2",
                dtype=config.amp_dtype,
                master_weight=True,
                save_dtype="float32",
            )
        logger.info(f"Mixed precision: {config.amp_level}, {config.amp_dtype}")
        scaler = paddle.amp.GradScaler() if config.amp_dtype == "float16" else None
        return True, scaler

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return the context in which the model is called."""
        if not self.use_amp:
            return contextlib.nullcontext()
        return paddle.amp.auto_cast(
            level=self.config.amp_level, dtype=self.config.amp_dtype
        )

    def _take_metrics(self, metrics: Any, **runtime_objs: Any) -> None:
        if metrics is None:
            return
        if not isinstance(metrics, Mapping):
            if not hasattr(metrics, "update_step"):
                raise ConfigError(
                    "Metric: a metric of (prediction, label) stands below the key it "
                    "compares: Metric.<key>.__class_name__"
                )
            metrics = {"default": metrics}
        for name, metric in metrics.items():
            if not hasattr(metric, "update_step"):
                self.metrics[name] = metric
                continue
            # One object per stage: an evaluation inside an epoch leaves the sums of
            # the training batches alone.
            for stage, streaming in self.streaming.items():
                mine = metric if stage == "eval" else copy.deepcopy(metric)
                if hasattr(mine, "bind"):
                    mine.bind(**runtime_objs)
                streaming.metrics[name] = mine

    def attach_metrics(self, metric_cfg: Any = None, **runtime_objs: Any) -> None:
        """Add metrics from a ``Metric`` section.

        Args:
            metric_cfg: The section.
            **runtime_objs: Handed to ``bind`` of each streaming metric.
        """
        from ppmat.metrics import build_metric

        self._take_metrics(build_metric(metric_cfg), **runtime_objs)

    def get_num_trainable_parameters(self) -> int:
        """Return the number of trained numbers in the model."""
        parameters = self.model.parameters()
        return sum(int(p.size) for p in parameters if not p.stop_gradient)

    # Evaluation --------------------------------------------------------------------

    def eval_epoch(
        self, dataloader: paddle.io.DataLoader
    ) -> tuple[Meters, Meters, Meters]:
        """Return times, losses and metrics of a loader over all ranks, as meters.

        The averaged weights are used when ``ema_decay`` is set.
        """
        return Evaluator(self).run(dataloader)

    def eval(
        self, dataloader: paddle.io.DataLoader, stage: str = "eval"
    ) -> tuple[Meters, Meters, Meters]:
        """Evaluate and log; returns what :meth:`eval_epoch` returns.

        Args:
            dataloader: The batches.
            stage: What to call them in the log.
        """
        if dataloader is None:
            raise ValueError("eval() needs a dataloader, got None")
        logger.info(f"Evaluating {len(dataloader.dataset)} samples ({stage})")
        return self._evaluate(dataloader, stage, f"{stage.capitalize()}:")

    def _evaluate(self, loader: paddle.io.DataLoader, stage: str, head: str) -> tuple:
        times, losses, metrics = self.eval_epoch(loader)
        averages = {name: meter.avg for name, meter in times.items()}
        values = named_values(averages, losses, metrics)
        state = self.state
        self.reporter.report(stage, state.epoch, state.global_step, values, head)
        return times, losses, metrics

    def _evaluate_now(self, mark: str) -> dict[str, Meters]:
        """Evaluate inside the training; returns the values by indicator."""
        head = f"Eval: Epoch [{self.state.epoch}/{self.config.max_epochs}]"
        head += f" | Step {self.state.global_step}"
        loader = self.val_dataloader
        _, losses, metrics = self._evaluate(loader, f"eval({mark})", head)
        return {"eval_loss": losses, "eval_metric": metrics}

    # Training ----------------------------------------------------------------------

    def train(
        self,
        train_dataloader: paddle.io.DataLoader | None = None,
        val_dataloader: paddle.io.DataLoader | None = None,
        resume_from_checkpoint: str | None = None,
    ) -> None:
        """Train to the end, or to a signal.

        Args:
            train_dataloader: Instead of the constructor's.
            val_dataloader: Instead of the constructor's.
            resume_from_checkpoint: Instead of the configuration's.

        Raises:
            TrainingInterrupted: After SIGTERM or SIGINT; ``latest`` is saved.
            NonFiniteError: A loss or gradient is not finite (``nan_policy: raise``).
            CheckpointError: A checkpoint cannot be read or written.
        """
        if train_dataloader is not None:
            self.train_dataloader = train_dataloader
        if val_dataloader is not None:
            self.val_dataloader = val_dataloader
        if self.train_dataloader is None or self.optimizer is None:
            raise ValueError("train() needs a train_dataloader and an optimizer")
        if self.val_dataloader is None:
            logger.warning("No validation data: no evaluation during training")
        path = resume_from_checkpoint or self.config.resume_from_checkpoint

        hook = unwrapped_hook(self.model, "before_train")
        if hook is not None:
            hook(self)
        seed_stream(self.config.seed, STREAM_TRAIN)
        self.state = TrainerState()
        if path is not None:
            checkpointing.restore(self, path)
        self.reporter.open_file(self.state.log_rows if path is not None else None)
        logger.info(
            f"Training {type(self.model).__name__}, "
            f"{self.get_num_trainable_parameters():,} trainable parameters, "
            f"{len(self.train_dataloader)} batches per epoch, {self.world_size} "
            "process(es)"
        )
        with self.stop:
            while not self._is_done():
                self._run_epoch()
        self.reporter.close()

    def _is_done(self) -> bool:
        config, state = self.config, self.state
        if config.max_iter and state.global_step >= config.max_iter:
            logger.info(f"max_iter {config.max_iter} reached")
            return True
        patience = config.early_stopping_patience
        if patience and state.looks_without_improvement >= patience:
            logger.info(
                f"Early stop: {config.name_for_best_metric} did not improve on "
                f"{state.best_metric} (epoch {state.best_epoch}) {patience} times"
            )
            return True
        return state.epoch_finished and state.epoch >= config.max_epochs

    def _run_epoch(self) -> None:
        """Train one epoch (or the rest of one), evaluate, step, save."""
        config, state = self.config, self.state
        if state.epoch_finished:
            state.epoch += 1
            state.step_in_train_epoch = 0
            state.epoch_finished = False
            self.window = {"loss": {}, "metric": {}, "count": {}}
            self.epoch_sums = {"loss": {}, "metric": {}, "count": {}}
            if self.resume_rng is not None:
                set_random_state(self.resume_rng)
                self.resume_rng = None
            self.epoch_rng = get_random_state()
        complete = self._train_batches()

        losses, metrics = self.epoch_sums["loss"], dict(self.epoch_sums["metric"])
        if config.compute_metric_during_train:
            metrics.update(self.streaming["train"].compute())
        averages = {k: m.avg for k, m in self.epoch_sums["count"].items()}
        self.reporter.report(
            "train(epoch)",
            state.epoch,
            state.global_step,
            named_values(averages, losses, metrics),
            f"Train: Epoch [{state.epoch}/{config.max_epochs}]",
        )
        values = {"train_loss": losses, "train_metric": metrics}
        last = not complete or state.epoch == config.max_epochs
        if (
            self.val_dataloader is not None
            and config.eval_freq
            and not config.eval_freq_steps
            and state.epoch >= config.start_eval_epoch
            and (state.epoch % config.eval_freq == 0 or last)
        ):
            values.update(self._evaluate_now("epoch"))
        is_best = self._look_at(values)
        if complete:
            if self._steps_by_epoch():
                self.lr_scheduler.step()
            state.epoch_finished = True
        if config.save_freq and (
            state.epoch % config.save_freq == 0 or last or state.epoch == 1
        ):
            checkpointing.save(self, f"epoch_{state.epoch}")
        if is_best:
            checkpointing.save(self, "best")
        checkpointing.save(self, "latest", print_log=state.epoch == 1)
        if any(gather_objects(self.stop.received)):
            self._leave()

    def _steps_by_epoch(self) -> bool:
        scheduler = self.lr_scheduler
        return (
            scheduler is not None
            and getattr(scheduler, "by_epoch", False)
            and not isinstance(scheduler, ReduceOnPlateau)
        )

    def _look_at(self, values: Mapping[str, Meters]) -> bool:
        """Update the schedule, the best value and the early-stop counter.

        Args:
            values: Losses and metrics of this look, by indicator.

        Returns:
            Whether this is the best look so far.
        """
        config, state = self.config, self.state
        if isinstance(self.lr_scheduler, ReduceOnPlateau):
            watched = self._watched(
                values,
                self.lr_scheduler.indicator,
                self.lr_scheduler.indicator_name,
                "Optimizer.__init_params__.lr.__init_params__.indicator_name",
            )
            if watched is not None:
                self.lr_scheduler.step(watched)
        if config.best_metric_indicator is None:
            return False
        current = self._watched(
            values,
            config.best_metric_indicator,
            config.name_for_best_metric,
            "Trainer.name_for_best_metric",
        )
        if current is None:
            return False
        state.cur_metric = current
        if state.best_metric is None:
            better = current == current
        elif config.greater_is_better:
            better = current > state.best_metric
        else:
            better = current < state.best_metric
        if better:
            state.best_metric, state.best_epoch = current, state.epoch
        state.looks_without_improvement = (
            0 if better else state.looks_without_improvement + 1
        )
        return better

    @staticmethod
    def _watched(
        values: Mapping[str, Meters], indicator: str, name: str, where: str
    ) -> float | None:
        if indicator not in values:
            return None
        group = values[indicator]
        if name not in group:
            raise ConfigError(
                f"{where}: there is no {indicator} called '{name}'; there "
                f"{'are' if group else 'is'} {', '.join(group) or 'none'}"
            )
        return group[name].avg

    def _batches(self, skip: int) -> Iterator[Any]:
        """Yield the batches of this epoch from number ``skip`` on."""
        loader, epoch = self.train_dataloader, self.state.epoch - 1
        sampler = loader.batch_sampler
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        # Some loaders draw from the global generator: a resumed epoch must find it as
        # it was when the epoch began.
        if self.resume_rng is not None:
            set_random_state(self.epoch_rng)
        jump = hasattr(sampler, "start_batch")
        if jump:
            sampler.start_batch = skip
        batches = iter(loader)
        for _ in range(0 if jump else skip):
            next(batches)
        first = next(batches)
        if self.resume_rng is not None:
            set_random_state(self.resume_rng)
            self.resume_rng = None
        yield first
        yield from batches

    def _train_batches(self) -> bool:
        """Train on the rest of an epoch; returns False if max_iter cut it short."""
        config, state = self.config, self.state
        self.model.train()
        micro = config.gradient_accumulation_steps
        num_batches = len(self.train_dataloader)
        state.max_steps_in_train_epoch = -(-num_batches // micro)
        skip = min(state.step_in_train_epoch * micro, num_batches)
        if skip >= num_batches:
            return True
        batches = self._batches(skip)
        while True:
            tic = time.perf_counter()
            group = self._read(batches, micro)
            if not group:
                break
            self._count("reader_cost", time.perf_counter() - tic)
            self.updater.step(group)
            state.step_in_train_epoch += 1
            state.global_step += 1
            self._count("batch_cost", time.perf_counter() - tic)
            at_end = state.step_in_train_epoch == state.max_steps_in_train_epoch
            enough = bool(config.max_iter and state.global_step >= config.max_iter)
            if (
                (config.log_freq and state.step_in_train_epoch % config.log_freq == 0)
                or state.step_in_train_epoch == 1
                or at_end
                or enough
            ):
                self._log_window()
            if self.lr_scheduler is not None and not getattr(
                self.lr_scheduler, "by_epoch", False
            ):
                self.lr_scheduler.step()
            self._after_step(at_end or enough)
            if enough and not at_end:
                return False
        self.updater.check()
        return True

    def _read(self, batches: Iterator[Any], micro: int) -> list[Any]:
        try:
            return list(itertools.islice(batches, micro))
        except RuntimeError:
            # Worker processes get the signal too and may be gone already.
            if not self.stop.received or self.world_size > 1:
                raise
            self._save_and_leave()

    def _after_step(self, epoch_ends: bool) -> None:
        """Evaluate, save, or leave, when this step is one to do so."""
        config, state = self.config, self.state
        if (
            config.eval_freq_steps
            and self.val_dataloader is not None
            and state.epoch >= config.start_eval_epoch
            and state.global_step % config.eval_freq_steps == 0
        ):
            self.updater.check()
            if self._look_at(self._evaluate_now("step")):
                checkpointing.save(self, "best")
        if config.save_freq_steps and state.global_step % config.save_freq_steps == 0:
            self.updater.check()
            checkpointing.save(self, f"step_{state.global_step}")
        if self.updater.stop_agreed and not epoch_ends:
            self.updater.check()
            self._save_and_leave()

    def _save_and_leave(self) -> None:
        checkpointing.save(self, "latest")
        self._leave()

    def _leave(self) -> None:
        number = max(gather_objects(self.stop.received))
        logger.message(
            f"Stopped on signal {number} at step {self.state.global_step}; resume with "
            "Trainer.resume_from_checkpoint="
            f"{os.path.join(self.config.output_dir, 'checkpoints', 'latest')}"
        )
        self.reporter.close()
        raise TrainingInterrupted(128 + number)

    # Values of a step ----------------------------------------------------------------

    def _count(self, name: str, value: float) -> None:
        meters = self.window["count"]
        meters.setdefault(name, misc.AverageMeter(name)).update(value)

    def record(self, result: Mapping, batch: Any, batch_size: int) -> None:
        """Take up the losses and metrics of one batch; called by :class:`Update`."""
        update_loss_meters(self.window["loss"], result, batch_size)
        self._count("structures", batch_size)
        if self.config.compute_metric_during_train:
            with paddle.no_grad():
                update_metric_meters(
                    self.window["metric"], self.metrics, result, batch, "train"
                )
                self.streaming["train"].update(result, batch)

    def _log_window(self) -> None:
        """Log the means since the last line, over all ranks, and add them up."""
        self.updater.check()
        state = self.state
        seconds = self.window["count"]["batch_cost"].sum
        merged = {kind: merge_meters(meters) for kind, meters in self.window.items()}
        structures = merged["count"].pop("structures", misc.AverageMeter()).sum
        for kind, meters in merged.items():
            for name, meter in meters.items():
                total = self.epoch_sums[kind].setdefault(name, misc.AverageMeter(name))
                total.sum += meter.sum
                total.count += meter.count
        self.window = {"loss": {}, "metric": {}, "count": {}}
        values: dict[str, float] = OrderedDict(lr=float(self.optimizer.get_lr()))
        values.update({name: m.avg for name, m in merged["count"].items()})
        values["samples_per_s"] = structures / seconds
        values["grad_norm"] = float(self.updater.grad_norm)
        if state.skipped_steps:
            values["skipped_steps"] = float(state.skipped_steps)
        self.reporter.report(
            "train(step)",
            state.epoch,
            state.global_step,
            named_values(values, merged["loss"], merged["metric"]),
            f"Train: Epoch [{state.epoch}/{self.config.max_epochs}] | Step "
            f"[{state.step_in_train_epoch}/{state.max_steps_in_train_epoch}]",
        )
