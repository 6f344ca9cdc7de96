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

"""Weights saved by ``torch.save``, as numpy arrays, without torch and Paddle.

Both forms of :mod:`ppmat.utils.torch_container` are read. Nothing in a file is run:
:mod:`ppmat.utils.restricted_pickle` decodes the pickle with a closed list of globals.
Only the tensors of the weights are built, one storage at a time. Reading therefore
needs little more memory than the weights; an optimizer's state in the same file needs
none.

The command ``python -m ppmat.commands.convert_checkpoint`` writes them for Paddle.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Collection
from collections.abc import Mapping
from typing import Any

import numpy as np

from ppmat.utils.errors import InputError
from ppmat.utils.files import replacing
from ppmat.utils.restricted_pickle import Budget
from ppmat.utils.restricted_pickle import RestrictedPickleError
from ppmat.utils.torch_container import DAMAGED
from ppmat.utils.torch_container import RESAVE
from ppmat.utils.torch_container import ContainerError
from ppmat.utils.torch_container import LazyTensor
from ppmat.utils.torch_container import Reader
from ppmat.utils.torch_container import open_checkpoint

SUFFIXES = (".pth", ".pt", ".pth.tar", ".bin")
WRAPPERS = ("model_state_dict", "state_dict", "model")  # usual keys of the weights

# What DataParallel puts before all names, once for each time it was applied.
_PREFIX = re.compile(r"(?:module\.(?=.))*", re.DOTALL)
# Paddle's own key in saved state dicts; with it a file is one of Paddle's.
_NAME_TABLE = "StructuredToParameterName@@"


class TorchCheckpointError(InputError):
    """A file that is no readable PyTorch checkpoint, or holds no weights."""


def _is_weights(value: Any) -> bool:
    return type(value) is dict and any(
        type(item) in (LazyTensor, np.ndarray) for item in value.values()
    )


def shortened_list(names: Collection[Any]) -> str:
    """Return the first eight names, separated by commas."""
    shown = [str(name)[:40] for name in list(names)[:8]]
    return ", ".join(shown) + (", ..." if len(names) > 8 else "")


def _choose(value: Any, key: str | None) -> dict[Any, Any]:
    """Return the dict of weights of the saved object."""
    if type(value) is not dict:
        raise ContainerError(
            f"it holds a {type(value).__name__}, not a dict of weights. {RESAVE}"
        )
    # Each object once: a small file can name a large one many times.
    weights = {
        id(v): _is_weights(v) for v in {id(v): v for v in value.values()}.values()
    }
    inner = [k for k, v in value.items() if type(k) is str and weights[id(v)]]
    if key is not None:
        if key not in inner:
            raise ContainerError(
                f"no weights under the key {key!r}; keys with tensors: "
                f"{shortened_list(inner) or 'none'}"
            )
        return value[key]
    known = [k for k in WRAPPERS if k in inner]
    if len(known) == 1:
        return value[known[0]]
    if keys := known or inner:
        raise ContainerError(
            f"several keys may hold the weights: {shortened_list(keys)}. Choose one: "
            f"load(path, key={keys[0]!r}), --key of the command"
        )
    if _is_weights(value):
        return value
    raise ContainerError(
        f"no weights, but {shortened_list(value) or 'nothing'}. {RESAVE}"
    )


def _check_names(weights: dict[Any, Any]) -> dict[str, Any]:
    """Check names and kinds; remove the prefix of ``DataParallel``."""
    for name, value in weights.items():
        if type(name) is not str or not name:
            raise ContainerError(f"a weight is named {str(name)[:40]!r}, wanted a text")
        if type(value) not in (LazyTensor, np.ndarray):
            raise ContainerError(
                f"{name[:80]!r} is a {type(value).__name__}, not a tensor. {RESAVE}"
            )
    depth = min(len(_PREFIX.match(name)[0]) for name in weights)
    return {name[depth:]: value for name, value in weights.items()}


def _build(weights: dict[str, Any], read: Reader, size: int) -> dict[str, np.ndarray]:
    """Build the tensors, storage by storage, in the order of ``weights``."""
    # Tied weights are stored once and copied for each name.
    budget = Budget(4 * size + (1 << 20))
    result: dict[str, Any] = dict.fromkeys(weights)
    by_storage: dict[str, list[str]] = {}
    for name, value in weights.items():
        if type(value) is np.ndarray:
            budget.take(value.nbytes, "an array")
            result[name] = np.array(value, value.dtype.newbyteorder("="), order="C")
        else:
            by_storage.setdefault(value.stored.pid.key, []).append(name)
    for names in by_storage.values():
        elements = read(weights[names[0]].stored.pid)
        for name in names:
            try:
                result[name] = weights[name].build(budget, elements)
            except (TypeError, ValueError, MemoryError, OverflowError) as error:
                raise ContainerError(
                    f"the tensor {name[:80]!r}: {error}. {DAMAGED}"
                ) from error
    return result


def load(path: str, key: str | None = None) -> dict[str, np.ndarray]:
    """Read the weights of a file written by ``torch.save``.

    The weights are the whole file, or have the key ``model_state_dict``, ``state_dict``
    or ``model`` beside other things, which are not built. The prefix ``module.`` of
    ``DataParallel`` is removed when all names have it.

    Args:
        path: The file.
        key: Key of the weights, if it is another one or several fit.

    Returns:
        Name to array, in the file's order and dtype, each array owned and writable.
        bfloat16, which numpy lacks, becomes float32 (exact).

    Raises:
        TorchCheckpointError: The file cannot be read, is damaged or hostile, or holds
            no weights.
    """
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            value, read = open_checkpoint(file)
            weights = _check_names(_choose(value, key))
            return _build(weights, read, os.fstat(file.fileno()).st_size)
    except ContainerError as error:
        text, cause = str(error), error
    except RestrictedPickleError as error:
        text = f"{error}. If the file may be incomplete, fetch it again. {RESAVE}"
        cause = error
    except OSError as error:
        text, cause = f"cannot be read: {error.strerror or error}", error
    raise TorchCheckpointError(f"{path}: {text}") from cause


def to_paddle(
    weights: Mapping[str, np.ndarray], linear: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Translate names and layouts of PyTorch to those of Paddle.

    ``running_mean`` and ``running_var`` of batch normalisation become ``_mean`` and
    ``_variance``; ``num_batches_tracked`` is left out. The weight of a linear layer is
    transposed: ``[out, in]`` in PyTorch, ``[in, out]`` in Paddle.

    Args:
        weights: Result of :func:`load`.
        linear: Paddle's names of the weights of linear layers. The weight of an
            embedding is two-dimensional as well and stays as it is.

    Raises:
        TorchCheckpointError: Two weights get one name, or Paddle lacks a dtype.

    Example:
        >>> weights = {"fc.weight": np.zeros([5, 3]), "bn.running_mean": np.zeros(5)}
        >>> {k: v.shape for k, v in to_paddle(weights, ["fc.weight"]).items()}
        {'fc.weight': (3, 5), 'bn._mean': (5,)}
    """
    result: dict[str, np.ndarray] = {}
    for name, array in weights.items():
        parent, dot, last = name.rpartition(".")
        if last == "num_batches_tracked":
            continue
        last = {"running_mean": "_mean", "running_var": "_variance"}.get(last, last)
        new = parent + dot + last
        if new in result:
            raise TorchCheckpointError(f"two weights would be called {new!r} in Paddle")
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            raise TorchCheckpointError(f"{name!r} is {array.dtype}, which Paddle lacks")
        if new in linear and array.ndim == 2:
            array = np.ascontiguousarray(array.T)
        result[new] = array
    return result


def write_pdparams(
    path: str, weights: Mapping[str, np.ndarray], force: bool = False
) -> None:
    """Write weights as ``paddle.save`` does, completely or not at all.

    Args:
        path: The file, ``<name>.pdparams``, in an existing folder.
        weights: Array by Paddle's name.
        force: Replace an existing file.

    Raises:
        TorchCheckpointError: Another suffix, or an existing file.
        InputError: The write failed; an existing file is as it was.
    """
    if not path.endswith(".pdparams"):
        raise TorchCheckpointError(f"output {path}: wanted a name ending in .pdparams")
    if os.path.exists(path) and not force:
        raise TorchCheckpointError(f"{path} exists already; --force replaces it")
    if _NAME_TABLE in weights:
        raise TorchCheckpointError(f"a weight is called {_NAME_TABLE!r}")
    content = {**weights, _NAME_TABLE: {name: name for name in weights}}
    with replacing(path) as temporary, open(temporary, "wb") as file:
        pickle.dump(content, file, protocol=4)
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    raise SystemExit(
        "this command has moved: python -m ppmat.commands.convert_checkpoint"
    )
