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

"""A synthetic data set in the folder layout of the SFIN paper, written image by image.

``train/`` and ``test/`` hold ``noisy``, ``gt_enhance``, ``gt_detect`` and, in HAADF,
``gt_superresolution`` with files of the same numbers. The last is float32 TIFF in every
data set, since narrow spots are higher than 8 bits hold. ``columns`` holds a table of
atomic columns (CSV) and the drawn parameters (JSON) of each image. ``synthesis.json``
is the manifest of the run.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ppmat.stem.images.grey_scaling import robust_scaling
from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.stem.scenes.atom_columns import Scene
from ppmat.utils.errors import InputError
from ppmat.utils.errors import check_choice
from ppmat.utils.files import RunManifest
from ppmat.utils.files import StoredRunError
from ppmat.utils.files import locked
from ppmat.utils.files import replacing

# Folders of images, by the mode of the noise model.
IMAGE_FOLDERS = {
    "haadf": ("noisy", "gt_enhance", "gt_detect", "gt_superresolution"),
    "bf": ("noisy", "gt_enhance", "gt_detect"),
}
FORMATS = ("png", "tif")
MANIFEST = "synthesis.json"
WHITE = 255.0  # largest grey level of an 8-bit image
_COLUMNS = "columns"  # folder of the tables and drawn parameters
_EXAMPLES = 8  # noisy images that set the grey levels of a data set
_OWN_NAME = re.compile(r"\d+\.(png|tif|csv|json)")
# A temporary file of a killed run, also of earlier versions.
_UNFINISHED_NAME = re.compile(r"\.\d+\.(\d+\.)?(png|tif|csv|json)(\.part)?")


def write_grey_png(path: str | Path, image: np.ndarray) -> int:
    """Write grey levels [H, W] as 8-bit PNG; return the number of clipped pixels."""
    rounded = np.rint(image)
    grey = np.clip(rounded, 0, WHITE)
    Image.fromarray(grey.astype(np.uint8)).save(path, format="PNG", optimize=True)
    return int(np.count_nonzero(grey != rounded))


def noise_in_grey_levels(
    noise: NoiseModel, draw: Callable[[NoiseModel, int], np.ndarray]
) -> tuple[NoiseModel, float, float]:
    """Scale a noise model to the grey levels that prediction gives to its images.

    One transform serves the whole data set, so that its intensities stay comparable.
    Its offset and scale are the medians of those that
    :func:`ppmat.stem.images.grey_scaling.robust_scaling` finds in eight noisy images.
    (Percentiles of all their pixels would be those of the few brightest images.)

    Args:
        noise: The model in the units of its images.
        draw: Returns the noisy image [H, W] of a model and a number from 0 to 7. It
            must follow the units of the model, so that only the scale changes.

    Returns:
        The model in grey levels, and ``factor`` and ``offset`` of
        ``grey level = factor * image value + offset``.

    Raises:
        InputError: The images of the model have no contrast.
    """
    if not noise.high > noise.low:
        raise InputError(
            f"the noise model was measured on images from {noise.low:g} to "
            f"{noise.high:g}, so the strength of the signal is unknown",
            hint="Calibrate it on frames with atoms.",
        )
    found = [robust_scaling(draw(noise, number))[:2] for number in range(_EXAMPLES)]
    start, scale = (float(value) for value in np.median(found, axis=0))
    factor, offset = 1 / scale, -start / scale
    return noise.scaled(factor, offset), factor, offset


class SynthesisFolder:
    """The files of a synthetic data set; see :meth:`opened` for commands.

    An image counts as written when all its files exist; the noisy one comes last.

    Args:
        path: Created if missing.
        counts: Number of images of each split, by name.
        mode: ``haadf`` or ``bf``.
        settings: What determines the images, as JSON values.
        about: Further contents of ``synthesis.json``, such as versions.
        format: ``png`` (8 bits) or ``tif`` (float32).
        overwrite: Remove the data set that exists.

    Raises:
        StoredRunError: The folder holds other files, or a data set with other
            settings; or it cannot be written to.
    """

    def __init__(
        self,
        path: str | Path,
        counts: Mapping[str, int],
        mode: str,
        settings: Mapping[str, Any],
        about: Mapping[str, Any],
        format: str = "png",
        overwrite: bool = False,
    ) -> None:
        check_choice("format", format, FORMATS)
        self._kinds = IMAGE_FOLDERS[mode]
        self.path, self.counts, self.format = Path(path), dict(counts), format
        self._about = dict(about)
        self._manifest = RunManifest(
            self.path / MANIFEST,
            {**settings, "images": self.counts, "format": format},
            hint="Choose another folder, or replace the data set with --overwrite.",
            replace=overwrite,
        )
        taken = [split for split in self.counts if (self.path / split).exists()]
        if taken and not self._manifest.path.exists():
            raise StoredRunError(
                f"{self.path / taken[0]} exists and was not written by this program",
                hint="Choose another folder.",
            )
        if overwrite:
            self._remove(_OWN_NAME)
        with _writable(self.path):
            for folder in self._folders():
                if self.counts[folder.parent.name]:
                    folder.mkdir(parents=True, exist_ok=True)
            self.finish({})

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: str | Path, **options: Any) -> Iterator[SynthesisFolder]:
        """Give the folder of the class's arguments, locked against other processes."""
        with contextlib.ExitStack() as stack:
            with _writable(path):
                Path(path).mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(path))
            folder = cls(path, **options)
            folder._remove(_UNFINISHED_NAME)
            yield folder

    def _remove(self, name: re.Pattern) -> None:
        """Remove the data set's files whose whole name matches, and nothing else."""
        for folder in self._folders():
            for file in folder.glob("*"):
                if name.fullmatch(file.name):
                    file.unlink()

    def _folders(self) -> list[Path]:
        kinds = (*self._kinds, _COLUMNS)
        return [self.path / split / kind for split in self.counts for kind in kinds]

    def _format_of(self, kind: str) -> str:
        return "tif" if kind == "gt_superresolution" else self.format

    def _files(self, split: str, number: int) -> dict[str, Path]:
        """Return the files of an image, the noisy one first."""
        folder = self.path / split
        files = {k: folder / k / f"{number}.{self._format_of(k)}" for k in self._kinds}
        return files | {s: folder / _COLUMNS / f"{number}.{s}" for s in ("json", "csv")}

    def missing(self) -> Iterator[tuple[str, int]]:
        """Yield split and number of the images that are still to be written."""
        for split, count in self.counts.items():
            for number in range(count):
                if not all(f.exists() for f in self._files(split, number).values()):
                    yield split, number

    def write(
        self,
        split: str,
        number: int,
        noisy: np.ndarray,
        scene: Scene,
        record: Mapping[str, Any],
    ) -> int:
        """Write the files of an image, each whole or not at all.

        ``noisy`` are grey levels [H, W], ``record`` the drawn parameters (JSON values).
        Returns the number of clipped pixels in the noisy image (0 for ``tif``).
        """
        clipped = {}
        with contextlib.ExitStack() as stack:
            # The stack ends in reverse order, so the noisy image appears last.
            parts = {
                name: stack.enter_context(replacing(path))
                for name, path in self._files(split, number).items()
            }
            for kind in self._kinds:
                image = noisy if kind == "noisy" else getattr(scene, kind)
                if self._format_of(kind) == "png":
                    clipped[kind] = write_grey_png(parts[kind], image)
                else:
                    tif = Image.fromarray(image.astype(np.float32))
                    tif.save(parts[kind], format="TIFF")
            count = clipped.get("noisy", 0)
            parts["csv"].write_text(columns_csv(scene), encoding="utf-8")
            text = json.dumps({**record, "clipped_pixels": count}, indent=1)
            parts["json"].write_text(f"{text}\n", encoding="utf-8")
        return count

    def clipped(self) -> int:
        """Return the number of clipped pixels in all noisy images."""
        clipped = 0
        for split, count in self.counts.items():
            for number in range(count):
                text = self._files(split, number)["json"].read_text(encoding="utf-8")
                clipped += json.loads(text)["clipped_pixels"]
        return clipped

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write ``synthesis.json`` with a summary, such as the clipped share."""
        self._manifest.write(**self._about, **summary)


@contextlib.contextmanager
def _writable(path: str | Path) -> Iterator[None]:
    """Turn an error of the file system into a :class:`StoredRunError`."""
    try:
        yield
    except OSError as error:
        raise StoredRunError(
            f"{path} cannot be written to: {error.strerror}",
            hint="Choose another folder.",
        ) from error


def columns_csv(scene: Scene) -> str:
    """Return the columns on the image of a scene as CSV text."""
    rows = scene.column_rows()
    lines = [list(rows[0]) if rows else ["y", "x"]]
    for row in rows:
        lines.append([v if isinstance(v, str) else f"{v:.6g}" for v in row.values()])
    return "".join(",".join(line) + "\n" for line in lines)
