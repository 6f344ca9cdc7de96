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

"""The command ``calibrate.py``: measure the noise of a microscope on its images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppmat.commands.image_options import add_images
from ppmat.commands.image_options import add_selection
from ppmat.commands.image_options import check_parent
from ppmat.commands.image_options import refuse_present
from ppmat.commands.image_options import selected_images
from ppmat.commands.options import exit_status
from ppmat.stem.images.image_inputs import ImageFile
from ppmat.stem.images.image_inputs import find_images
from ppmat.stem.images.image_inputs import read_images
from ppmat.stem.images.micrograph_base import convert_pixel_size
from ppmat.stem.noise.calibration import Calibration
from ppmat.stem.noise.calibration import calibrate
from ppmat.stem.noise.calibration_figure import calibration_figure
from ppmat.stem.noise.noise_model import MODES
from ppmat.utils import logger
from ppmat.utils.errors import InputError
from ppmat.utils.files import replacing
from ppmat.utils.shares import rank

_EPILOG = """\
Frames are raw images of atomic columns, of one microscope, mode, dwell time and
magnification. They may show the same place or different ones. With --series
they show one area, in the order in which they were taken: then the differences of
frames check the curves, and tell background noise from the specimen. They must not be
filtered, aligned by interpolation, or saved as JPEG. Each frame of a stack is an image.
Exit status: 0 done, 2 bad input.

examples:
  calibrate.py monday/*.dm4 -o noise.json --figure noise.png
  calibrate.py bf.tif -o bf.json --mode bf
  synthesize.py --noise noise.json -n 1000 -o folder        (training data like it)
"""
_UNITS = {
    "background_sd": "image units",
    "background_length": "px",
    "scan_slope": "px",
    "scan_intercept": "image units",
    "scan_length": "px",
    "pointwise_slope": "",
    "pointwise_intercept": "image units",
    "pointwise_lambda": "",
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description="Measure the noise of a microscope on some of its noisy images.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_images(parser, "input", metavar="FRAME")
    add_selection(parser, mask=False)
    add = parser.add_argument
    add("-o", "--output", required=True, metavar="JSON", help="the noise model")
    add("--fast_axis", type=int, choices=(0, 1), default=1,
        help="axis of the image along which the beam scans a line (default: 1, along "
        "rows)")  # fmt: skip
    add("--mode", choices=MODES, default="haadf", help="default: haadf")
    add("--figure", metavar="PNG", help="also draw the measurement")
    add("--series", action="store_true", help="the frames show one area, in the order "
        "of time: also measure the noise in their differences")  # fmt: skip
    add("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    add("--overwrite", action="store_true", help="replace existing files")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = parse_args(argv)
    if rank() > 0:  # the images give one calibration; rank 0 does all work
        return 0
    return exit_status(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Run the command with parsed options; returns the exit status.

    Raises:
        InputError: An output cannot be written, or the inputs differ in pixel size.
        StoredRunError: An output exists already.
    """
    outputs = [Path(path) for path in (args.output, args.figure) if path is not None]
    _check_names(outputs)
    refuse_present(outputs, args.overwrite)
    frames, names = read_frames(selected_images(args, args.input))
    height, width = frames[0].shape
    logger.info(f"{_number(len(frames), 'frame')} of {height} x {width}")
    result = calibrate(
        frames, args.fast_axis, args.mode, names, args.seed, series=args.series
    )
    print(parameter_table(result))
    for text in result.warnings:
        logger.warning(text)
    with replacing(outputs[0]) as temporary:
        result.model.save(temporary, calibration_record(result))
    for figure in outputs[1:]:
        with replacing(figure) as temporary:
            calibration_figure(result, temporary)
    logger.message(f"wrote {' and '.join(map(str, outputs))}")
    return 0


def _check_names(outputs: Sequence[Path]) -> None:
    for path, suffix in zip(outputs, (".json", ".png")):
        if path.suffix.lower() != suffix:
            raise InputError(f"{path}: the name must end with {suffix}")
        if path.is_dir():
            raise InputError(f"{path} is a folder, wanted the name of a file")
        check_parent(path)


def read_frames(
    inputs: Sequence[str | ImageFile],
) -> tuple[list[np.ndarray], list[str]]:
    """Return all frames [H, W] of files, folders and patterns, and their names.

    Raises:
        InputError: A file is missing, or two files have different pixel sizes.
        ImageFormatError: A file cannot be read.
    """
    from ppmat.utils.progress import Progress

    files = find_images(inputs)
    frames, names, known = [], [], []
    bar = Progress(files, desc="reading")
    for file, image in read_images(bar):
        stack = image.data.reshape(-1, *image.data.shape[-2:])
        frames += list(stack)
        numbers = [f", frame {i}" for i in range(len(stack))]
        names += [f"{file}{n}" for n in (numbers if len(stack) > 1 else [""])]
        if image.pixel_size is not None:
            size = convert_pixel_size(image.pixel_size, image.units, "Å")
            known += [(file, size)] if size is not None else []
    for name, size in known[1:]:
        if not np.allclose(size, known[0][1], rtol=0.02):
            raise InputError(
                f"{name} has pixels of {_size(size)}, {known[0][0]} of "
                f"{_size(known[0][1])}: noise depends on the magnification",
                hint="Calibrate each magnification separately.",
            )
    return frames, names


def _size(size: Sequence[float]) -> str:
    return f"{size[0]:.4g} x {size[1]:.4g} Å"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def parameter_table(result: Calibration) -> str:
    """Return the parameters with their errors as text, one a line."""
    model = result.model
    nouns = ("image", "column", "pixel")
    lines = [", ".join(_number(getattr(result, f"{noun}s"), noun) for noun in nouns)]
    lines.append(f"{'parameter':<22}{'value':>12}{'error':>12}  unit")
    for name, unit in _UNITS.items():
        error = model.standard_errors.get(name)
        value, shown = "-" if name.endswith("length") else "none", "-"
        if error is not None:
            value, shown = f"{getattr(model, name):.4g}", f"{error:.2g}"
        lines.append(f"{name:<22}{value:>12}{shown:>12}  {unit}".rstrip())
    if result.specimen_sd:
        lines.append(f"slow variation of the specimen {result.specimen_sd:.4g} (SD)")
    if "background_sd" in model.standard_errors and result.series is None:
        lines.append(
            "the background may be a support or thickness; frames of one area "
            "(--series) tell both apart"
        )
    lines.append(f"images from {model.low:.4g} to {model.high:.4g} (1 % to 99 %)")
    return "\n".join(lines)


def calibration_record(result: Calibration) -> dict[str, Any]:
    """Return what the noise model was measured on, as plain values for its file."""
    source = "frames" if result.series is None else "differences of a series"
    record: dict[str, Any] = {
        "images": result.images,
        "columns": result.columns,
        "pixels": result.pixels,
        "background_from": source,
        "specimen_sd": result.specimen_sd,
        "warnings": result.warnings,
    }
    if result.series is not None:
        record["frame_differences"] = {
            name: {
                key: getattr(curve, key)[curve.used].tolist()
                for key in ("variable", "value", "error")
            }
            for name, curve in vars(result.series).items()
        }
    return record
