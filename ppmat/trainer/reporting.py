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


"""Log lines, ``metrics.csv`` and curves of a run."""

from __future__ import annotations

import csv
import importlib
import os
from collections.abc import Mapping
from typing import Any

from ppmat.trainer.config import TrainerConfig
from ppmat.trainer.trainer_state import TrainerState
from ppmat.utils import logger
from ppmat.utils.files import make_folder
from ppmat.utils.files import replacing
from ppmat.utils.files import writing
from ppmat.utils.registry import ConfigError

_FIXED = ["stage", "epoch", "step"]
_WRITERS = {  # setting to package
    "use_visualdl": "visualdl",
    "use_tensorboard": "tensorboardX",
    "use_wandb": "wandb",
}


class MetricsFile:
    """``metrics.csv``: one row per logged step, epoch and evaluation of a run.

    Args:
        path: The file. A new run renames an existing one to ``metrics_<n>.csv``.
        keep_rows: Rows to keep of an earlier part of the same run; None for a new run.
    """

    def __init__(self, path: str, keep_rows: int | None = None) -> None:
        self.path = path
        self.columns = list(_FIXED)
        self.rows: list[dict[str, str]] = []
        make_folder(os.path.dirname(os.path.abspath(path)))
        if os.path.exists(path) and keep_rows is None:
            number = 1
            while os.path.exists(aside := f"{path[:-4]}_{number}.csv"):
                number += 1
            with writing(path):
                os.rename(path, aside)
            logger.message(f"Kept the metrics.csv of an earlier run as {aside}")
        elif os.path.exists(path):
            with open(path, newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self.rows = [row for row, _ in zip(reader, range(keep_rows))]
                self.columns = list(reader.fieldnames or _FIXED)
        self._rewrite()

    def _rewrite(self) -> None:
        with (
            replacing(self.path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; new columns are added to the right."""
        text = {k: repr(v) if isinstance(v, float) else str(v) for k, v in row.items()}
        self.rows.append(text)
        new = [name for name in text if name not in self.columns]
        if new:
            self.columns += new
            self._rewrite()
            return
        with (
            writing(self.path),
            open(self.path, "a", newline="", encoding="utf-8") as file,
        ):
            csv.DictWriter(file, self.columns, restval="").writerow(text)


class Reporter:
    """Writes the numbers of a run to the log, ``metrics.csv`` and curve viewers.

    Args:
        config: Settings of the run.
        is_master: Whether this process writes (rank 0).
    """

    def __init__(self, config: TrainerConfig, is_master: bool) -> None:
        self.config = config
        self.is_master = is_master
        self.file: MetricsFile | None = None
        self.writers: dict[str, Any] = {}
        for key, module in _WRITERS.items():
            if getattr(config, key) and is_master:
                self.writers[module] = self._open_writer(key, module)

    def _open_writer(self, key: str, module: str) -> Any:
        try:
            library = importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"Trainer.{key}: {module} is not installed. "
                f"`pip install {module}`, or set {key} to false"
            ) from error
        folder = self.config.output_dir
        if module == "visualdl":
            return library.LogWriter(os.path.join(folder, "vdl"))
        if module == "tensorboardX":
            return library.SummaryWriter(os.path.join(folder, "tensorboard"))
        return library.init(**(self.config.wandb_config or {}))

    def open_file(self, keep_rows: int | None = None) -> None:
        """Start ``metrics.csv``, or continue after ``keep_rows`` of its rows."""
        if self.is_master:
            path = os.path.join(self.config.output_dir, "metrics.csv")
            self.file = MetricsFile(path, keep_rows)

    @property
    def num_rows(self) -> int:
        """Rows of ``metrics.csv`` so far."""
        return len(self.file.rows) if self.file else 0

    def report(
        self,
        stage: str,
        state: TrainerState,
        values: Mapping[str, float],
        head: str,
    ) -> None:
        """Log, store and plot one set of numbers.

        Args:
            stage: ``train(step)``, ``train(epoch)``, ``eval(epoch)``, ...
            state: Counters of the run.
            values: Number by name; losses end with ``(loss)``, metrics ``(metric)``.
            head: Start of the log line.
        """
        shown = self._shown(values, stage.partition("(")[0])
        logger.info(" | ".join([head, *(f"{k}: {v:.6g}" for k, v in shown.items())]))
        if not self.is_master:
            return
        if self.file is not None:
            place = {"stage": stage, "epoch": state.epoch, "step": state.global_step}
            self.file.add(place | values)
        by_epoch = stage.endswith("(epoch)")
        logger.scalar(
            stage,
            dict(values),
            state.epoch if by_epoch else state.global_step,
            self.writers.get("visualdl"),
            # WandB has one step counter, which must not run backwards.
            None if by_epoch else self.writers.get("wandb"),
            self.writers.get("tensorboardX"),
        )

    def _shown(self, values: Mapping[str, float], stage: str) -> dict[str, float]:
        """Return the values that ``out_dict`` selects for the console."""
        if self.config.out_dict is None:
            return dict(values)
        shown = {}
        for kind in ("loss", "metric"):
            names = self.config.out_dict.get(kind)
            if isinstance(names, Mapping):
                names = names.get(stage)
            names = [names] if isinstance(names, str) else names
            for label, value in values.items():
                base, mark, _ = label.partition(f"({kind})")
                aliases = {base, f"{stage}_{base}", f"{stage}/{base}"}
                if stage == "eval":
                    aliases.add(f"val_{base}")
                if mark and (names is None or aliases & set(names)):
                    shown[label] = value
        return shown

    def close(self) -> None:
        """Flush the curve writers."""
        for name, writer in self.writers.items():
            writer.finish() if name == "wandb" else writer.close()
        self.writers = {}


def draw_loss_curve(output_dir: str) -> str | None:
    """Draw the losses of ``metrics.csv`` into ``loss_curve.png``.

    Returns:
        The path of the picture. None if there is nothing to draw, or (with a warning)
        if matplotlib is not installed.
    """
    source = os.path.join(output_dir, "metrics.csv")
    with open(source, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    label = "loss(loss)"
    stages = ("train(step)", "train(epoch)", "eval(step)", "eval(epoch)")
    curves: dict[str, list] = {stage: [] for stage in stages}
    for row in rows:
        if row["stage"] in curves and row.get(label):
            curves[row["stage"]].append((int(row["step"]), float(row[label])))
    curves = {stage: points for stage, points in curves.items() if points}
    if not curves:
        return None
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        logger.warning("matplotlib is not installed: no loss_curve.png")
        return None
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for stage, points in curves.items():
        thin = stage == "train(step)"
        axes.plot(
            *zip(*points),
            label=stage,
            linewidth=0.6 if thin else 1.6,
            alpha=0.5 if thin else 1.0,
            marker="." if len(points) < 30 and not thin else None,
        )
    if all(value > 0 for points in curves.values() for _, value in points):
        axes.set_yscale("log")
    axes.set_xlabel("update step")
    axes.set_ylabel("loss")
    axes.legend()
    path = os.path.join(output_dir, "loss_curve.png")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
    return path
