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

"""A network compiled for one tile size, kept on the disk for the next process.

The folded network is exported once and run by Paddle's inference engine, on a CPU with
oneDNN. This is several times as fast as calling the same layers one by one.

Each program is a folder below ``~/.paddlemat/programs`` (or
``$PADDLEMAT_HOME/programs``), named by a hash of weights, size and versions. It is
written under another name and renamed, so processes that start at once do not disturb
each other. Its files are checked against their SHA-256 sums at every use.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.inference

from ppmat.models.sfin.sfin import SFIN
from ppmat.models.sfin.sfin_folded import FoldedSFIN
from ppmat.utils import download
from ppmat.utils import logger
from ppmat.utils.cores import threads_per_process
from ppmat.utils.download import hash_of_file
from ppmat.utils.errors import InputError
from ppmat.utils.save_load import fingerprint

CACHE_ENTRIES = 32  # programs kept on the disk
_FORMAT = 1  # increase it when the exported program changes for the same weights
_STEM = "program"  # file name without suffix
_FILES = (f"{_STEM}.json", f"{_STEM}.pdiparams")
_MANIFEST = "manifest.json"
_UNFINISHED = ".new-"  # prefix of folders that are still being written
_HOUR = 3600.0  # seconds; older unfinished folders belong to killed processes
_TOLERANCE = 1e-4  # largest error of the engine, as a fraction of the range


def default_cache_dir() -> Path:
    """Return the folder of all programs."""
    return Path(download.WEIGHTS_HOME).with_name("programs")


def default_threads() -> int:
    """Return ``OMP_NUM_THREADS`` if the user set it, else the cores, at most 8.

    Paddle sets the variable to 1 itself when it is imported. The environment with which
    the process started shows whether the user set it.
    """
    number = os.environ.get("OMP_NUM_THREADS", "1")
    if number != "1" and number.isdecimal():
        return max(1, int(number))
    with contextlib.suppress(OSError):
        started_with = Path("/proc/self/environ").read_bytes().split(b"\0")
        if any(item.startswith(b"OMP_NUM_THREADS=") for item in started_with):
            return 1
    return threads_per_process()


class StaticProgramError(InputError):
    """The results of the engine differ from those of the network."""


class StaticProgram:
    """An :class:`SFIN` compiled for tiles of one size.

    Tiles are run one after another, each with all threads. Paddle holds Python's lock
    while a program runs, so several Python threads would not run at the same time.

    On a GPU (``paddle.set_device("gpu")``) the program runs there, tile by tile. This
    code path has not been run: no GPU was available.

    Args:
        model: The network; its weights are copied.
        height, width: Pixels of a tile.
        threads: Of the CPU; see :func:`default_threads`.
        cache_dir: Folder of all programs; see :func:`default_cache_dir`.

    Attributes:
        folder: Folder of the program; None if it could not be written.

    Raises:
        StaticProgramError: The engine of this version of Paddle gives wrong results.
            It is checked on a small network whenever a program is compiled.
    """

    def __init__(
        self,
        model: SFIN,
        height: int,
        width: int,
        threads: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.threads = default_threads() if threads is None else threads
        if self.threads < 1 or height < 1 or width < 1:
            raise InputError(
                f"height={height}, width={width}, threads={threads}",
                wanted="at least 1",
            )
        self.shape = (model.in_channels, height, width)
        self.folder: Path | None = None
        device, _, number = paddle.get_device().partition(":")
        gpu = int(number or 0) if device == "gpu" else None
        self._lock = threading.Lock()
        top = Path(default_cache_dir() if cache_dir is None else cache_dir)
        with self._program(model, top) as folder:
            self._predictor = _load(folder, self.threads, gpu)

    @contextlib.contextmanager
    def _program(self, model: SFIN, top: Path) -> Iterator[Path]:
        """Give the folder of the program, which is compiled if it does not exist."""
        settings = {
            "format": _FORMAT,
            "weights": fingerprint(model),
            "network": [model.in_channels, model.base_channels, model.num_blocks],
            "size": list(self.shape[1:]),
            "paddle": paddle.__version__,
        }
        name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:20]
        folder = top / name
        if _is_whole(folder):
            with contextlib.suppress(OSError):  # a read-only cache is fine
                os.utime(folder)
        else:
            if folder.exists():
                logger.warning(f"{folder} is damaged; the network is compiled again")
            try:
                top.mkdir(parents=True, exist_ok=True)
                _build(model, folder, settings)
                _forget_oldest(top)
            except OSError as error:
                logger.warning(
                    f"{folder} cannot be written ({error}): the network is compiled "
                    "for this process only. Set PADDLEMAT_HOME to use another folder"
                )
                with tempfile.TemporaryDirectory() as temporary:
                    _export(model, Path(temporary), settings)
                    yield Path(temporary)
                return
        self.folder = folder
        yield folder

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        """Return the enhanced tiles, float32 of the same shape.

        Args:
            tiles: ``[B, in_channels, height, width]``, grey values 0 to 255.
        """
        tiles = np.ascontiguousarray(tiles, dtype=np.float32)
        if tiles.ndim != 4 or tiles.shape[1:] != self.shape:
            raise InputError(
                f"tiles of shape {list(tiles.shape)}: this program is for "
                f"[B, {', '.join(map(str, self.shape))}]"
            )
        out = np.empty_like(tiles)
        with self._lock:
            for i in range(len(tiles)):
                out[i] = _run(self._predictor, tiles[i : i + 1])[0]
        return out


def _load(folder: Path, threads: int, gpu: int | None) -> Any:
    config = paddle.inference.Config(*(str(folder / name) for name in _FILES))
    config.disable_glog_info()
    config.enable_new_ir(True)
    config.enable_new_executor(True)
    config.enable_memory_optim()
    if gpu is not None:
        config.enable_use_gpu(256, gpu)
    else:
        config.disable_gpu()
        config.enable_mkldnn()
        config.set_cpu_math_library_num_threads(threads)
    return paddle.inference.create_predictor(config)


def _run(predictor: Any, tile: np.ndarray) -> np.ndarray:
    (name,) = predictor.get_input_names()
    predictor.get_input_handle(name).copy_from_cpu(tile)
    predictor.run()
    (name,) = predictor.get_output_names()
    return predictor.get_output_handle(name).copy_to_cpu()


def _is_whole(folder: Path) -> bool:
    try:
        sums = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["files"]
        return all(sums.get(name) == hash_of_file(folder / name) for name in _FILES)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _save(model: SFIN, folder: Path, height: int, width: int) -> None:
    shape = [1, model.in_channels, height, width]
    network = FoldedSFIN(model, height, width)
    spec = paddle.static.InputSpec(shape, "float32", "tile")
    network = paddle.jit.to_static(network, input_spec=[spec], full_graph=True)
    paddle.jit.save(network, str(folder / _STEM))


def _export(model: SFIN, folder: Path, settings: dict[str, Any]) -> None:
    _check_engine()
    _save(model, folder, *settings["size"])
    sums = {name: hash_of_file(folder / name) for name in _FILES}
    text = json.dumps({"settings": settings, "files": sums}, indent=1)
    (folder / _MANIFEST).write_text(text, encoding="utf-8")


def _check_engine() -> None:
    """Compare the engine with the layers it replaces, on a small network.

    The engine rewrites programs, which can change results silently. Version 3.3.1 does
    so for Fourier transforms as matrix products. This check refuses a version that
    does so for the exported network.
    """
    state = paddle.get_rng_state()
    model = SFIN(base_channels=16, num_blocks=2)
    paddle.set_rng_state(state)
    model.eval()
    tile = np.random.default_rng(0).uniform(0, 255, (1, 1, 24, 32)).astype("float32")
    with tempfile.TemporaryDirectory() as folder, paddle.no_grad():
        _save(model, Path(folder), *tile.shape[2:])
        found = _run(_load(Path(folder), 1, None), tile)
        expected = model.enhance(paddle.to_tensor(tile)).numpy()
    difference = np.abs(found - expected).max() / np.ptp(expected)
    if not difference <= _TOLERANCE:
        raise StaticProgramError(
            f"the inference engine of Paddle {paddle.__version__} differs from its "
            f"layers by {difference:.1e} of the range, more than {_TOLERANCE:.0e}; use "
            "version 3.3.1"
        )


def _build(model: SFIN, folder: Path, settings: dict[str, Any]) -> None:
    """Write a program; of several processes the first is kept, all write the same."""
    height, width = settings["size"]
    logger.info(f"Compiling the network for tiles of {height} x {width}")
    work = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder.parent))
    try:
        _export(model, work, settings)
        if folder.exists() and not _is_whole(folder):
            # Renamed first: another process may be doing the same.
            damaged = work.with_name(f"{work.name}.old")
            with contextlib.suppress(FileNotFoundError):
                os.rename(folder, damaged)
            shutil.rmtree(damaged, ignore_errors=True)
        try:
            os.rename(work, folder)
        except OSError:
            if not _is_whole(folder):  # no other process has just written it
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _forget_oldest(top: Path) -> None:
    """Remove the programs used longest ago, and folders left by killed processes."""
    entries, leftovers = [], []
    for path in top.iterdir():
        with contextlib.suppress(OSError):  # removed by another process
            used = path.stat().st_mtime
            if not path.name.startswith(_UNFINISHED):
                entries.append((used, path))
            elif used < time.time() - _HOUR:
                leftovers.append(path)
    entries.sort(reverse=True)
    for path in [*(path for _, path in entries[CACHE_ENTRIES:]), *leftovers]:
        shutil.rmtree(path, ignore_errors=True)
