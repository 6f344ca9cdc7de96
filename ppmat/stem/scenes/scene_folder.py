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


"""A data set in the folder layout of the SFIN paper, written image by image.

``train/`` and ``test/`` hold ``noisy``, ``gt_enhance`` and ``gt_detect`` with files of
the same names, and ``columns`` with a table (CSV) and a record (JSON) of each image.
``synthesis.json`` tells what all of it was made with.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.stem.scenes.atom_columns import Scene
from ppmat.utils.errors import InputError

KINDS = ("noisy", "gt_enhance", "gt_detect")
FORMATS = ("png", "tif")
RECORD = "synthesis.json"
BRIGHTEST = 255.0
_COLUMNS = "columns"
_SIGMAS = 3.0  # of the noise that grey levels must leave room for
_LEAST_RANGE = 60.0  # grey levels of contrast below which images are stretched


class FolderError(InputError):
    """A folder that holds something else than the data set that is to be written."""


def to_grey(image: np.ndarray) -> tuple[np.ndarray, int]:
    """Return an image rounded to grey levels 0 to 255, and how many pixels it clips.

    Args:
        image: Grey levels [H, W].
    """
    rounded = np.rint(image)
    grey = np.clip(rounded, 0, BRIGHTEST)
    return grey.astype(np.uint8), int(np.count_nonzero(grey != rounded))


def write_grey_png(path: str | Path, image: np.ndarray) -> int:
    """Write an image as 8-bit PNG; returns how many pixels were clipped.

    Args:
        path: The file, whatever its name ends with.
        image: Grey levels [H, W].
    """
    grey, clipped = to_grey(image)
    Image.fromarray(grey).save(path, format="PNG", optimize=True)
    return clipped


def noise_in_grey_levels(noise: NoiseModel) -> tuple[NoiseModel, float, float]:
    """Bring a noise model to grey levels that noisy images do not leave.

    It is left alone if the range of its images, with three standard deviations of
    noise at both ends, is between 0 and 255 and uses a good part of that.

    Args:
        noise: In the units of its images.

    Returns:
        The model in grey levels, and ``factor`` and ``offset`` with which values of
        its images become grey levels.
    """
    contrast = noise.high - noise.low
    if not contrast > 0:
        raise ValueError(
            f"the noise model was measured on images from {noise.low:g} to "
            f"{noise.high:g}, so it does not tell how strong it is beside the signal; "
            "calibrate it on frames with atoms"
        )
    ends = np.array([noise.low, noise.high])
    # The steepest flank of a column about ten pixels wide.
    flank = noise.scan_sd(contrast / 6)
    sd = np.sqrt(noise.background_sd**2 + flank**2 + noise.pointwise_sd(ends) ** 2)
    low, high = ends[0] - _SIGMAS * sd[0], ends[1] + _SIGMAS * sd[1]
    if low >= 0 and high <= BRIGHTEST and contrast >= _LEAST_RANGE:
        return noise, 1.0, 0.0
    factor = float(BRIGHTEST / (high - low))
    offset = float(-factor * low)
    return noise.scaled(factor, offset), factor, offset


class SynthesisFolder:
    """The files of a synthetic data set.

    An image counts as written when all its files are there; the noisy one comes last.

    Args:
        path: Made if missing.
        counts: Images of each split, by name.
        settings: What decides the images, as values of JSON.
        about: More for ``synthesis.json`` that does not decide them, such as versions.
        format: ``png`` (8 bits) or ``tif`` (float32).
        overwrite: Remove the data set that is there.

    Raises:
        FolderError: There is something else, or a data set of other settings; the
            folder cannot be written to.
    """

    def __init__(
        self,
        path: str | Path,
        counts: Mapping[str, int],
        settings: Mapping[str, Any],
        about: Mapping[str, Any],
        format: str = "png",
        overwrite: bool = False,
    ) -> None:
        if format not in FORMATS:
            raise ValueError(
                f"format is {format!r}, wanted one of {', '.join(FORMATS)}"
            )
        self.path, self.counts, self.format = Path(path), dict(counts), format
        # Through JSON and back, so that they can be compared with what a file says.
        self._settings = json.loads(
            json.dumps({**settings, "images": self.counts, "format": format})
        )
        self._about = dict(about)
        if overwrite:
            self._remove()
        else:
            self._check()
        try:
            for split in (name for name, count in self.counts.items() if count):
                for kind in (*KINDS, _COLUMNS):
                    (self.path / split / kind).mkdir(parents=True, exist_ok=True)
            self.finish({})
        except OSError as error:
            raise FolderError(
                f"{self.path} cannot be written to: {error.strerror}; choose another "
                "folder"
            ) from error

    def _told(self) -> dict | None:
        """Return the settings of the data set that is there."""
        file = self.path / RECORD
        if not file.exists():
            return None
        try:
            return dict(json.loads(file.read_text(encoding="utf-8"))["settings"])
        except (KeyError, TypeError, ValueError):
            raise FolderError(
                f"{file} is damaged or was written by another program; choose another "
                "folder or remove it"
            ) from None

    def _check(self) -> None:
        told = self._told()
        there = [split for split in self.counts if (self.path / split).exists()]
        if told is None:
            if there:
                raise FolderError(
                    f"{self.path / there[0]} exists and was not written by this "
                    "program; choose another folder"
                )
            return
        names = sorted({*told, *self._settings})
        other = [n for n in names if told.get(n) != self._settings.get(n)]
        if other:
            raise FolderError(
                f"{self.path} holds a data set made with other {', '.join(other)}; "
                "choose another folder, or replace it with --overwrite"
            )

    def _remove(self) -> None:
        """Remove the files of an earlier data set, and nothing else."""
        if self._told() is None:
            self._check()
            return
        for split in self.counts:
            for kind in (*KINDS, _COLUMNS):
                for file in _written(self.path / split / kind):
                    file.unlink()
        (self.path / RECORD).unlink()

    def _files(self, split: str, number: int) -> dict[str, Path]:
        """Return the files of an image, the noisy one last."""
        folder = self.path / split
        files = {
            f"{_COLUMNS}.csv": folder / _COLUMNS / f"{number}.csv",
            f"{_COLUMNS}.json": folder / _COLUMNS / f"{number}.json",
        }
        for kind in reversed(KINDS):
            files[kind] = folder / kind / f"{number}.{self.format}"
        return files

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

        Args:
            split: Name of the split.
            number: Of the image.
            noisy: Grey levels [H, W].
            scene: Of the same size.
            record: What is special about this image, as values of JSON.

        Returns:
            How many pixels of the noisy image were clipped (none in a ``tif``).
        """
        images = {
            "noisy": noisy,
            "gt_enhance": scene.gt_enhance,
            "gt_detect": scene.gt_detect,
        }
        files = self._files(split, number)
        parts = {
            name: path.with_name(f".{path.name}.part") for name, path in files.items()
        }
        clipped = 0
        try:
            for kind, image in images.items():
                if self.format == "png":
                    beyond = write_grey_png(parts[kind], image)
                    clipped += beyond if kind == "noisy" else 0
                else:
                    Image.fromarray(image.astype(np.float32)).save(
                        parts[kind], format="TIFF"
                    )
            record = {**record, "clipped_pixels": clipped}
            parts[f"{_COLUMNS}.csv"].write_text(columns_csv(scene), encoding="utf-8")
            parts[f"{_COLUMNS}.json"].write_text(
                json.dumps(record, indent=1) + "\n", encoding="utf-8"
            )
            for name, path in files.items():
                os.replace(parts[name], path)
        finally:
            for part in parts.values():
                part.unlink(missing_ok=True)
        return clipped

    def clipped(self) -> int:
        """Return how many pixels of all noisy images were clipped."""
        files = (
            self._files(split, number)[f"{_COLUMNS}.json"]
            for split, count in self.counts.items()
            for number in range(count)
        )
        records = (json.loads(file.read_text(encoding="utf-8")) for file in files)
        return sum(record["clipped_pixels"] for record in records)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write ``synthesis.json``.

        Args:
            summary: What is known at the end, such as the clipped share.
        """
        record = {**self._about, **summary, "settings": self._settings}
        part = self.path / f".{RECORD}.part"
        self.path.mkdir(parents=True, exist_ok=True)
        part.write_text(
            json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        os.replace(part, self.path / RECORD)


def _written(folder: Path) -> list[Path]:
    """Return the files of a folder that have the name of an image."""
    if not folder.is_dir():
        return []
    suffixes = {".csv", ".json", *(f".{name}" for name in FORMATS)}
    return [f for f in folder.iterdir() if f.stem.isdigit() and f.suffix in suffixes]


def columns_csv(scene: Scene) -> str:
    """Return the columns on the image of a scene as CSV text."""
    rows = scene.column_rows()
    if not rows:
        return "y,x\n"
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
        )
    return text.getvalue()
