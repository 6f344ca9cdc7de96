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


"""Weights saved by ``torch.save``, as numpy arrays, without torch.

Both forms are read: the zip archive of PyTorch 1.6 and later (``<name>/data.pkl``,
``<name>/data/<key>``, ...), and the stream before it (five pickles, then the raw
storages). Nothing in a file is run: the pickle goes through
:mod:`ppmat.utils.restricted_pickle` with a closed list of globals. Only the tensors
among the weights are built, one storage at a time, so that reading costs little more
than the weights themselves and the state of an optimizer beside them costs nothing.

As a command::

    python -m ppmat.utils.torch_checkpoint in.pth out.pdparams
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import math
import os
import pickle
import sys
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from ppmat.utils.errors import InputError
from ppmat.utils.restricted_pickle import Budget
from ppmat.utils.restricted_pickle import RestrictedPickleError
from ppmat.utils.torch_container import DAMAGED
from ppmat.utils.torch_container import RESAVE
from ppmat.utils.torch_container import ContainerError
from ppmat.utils.torch_container import LazyTensor
from ppmat.utils.torch_container import Reader
from ppmat.utils.torch_container import open_checkpoint

__all__ = ["SUFFIXES", "TorchCheckpointError", "load", "to_paddle"]

SUFFIXES = (".pth", ".pt", ".pth.tar", ".bin")
WRAPPERS = ("model_state_dict", "state_dict", "model")

_NAME_TABLE = "StructuredToParameterName@@"  # Paddle's own key in saved state dicts


class TorchCheckpointError(InputError):
    """A file that is no readable PyTorch checkpoint, or holds no weights.

    The text names the file, what was found and what to do.
    """


# From the object to named arrays ---------------------------------------------------


def _is_weights(value: Any) -> bool:
    return (
        type(value) is dict
        and len(value) > 0
        and any(type(item) in (LazyTensor, np.ndarray) for item in value.values())
    )


def _listed(names: Collection[Any]) -> str:
    shown = [str(name)[:40] for name in list(names)[:8]]
    return ", ".join(shown) + (", ..." if len(names) > 8 else "")


def _choose(value: Any, key: str | None) -> dict[Any, Any]:
    """Return the dict of weights of the saved object."""
    if type(value) is not dict:
        raise ContainerError(
            f"it holds a {type(value).__name__}, no dict of weights. {RESAVE}"
        )
    inner = [k for k, v in value.items() if type(k) is str and _is_weights(v)]
    if key is not None:
        if key not in inner:
            raise ContainerError(
                f"no weights under the key {key!r}; entries with tensors: "
                f"{_listed(inner) or 'none'}"
            )
        return value[key]
    known = [k for k in WRAPPERS if k in inner]
    if len(known) == 1:
        return value[known[0]]
    if inner:
        raise ContainerError(
            f"no telling which entry has the weights: {_listed(known or inner)}. Name "
            f"it: load(path, key={(known or inner)[0]!r}), --key of the command"
        )
    if _is_weights(value):
        return value
    raise ContainerError(f"no weights, but {_listed(value) or 'nothing'}. {RESAVE}")


def _check_names(weights: dict[Any, Any]) -> dict[str, Any]:
    for name, value in weights.items():
        if type(name) is not str or not name:
            raise ContainerError(f"a weight is named {str(name)[:40]!r}, wanted a text")
        if type(value) not in (LazyTensor, np.ndarray):
            raise ContainerError(
                f"{name[:80]!r} is a {type(value).__name__}, no tensor. {RESAVE}"
            )
    while all(name.startswith("module.") and name != "module." for name in weights):
        weights = {name[len("module.") :]: value for name, value in weights.items()}
    return weights


def _build(weights: dict[str, Any], read: Reader, size: int) -> dict[str, np.ndarray]:
    """Build the tensors, storage by storage, in the order of ``weights``."""
    # Tied weights are written once and copied for each name.
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

    The weights may be the file's only content, or stand under ``model_state_dict``,
    ``state_dict`` or ``model`` beside other things, which are not built. The prefix
    ``module.`` of ``DataParallel`` is taken off when all names have it.

    Args:
        path: The file, in either of PyTorch's forms.
        key: The entry that holds the weights, if it has another name or there are
            several.

    Returns:
        Name to array, in the file's order, each array owned and writable, in the
        file's dtype; bfloat16, which numpy lacks, comes as float32 (exact).

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
        raise TorchCheckpointError(f"{path}: {error}") from error
    except RestrictedPickleError as error:
        raise TorchCheckpointError(
            f"{path}: {error}. If the file may be incomplete, fetch it again. {RESAVE}"
        ) from error
    except OSError as error:
        raise TorchCheckpointError(
            f"{path}: cannot be read: {error.strerror or error}"
        ) from error


def to_paddle(
    weights: Mapping[str, np.ndarray], linear: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Translate the names and layouts of PyTorch to those of Paddle.

    ``running_mean`` and ``running_var`` of batch normalisation become ``_mean`` and
    ``_variance``, ``num_batches_tracked`` is left out, the weight of a linear layer is
    transposed (``[out, in]`` in PyTorch, ``[in, out]`` in Paddle).

    Args:
        weights: What :func:`load` returned.
        linear: Paddle's names of the weights of linear layers; an embedding's weight
            is two-dimensional as well and stays as it is.

    Raises:
        TorchCheckpointError: Two weights get one name, or a dtype Paddle lacks.
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


# The command -----------------------------------------------------------------------


def write_pdparams(
    path: str, weights: Mapping[str, np.ndarray], force: bool = False
) -> None:
    """Write weights as ``paddle.save`` does, as a whole or not at all.

    Args:
        path: The file, ``<name>.pdparams``, in an existing folder.
        weights: Paddle's name to array.
        force: Replace a file that is there.

    Raises:
        TorchCheckpointError: Another suffix, a file that is there, or a failed write;
            what was there before is intact.
    """
    if not path.endswith(".pdparams"):
        raise TorchCheckpointError(f"output {path}: wanted a name ending in .pdparams")
    if os.path.exists(path) and not force:
        raise TorchCheckpointError(f"{path} is there already; --force replaces it")
    if _NAME_TABLE in weights:
        raise TorchCheckpointError(f"a weight is called {_NAME_TABLE!r}")
    # With the table of names Paddle takes it for a state dict of its own.
    content = {**weights, _NAME_TABLE: {name: name for name in weights}}
    part = os.path.join(
        os.path.dirname(path), f".{os.path.basename(path)}.{os.getpid()}.part"
    )
    try:
        try:
            with open(part, "wb") as file:
                pickle.dump(content, file, protocol=4)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(part)
    except OSError as error:
        raise TorchCheckpointError(
            f"{path} was not written: {error.strerror or error}"
        ) from error


def make_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of what both commands take."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Convert the weights of a file written by torch.save to a "
        ".pdparams file, without PyTorch. Nothing in the file is run.",
        epilog="Exit status: 0 written, 2 not written, with the reason.",
    )
    parser.add_argument("input", help="file written by torch.save")
    parser.add_argument("output", help="file to write, NAME.pdparams")
    parser.add_argument(
        "--key",
        help="entry of the file that holds the weights, if it is not one of "
        f"{', '.join(WRAPPERS)} or the whole file",
    )
    parser.add_argument("--force", action="store_true", help="replace the output")
    return parser


def linear_names(
    weights: Mapping[str, np.ndarray], patterns: Sequence[str] | None
) -> list[str]:
    """Return the names of weights of linear layers that ``patterns`` tell.

    Raises:
        TorchCheckpointError: None told although some weight may be one, or a pattern
            without a two-dimensional weight.
    """
    flat = [name for name, array in weights.items() if array.ndim == 2]
    flat = [name for name in flat if name.rpartition(".")[2] == "weight"]
    if flat and patterns is None:
        raise TorchCheckpointError(
            f"{_listed(flat)}: of a Linear layer (transposed in Paddle) or of an "
            "Embedding (not)? The file does not say. Name the Linear ones with "
            "--linear PATTERN ..., or --linear alone if there are none, or use "
            "python -m ppmat.models.convert_checkpoint --config, which asks the model"
        )
    chosen = set()
    for pattern in patterns or ():
        found = fnmatch.filter(flat, pattern)
        if not found:
            raise TorchCheckpointError(
                f"--linear {pattern}: no two-dimensional weight has such a name; there "
                f"are {_listed(flat) or 'none'}"
            )
        chosen.update(found)
    return sorted(chosen)


def report(path: str, weights: Mapping[str, np.ndarray]) -> str:
    """Return the line the commands print."""
    count = sum(math.prod(array.shape) for array in weights.values())
    return f"{path}: {len(weights)} arrays, {count} numbers"


def main(argv: Sequence[str] | None = None) -> int:
    """Convert one file; return the exit status."""
    parser = make_parser("python -m ppmat.utils.torch_checkpoint")
    parser.description += (
        " Names of batch normalisation become Paddle's. Which two-dimensional weights "
        "belong to Linear layers, whose weight is transposed in Paddle, is not in the "
        "file: say it with --linear, or use python -m ppmat.models.convert_checkpoint "
        "--config FILE.yaml, which builds the model, asks it and checks all names and "
        "shapes."
    )
    parser.add_argument(
        "--linear",
        nargs="*",
        metavar="PATTERN",
        help="names of the weights of Linear layers (* and ? are wildcards); without "
        "a pattern: there are none",
    )
    args = parser.parse_args(argv)
    try:
        weights = to_paddle(load(args.input, args.key))
        weights = to_paddle(weights, linear_names(weights, args.linear))
        write_pdparams(args.output, weights, args.force)
    except TorchCheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report(args.output, weights))
    return 0


if __name__ == "__main__":
    sys.exit(main())
