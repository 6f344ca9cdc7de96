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


"""Write genuine ``torch.save`` files of both forms and what is in them.

Run with a Python that has torch 2.13 (no Paddle), from the root::

    git clone https://github.com/HeasonLee/SFIN authors
    OMP_NUM_THREADS=1 python test/data/make_torch_checkpoints.py authors

- ``torch_run.pth``, ``torch_run_legacy.pth``: what a training loop keeps: weights of a
  ``DataParallel`` network, optimizer, schedule, loss, arguments; weights in
  ``torch_run_truth.npz``.
- ``torch_kinds.pth``, ``torch_kinds_legacy.pth``: a bare dict with each dtype, views
  that share a storage, a parameter; values in ``torch_kinds_truth.npz``.
- ``torch_sfin.pth``: the authors' network with 4 channels and 1 block, saved under the
  names their demonstration script reads; an image [1, 1, 17, 24] and the network's
  output in ``torch_sfin_truth.npz``.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from benchmarks import sfin_authors  # noqa: E402

DTYPES = (
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool "
    "complex64 complex128 uint16"
).split()


def as_numpy(values):
    """Return the tensors as arrays; bfloat16, which numpy lacks, as float32."""
    arrays = {}
    for name, value in values.items():
        value = value.detach()
        value = value.float() if value.dtype == torch.bfloat16 else value
        arrays[name] = value.numpy()
    return arrays


def run_of_training():
    """Return what a script saves, and the weights in it."""
    torch.manual_seed(0)
    layers = (torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten())
    network = torch.nn.Sequential(*layers, torch.nn.Linear(2, 3))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4])
    loss = network(torch.randn(4, 1, 3, 3)).square().mean()
    loss.backward()
    optimizer.step()
    schedule.step()
    parallel = torch.nn.DataParallel(network)
    saved = {
        "epoch": 500,
        "model_state_dict": parallel.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler": schedule.state_dict(),
        "loss": loss,
        "criterion": torch.nn.L1Loss(),
        "best": np.float64(31.5),
        "history": [1.0, 0.5],
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "args": argparse.Namespace(lr=1e-3, data=Path("train"), amp=False, tag=None),
    }
    return saved, network.state_dict()


def kinds():
    """Return tensors of each dtype and views, some of one storage."""
    values = {name: torch.arange(6).to(getattr(torch, name)) for name in DTYPES}
    base = torch.arange(40, dtype=torch.float32).reshape(5, 8)
    values["view_rows"] = base[1:4, 2:7]
    values["view_transposed"] = base.t()
    values["view_strided"] = base[::2, ::3]
    values["view_expanded"] = torch.arange(3.0).reshape(3, 1).expand(3, 5)
    values["tied"] = values["view_rows"]
    values["channels_last"] = (
        torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    )
    values["number"] = torch.tensor(2.5)
    values["empty"] = torch.empty(0, 3)
    values["parameter"] = torch.nn.Parameter(torch.ones(2))
    values["Ångström"] = torch.tensor([1, 2])
    return values


def save_both(saved, name, truth):
    """Write the zip form, the legacy form and the values."""
    torch.save(saved, HERE / f"{name}.pth")
    saved = {k: v for k, v in saved.items() if k != "criterion"}  # PyTorch's source
    torch.save(saved, HERE / f"{name}_legacy.pth", _use_new_zipfile_serialization=False)
    np.savez_compressed(HERE / f"{name}_truth.npz", **as_numpy(truth))


def save_authors_network(authors):
    """Write weights of the authors' network, an image and its enhancement."""
    torch.manual_seed(0)
    network = sfin_authors.load(authors, "sfin", ch=4, n_blocks=1).SFIN()
    sfin_authors.trained_like(network, seed=1)
    parallel = torch.nn.DataParallel(network)
    saved = {"epoch": 500, "model_state_dict": parallel.state_dict()}
    torch.save(saved, HERE / "torch_sfin.pth")
    image = sfin_authors.pictures(1, 17, 24, seed=5)
    with torch.no_grad():
        output = network(torch.from_numpy(image)).numpy()
    np.savez_compressed(HERE / "torch_sfin_truth.npz", image=image, output=output)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("authors", type=Path, help="clone of HeasonLee/SFIN")
    args = parser.parse_args()
    saved, weights = run_of_training()
    save_both(saved, "torch_run", weights)
    values = kinds()
    save_both(values, "torch_kinds", values)
    save_authors_network(args.authors)


if __name__ == "__main__":
    main()
