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

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from typing import Annotated
from typing import Any
from typing import Literal

from ppmat.utils.ranges import Range
from ppmat.utils.registry import CLASS_KEY
from ppmat.utils.registry import PARAMS_KEY
from ppmat.utils.registry import ConfigError
from ppmat.utils.registry import check_call

# More epochs or steps than a run can take
_Count = Annotated[int, Range(0, 10**9)]
_OneOrMore = Annotated[int, Range(1, 10**9)]


@dataclass
class TrainerConfig:
    """Settings of a training run. In all frequencies 0 means off."""

    max_epochs: _OneOrMore
    output_dir: str  # folder of the run
    # Append ``_t_<time>_s_<seed>`` to output_dir; the training command does so, once
    timestamp_output_dir: bool = False
    # Of initial weights, data order and noise; only the noise differs between ranks
    seed: Annotated[int, Range(0, 2**32 - 1)] = 42
    save_freq: _Count = 0  # epochs between ``epoch_<k>``; the first and the last too
    save_freq_steps: _Count | None = None  # update steps between ``step_<n>``
    log_freq: _Count = 10  # update steps between log lines
    eval_freq: _Count = 1  # epochs between evaluations; the last epoch too
    eval_freq_steps: _Count | None = None  # or update steps between evaluations
    start_eval_epoch: _Count = 1  # first epoch that is evaluated
    max_iter: _Count | None = None  # update steps after which the run stops
    pretrained_model_path: str | None = None  # first weights: file, folder or address
    pretrained_weight_name: str | None = None  # file in that folder or archive
    # Beginnings of names that are not loaded from it. A training adds the counters of
    # the one before, and its statistics if the configuration has others
    pretrained_exclude: list[str] | None = None
    resume_from_checkpoint: str | None = None  # without suffix
    compute_metric_during_train: bool = False  # metrics of training batches too
    # step: mean of each batch's metric, weighted by rows; epoch: of all rows together
    metric_strategy_during_eval: Literal["step", "epoch"] = "step"
    eval_with_no_grad: bool = True  # False if a prediction is a derivative
    # If given, evaluation also calls ``model.sample(batch, **these)`` and gives its
    # ``result`` to the streaming metrics
    sample_params_during_eval: dict[str, Any] | None = None
    # Kind of the value that selects the ``best`` checkpoint; None writes none
    best_metric_indicator: (
        Literal["train_loss", "train_metric", "eval_loss", "eval_metric"] | None
    ) = None
    name_for_best_metric: str | None = None  # among the losses or metrics
    greater_is_better: bool = False
    early_stopping_patience: _Count = 0  # comparisons without improvement, then stop
    gradient_accumulation_steps: _OneOrMore = 1  # micro-batches of an update step
    # For several processes: allow parameters that some losses do not depend on. False
    # is a little faster and fails on such models
    find_unused_parameters: bool = True
    # Several processes: each keeps the optimizer's state of all parameters, or, with
    # Zero1, of a part of them
    strategy: Literal["DDP", "Zero1"] = "DDP"
    use_amp: bool = False  # automatic mixed precision; Paddle has none on CPUs
    amp_level: Literal["O1", "O2"] = "O1"  # O1: per operation; O2: the weights as well
    amp_dtype: Literal["float16", "bfloat16"] = "float16"  # float16 has a loss scaler
    # Decay of an exponential average of the weights, which is evaluated and saved in
    # ``best.pdparams``; 0 keeps none
    ema_decay: Annotated[float, Range(0, below=1)] = 0.0
    # If a loss or gradient is not finite: stop with the ids of the batch, or skip the
    # update and count it
    nan_policy: Literal["raise", "skip"] = "raise"
    use_visualdl: bool = False  # write curves
    use_tensorboard: bool = False  # likewise, with tensorboardX
    use_wandb: bool = False
    wandb_config: dict[str, Any] | None = field(default_factory=dict)  # of wandb.init
    # Names shown on the console, ``{loss: {train: [...], eval: [...]}, metric:
    # {...}}``; None shows all. Files always get all
    out_dict: dict[str, Any] | None = None
    log: dict[str, Any] | None = None  # ``{out_dict: ...}``, its older place

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
