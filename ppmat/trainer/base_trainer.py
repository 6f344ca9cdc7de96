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

import itertools
import math
import os
import sys
import time
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
from ppmat.trainer.evaluation import evaluate
from ppmat.trainer.meters import Meters
from ppmat.trainer.meters import TrainingMeans
from ppmat.trainer.meters import averages
from ppmat.trainer.reporting import Reporter
from ppmat.trainer.run import Run
from ppmat.trainer.run import TrainingInterrupted
from ppmat.trainer.trainer_state import TrainerState
from ppmat.trainer.update import Update
from ppmat.trainer.utils import STREAM_TRAIN
from ppmat.trainer.utils import get_random_state
from ppmat.trainer.utils import seed_stream
from ppmat.trainer.utils import set_random_state
from ppmat.utils import logger
from ppmat.utils import save_load
from ppmat.utils.ema import ExponentialMovingAverage
from ppmat.utils.meeting import start_ranks
from ppmat.utils.misc import AverageMeter
from ppmat.utils.misc import gather_objects
from ppmat.utils.progress import Progress
from ppmat.utils.registry import CLASS_KEY
from ppmat.utils.registry import ConfigError
from ppmat.utils.registry import Registry


def _part_of_run(name: str) -> property:
    return property(lambda trainer: getattr(trainer.run, name), doc=f"``run.{name}``.")


class BaseTrainer:
    """Trains and evaluates a model; alone or as one rank of several.

    Args:
        config: The ``Trainer`` section, :class:`~ppmat.trainer.config.TrainerConfig`.
        model: Not wrapped; returns ``{"loss_dict": {"loss": scalar, ...}, "pred_dict":
            {...}}`` for a batch. ``loss`` is the mean over the structures of the batch,
            or comes with ``loss_weight``, :func:`~ppmat.trainer.utils.loss_weight`.
        train_dataloader: Batches for training. A batch sampler with ``set_epoch`` gets
            the epoch, from 0. One with ``start_batch`` starts a resumed epoch there.
        val_dataloader: Batches for evaluation; ranks may hold different numbers.
        optimizer: From :func:`ppmat.optimizer.build_optimizer`; None to evaluate only.
        lr_scheduler: Its schedule, with the attribute ``by_epoch``.
        compute_metric_func_dict: Key of ``pred_dict`` and batch to ``metric(pred,
            label)``; or any name to a streaming metric; or one streaming metric.

    Raises:
        ConfigError: A setting is unknown, missing or of the wrong type.
    """

    config = _part_of_run("config")
    model = _part_of_run("model")
    train_dataloader = _part_of_run("train_dataloader")
    val_dataloader = _part_of_run("val_dataloader")
    optimizer = _part_of_run("optimizer")
    lr_scheduler = _part_of_run("lr_scheduler")
    ema_model = _part_of_run("ema_model")
    state = _part_of_run("state")

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
        settings = TrainerConfig.from_dict(config)
        if isinstance(model, paddle.DataParallel):
            raise ConfigError("give the bare model: the trainer wraps it itself")
        start_ranks()
        if settings.pretrained_model_path is not None:
            save_load.load_pretrain(
                model,
                settings.pretrained_model_path,
                settings.pretrained_weight_name,
                settings.pretrained_exclude or (),
            )
        reporter = Reporter(settings, dist.get_rank() == 0)
        data = {"train_dataloader": train_dataloader, "val_dataloader": val_dataloader}
        steps = {"optimizer": optimizer, "lr_scheduler": lr_scheduler}
        self.run = Run(settings, model, reporter, **data, **steps)
        self.run.set_up_amp()
        self.updater: Update | None = None
        if optimizer is not None:
            self.updater = Update(self.run)
            if settings.ema_decay > 0:
                self.run.ema_model = ExponentialMovingAverage(
                    model, settings.ema_decay, warmup=True
                )
        self.run.add_metrics(compute_metric_func_dict)
        logger.info(f"Paddle {paddle.__version__} on {paddle.get_device()}")

    @property
    def max_epochs(self) -> int:
        """Epochs of the whole training."""
        return self.config.max_epochs

    def attach_metrics(self, metric_cfg: Any = None, **runtime_objs: Any) -> None:
        """Add the metrics of a ``Metric`` section; see :meth:`Run.add_metrics`."""
        from ppmat.metrics import build_metric

        self.run.add_metrics(build_metric(metric_cfg), **runtime_objs)

    def get_num_trainable_parameters(self) -> int:
        """Return the number of trained numbers in the model."""
        parameters = self.model.parameters()
        return sum(int(p.size) for p in parameters if not p.stop_gradient)

    # Evaluation --------------------------------------------------------------------

    def eval_epoch(
        self, dataloader: paddle.io.DataLoader
    ) -> tuple[Meters, Meters, Meters]:
        """Return times, losses and metrics of a loader over all ranks, as meters."""
        return evaluate(self.run, dataloader)

    def eval(
        self, dataloader: paddle.io.DataLoader, stage: str = "eval"
    ) -> tuple[Meters, Meters, Meters]:
        """Evaluate and log as ``stage``; returns what :meth:`eval_epoch` returns."""
        if dataloader is None:
            raise ValueError("eval() needs a dataloader, got None")
        logger.info(f"Evaluating {len(dataloader.dataset)} samples ({stage})")
        return self._evaluate(dataloader, stage, f"{stage.capitalize()}:")

    def _evaluate(self, loader: paddle.io.DataLoader, stage: str, head: str) -> tuple:
        times, losses, metrics = meters = self.eval_epoch(loader)
        self._report(stage, head, averages(times), losses, metrics)
        return meters

    def _validate(self, unit: str) -> dict[str, Meters]:
        """Evaluate inside the training; return the meters by indicator."""
        head = f"{self._head('Eval')} | Step {self.state.global_step}"
        loader = self.val_dataloader
        _, losses, metrics = self._evaluate(loader, f"eval({unit})", head)
        return {"eval_loss": losses, "eval_metric": metrics}

    def _head(self, kind: str) -> str:
        return f"{kind}: Epoch [{self.state.epoch}/{self.config.max_epochs}]"

    def _report(
        self, stage: str, head: str, plain: dict, losses: Meters, metrics: Meters
    ) -> None:
        """Report numbers as they are, then losses and metrics with their mark."""
        marked = averages(losses, "(loss)") | averages(metrics, "(metric)")
        self.run.reporter.report(stage, self.state, plain | marked, head)

    # Training ----------------------------------------------------------------------

    def train(
        self,
        train_dataloader: paddle.io.DataLoader | None = None,
        val_dataloader: paddle.io.DataLoader | None = None,
        resume_from_checkpoint: str | None = None,
    ) -> None:
        """Train to the end, or to a signal.

        Arguments replace those of the constructor and of the configuration.

        Raises:
            TrainingInterrupted: After SIGTERM, SIGINT or SIGHUP; ``latest`` is saved.
            NonFiniteError: A loss or gradient is not finite (``nan_policy: raise``).
            CheckpointError: A checkpoint cannot be read or written.
        """
        run = self.run
        if train_dataloader is not None:
            run.train_dataloader = train_dataloader
        if val_dataloader is not None:
            run.val_dataloader = val_dataloader
        if run.train_dataloader is None or run.optimizer is None:
            raise ValueError("train() needs a train_dataloader and an optimizer")
        if run.val_dataloader is None:
            logger.warning("No validation data: no evaluation during training")
        path = resume_from_checkpoint or run.config.resume_from_checkpoint

        if hasattr(run.model, "before_train"):
            run.model.before_train(self)
        seed_stream(run.config.seed, STREAM_TRAIN)
        run.state = TrainerState()
        if path is not None:
            checkpointing.restore(run, path)
        checkpointing.check_space(run)
        run.reporter.open_file(run.state.log_rows if path is not None else None)
        logger.info(
            f"Training {type(run.model).__name__}, "
            f"{self.get_num_trainable_parameters():,} trainable parameters, "
            f"{len(run.train_dataloader)} batches per epoch, {dist.get_world_size()} "
            "process(es)"
        )
        with run.stop:
            while not self._is_done():
                self._run_epoch()
        run.reporter.close()

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
        """Train one epoch (or the rest of one), evaluate, step the schedule, save."""
        run, config, state = self.run, self.config, self.state
        if state.epoch_finished:
            state.epoch += 1
            state.step_in_train_epoch = 0
            state.epoch_finished = False
            run.window, run.epoch_means = TrainingMeans(), TrainingMeans()
            self._restore_random_state()
            run.epoch_rng = get_random_state()
        complete = self._train_batches()
        values = self._report_epoch()
        is_last = not complete or state.epoch == config.max_epochs
        if (
            config.eval_freq
            and not config.eval_freq_steps
            and self._may_validate()
            and (state.epoch % config.eval_freq == 0 or is_last)
        ):
            values.update(self._validate("epoch"))
        is_best = self._compare(values)
        if complete:
            plateau = isinstance(run.lr_scheduler, ReduceOnPlateau)
            if getattr(run.lr_scheduler, "by_epoch", False) and not plateau:
                run.lr_scheduler.step()
            state.epoch_finished = True
        if config.save_freq and (
            state.epoch % config.save_freq == 0 or is_last or state.epoch == 1
        ):
            checkpointing.save(run, f"epoch_{state.epoch}")
        if is_best:
            checkpointing.save(run, "best")
        checkpointing.save(run, "latest", print_log=state.epoch == 1)
        if any(gather_objects(run.stop.received)):
            self._leave()

    def _may_validate(self) -> bool:
        has_data = self.val_dataloader is not None
        return has_data and self.state.epoch >= self.config.start_eval_epoch

    def _restore_random_state(self) -> None:
        """Set the random generators to the state in the checkpoint, once."""
        if self.run.resume_rng is not None:
            set_random_state(self.run.resume_rng)
            self.run.resume_rng = None

    def _report_epoch(self) -> dict[str, Meters]:
        """Report the means of the epoch; return them by indicator."""
        means = self.run.epoch_means
        metrics = dict(means.metric)
        if self.config.compute_metric_during_train:
            metrics.update(self.run.streaming["train"].compute())
        head, count = self._head("Train"), averages(means.count)
        self._report("train(epoch)", head, count, means.loss, metrics)
        return {"train_loss": means.loss, "train_metric": metrics}

    def _compare(self, values: Mapping[str, Meters]) -> bool:
        """Update the schedule, the best value and the early-stop counter.

        Returns whether the watched one of ``values`` is the best so far.
        """
        config, state, schedule = self.config, self.state, self.lr_scheduler
        if isinstance(schedule, ReduceOnPlateau):
            where = "Optimizer.__init_params__.lr.__init_params__.indicator_name"
            names = schedule.indicator, schedule.indicator_name
            watched = _watched(values, *names, where)
            if watched is not None:
                schedule.step(watched)
        names = config.best_metric_indicator, config.name_for_best_metric
        current = _watched(values, *names, "Trainer.name_for_best_metric")
        if current is None:
            return False
        best, sign = state.best_metric, 1 if config.greater_is_better else -1
        better = (
            not math.isnan(current) if best is None else sign * (current - best) > 0
        )
        state.cur_metric = current
        state.looks_without_improvement += 1
        if better:
            state.best_metric, state.best_epoch = current, state.epoch
            state.looks_without_improvement = 0
        return better

    def _batches(self, skip: int) -> Iterator[Any]:
        """Yield the batches of this epoch from number ``skip`` on."""
        loader = self.train_dataloader
        sampler = loader.batch_sampler
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(self.state.epoch - 1)
        # Some loaders draw from the global generator. A resumed epoch needs its state
        # at the start of the epoch.
        if self.run.resume_rng is not None:
            set_random_state(self.run.epoch_rng)
        jump = hasattr(sampler, "start_batch")
        if jump:
            sampler.start_batch = skip
        batches = iter(loader)
        for _ in range(0 if jump else skip):
            next(batches)
        first = next(batches)
        self._restore_random_state()
        yield first
        yield from batches

    def _train_batches(self) -> bool:
        """Train on the rest of an epoch; returns False if max_iter cut it short."""
        run, config, state = self.run, self.config, self.state
        run.model.train()
        micro = config.gradient_accumulation_steps
        num_batches = len(run.train_dataloader)
        state.max_steps_in_train_epoch = -(-num_batches // micro)
        skip = min(state.step_in_train_epoch * micro, num_batches)
        if skip >= num_batches:  # resumed between the last step and the evaluation
            self._restore_random_state()
            return True
        batches = self._batches(skip)
        # On a terminal the log lines show the progress.
        hidden = dist.get_rank() != 0 or sys.stderr.isatty()
        total, done = state.max_steps_in_train_epoch, state.step_in_train_epoch
        options = {"total": total, "initial": done, "unit": " steps", "leave": False}
        with Progress(None, self._head("Train"), hidden, **options) as bar:
            return self._take_steps(batches, bar)

    def _take_steps(self, batches: Iterator[Any], bar: Progress) -> bool:
        """Take a step with each group of micro-batches; see :meth:`_train_batches`."""
        run, config, state = self.run, self.config, self.state
        micro = config.gradient_accumulation_steps
        by_step = not getattr(run.lr_scheduler, "by_epoch", False)
        while True:
            tic = time.perf_counter()
            group = self._read(batches, micro)
            if not group:
                break
            run.add_count("reader_cost", time.perf_counter() - tic)
            self.updater.step(group)
            state.step_in_train_epoch += 1
            state.global_step += 1
            run.add_count("batch_cost", time.perf_counter() - tic)
            bar.update()
            at_end = state.step_in_train_epoch == state.max_steps_in_train_epoch
            enough = bool(config.max_iter and state.global_step >= config.max_iter)
            if (
                (config.log_freq and state.step_in_train_epoch % config.log_freq == 0)
                or state.step_in_train_epoch == 1
                or at_end
                or enough
            ):
                self._log_window()
                bar.postpone()
            if run.lr_scheduler is not None and by_step:
                run.lr_scheduler.step()
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
            if not self.run.stop.received or dist.get_world_size() > 1:
                raise
            self._save_and_leave()

    def _after_step(self, epoch_ends: bool) -> None:
        """Evaluate, save, or leave, if this step is one to do so."""
        config, step = self.config, self.state.global_step
        if (
            config.eval_freq_steps
            and self._may_validate()
            and step % config.eval_freq_steps == 0
        ):
            self.updater.check()
            if self._compare(self._validate("step")):
                checkpointing.save(self.run, "best")
        if config.save_freq_steps and step % config.save_freq_steps == 0:
            self.updater.check()
            checkpointing.save(self.run, f"step_{step}")
        if self.updater.stop_agreed and not epoch_ends:
            self.updater.check()
            self._save_and_leave()

    def _save_and_leave(self) -> None:
        checkpointing.save(self.run, "latest")
        self._leave()

    def _leave(self) -> None:
        number = max(gather_objects(self.run.stop.received))
        logger.message(
            f"Stopped on signal {number} at step {self.state.global_step}; resume with "
            "Trainer.resume_from_checkpoint="
            f"{os.path.join(self.config.output_dir, 'checkpoints', 'latest')}"
        )
        self.run.reporter.close()
        raise TrainingInterrupted(128 + number)

    def _log_window(self) -> None:
        """Report the means since the last line, and add them to those of the epoch."""
        self.updater.check()
        run, state = self.run, self.state
        seconds = run.window.count["batch_cost"].sum
        merged = run.window.merge_ranks()
        structures = merged.count.pop("structures", AverageMeter()).sum
        run.epoch_means.add(merged.pack())
        run.window = TrainingMeans()
        values = {"lr": float(run.optimizer.get_lr()), **averages(merged.count)}
        values["samples_per_s"] = structures / seconds
        values["grad_norm"] = float(self.updater.grad_norm)
        if state.skipped_steps:
            values["skipped_steps"] = float(state.skipped_steps)
        step = f"[{state.step_in_train_epoch}/{state.max_steps_in_train_epoch}]"
        head = f"{self._head('Train')} | Step {step}"
        self._report("train(step)", head, values, merged.loss, merged.metric)


def _watched(
    values: Mapping[str, Meters], indicator: str | None, name: str, where: str
) -> float | None:
    """Return the value that decides; None if its kind is not among ``values``."""
    if indicator not in values:
        return None
    group = values[indicator]
    if name not in group:
        raise ConfigError(
            f"{where}: there is no {indicator} called '{name}'; found "
            f"{', '.join(group) or 'none'}"
        )
    return group[name].avg


TRAINERS = Registry("trainer", [BaseTrainer])


def build_trainer(cfg: Mapping, **kwargs: Any) -> BaseTrainer:
    """Build the trainer of a ``Trainer`` section.

    Args:
        cfg: ``__class_name__`` selects a registered trainer, default ``BaseTrainer``;
            the other keys are its settings.
        **kwargs: Model, loaders, optimizer, ... of the constructor.
    """
    cls = TRAINERS.lookup(cfg.get(CLASS_KEY, "BaseTrainer"), "Trainer")
    return cls({k: v for k, v in cfg.items() if k != CLASS_KEY}, **kwargs)
