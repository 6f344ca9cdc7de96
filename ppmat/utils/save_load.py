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

"""Weights and checkpoints on disk.

A checkpoint is a set of files with one stem in ``<output_dir>/checkpoints``:
``<prefix>.{pdparams,pdopt,pdstates[,pdscaler]}``, ``<prefix>_ema.pdparams``, and a list
of their SHA-256 sums, ``<prefix>.manifest.json``.

Several files cannot be renamed together. A set is therefore written into a hidden
folder and flushed to the disk, and the folder is renamed to ``.<prefix>.commit``. From
then on the new set is valid. Its files are moved to their names, the manifest last.
Whenever the process dies, the reader finds either the old set (no commit folder) or the
new one, partly in the commit folder and partly in place. Each file is checked against
the manifest.

No code in a file is run: :mod:`ppmat.utils.restricted_pickle` reads the files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist

from ppmat.utils import download
from ppmat.utils import logger
from ppmat.utils import torch_checkpoint
from ppmat.utils.errors import InputError
from ppmat.utils.name_parts import names_in_part
from ppmat.utils.restricted_pickle import PLAIN_TABLE
from ppmat.utils.restricted_pickle import Budget
from ppmat.utils.restricted_pickle import Global
from ppmat.utils.restricted_pickle import RestrictedPickleError
from ppmat.utils.restricted_pickle import loads
from ppmat.utils.restricted_pickle import make_tuple

_NAME_TABLE = "StructuredToParameterName@@"  # Paddle's own key in saved state dicts
_SUFFIXES = (".pdparams", ".pdopt", ".pdstates", ".pdscaler")
_DERIVED = ("_ema.pdparams", "_online.pdparams")


class CheckpointError(InputError):
    """A checkpoint is incomplete, damaged, of another model, or cannot be written."""


def _pair(budget: Budget, items: Any = ()) -> Any:
    # Paddle saves a tensor inside a nested container as tuple((name, array)).
    if type(items) is tuple and len(items) == 2:
        if tuple(map(type, items)) == (str, np.ndarray):
            return items[1]
    return make_tuple(budget, items)


_TABLE = {
    **PLAIN_TABLE,
    ("builtins", "tuple"): Global("builtins.tuple", _pair),
    ("__builtin__", "tuple"): Global("builtins.tuple", _pair),
}


def load_file(path: str) -> Any:
    """Read a file written by ``paddle.save``: numpy arrays and plain values.

    bfloat16 arrays are returned as uint16, as Paddle stores them. Paddle's table of
    internal parameter names is kept under ``StructuredToParameterName@@``.

    Raises:
        CheckpointError: The file is missing, or holds more than plain data and arrays.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    try:
        return loads(data, _TABLE)
    except RestrictedPickleError as error:
        raise CheckpointError(
            f"{path} is damaged, or is not a file of weights: {error}"
        ) from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _folders(ckpt_dir: Path, prefix: str) -> tuple:
    return ckpt_dir / f".{prefix}.tmp", ckpt_dir / f".{prefix}.commit"


def _read_manifest(path: Path) -> dict[str, str]:
    """Return the sums of a set's files; all lie in the folder of the manifest."""
    try:
        files = dict(json.loads(path.read_text())["files"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    for name in files:
        if name != Path(name).name:
            raise CheckpointError(f"{path} is damaged: it lists {name[:80]!r}")
    return files


def _publish(ckpt_dir: Path, prefix: str) -> None:
    """Move the files of a committed set to their names, the manifest last."""
    _, commit = _folders(ckpt_dir, prefix)
    manifest = commit / f"{prefix}.manifest.json"
    if manifest.exists():
        members = _read_manifest(manifest)
        for name in members:
            if (commit / name).exists():
                os.replace(commit / name, ckpt_dir / name)
        for name in (prefix + ending for ending in (*_SUFFIXES, *_DERIVED)):
            if name not in members:
                (ckpt_dir / name).unlink(missing_ok=True)
        _flush(ckpt_dir)
        os.replace(manifest, ckpt_dir / manifest.name)
        _flush(ckpt_dir)
    shutil.rmtree(commit, ignore_errors=True)


def finish_saves(ckpt_dir: str | os.PathLike) -> None:
    """Complete the saves that were interrupted after all files were written."""
    for commit in Path(ckpt_dir).glob(".*.commit"):
        _publish(Path(ckpt_dir), commit.name[1 : -len(".commit")])


def write_set(ckpt_dir: str, prefix: str, members: Mapping[str, Any]) -> None:
    """Write a set of files that replaces the old set completely or not at all.

    Args:
        ckpt_dir: Folder of the set; made if missing.
        prefix: Stem of the set.
        members: Object for ``paddle.save`` by file name.

    Raises:
        CheckpointError: It was not written; the old set is unchanged.
    """
    folder = Path(ckpt_dir)
    tmp, commit = _folders(folder, prefix)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if commit.exists():
            _publish(folder, prefix)
        shutil.rmtree(tmp, ignore_errors=True)
        tmp.mkdir()
        sums = {}
        for name, value in members.items():
            paddle.save(value, str(tmp / name))
            _flush(tmp / name)
            sums[name] = download.hash_of_file(tmp / name)
        manifest = tmp / f"{prefix}.manifest.json"
        manifest.write_text(json.dumps({"format": 1, "files": sums}, indent=1))
        _flush(manifest)
        _flush(tmp)
        os.rename(tmp, commit)
        _flush(folder)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(tmp, ignore_errors=True)
        raise CheckpointError(
            f"checkpoint '{prefix}' was not written to {folder}: {error}. A previous "
            "one there is intact. Free space (or fix the folder) and resume from it."
        ) from error
    _publish(folder, prefix)


def save_checkpoint(
    model: paddle.nn.Layer,
    optimizer: paddle.optimizer.Optimizer | None,
    metric: dict[str, Any],
    grad_scaler: paddle.amp.GradScaler | None = None,
    output_dir: str | None = None,
    prefix: str = "model",
    print_log: bool = True,
    ema_model: Any = None,
    params_from_ema: bool = False,
) -> None:
    """Write one checkpoint, completely or not at all; all ranks call this.

    Rank 0 writes.

    Args:
        model: The model, not wrapped.
        optimizer: Its optimizer; None writes no ``.pdopt``.
        metric: Plain values and arrays for ``.pdstates``.
        grad_scaler: Scaler of float16 training.
        output_dir: The run's folder; the set goes to its ``checkpoints``.
        prefix: Stem of the files.
        print_log: Log the path.
        ema_model: Average of the weights, saved as ``<prefix>_ema.pdparams``.
        params_from_ema: Save the average, which was evaluated, as ``.pdparams``, and
            the trained weights as ``<prefix>_online.pdparams`` for a resumed run.

    Raises:
        CheckpointError: It was not written; the previous checkpoint is intact.
        ValueError: ``output_dir`` is missing.
    """
    if output_dir is None:
        raise ValueError("save_checkpoint: output_dir is None, wanted a folder")
    steps = optimizer and optimizer.state_dict()  # each rank may hold a part
    if dist.get_rank() != 0:
        return
    members: dict[str, Any] = {}
    weights = model.state_dict()
    if params_from_ema:
        members[f"{prefix}_online.pdparams"] = weights
        ema_model.apply_shadow()
        weights = {k: v.clone() for k, v in model.state_dict().items()}
        ema_model.restore()
    members[f"{prefix}.pdparams"] = weights
    if steps is not None:
        members[f"{prefix}.pdopt"] = steps
    for ending, part in (
        ("_ema.pdparams", ema_model),
        (".pdscaler", grad_scaler),
    ):
        if part is not None:
            members[prefix + ending] = part.state_dict()
    members[f"{prefix}.pdstates"] = metric
    ckpt_dir = os.path.join(output_dir, "checkpoints")
    write_set(ckpt_dir, prefix, members)
    if print_log:
        logger.message(f"Saved checkpoint {os.path.join(ckpt_dir, prefix)}")


class _Set:
    """The files of a checkpoint, also after an interrupted save."""

    def __init__(self, path: str) -> None:
        folder, self.prefix = Path(path).parent, Path(path).name
        _, commit = _folders(folder, self.prefix)
        name = f"{self.prefix}.manifest.json"
        self.folders = [folder]
        self.files: dict[str, str] | None = None
        self.stem = path
        if (commit / name).exists():
            self.folders = [commit, folder]
        manifest = self.folders[0] / name
        if manifest.exists():
            self.files = _read_manifest(manifest)

    def find(self, name: str) -> str | None:
        """Return the path of a checked member; None if the set does not have it."""
        paths = [f / name for f in self.folders if (f / name).exists()]
        if self.files is None:
            return str(paths[0]) if paths else None
        if name not in self.files:
            return None
        if not paths:
            raise CheckpointError(
                f"checkpoint {self.stem} is incomplete: {name} is missing. Use another "
                "checkpoint of the run."
            )
        if download.hash_of_file(paths[0]) != self.files[name]:
            raise CheckpointError(
                f"checkpoint {self.stem} is mixed or damaged: {paths[0]} is not the "
                "file its manifest lists. Use another checkpoint of the run; if the "
                f"file was replaced on purpose, delete {self.prefix}.manifest.json."
            )
        return str(paths[0])

    def load(self, ending: str, optional: bool = False) -> Any:
        """Read a member; None if an optional one is missing."""
        path = self.find(self.prefix + ending)
        if path is not None:
            return load_file(path)
        if optional:
            return None
        raise CheckpointError(f"checkpoint {self.stem}{ending} does not exist")


def load_states(path: str) -> dict[str, Any]:
    """Return the counters of a training checkpoint, ``<folder>/<prefix>.pdstates``.

    Raises:
        CheckpointError: The set is missing, damaged or mixed.
    """
    return _Set(path).load(".pdstates")


def remove_set(ckpt_dir: str | os.PathLike, prefix: str) -> None:
    """Remove the files of a checkpoint, the manifest first."""
    folder = Path(ckpt_dir)
    (folder / f"{prefix}.manifest.json").unlink(missing_ok=True)
    for unfinished in _folders(folder, prefix):
        shutil.rmtree(unfinished, ignore_errors=True)
    for ending in (*_SUFFIXES, *_DERIVED):
        (folder / (prefix + ending)).unlink(missing_ok=True)


def _set_of(file: str) -> _Set:
    """Return the set that a weight file belongs to."""
    for ending in _DERIVED:
        if file.endswith(ending):
            candidate = _Set(file[: -len(ending)])
            if candidate.files and os.path.basename(file) in candidate.files:
                return candidate
    return _Set(file[: -len(".pdparams")])


def apply_weights(
    model: paddle.nn.Layer, weights: Any, source: str, exclude: Sequence[str] = ()
) -> None:
    """Load ``weights``, arrays by name, of the file ``source`` into a model.

    A model may know weights of its former versions, and say what to do about them:
    ``former_weights`` has hints by the name of a weight that only one of both has.

    Args:
        model: Receives the weights.
        weights: The content of a file.
        source: Its name, for errors.
        exclude: Beginnings of names (``energy_head``) that stay as they are in the
            model; only one of model and file need have them.

    Raises:
        CheckpointError: Names or shapes differ; the first few are listed.
        InputError: No name begins as ``exclude`` says.
    """
    if not isinstance(weights, dict):
        raise CheckpointError(f"{source} holds no named weights")
    if isinstance(weights.get("state_dict"), dict):
        weights = weights["state_dict"]
    weights = {k: v for k, v in weights.items() if k not in (_NAME_TABLE, "n_avg")}
    wanted = model.state_dict()
    names = {name for name in [*wanted, *weights] if isinstance(name, str)}
    where = "Trainer.pretrained_exclude"
    for kept in [names_in_part(names, part, where) for part in exclude]:
        wanted = {k: v for k, v in wanted.items() if k not in kept}
        weights = {k: v for k, v in weights.items() if k not in kept}
    faults = [f"missing {k}" for k in wanted if k not in weights]
    faults += [f"unexpected {str(k)[:80]}" for k in weights if k not in wanted]
    for name in [k for k in wanted if k in weights]:
        value, shape = weights[name], list(wanted[name].shape)
        if not isinstance(value, np.ndarray):
            faults.append(f"{name}: {type(value).__name__} instead of an array")
        elif list(value.shape) != shape:
            faults.append(f"{name}: shape {list(value.shape)}, the model has {shape}")
    if faults:
        more = f" (and {len(faults) - 6} more)" if len(faults) > 6 else ""
        former = getattr(model, "former_weights", {})
        alone = wanted.keys() ^ weights.keys()
        raise CheckpointError(
            f"{source} belongs to another model than {type(model).__name__}: "
            f"{'; '.join(faults[:6])}{more}",
            hint=next((former[name] for name in former if name in alone), ""),
        )
    for name, tensor in wanted.items():
        tensor.set_value(paddle.to_tensor(weights[name]).astype(tensor.dtype))


def _apply_optimizer(
    optimizer: paddle.optimizer.Optimizer,
    saved: dict[str, Any],
    table: Mapping[str, str],
    model: paddle.nn.Layer,
    source: str,
) -> None:
    """Load an optimizer's state, although Paddle's parameter names may differ now.

    Paddle stores moments under automatic names (``linear_0.w_0``), which depend on all
    layers that the process has built before. ``table`` holds them when they were saved.
    """
    now = {name: tensor.name for name, tensor in model.state_dict().items()}
    renamed = {old: now[name] for name, old in table.items() if name in now}
    result: dict[str, Any] = {}
    unknown = []
    by_length = sorted(renamed, key=len, reverse=True)

    def rename(key: str) -> str:
        for old in by_length:
            if key == old or key.startswith(f"{old}_"):
                return renamed[old] + key[len(old) :]
        unknown.append(key)
        return key

    for key, value in saved.items():
        if key == "master_weights":
            result[key] = {rename(k): paddle.to_tensor(v) for k, v in value.items()}
        elif isinstance(value, np.ndarray):
            result[rename(key)] = paddle.to_tensor(value)
        elif key != _NAME_TABLE:
            result[key] = value
    if table and unknown:
        raise CheckpointError(
            f"{source} is not of the same checkpoint as the weights: it has the state "
            f"of parameters the weights do not list: {', '.join(unknown[:5])}"
        )
    schedule = optimizer.state_dict().get("LR_Scheduler")
    if (schedule is None) != ("LR_Scheduler" not in result):
        logger.warning(
            f"{source}: only one of this run and the saved run has a learning-rate "
            "schedule; this run's setting is used from its beginning"
        )
        result["LR_Scheduler"] = schedule
    optimizer.set_state_dict(result)


def load_checkpoint(
    path: str,
    model: paddle.nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    grad_scaler: paddle.amp.GradScaler | None = None,
    ema_model: Any = None,
) -> dict[str, Any]:
    """Load a checkpoint to continue from it.

    Args:
        path: ``<folder>/<prefix>`` without suffix.
        model: Receives the weights.
        optimizer: Receives its state and the position of its schedule.
        grad_scaler: Receives its state if the checkpoint has one.
        ema_model: Receives the averaged weights, or starts from the weights with a
            warning if the checkpoint has none.

    Returns:
        The content of ``.pdstates``.

    Raises:
        CheckpointError: Files are missing, mixed, damaged or of another model.
    """
    path = re.sub(r"\.(pdparams|pdopt|pdstates)$", "", path)
    files = _Set(path)
    weights = files.load("_online.pdparams", optional=True)
    if weights is None:
        weights = files.load(".pdparams")
    saved_optimizer = files.load(".pdopt")
    states = files.load(".pdstates")
    apply_weights(model, weights, f"{path}.pdparams")
    table = weights.get(_NAME_TABLE, {})
    _apply_optimizer(optimizer, saved_optimizer, table, model, f"{path}.pdopt")
    if grad_scaler is not None:
        if (scale := files.load(".pdscaler", optional=True)) is not None:
            grad_scaler.load_state_dict(scale)
        else:
            logger.warning(f"{path} has no .pdscaler: the loss scale starts again")
    if ema_model is not None:
        if (average := files.load("_ema.pdparams", optional=True)) is not None:
            ema_model.set_state_dict(average)
        else:
            logger.warning(f"{path} has no averaged weights: the average starts again")
            ema_model.__init__(model, ema_model.decay, ema_model.warmup)
    logger.message(f"Loaded checkpoint {path}")
    return states


def _choose(candidates: list[str], what: str, folder: str) -> str:
    if len(candidates) > 1:
        listed = ", ".join(sorted(os.path.relpath(c, folder) for c in candidates))
        raise CheckpointError(
            f"{folder} holds several {what}: {listed}. Give the file itself."
        )
    return candidates[0]


def _is_torch(path: str) -> bool:
    return path.endswith(torch_checkpoint.SUFFIXES)


def load_torch_weights(
    model: paddle.nn.Layer, path: str, key: str | None = None
) -> dict[str, np.ndarray]:
    """Read a PyTorch file with the names and layouts of a Paddle model.

    ``model`` shows which weights belong to linear layers. For ``path`` and ``key`` see
    :func:`ppmat.utils.torch_checkpoint.load`.

    Raises:
        CheckpointError: The file cannot be read or holds no weights.
    """
    layers = model.sublayers(include_self=True)
    linear = {id(at.weight) for at in layers if isinstance(at, paddle.nn.Linear)}
    names = [name for name, value in model.state_dict().items() if id(value) in linear]
    try:
        return torch_checkpoint.to_paddle(torch_checkpoint.load(path, key), names)
    except torch_checkpoint.TorchCheckpointError as error:
        raise CheckpointError(str(error)) from error


def find_weights(folder: str, weights_name: str | None = None) -> str:
    """Return the weight file of a folder: best, latest, last epoch, or the only one.

    A PyTorch file is taken if it is the only one and there is no ``.pdparams``.

    Raises:
        CheckpointError: There is none, or the choice is ambiguous.
    """
    found: dict[str, list[str]] = {}
    for root, dirs, names in os.walk(folder):
        # Files in the commit folder of an interrupted save belong one level up.
        unfinished = [d for d in dirs if d.startswith(".") and d.endswith(".commit")]
        for commit in unfinished:
            names += os.listdir(os.path.join(root, commit))
        dirs[:] = sorted(d for d in dirs if not d.startswith("."))
        for name in sorted(set(names)):
            if name.endswith((".pdparams", *torch_checkpoint.SUFFIXES)):
                found.setdefault(name, []).append(os.path.join(root, name))
    if weights_name is not None:
        if weights_name not in found:
            raise CheckpointError(
                f"no file named {weights_name} below {folder}; weight files there: "
                f"{', '.join(sorted(found)) or 'none'}"
            )
        return _choose(found[weights_name], f"files named {weights_name}", folder)
    plain = [n for n in found if not n.endswith(_DERIVED) and not _is_torch(n)]
    epochs = [n for n in plain if re.fullmatch(r"epoch_\d+\.pdparams", n)]
    epochs.sort(key=lambda n: -int(re.findall(r"\d+", n)[0]))
    for name in ("best.pdparams", "latest.pdparams", *epochs):
        if name in found:
            return _choose(found[name], f"files named {name}", folder)
    if others := [path for name in plain for path in found[name]]:
        what = "weight files, none called best, latest or epoch_N"
        return _choose(others, what, folder)
    if foreign := [path for n in found if _is_torch(n) for path in found[n]]:
        return _choose(foreign, "PyTorch files and no .pdparams", folder)
    raise CheckpointError(
        f"no weight file (*.pdparams, or *{', *'.join(torch_checkpoint.SUFFIXES)} "
        f"of PyTorch) below {folder}"
    )


def load_pretrain(
    model: paddle.nn.Layer,
    path: str,
    weights_name: str | None = None,
    exclude: Sequence[str] = (),
) -> None:
    """Load weights into a model.

    Args:
        model: Receives the weights.
        path: A ``.pdparams`` file (the suffix may be left out), a PyTorch file
            (``.pth``, ``.pt``, ``.pth.tar``, ``.bin``), a folder with sub-folders
            (best > latest > last epoch > the only file), or the address of an archive
            or file of these.
        weights_name: File to take from the folder or archive.
        exclude: See :func:`apply_weights`.

    Raises:
        CheckpointError: The file is missing or damaged, the folder is ambiguous, or
            the weights belong to another model.
        InputError: No name begins as ``exclude`` says.
    """
    if download.is_url(path) and _is_torch(path):  # .pth.tar is no archive
        home = download.WEIGHTS_HOME
        path = download.get_path_from_url(path, home, decompress=False)
    elif download.is_url(path):
        path = download.get_weights_path_from_url(path)
    path = os.fspath(path)
    if os.path.isdir(path):
        path = find_weights(path, weights_name)
    if _is_torch(path):
        weights = load_torch_weights(model, path)
    else:
        path = f"{path.removesuffix('.pdparams')}.pdparams"
        file = _set_of(path).find(os.path.basename(path))
        if file is None:
            raise _absent(path)
        weights = load_file(file)
    apply_weights(model, weights, path, exclude)
    kept = f", except {', '.join(exclude)}" if exclude else ""
    logger.message(f"Loaded weights {path}{kept}")


def _absent(path: str) -> CheckpointError:
    """Return the error for a missing weight file; it lists the existing ones."""
    folder = os.path.dirname(path) or "."
    what = (
        f"there is no folder {folder}. A training writes its weights to "
        "checkpoints/best.pdparams below its Trainer.output_dir"
    )
    if os.path.isdir(folder):
        legal = (".pdparams", *torch_checkpoint.SUFFIXES)
        names = sorted(name for name in os.listdir(folder) if name.endswith(legal))
        what = f"weight files in {folder}: {', '.join(names) or 'none'}"
    return CheckpointError(f"weights {path} do not exist; {what}")


def fingerprint(model: paddle.nn.Layer) -> str:
    """Return a hash of the weights, 16 characters."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return digest.hexdigest()[:16]
