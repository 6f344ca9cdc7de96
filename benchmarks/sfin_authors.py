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


"""The authors' image network in PyTorch, loaded from their files, for comparisons.

Their code is not part of this project: ``git clone https://github.com/HeasonLee/SFIN``
and give the folder. The file needs a Python with torch and pytorch_msssim, not Paddle.
Packages that their files import but do not use (kornia, ptflops, torchvision) need not
be installed.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

UNUSED = {
    "kornia.geometry.transform": ("rotate",),
    "ptflops": ("get_model_complexity_info",),
    "torchvision.transforms": ("ToTensor",),
}


def load(folder: Path, name: str, **settings: int) -> ModuleType:
    """Return a module of theirs, with its global settings replaced.

    Args:
        folder: Their repository.
        name: ``sfin`` or ``metrics``.
        **settings: New values, as ``ch=8``.

    Raises:
        SystemExit: The file does not exist, or has no such setting.
    """
    path = folder / f"{name}.py"
    if not path.is_file():
        raise SystemExit(f"{path} does not exist; wanted a clone of HeasonLee/SFIN")
    for full, names in UNUSED.items():
        try:
            importlib.import_module(full)
        except ImportError:
            parts = full.split(".")
            for end in range(1, len(parts) + 1):
                sys.modules.setdefault(
                    ".".join(parts[:end]), ModuleType(".".join(parts[:end]))
                )
            for unused in names:
                setattr(sys.modules[full], unused, None)
    spec = importlib.util.spec_from_file_location(f"authors_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for setting, value in settings.items():
        if not hasattr(module, setting):
            raise SystemExit(f"{path} has no setting '{setting}'")
        setattr(module, setting, value)
    return module


def picture(
    height: int, width: int, rng: np.random.Generator, noise: float = 25.0
) -> np.ndarray:
    """Return a lattice in whole grey levels, [H, W] float32 in 0..255.

    Args:
        height: H, pixels.
        width: W, pixels.
        rng: Source of period, direction and noise.
        noise: Standard deviation of the noise of each pixel, grey levels.
    """
    y, x = np.mgrid[:height, :width]
    period, angle = rng.uniform(5, 9), rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    lattice = np.cos(2 * np.pi * along / period) + np.cos(2 * np.pi * across / period)
    grey = 90 + 45 * lattice + rng.normal(0, noise, (height, width))
    return np.clip(np.rint(grey), 0, 255).astype(np.float32)


def pictures(count: int, height: int, width: int, seed: int) -> np.ndarray:
    """Return several pictures, [N, 1, H, W]."""
    rng = np.random.default_rng(seed)
    return np.stack([picture(height, width, rng)[None] for _ in range(count)])


def trained_like(network: torch.nn.Module, seed: int) -> None:
    """Give the BatchNorms factors and shifts of both signs, and statistics of images.

    Means and variances are those of a few batches of pictures passing through, so
    that activations have the size that they have in a trained network.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        shape = norm.weight.shape
        norm.weight.data = torch.empty(shape).normal_(0.6, 0.6, generator=generator)
        norm.bias.data = torch.empty(shape).normal_(0.0, 0.5, generator=generator)
        norm.momentum = None
    network.train()
    with torch.no_grad():
        for batch in range(4):
            network(torch.from_numpy(pictures(4, 64, 64, seed + batch)))
    for norm in norms:
        norm.momentum = 0.1
    network.eval()


@contextmanager
def precision(dtype: str) -> Iterator[torch.dtype]:
    """Compute in ``float32`` or ``float64`` throughout.

    Their ramps have the default type; otherwise a network in float64 would have ramps
    that are rounded to float32.
    """
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        yield getattr(torch, dtype)
    finally:
        torch.set_default_dtype(torch.float32)


def weights(network: torch.nn.Module, prefix: str = "") -> dict[str, np.ndarray]:
    """Return parameters and statistics under their PyTorch names."""
    return {
        prefix + name: value.detach().numpy().copy()
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def fill(network: torch.nn.Module, values: dict[str, np.ndarray]) -> torch.nn.Module:
    """Set what :func:`weights` returned; return the network."""
    found = {name: torch.from_numpy(value) for name, value in values.items()}
    for name, value in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            found[name] = value
    network.load_state_dict(found)
    return network


def train(
    network: torch.nn.Module,
    noisy: np.ndarray,
    target: np.ndarray,
    dtype: torch.dtype,
    epochs: int,
    batch_size: int,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Train as the paper does: L1, Adam at 2e-4, batches in order.

    Returns:
        The loss of each step, and the gradients of the first step by parameter.
    """
    network = network.to(dtype).train()
    noisy, target = (torch.from_numpy(x).to(dtype) for x in (noisy, target))
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4)
    losses, gradients = [], {}
    for _ in range(epochs):
        for start in range(0, len(noisy), batch_size):
            here = slice(start, start + batch_size)
            optimizer.zero_grad()
            loss = torch.nn.functional.l1_loss(network(noisy[here]), target[here])
            loss.backward()
            if not gradients:
                gradients = {
                    name: p.grad.numpy().copy()
                    for name, p in network.named_parameters()
                }
            optimizer.step()
            losses.append(loss.item())
    return np.array(losses), gradients


def scores(
    metrics: ModuleType, predicted: np.ndarray, true: np.ndarray
) -> dict[str, float]:
    """Score one image [H, W] as their demo and their script do it.

    The demo clips, casts to bytes and saves; the script reads and scores.

    Returns:
        ``psnr``, ``ssim``, and ``ssim64``: the same function in double precision.
    """
    written = torch.from_numpy(predicted)[None, None].clip(0, 255).byte().float()
    label = torch.from_numpy(true)[None, None].float()
    return {
        "psnr": metrics.calc_psnr(label, written),
        "ssim": metrics.calc_ssim(label, written),
        "ssim64": metrics.calc_ssim(label.double(), written.double()),
    }
