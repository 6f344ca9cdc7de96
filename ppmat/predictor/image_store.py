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


"""Enhanced images on the disk: found, named, described, and never half written.

Beside each output ``x.tif`` stands ``x.tif.json``, which tells what it was made from
and how. It is written first; the image counts only with the hash that it tells. So an
interrupted run goes on where it stopped, and nothing of other origin is overwritten.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppmat.stem.images.image_inputs import ImageFile
from ppmat.stem.images.image_inputs import find_images
from ppmat.stem.images.micrograph import Micrograph
from ppmat.stem.images.micrograph import write_micrograph
from ppmat.stem.images.micrograph_base import jsonable
from ppmat.utils.download import hash_of_file
from ppmat.utils.files import StoredRunError
from ppmat.utils.files import replacing
from ppmat.utils.registry import ConfigError

__all__ = [
    "FORMATS",
    "ImageFile",
    "ImageStore",
    "find_images",
    "make_folder",
    "output_names",
]

PathLike = str | os.PathLike[str]

FORMATS = ("tif", "npy", "hspy", "mrc")
_LISTED = 5


def output_names(images: Sequence[ImageFile]) -> list[str]:
    """Return a name without suffix for each image, no two alike on any file system.

    The name of the file as far as that is enough; images of the same name get their
    suffix (``x_dm4``), then the names of their folders (``monday_x_dm4``).

    Raises:
        ConfigError: Names stay alike.
    """
    levels = 2 + max(len(Path(image.path).absolute().parts) for image in images)
    level = [0] * len(images)
    names = [_name(image, 0) for image in images]
    for _ in range(levels):
        groups: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            groups.setdefault(name.casefold(), []).append(i)
        alike = [i for group in groups.values() if len(group) > 1 for i in group]
        if not alike:
            return names
        for i in alike:
            level[i] += 1
            names[i] = _name(images[i], level[i])
    raise ConfigError(
        f"{images[alike[0]]} and {images[alike[1]]} would both become {names[alike[0]]}"
        "; give them to two runs with a --save_path of their own"
    )


def _name(image: ImageFile, level: int) -> str:
    path = Path(image.path).absolute()
    name = path.stem
    if level:
        name += path.suffix.replace(".", "_")
    if image.index is not None:
        name += f"_{image.index}"
    folders = list(path.parts[1:-1])
    return "_".join([*(folders[-(level - 1) :] if level > 1 else ()), name])


def make_folder(folder: PathLike) -> None:
    """Make the folder of the outputs and see whether it can be written to.

    Raises:
        ConfigError: It cannot be made or written to.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"--save_path={os.fspath(folder)}: cannot be written to: {error.strerror}"
        ) from error


class ImageStore:
    """The outputs of a run in their folder.

    Args:
        folder: Made if missing.
        images: The inputs.
        format: One of :data:`FORMATS`.
        settings: What decides an output beside its input, as plain values.
        overwrite: Redo and replace whatever is there (never an input).
        residual: A picture of the residual belongs to each output.

    Raises:
        ConfigError: An unknown format, a folder that cannot be written to, an output
            that would replace an input.
        StoredRunError: There is something else where an output would be.
    """

    def __init__(
        self,
        folder: PathLike,
        images: Sequence[ImageFile],
        format: str,
        settings: Mapping[str, Any],
        overwrite: bool = False,
        residual: bool = False,
    ) -> None:
        if format not in FORMATS:
            raise ConfigError(
                f"unknown output format '{format}'. Legal: {', '.join(FORMATS)}"
            )
        make_folder(folder)
        self.images = list(images)
        self.paths = [Path(folder) / f"{n}.{format}" for n in output_names(images)]
        # Through JSON and back, so that they can be compared with what a file says.
        self._settings = json.loads(json.dumps(settings))
        self._residual = residual
        self._refuse_inputs()
        self.done = [not overwrite and self._is_done(i) for i in range(len(images))]
        faults = [text for text in self.done if isinstance(text, str)]
        if faults:
            more = len(faults) - _LISTED
            raise StoredRunError(
                "".join(f"{text}\n" for text in faults[:_LISTED])
                + (f"... and {more} more\n" if more > 0 else "")
                + "Choose another folder, remove these files, or replace them with "
                "--overwrite (overwrite=True)"
            )

    def sidecar(self, number: int) -> Path:
        """Return the path of the description of an output."""
        return self.paths[number].with_name(f"{self.paths[number].name}.json")

    def picture(self, number: int) -> Path:
        """Return the path of the picture of the residual of an output."""
        path = self.paths[number]
        return path.with_name(f"{path.name}.residual.png")

    def _refuse_inputs(self) -> None:
        inputs = {os.path.realpath(image.path) for image in self.images}
        for number, path in enumerate(self.paths):
            if os.path.realpath(path) in inputs:
                raise ConfigError(
                    f"{path} is an input and would be replaced by the output of "
                    f"{self.images[number]}; choose another --save_path"
                )

    def _is_done(self, number: int) -> bool | str:
        """Tell whether an output is there; a text if something else is."""
        path, sidecar = self.paths[number], self.sidecar(number)
        if not sidecar.exists():
            return f"{path} was not written by such a run" if path.exists() else False
        try:
            told = json.loads(sidecar.read_text(encoding="utf-8"))
            then, source, output = told["settings"], told["input"], told["output"]
            sums = source["sha256"], output["sha256"]
        except (KeyError, TypeError, ValueError):
            return f"{sidecar} was not written by such a run, or is damaged"
        names = sorted({*then, *self._settings})
        other = [n for n in names if then.get(n) != self._settings.get(n)]
        if other:
            return f"{path} was made with other {', '.join(other)}"
        image = self.images[number]
        if (hash_of_file(image.path), image.index) != (sums[0], source["index"]):
            return f"{path} was made from another input than {image} is now"
        if not path.exists():
            return False
        if hash_of_file(path) != sums[1]:
            return f"{path} was changed since it was written"
        return not self._residual or self.picture(number).exists()

    def write(
        self, number: int, result: Any, source: Micrograph, input_hash: str
    ) -> None:
        """Write an output and its description.

        Args:
            number: Position of the input.
            result: :class:`ppmat.predictor.enhancement.Enhancement`.
            source: The input.
            input_hash: Of its file, before it was read.

        Raises:
            ImageFormatError: The format cannot keep the image.
            OSError: The disk is full, ...
        """
        path, image = self.paths[number], self.images[number]
        description = {
            "input": {
                **image.record(input_hash),
                "pixel_size": source.pixel_size,
                "units": source.units,
                "metadata": jsonable(source.metadata),
            },
            "settings": self._settings,
            "record": result.record,
        }
        with replacing(path) as temporary:
            write_micrograph(
                temporary,
                result.image,
                source.pixel_size,
                source.units,
                {**source.metadata, "ppmat": result.record},
            )
            description["output"] = {
                "file": path.name,
                "sha256": hash_of_file(temporary),
            }
            text = json.dumps(description, indent=1, ensure_ascii=False)
            with replacing(self.sidecar(number)) as sidecar:
                sidecar.write_text(text, encoding="utf-8")
