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


"""Make the reference records of this folder with genuine torch and PyG.

Needs ``pip install torch==2.13.0 torch_geometric numpy`` and, for PyG 1.x, the
unpacked source of ``torch_geometric==1.7.2`` (``pip download --no-deps --no-binary
:all:``), whose compiled companions are not needed to pickle a ``Data``:

    python make_pyg_genuine.py new .
    python make_pyg_genuine.py old . path/to/torch_geometric-1.7.2
    python make_pyg_genuine.py checkpoint .
"""

import pickle
import sys
import types
from pathlib import Path
from unittest import mock

import numpy as np
import torch

DTYPES = (
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool "
    "complex64 complex128 uint16 uint32 uint64"
).split()


def data_class(source):
    """Return PyG's ``Data``: the installed one, or the one of an unpacked 1.x tree."""
    if source is None:
        from torch_geometric.data import Data

        return Data
    for name in ("torch_sparse", "torch_geometric.utils"):
        sys.modules[name] = mock.MagicMock()
    for name in ("torch_geometric", "torch_geometric.data"):
        module = types.ModuleType(name)
        module.__path__ = [str(Path(source) / name.replace(".", "/"))]
        sys.modules[name] = module
    utils = types.ModuleType("torch_geometric.utils")
    utils.__path__ = [str(Path(source) / "torch_geometric/utils")]
    for name in (
        "contains_isolated_nodes",
        "contains_self_loops",
        "is_undirected",
    ):
        setattr(utils, name, None)
    sys.modules["torch_geometric.utils"] = utils
    sys.modules["torch_geometric"].is_debug_enabled = lambda: False
    from torch_geometric.data.data import Data

    return Data


def fields():
    """Return the fields of the record: tensors, views, numbers, text, None."""
    torch.manual_seed(0)
    out = {"pos": torch.randn(4, 3), "cell": torch.eye(3).reshape(1, 3, 3) * 7}
    for name in DTYPES:
        # 300 elements, so that the length is a two-byte integer in the file.
        values = torch.arange(300) % 100
        out[f"of_{name}"] = values.to(getattr(torch, name))
    base = torch.arange(60, dtype=torch.int32).reshape(5, 12)
    out["view_offset"] = base[1:4, 2:7]
    out["view_transposed"] = base.t()
    out["view_strided"] = base[::2, ::3]
    out["view_expanded"] = torch.arange(3.0).reshape(3, 1).expand(3, 5)
    out["scalar"] = torch.tensor(2.5)
    out["empty"] = torch.empty(0, 3)
    out["large"] = torch.zeros(70_000, dtype=torch.uint8)  # four-byte length
    out["parameter"] = torch.nn.Parameter(torch.ones(2))
    out["sid"] = 123456
    out["big_integer"] = 2**40
    out["negative"] = -3
    out["energy"] = -1.25
    out["name"] = "Å"
    out["flag"] = True
    out["nothing"] = None
    out["numbers"] = [1, 2.5]
    out["numpy_array"] = np.arange(6, dtype=">i4").reshape(2, 3)
    out["numpy_fortran"] = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    out["numpy_scalar"] = np.float32(0.5)
    return out


def as_numpy(value):
    if isinstance(value, torch.Tensor):
        value = value.detach()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return np.asarray(value)


def write_checkpoint(folder):
    """Write the state dict of a small network as ``torch.save`` does today."""
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    state = layers.state_dict()
    state["half"] = torch.ones(3, dtype=torch.bfloat16)
    state["tied"] = state["0.weight"].t()
    torch.save(state, folder / "torch_state_dict.pth")
    truth = {name: as_numpy(value) for name, value in state.items()}
    np.savez_compressed(folder / "torch_state_dict_truth.npz", **truth)


def main():
    generation, folder = sys.argv[1], Path(sys.argv[2])
    if generation == "checkpoint":
        write_checkpoint(folder)
        return
    data = data_class(sys.argv[3] if generation == "old" else None)()
    values = fields()
    for name, value in values.items():
        setattr(data, name, value)
    protocol = 4 if generation == "old" else 5
    path = folder / f"pyg_{generation}_genuine.pkl"
    path.write_bytes(pickle.dumps(data, protocol=protocol))
    truth = {k: as_numpy(v) for k, v in values.items() if v is not None}
    np.savez_compressed(folder / "pyg_genuine_truth.npz", **truth)


if __name__ == "__main__":
    main()
