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


"""Counters of a training run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass
class TrainerState:
    """Counters of a run, saved in every checkpoint. A step is an update step.

    Args:
        epoch: The current epoch, or the last one finished; from 1.
        global_step: Steps of the run.
        step_in_train_epoch: Steps of this epoch.
        step_in_eval_epoch: Batches of this evaluation.
        max_steps_in_train_epoch: Steps an epoch has.
        max_steps_in_eval_epoch: Batches an evaluation has.
        cur_metric: Last value of the metric that selects ``best``.
        best_metric: Its best value.
        best_epoch: The epoch of that value.
        epoch_finished: Whether evaluation and schedule of ``epoch`` are done.
        looks_without_improvement: Comparisons since the best value (early stopping).
        skipped_steps: Updates skipped because of a value that is not finite.
        log_rows: Rows of ``metrics.csv`` written so far.
    """

    epoch: int = 0
    global_step: int = 0
    step_in_train_epoch: int = 0
    step_in_eval_epoch: int = 0
    max_steps_in_train_epoch: int = 0
    max_steps_in_eval_epoch: int = 0
    cur_metric: float | None = None
    best_metric: float | None = None
    best_epoch: int | None = None
    epoch_finished: bool = True
    looks_without_improvement: int = 0
    skipped_steps: int = 0
    log_rows: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the counters as a dict."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, dict_data: dict[str, Any]) -> TrainerState:
        """Return the counters in the content of a ``.pdstates`` file.

        A file of upstream's trainer has fewer keys. Whether it was written inside an
        epoch follows from its step count.
        """
        names = {item.name for item in dataclasses.fields(cls)}
        state = cls(**{k: v for k, v in dict_data.items() if k in names})
        if "epoch_finished" not in dict_data:
            state.epoch_finished = (
                state.step_in_train_epoch >= state.max_steps_in_train_epoch
            )
        return state
