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
    """Counters of a run, saved in every checkpoint. A step is an update step."""

    epoch: int = 0  # the current one, or the last one finished; from 1
    global_step: int = 0
    step_in_train_epoch: int = 0
    step_in_eval_epoch: int = 0  # batches of this evaluation
    max_steps_in_train_epoch: int = 0
    max_steps_in_eval_epoch: int = 0
    cur_metric: float | None = None  # last value of the metric that selects ``best``
    best_metric: float | None = None  # its best value
    best_epoch: int | None = None  # the epoch of that value
    epoch_finished: bool = True  # evaluation and schedule of ``epoch`` are done
    looks_without_improvement: int = 0  # comparisons since the best value
    skipped_steps: int = 0  # because of a value that is not finite
    log_rows: int = 0  # rows of ``metrics.csv`` written so far

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
