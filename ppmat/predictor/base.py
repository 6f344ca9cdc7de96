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

"""Base class of all predictors: load a model and run it on a batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import paddle

from ppmat.datasets.transform import build_post_transforms
from ppmat.models import build_graph_converter
from ppmat.models import build_trained_model
from ppmat.utils.download import is_url
from ppmat.utils.misc import choose_device

PathLike = str | os.PathLike[str]


class BasePredictor:
    """A trained model, given by its registered name, or by its YAML and weights.

    The constructor only stores its arguments; :meth:`load_inference_model` loads.

    Args:
        model_name: A registered model; excludes ``config_path``.
        weights_name: File of the weights in the package of a registered model.
        config_path: YAML of another model.
        checkpoint_path: Its weights; None takes ``Predict.checkpoint_path``.
        work_dir: Folder of relative ``config_path`` and ``checkpoint_path``; None takes
            the current folder.
        device: ``"cpu"``, ``"gpu"``, ``"gpu:0"``; None takes Paddle's default.
        config_overrides: ``KEY=VALUE`` with a dotted key.
    """

    def __init__(
        self,
        model_name: str | None = None,
        weights_name: str | None = None,
        config_path: PathLike | None = None,
        checkpoint_path: PathLike | None = None,
        work_dir: PathLike | None = None,
        device: str | None = None,
        config_overrides: Sequence[str] | None = None,
    ) -> None:
        self.work_dir = os.fspath(work_dir or "")
        self.model_name = model_name
        self.weights_name = weights_name
        self.config_path = self._below_work_dir(config_path)
        self.checkpoint_path = self._below_work_dir(checkpoint_path)
        self.device = device
        self.config_overrides = config_overrides

    def _below_work_dir(self, path: PathLike | None) -> str | None:
        if path is None or is_url(path):
            return path
        return os.path.join(self.work_dir, os.fspath(path))

    def load_inference_model(self) -> None:
        """Load the model, its weights, and the objects of the section ``Predict``.

        Sets ``model``, ``config``, ``predict_config``, ``graph_converter_fn``,
        ``post_transforms``, ``eval_with_no_grad`` and ``device``.

        Raises:
            ConfigError: See :func:`ppmat.models.build_trained_model`.
            CheckpointError: The weights cannot be read or belong to another model.
        """
        choose_device(self.device)
        self.device = paddle.get_device()
        self.model, self.config = build_trained_model(
            self.model_name,
            self.weights_name,
            self.config_path,
            self.checkpoint_path,
            self.config_overrides,
        )
        self.predict_config = self.config.get("Predict") or {}
        self.eval_with_no_grad = self.predict_config.get("eval_with_no_grad", True)
        self.graph_converter_fn = build_graph_converter(
            self.predict_config.get("graph_converter"), "Predict.graph_converter"
        )
        self.post_transforms = build_post_transforms(
            self.predict_config.get("post_transforms"), "Predict.post_transforms"
        )

    def graph_converter(self, structure: Any) -> Any:
        """Return the graph of a structure; without a converter the structure itself."""
        if self.graph_converter_fn is None:
            return structure
        return self.graph_converter_fn(structure)

    def post_process(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return a model output after ``Predict.post_transforms``."""
        return data if self.post_transforms is None else self.post_transforms(data)

    def run_model(self, batch: dict[str, Any], model: Any = None) -> dict[str, Any]:
        """Return ``model.predict(batch)`` after the post transforms.

        Args:
            batch: The model input.
            model: Another model than ``self.model``, for instance of an ensemble.
        """
        with paddle.set_grad_enabled(not self.eval_with_no_grad):
            output = (model or self.model).predict(batch)
        return self.post_process(output)
