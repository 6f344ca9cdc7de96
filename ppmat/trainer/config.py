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


"""The keys of the ``Trainer`` section: names, types, defaults, meaning."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from typing import Literal

from ppmat.utils.registry import CLASS_KEY
from ppmat.utils.registry import PARAMS_KEY
from ppmat.utils.registry import ConfigError
from ppmat.utils.registry import check_call


@dataclass
class TrainerConfig:
    """Settings of a training run. In all frequencies 0 means off.

    Args:
        max_epochs: Epochs to train.
        output_dir: Folder of the run.
        timestamp_output_dir: Append ``_t_<time>_s_<seed>`` to ``output_dir``; done by
            the training scripts, once for all ranks.
        seed: Seed of the initial weights, the data order and the noise; the noise
            differs between ranks, the rest does not.
        save_freq: Write ``epoch_<k>`` every so many epochs, and after the first and
            the last one.
        save_freq_steps: Write ``step_<n>`` every so many update steps.
        log_freq: Log every so many update steps.
        eval_freq: Evaluate every so many epochs, and after the last one.
        eval_freq_steps: Evaluate every so many update steps instead.
        start_eval_epoch: First epoch that is evaluated.
        max_iter: Stop after so many update steps.
        pretrained_model_path: Weights to start from: file, folder or address.
        pretrained_weight_name: File to take from that folder or archive.
        resume_from_checkpoint: Checkpoint to continue, without suffix.
        compute_metric_during_train: Compute the metrics on training batches too.
        metric_strategy_during_eval: ``step``: mean of the metric of each batch,
            weighted by rows; ``epoch``: the metric of all rows together.
        eval_with_no_grad: False for models whose prediction is a derivative.
        sample_params_during_eval: When given, evaluation also calls
            ``model.sample(batch, **sample_params_during_eval)`` and gives its
            ``result`` to the streaming metrics.
        best_metric_indicator: Kind of the value that selects the ``best`` checkpoint;
            None writes none.
        name_for_best_metric: Its name among the losses or metrics.
        greater_is_better: Whether a larger value is better.
        early_stopping_patience: Stop after so many comparisons of that value without
            improvement.
        gradient_accumulation_steps: Micro-batches per update step.
        find_unused_parameters: For several processes: allow parameters that some
            losses do not depend on. False is a little faster and fails on such models.
        use_amp: Automatic mixed precision; Paddle has none on CPUs.
        amp_level: O1: per operation; O2: the weights as well.
        amp_dtype: Type to compute in; float16 comes with a loss scaler.
        ema_decay: Decay of an exponential average of the weights; 0 keeps none. The
            average is evaluated and saved in ``best.pdparams``.
        nan_policy: If a loss or gradient is not finite, stop with the ids of the batch
            (``raise``), or skip this update and count it (``skip``).
        use_visualdl: Write curves for VisualDL.
        use_tensorboard: Write curves for TensorBoard (tensorboardX).
        use_wandb: Write curves to WandB.
        wandb_config: Arguments of ``wandb.init``.
        out_dict: Names to show on the console, ``{loss: {train: [...], eval: [...]},
            metric: {...}}``; None shows all. Files always get all.
        log: ``{out_dict: ...}``, the older place of ``out_dict``.
    """

    max_epochs: int
    output_dir: str
    timestamp_output_dir: bool = False
    seed: int = 42
    save_freq: int = 0
    save_freq_steps: int | None = None
    log_freq: int = 10
    eval_freq: int = 1
    eval_freq_steps: int | None = None
    start_eval_epoch: int = 1
    max_iter: int | None = None
    pretrained_model_path: str | None = None
    pretrained_weight_name: str | None = None
    resume_from_checkpoint: str | None = None
    compute_metric_during_train: bool = False
    metric_strategy_during_eval: Literal["step", "epoch"] = "step"
    eval_with_no_grad: bool = True
    sample_params_during_eval: dict[str, Any] | None = None
    best_metric_indicator: (
        Literal["train_loss", "train_metric", "eval_loss", "eval_metric"] | None
    ) = None
    name_for_best_metric: str | None = None
    greater_is_better: bool = False
    early_stopping_patience: int = 0
    gradient_accumulation_steps: int = 1
    find_unused_parameters: bool = True
    use_amp: bool = False
    amp_level: Literal["O1", "O2"] = "O1"
    amp_dtype: Literal["float16", "bfloat16"] = "float16"
    ema_decay: float = 0.0
    nan_policy: Literal["raise", "skip"] = "raise"
    use_visualdl: bool = False
    use_tensorboard: bool = False
    use_wandb: bool = False
    wandb_config: dict[str, Any] | None = field(default_factory=dict)
    out_dict: dict[str, Any] | None = None
    log: dict[str, Any] | None = None

    @classmethod
    def from_dict(cls, config: Mapping, where: str = "Trainer") -> TrainerConfig:
        """Check a ``Trainer`` section and return it with its defaults.

        Raises:
            ConfigError: Unknown or missing key, or a value that cannot be.
        """
        if not isinstance(config, Mapping):
            raise ConfigError(
                f"{where}: expected a mapping of settings, got {config!r}"
            )
        params = {k: v for k, v in config.items() if k not in (CLASS_KEY, PARAMS_KEY)}
        check_call(cls, params, where)
        result = cls(**params)
        for name in ("max_epochs", "gradient_accumulation_steps"):
            if getattr(result, name) < 1:
                raise ConfigError(
                    f"{where}.{name}: wanted at least 1, got {getattr(result, name)}"
                )
        for item in dataclasses.fields(cls):
            value = getattr(result, item.name)
            if isinstance(value, int) and value < 0:
                raise ConfigError(f"{where}.{item.name}: wanted 0 or more, got {value}")
        if not 0.0 <= result.ema_decay < 1.0:
            raise ConfigError(
                f"{where}.ema_decay: wanted a number in [0, 1), got {result.ema_decay}"
            )
        if result.best_metric_indicator and not result.name_for_best_metric:
            raise ConfigError(
                f"{where}.name_for_best_metric: must be given with "
                "best_metric_indicator (for a loss usually 'loss')"
            )
        if result.early_stopping_patience and not result.best_metric_indicator:
            raise ConfigError(
                f"{where}.early_stopping_patience: needs best_metric_indicator and "
                "name_for_best_metric, the value to watch"
            )
        if result.out_dict is None and result.log is not None:
            result.out_dict = result.log.get("out_dict")
        return result
