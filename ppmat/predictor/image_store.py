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


"""The folder of enhanced images: names, descriptions, and runs that can continue.

The description ``x.tif.json`` beside each output ``x.tif`` gives its input, settings
and record. It is written first, with the hash of the image. An image with another hash
does not count as done. So an interrupted run continues where it stopped, and no other
file is overwritten.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppmat.stem.images.image_inputs import ImageFile
from ppmat.stem.images.micrograph import Micrograph
from ppmat.stem.images.micrograph import write_micrograph
from ppmat.stem.images.micrograph_base import jsonable
from ppmat.stem.images.scale_bar import write_picture
from ppmat.utils.download import hash_of_file
from ppmat.utils.errors import check_choice
from ppmat.utils.files import RunManifest
from ppmat.utils.files import StoredRunError
from ppmat.utils.files import replacing
from ppmat.utils.registry import ConfigError

PathLike = str | os.PathLike[str]

FORMATS = ("tif", "npy", "hspy", "mrc")
_MOST_LISTED = 5  # outputs named in an error


def output_names(images: Sequence[ImageFile]) -> list[str]:
    """Return a different name for each image, without suffix.

    Names also differ on file systems that ignore case. An image has the name of its
    file. Images of the same name get their suffix (``x_dm4``), then the names of their
    folders (``monday_x_dm4``).

    Example:
        >>> output_names([ImageFile("x.dm4"), ImageFile("x.tif"), ImageFile("y.tif")])
        ['x_dm4', 'x_tif', 'y']
    """
    candidates = [_candidate_names(image) for image in images]
    level = [0] * len(images)
    for _ in range(max(map(len, candidates))):
        names = [c[min(i, len(c) - 1)] for c, i in zip(candidates, level, strict=True)]
        number = Counter(name.casefold() for name in names)
        alike = [i for i, name in enumerate(names) if number[name.casefold()] > 1]
        if not alike:
            return names
        for i in alike:
            level[i] += 1
    raise ConfigError(
        f"{images[alike[0]]} and {images[alike[1]]} would both become {names[alike[0]]}"
        "; give them to two runs with a --save_path of their own"
    )


def _candidate_names(image: ImageFile) -> list[str]:
    """Return names from short to long: file, with suffix, with its folders."""
    path = Path(image.path).absolute()
    index = "" if image.index is None else f"_{image.index}"
    index = re.sub(r"[^\w.+-]+", "_", index)  # titles have spaces and slashes
    names = [path.stem + index, path.stem + path.suffix.replace(".", "_") + index]
    for folder in reversed(path.parts[1:-1]):
        names.append(f"{folder}_{names[-1]}")
    return names


def make_folder(folder: PathLike) -> None:
    """Make the folder of the outputs and check that it can be written to."""
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
        folder: An existing folder.
        images: The inputs.
        format: One of :data:`FORMATS`.
        settings: What decides an output besides its input, as plain values.
        overwrite: Enhance and replace existing outputs (never an input).
        residual: Each output also has a figure of the residual.
        picture: Each output also has an 8-bit picture with a scale bar.

    Attributes:
        paths: Path of each output.
        done: Whether each output exists, from the same input and settings.
    """

    def __init__(
        self,
        folder: PathLike,
        images: Sequence[ImageFile],
        format: str,
        settings: Mapping[str, Any],
        *,
        overwrite: bool = False,
        residual: bool = False,
        picture: bool = False,
    ) -> None:
        check_choice("format", format, FORMATS)
        self.images = list(images)
        self.paths = [Path(folder) / f"{n}.{format}" for n in output_names(images)]
        self._settings = dict(settings)
        self._residual, self._picture = residual, picture
        self._input_hashes: dict[tuple, str] = {}
        inputs = {os.path.realpath(image.path) for image in self.images}
        for path, image in zip(self.paths, self.images, strict=True):
            if os.path.realpath(path) in inputs:
                raise ConfigError(
                    f"{path} is an input and would be replaced by the output of "
                    f"{image}; choose another --save_path"
                )
        self.done, faults = [], []
        for number in range(len(self.images)):
            try:
                self.done.append(not overwrite and self._is_done(number))
            except StoredRunError as error:
                faults.append(str(error))
        if faults:
            more = len(faults) - _MOST_LISTED
            raise StoredRunError(
                "\n".join(faults[:_MOST_LISTED])
                + (f"\n... and {more} more" if more > 0 else "")
                + "\nChoose another folder, remove these files, or replace them with "
                "--overwrite (overwrite=True)"
            )

    def sidecar(self, number: int) -> Path:
        """Return the path of the description of an output."""
        return self.paths[number].with_name(f"{self.paths[number].name}.json")

    def figure(self, number: int) -> Path:
        """Return the path of the figure of the residual of an output."""
        return self.paths[number].with_name(f"{self.paths[number].name}.residual.png")

    def picture(self, number: int) -> Path:
        """Return the path of the picture of an output."""
        return self.paths[number].with_name(f"{self.paths[number].name}.picture.png")

    def _is_done(self, number: int) -> bool:
        """Return whether an output exists; raise if another file has its name."""
        path, sidecar = self.paths[number], self.sidecar(number)
        if not sidecar.exists():
            if path.exists():
                raise StoredRunError(f"{path} was not written by this command")
            return False
        state = RunManifest(sidecar, self._settings, "").state
        try:
            source, output = state["input"], state["output"]
            found = source["sha256"], source["index"], source.get("selection")
            output_hash = output["sha256"]
        except (KeyError, TypeError):
            raise StoredRunError(
                f"{sidecar}: is damaged, or another program wrote it"
            ) from None
        image = self.images[number]
        record = image.record(self.input_hash(number))
        if found != (record["sha256"], image.index, record.get("selection")):
            raise StoredRunError(
                f"{path} was made from another input, region or mask than {image} "
                "is now"
            )
        if not path.exists():
            return False
        if hash_of_file(path) != output_hash:
            raise StoredRunError(f"{path} was changed since it was written")
        wanted = [self.figure(number)] if self._residual else []
        wanted += [self.picture(number)] if self._picture else []
        return all(path.exists() for path in wanted)

    def input_hash(self, number: int) -> str:
        """Return the SHA-256 sum of an input; an unchanged file is read only once."""
        path = os.path.realpath(self.images[number].path)
        state = os.stat(path)
        key = (path, state.st_size, state.st_mtime_ns)
        if key not in self._input_hashes:
            self._input_hashes[key] = hash_of_file(path)
        return self._input_hashes[key]

    def write(
        self, number: int, result: Any, source: Micrograph, input_hash: str
    ) -> None:
        """Write an output, an ``Enhancement``, its pictures and its description.

        ``input_hash`` is that of the file from before it was read.
        """
        path, image = self.paths[number], self.images[number]
        if self._residual:
            from ppmat.predictor.residual_figure import draw_residual

            with replacing(self.figure(number)) as temporary:
                draw_residual(result, temporary, str(image), source)
        picture = None
        if self._picture:
            frame = result.image.reshape(-1, *result.image.shape[-2:])[0]
            with replacing(self.picture(number)) as temporary:
                picture = write_picture(
                    temporary, frame, source.pixel_size, source.units
                )
            picture["file"] = self.picture(number).name
        with replacing(path) as temporary:
            write_micrograph(
                temporary,
                result.image,
                source.pixel_size,
                source.units,
                {**source.metadata, "ppmat": result.record},
            )
            output = {"file": path.name, "sha256": hash_of_file(temporary)}
            self.sidecar(number).unlink(missing_ok=True)  # of a run to overwrite
            RunManifest(self.sidecar(number), self._settings, "").write(
                input={
                    **image.record(input_hash),
                    "pixel_size": source.pixel_size,
                    "units": source.units,
                    "offset": source.offset,
                    "metadata": jsonable(source.metadata),
                },
                record=result.record,
                output=output,
                picture=picture,
            )
