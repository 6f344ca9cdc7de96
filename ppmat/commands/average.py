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

"""The command ``average.py``: align and average a series of frames of one area."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppmat.commands.image_options import add_images
from ppmat.commands.image_options import check_parent
from ppmat.commands.image_options import refuse_present
from ppmat.commands.options import counted
from ppmat.commands.options import exit_status
from ppmat.commands.options import refuse_if
from ppmat.stem.images.bad_pixels import hot_pixel_warning
from ppmat.stem.images.image_inputs import ImageFile
from ppmat.stem.images.image_inputs import find_images
from ppmat.stem.images.micrograph import Micrograph
from ppmat.stem.images.micrograph import check_writable
from ppmat.stem.images.micrograph import write_micrograph
from ppmat.stem.images.micrograph_base import convert_pixel_size
from ppmat.stem.series.averaging import AREAS
from ppmat.stem.series.averaging import Average
from ppmat.stem.series.averaging import average_frames
from ppmat.utils import logger
from ppmat.utils.download import hash_of_file
from ppmat.utils.errors import InputError
from ppmat.utils.files import RunManifest
from ppmat.utils.files import replacing
from ppmat.utils.shares import rank

_EPILOG = """\
Frames are images of one area, in the order in which they were taken: one stack, or
several files of one size. Each is aligned as a whole, to a fraction of a pixel. A
lattice looks alike after a step by one of its vectors, so the drift from frame to frame
must change by less than half a vector. Pixels that are NaN, masked or hot are left out.
Exit status: 0 done, 2 bad input.

examples:
  average.py series.tif -o average.tif
  average.py monday/frame_*.dm4 -o average.tif --standard_error
  average.py series.npy -o average.tif --area all --reach 5
"""
_MAX_DIFFERENCE = 0.02  # relative, of the pixel sizes of two frames


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description="Align and average a series of frames of one area.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_images(parser, "input", metavar="FRAME")
    add = parser.add_argument
    add("-o", "--output", required=True, metavar="TIF", help="the average, float32; "
        "its record is TIF.json")  # fmt: skip
    add("--reach", type=float, metavar="PX", help="how far a step of the drift may be "
        "from the steps before (default: a quarter of the shorter side)")  # fmt: skip
    add("--area", choices=AREAS, default="common", help="common: the pixels that all "
        "frames show; all: what any frame shows, NaN elsewhere")  # fmt: skip
    add("--fast_axis", type=int, choices=(0, 1), default=1,
        help="axis of the image along which the beam scans a line, for the jitter "
        "(default: 1, along rows)")  # fmt: skip
    add("--standard_error", action="store_true", help="also write the standard error "
        "of each pixel, as NAME.error.tif")  # fmt: skip
    add("--overwrite", action="store_true", help="replace existing files")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = parse_args(argv)
    if rank() > 0:  # the images are one series; rank 0 does all work
        return 0
    return exit_status(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Run the command with parsed options; returns the exit status.

    Raises:
        InputError: The frames cannot be averaged, or the output cannot be written.
        StoredRunError: An output exists already.
    """
    images = find_images(args.input)
    outputs = _outputs(args, images)
    refuse_present(outputs.values(), args.overwrite)
    frames = FileFrames(images)
    hashes = [hash_of_file(image.path) for image in images]
    height, width = frames.shape
    logger.info(f"{counted(len(frames), 'frame')} of {height} x {width}")
    found = average_frames(frames, args.reach, args.area, args.fast_axis, frames.names)
    size_nm = None
    if frames.pixel_size is not None:
        size_nm = convert_pixel_size(frames.pixel_size, frames.units, "nm")
    print(drift_table(found, frames.names, size_nm))
    if found.hot:
        logger.warning(hot_pixel_warning(found.hot))
    record = average_record(found, frames.names, size_nm)
    settings = {name: getattr(args, name) for name in ("reach", "area", "fast_axis")}
    scale = frames.pixel_size, frames.units
    with replacing(outputs["average"]) as temporary:
        write_micrograph(temporary, found.image, *scale, {"ppmat": record})
        output = {"file": outputs["average"].name, "sha256": hash_of_file(temporary)}
        outputs["record"].unlink(missing_ok=True)  # of an older average
        RunManifest(outputs["record"], settings, "").write(
            input=[image.record(sum_) for image, sum_ in zip(images, hashes)],
            record=record,
            output=output,
        )
    if args.standard_error:
        write_micrograph(outputs["error"], found.standard_error, *scale)
    logger.message(f"wrote {' and '.join(map(str, outputs.values()))}")
    return 0


def _outputs(args: argparse.Namespace, images: Sequence[ImageFile]) -> dict[str, Path]:
    """Return the paths of the outputs, or refuse them."""
    path = Path(args.output)
    wanted = f"--output={path}: the name must end with .tif"
    refuse_if(path.suffix.lower() not in (".tif", ".tiff"), wanted)
    reach = args.reach
    refuse_if(
        reach is not None and not (np.isfinite(reach) and reach >= 1),
        f"--reach={reach}: wanted a number of at least 1 px",
    )
    check_parent(path)
    check_writable(path)
    outputs = {"average": path, "record": path.with_name(f"{path.name}.json")}
    if args.standard_error:
        outputs["error"] = path.with_name(f"{path.stem}.error{path.suffix}")
    inputs = {os.path.realpath(image.path) for image in images}
    for output in outputs.values():
        refuse_if(
            os.path.realpath(output) in inputs,
            f"{output} is one of the frames and would be replaced; choose another "
            "--output",
        )
    return outputs


class FileFrames:
    """The frames of files, read when they are asked for; one file is in memory.

    Args:
        images: The files, each with an image or a stack.

    Attributes:
        names: Of the frames, for messages.
        shape: Of a frame, (H, W).
        pixel_size: (y, x) in ``units``; None if unknown.
        units: Of the pixel size.

    Raises:
        InputError: Two frames differ in their size or pixel size.
        ImageFormatError: A file cannot be read.
    """

    def __init__(self, images: Sequence[ImageFile]) -> None:
        self._places: list[tuple[ImageFile, int]] = []
        self._open: tuple[ImageFile, Micrograph] | None = None
        self.names: list[str] = []
        self.shape: tuple[int, int] | None = None
        self.pixel_size, self.units = None, None
        for image in images:
            self._add(image)

    def _add(self, image: ImageFile) -> None:
        source = self._read(image)
        shape = source.data.shape[-2:]
        number = int(np.prod(source.data.shape[:-2]))
        self.shape = self.shape or shape
        if shape != self.shape:
            raise InputError(
                f"has frames of {shape[0]} x {shape[1]} pixels, {self.names[0]} has "
                f"{self.shape[0]} x {self.shape[1]}",
                where=str(image),
                wanted="frames of one size",
            )
        if source.pixel_size is not None:
            if self.pixel_size is None:
                self.pixel_size, self.units = source.pixel_size, source.units
            self._compare(image, source)
        self._places += [(image, i) for i in range(number)]
        numbers = [f", frame {i}" for i in range(number)] if number > 1 else [""]
        self.names += [f"{image}{text}" for text in numbers]

    def _compare(self, image: ImageFile, source: Micrograph) -> None:
        """Refuse a file of another pixel size."""
        sizes = [
            convert_pixel_size(size, units, "nm") or size
            for size, units in (
                (self.pixel_size, self.units),
                (source.pixel_size, source.units),
            )
        ]
        if not np.allclose(*sizes, rtol=_MAX_DIFFERENCE):
            raise InputError(
                f"has pixels of {source.pixel_size} {source.units}, the frames before "
                f"have {self.pixel_size} {self.units}",
                where=str(image),
                wanted="frames of one magnification",
            )

    def _read(self, image: ImageFile) -> Micrograph:
        if self._open is None or self._open[0] != image:
            self._open = None  # the old file leaves the memory before the new one
            self._open = image, image.read()
        return self._open[1]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> np.ndarray:
        image, index = self._places[number]
        data = self._read(image).data
        return data.reshape(-1, *self.shape)[index]


def average_record(
    found: Average, names: Sequence[str], size_nm: tuple[float, float] | None
) -> dict[str, Any]:
    """Return what the average was made of, as plain values."""
    drift = found.drift
    frames = []
    for i, name in enumerate(names):
        frames.append(
            {
                "name": name,
                "shift_px": drift.shifts[i].tolist(),
                "shift_nm": None
                if size_nm is None
                else (drift.shifts[i] * size_nm).tolist(),
                "correlation": float(drift.correlation[i]),
                "jitter_px": float(drift.jitter[i]),
            }
        )
    return {
        "frames": frames,
        "origin": list(found.origin),
        "noise_of_average": found.noise,
        "noise_of_frame": found.frame_noise,
        "hot_pixels": found.hot,
    }


def drift_table(
    found: Average, names: Sequence[str], size_nm: tuple[float, float] | None
) -> str:
    """Return shift, jitter and correlation of the frames as text, one a line."""
    units = "px" if size_nm is None else "nm"
    size = (1.0, 1.0) if size_nm is None else size_nm
    head = f"{'y [px]':>9}{'x [px]':>9}"
    head += "" if size_nm is None else f"{'y [nm]':>10}{'x [nm]':>10}"
    lines = [f"{head}{'jitter [px]':>13}{'correlation':>13}  frame"]
    drift = found.drift
    for i, name in enumerate(names):
        y, x = drift.shifts[i]
        text = f"{y:9.2f}{x:9.2f}"
        if size_nm is not None:
            text += f"{y * size[0]:10.4f}{x * size[1]:10.4f}"
        text += f"{drift.jitter[i]:13.2f}{drift.correlation[i]:13.3f}  {name}"
        lines.append(text)
    steps = np.diff(drift.shifts, axis=0) * size
    step = float(np.sqrt(np.mean(np.sum(steps**2, axis=1))))
    height, width = found.image.shape
    lines.append(
        f"drift {step:.3g} {units} a frame (RMS), jitter "
        f"{np.sqrt(np.mean(drift.jitter**2)):.2g} px (RMS)"
    )
    lines.append(
        f"average of {len(names)} frames, {height} x {width}: noise {found.noise:.4g}, "
        f"that of a frame {found.frame_noise:.4g} (image units, RMS)"
    )
    return "\n".join(lines)
