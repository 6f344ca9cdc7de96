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

"""Image files as inputs: found by path, folder or pattern, and read one at a time."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from ppmat.stem.images.micrograph import IMAGE_SUFFIXES
from ppmat.stem.images.micrograph import Micrograph
from ppmat.stem.images.micrograph import read_micrograph
from ppmat.stem.images.micrograph_readers import Index
from ppmat.stem.images.selection import Selection
from ppmat.utils.errors import InputError
from ppmat.utils.errors import nearest

PathLike = str | os.PathLike[str]

# Endings of the pictures that the commands write beside their results.
PICTURE_ENDINGS = (".picture.png", ".residual.png", ".overlay.png")


class ImageFile(NamedTuple):
    """An input image.

    Example:
        >>> str(ImageFile("velox.emd", 1)), str(ImageFile("velox.emd", "HAADF"))
        ('velox.emd@1', 'velox.emd@HAADF')
    """

    path: str
    index: Index = None  # number or title of the image in a file that holds several
    selection: Selection | None = None  # the part that is used

    def read(self) -> Micrograph:
        """Return the image as :func:`~ppmat.stem.images.micrograph.read_micrograph`.

        Only the selected part is returned.
        """
        image = read_micrograph(self.path, self.index)
        return image if self.selection is None else self.selection.apply(image)

    def record(self, sha256: str) -> dict[str, Any]:
        """Return path, index, selection and hash of the file, to describe an output."""
        path = os.path.abspath(self.path)
        selection = None if self.selection is None else self.selection.record()
        found = {"path": path, "index": self.index, "sha256": sha256}
        return found if selection is None else {**found, "selection": selection}

    def error_text(self, error: Exception) -> str:
        """Return the text of an error, with the file in front if it is not named."""
        text = str(error)
        return text if self.path in text else f"{self}: {text}"

    def __str__(self) -> str:
        return self.path if self.index is None else f"{self.path}@{self.index}"


def read_images(
    images: Iterable[ImageFile],
    on_error: Callable[[ImageFile, Exception], None] | None = None,
) -> Iterator[tuple[ImageFile, Micrograph]]:
    """Read files, and yield each with its image or stack; one is in memory at a time.

    A file that cannot be read raises its error, or goes with it to ``on_error``; then
    the other files are still read.
    """
    for image in images:
        try:
            micrograph = image.read()
        except (ValueError, TypeError, OSError) as error:
            if on_error is None:
                raise
            on_error(image, error)
        else:
            yield image, micrograph


def find_images(
    inputs: PathLike | Sequence[PathLike | ImageFile],
    selection: Selection | None = None,
) -> list[ImageFile]:
    """Return the images of files, folders and patterns, in a stable order.

    ``FILE@INDEX`` or ``FILE@TITLE`` is one image of a file that holds several. A folder
    means all image files in it. A file that is named twice is returned once. Images
    that were found before stay as they are.

    Args:
        inputs: Paths, patterns or images.
        selection: The part of the images of paths and patterns that is used.

    Raises:
        InputError: Nothing is given, a file is missing, a folder or a pattern holds no
            image.
    """
    if isinstance(inputs, (str, os.PathLike)):
        inputs = [inputs]
    found: dict[Any, ImageFile] = {}
    for item in inputs:
        known = isinstance(item, ImageFile)
        for image in [item] if known else _expand(os.fspath(item)):
            if selection is not None and not known:
                image = image._replace(selection=selection)
            key = (os.path.realpath(image.path), image.index, image.selection)
            found.setdefault(key, image)
    if not found:
        raise InputError("no input image is given", wanted="files or folders")
    return list(found.values())


def image_names(folder: str) -> list[str]:
    """Return the sorted names of the files in a folder that have an image suffix.

    Hidden files and the pictures of results (:data:`PICTURE_ENDINGS`) are left out.
    """
    return [
        name
        for name in sorted(os.listdir(folder))
        if name.lower().endswith(IMAGE_SUFFIXES)
        and not name.startswith(".")
        and not name.lower().endswith(PICTURE_ENDINGS)
    ]


def _expand(item: str) -> list[ImageFile]:
    """Return the images of one path or pattern."""
    if os.path.isdir(item):
        names = image_names(item)
        if not names:
            wanted = ", ".join(IMAGE_SUFFIXES)
            raise InputError(f"folder {item} holds no image ({wanted})")
        return [ImageFile(os.path.join(item, name)) for name in names]
    if os.path.isfile(item):
        return [ImageFile(item)]
    match = re.fullmatch(r"(.+)@([^@]+)", item)
    if match and os.path.isfile(match[1]):
        index = int(match[2]) if match[2].isdecimal() else match[2]
        return [ImageFile(match[1], index)]
    if glob.has_magic(item):
        matches = sorted(path for path in glob.glob(item) if os.path.isfile(path))
        if not matches:
            raise InputError(f"no file matches the pattern {item}")
        return [ImageFile(path) for path in matches]
    folder = os.path.dirname(item) or "."
    names = image_names(folder) if os.path.isdir(folder) else []
    hint = nearest(os.path.basename(item), names).strip()
    raise InputError(f"input file or folder not found: {item}", hint=hint)
