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


"""The command that finds and measures atomic columns.

Importing this module does not import Paddle, because the number of threads must be set
before.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppmat.commands.image_options import add_image_model
from ppmat.commands.image_options import add_images
from ppmat.commands.image_options import check_parent
from ppmat.commands.image_options import first_names
from ppmat.commands.image_options import load_predictor
from ppmat.commands.image_options import own_model_options
from ppmat.commands.image_options import refuse_present
from ppmat.commands.options import EXIT_BAD_INPUT
from ppmat.commands.options import EXIT_SOME_LEFT_OUT
from ppmat.commands.options import move_overrides
from ppmat.commands.options import task_command
from ppmat.predictor.image_store import make_folder
from ppmat.predictor.image_store import output_names
from ppmat.stem.columns.column_table import UNITS
from ppmat.stem.columns.column_table import ColumnTable
from ppmat.stem.columns.column_table import ColumnTableError
from ppmat.stem.columns.column_table import unknown_elements
from ppmat.stem.columns.detection import MIN_SCORE
from ppmat.stem.columns.detection import POLARITIES
from ppmat.stem.columns.detection import detect_columns
from ppmat.stem.images.bad_pixels import without_hot_pixels
from ppmat.stem.images.image_inputs import ImageFile
from ppmat.stem.images.image_inputs import find_images
from ppmat.stem.images.micrograph import Micrograph
from ppmat.stem.images.micrograph import image_from
from ppmat.stem.images.micrograph_base import convert_pixel_size
from ppmat.stem.noise.noise_model import MODES
from ppmat.utils import logger
from ppmat.utils.download import hash_of_file
from ppmat.utils.files import replacing
from ppmat.utils.registry import ConfigError

_EPILOG = """\
Start positions come from the network (or --enhanced). Positions, errors and intensities
are fitted to the raw image. Without a model, a packaged one is used.
Each table x.csv has x.csv.json beside it, with its input, options and warnings.
Cells for ASE and pymatgen need the pixel size, and columns that form one lattice.
Exit status: 0 done, 1 some files or exports failed (they are listed), 2 bad input.

examples:
  detect.py image.tif -o columns.csv --overlay
  detect.py monday/*.dm4 -o tables --mode bf --export atomap ase
  detect.py image.png -o columns.csv --raw --pixel_size 0.012 --units nm
  detect.py image.tif -o columns.csv -c configs/sfin/sfin_haadf_detect.yaml
            --checkpoint_path best.pdparams
"""
# Number of an image and its raw pixels -> ``enhanced`` and ``seeds_from`` of
# ``detect_columns`` (empty for the raw image), and how that image was made.
SeedFinder = Callable[[int, np.ndarray], tuple[dict[str, Any], Any]]

EXPORTS = {"atomap": ".atomap.npy", "ase": ".extxyz", "pymatgen": ".structure.json"}
_CELLS = ("ase", "pymatgen")  # exports that hold the average cell
_PIXEL_SIZE_HINT = "Give it, for example with --pixel_size 0.012 --units nm."


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; KEY=VALUE arguments are collected in ``overrides``."""
    parser = argparse.ArgumentParser(
        description="Find and measure the atomic columns of microscope images.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    changes = "; KEY=VALUE changes the YAML"
    add_images(parser, "input", metavar="IMAGE", also=changes)
    add = parser.add_argument
    add("-o", "--output", required=True, metavar="CSV|FOLDER",
        help="the table of one image, or a folder for those of several")  # fmt: skip
    add("--mode", choices=MODES, default="haadf",
        help="haadf: columns are bright; bf: dark (default: haadf)")  # fmt: skip
    add("--polarity", choices=POLARITIES,
        help="of the columns, if it is not that of the mode")  # fmt: skip
    add_image_model(parser)
    add("--enhanced", nargs="+", metavar="IMAGE",
        help="enhanced images, as many as inputs and in their order: no model is "
        "needed")  # fmt: skip
    add("--map", action="store_true",
        help="--enhanced are maps of a detection model: spots on black")  # fmt: skip
    add("--raw", action="store_true", help="search columns in the raw image")
    add("--pixel_size", type=float, nargs="+", metavar="SIZE",
        help="one size, or y and x, for files without a pixel size")  # fmt: skip
    add("--units", choices=tuple(UNITS), help="of --pixel_size (default: nm)")
    add("--sigma", type=float,
        help="width of the columns, pixels; estimated if not given")  # fmt: skip
    add("--separation", type=float,
        help="smallest distance of two columns, pixels (default: 2 sigma)")  # fmt: skip
    add("--min_score", type=float, default=MIN_SCORE,
        help=f"smallest score of a column, 0 to 1 (default: {MIN_SCORE})")  # fmt: skip
    add("--export", nargs="+", choices=tuple(EXPORTS), default=[],
        help="also write positions for Atomap, the average cell for ASE or "
        "pymatgen (needs the pixel size)")  # fmt: skip
    add("--elements", nargs="+", metavar="ELEMENT",
        help="of the columns in exported cells, the brightest kind first")  # fmt: skip
    add("--overlay", action="store_true", help="also draw the columns on the image")
    add("--overwrite", action="store_true", help="replace existing outputs")
    args = parser.parse_intermixed_args(argv)
    args.overrides = []
    move_overrides(args, ("input",))
    return args


def run(args: argparse.Namespace, task_dir: str) -> int:
    """Measure the images; returns the exit status.

    Raises:
        ConfigError: Options that do not go together, missing files.
        StoredRunError: An output exists already.
        StaticProgramError: This version of Paddle compiles networks wrongly.
    """
    from tqdm import tqdm

    options = _read_options(args)
    images = find_images(args.input)
    tables = _table_paths(args.output, images)
    given = None if args.enhanced is None else find_images(args.enhanced)
    if given is not None and len(given) != len(images):
        raise ConfigError(
            f"--enhanced: {len(given)} images for {len(images)} inputs; wanted one each"
        )
    outputs = (path for table in tables for path in options.outputs(table).values())
    refuse_present(outputs, args.overwrite)
    find_seeds = _seed_finder(args, task_dir, given)
    failed: list[str] = []
    uncalibrated: list[str] = []
    not_exported = 0
    progress = tqdm(images, "detecting", unit=" files", disable=not sys.stderr.isatty())
    for number, image in enumerate(progress):
        try:
            table, left_out = _measure_file(
                options, image, number, tables[number], find_seeds
            )
        except (ValueError, TypeError, OSError) as error:
            failed.append(str(image))
            logger.error(f"failed: {image.error_text(error)}")
            continue
        print(f"{tables[number]}: {_summary(table)}", flush=True)
        for text in table.info["warnings"]:
            logger.warning(f"{image}: {text}")
        for name, reason in left_out.items():
            logger.error(f"{image}: not exported to {name}: {reason}")
        not_exported += bool(left_out)
        if table.pixel_size is None:
            uncalibrated.append(str(image))
    if uncalibrated:
        logger.warning(
            "positions are in pixels only, since the pixel size is unknown: "
            f"{first_names(uncalibrated)}. {_PIXEL_SIZE_HINT}"
        )
    if not_exported:
        logger.error(
            f"some exports were left out: {not_exported} of {len(images)} files; their "
            "tables were written"
        )
    if failed:
        logger.error(f"failed: {len(failed)} of {len(images)} files")
    if len(failed) == len(images):
        return EXIT_BAD_INPUT
    return EXIT_SOME_LEFT_OUT if failed or not_exported else 0


main = task_command(parse_args, run)


@dataclass(frozen=True)
class DetectOptions:
    """How each image is measured, and what is written.

    Attributes:
        search: Options of ``detect_columns``.
        pixel_size_nm: Pixel size (y, x) of all images, nm; None takes the file's.
        exports: Keys of :data:`EXPORTS`.
        elements: Symbols for exported cells, the brightest kind of column first.
        overlay: Also draw the columns on the image.
    """

    search: Mapping[str, Any]
    pixel_size_nm: tuple[float, float] | None = None
    exports: tuple[str, ...] = ()
    elements: Sequence[str] | None = None
    overlay: bool = False

    def outputs(self, table: Path) -> dict[str, Path]:
        """Return all files that belong to a table."""
        paths = {"table": table, "record": table.with_name(f"{table.name}.json")}
        for name in self.exports:
            paths[name] = table.with_name(table.stem + EXPORTS[name])
        if self.overlay:
            paths["overlay"] = table.with_name(f"{table.stem}.overlay.png")
        return paths

    def pixel_size_of(self, source: Micrograph) -> tuple[float, float] | None:
        """Return the pixel size (y, x) of an image, nm; None if unknown."""
        if self.pixel_size_nm is not None or source.pixel_size is None:
            return self.pixel_size_nm
        return convert_pixel_size(source.pixel_size, source.units, "nm")


def _read_options(args: argparse.Namespace) -> DetectOptions:
    """Return the options of each image.

    Raises:
        ConfigError: Options do not go together, or a number is not legal.
    """
    model = own_model_options(args)
    ways = [f"--{name}" for name in ("raw", "enhanced") if getattr(args, name)]
    if len(ways) > 1 or (ways and model):
        raise ConfigError(
            f"{' and '.join([*ways, *model])} exclude each other: columns are searched "
            "in the raw image, in given enhanced images, or in those of a model"
        )
    if args.map and not args.enhanced:
        raise ConfigError(
            "--map goes with --enhanced; a detection model is known by its target"
        )
    if args.units is not None and args.pixel_size is None:
        raise ConfigError("--units goes with --pixel_size")
    size = args.pixel_size
    if size is not None:
        if len(size) > 2 or not all(np.isfinite(v) and v > 0 for v in size):
            raise ConfigError(
                f"--pixel_size={' '.join(map(str, size))}: wanted one number above 0, "
                "or two for y and x"
            )
        size = convert_pixel_size((size[0], size[-1]), args.units or "nm", "nm")
    if not 0 <= args.min_score < 1:
        raise ConfigError(f"--min_score={args.min_score}: wanted 0 to below 1")
    for name in ("sigma", "separation"):
        value = getattr(args, name)
        if value is not None and not value >= 0.5:
            raise ConfigError(f"--{name}={value}: wanted at least half a pixel")
    if args.elements and not set(_CELLS).intersection(args.export):
        raise ConfigError("--elements goes with --export ase or pymatgen")
    wrong = unknown_elements(args.elements) if args.elements else []
    if wrong:
        raise ConfigError(
            f"--elements={' '.join(args.elements)}: {', '.join(wrong)} is no symbol of "
            "an element; wanted such as Sr, or X for unknown atoms"
        )
    names = ("mode", "polarity", "sigma", "separation", "min_score")
    return DetectOptions(
        search={name: getattr(args, name) for name in names},
        pixel_size_nm=size,
        exports=tuple(args.export),
        elements=args.elements,
        overlay=args.overlay,
    )


def _table_paths(output: str, images: Sequence[ImageFile]) -> list[Path]:
    """Return the path of the table of each image.

    Raises:
        ConfigError: One file for several images, or a folder that cannot be used.
    """
    path = Path(output)
    if path.suffix.lower() == ".csv" and not path.is_dir():
        if len(images) > 1:
            raise ConfigError(
                f"--output={output} is one file, but there are {len(images)} images; "
                "wanted a folder"
            )
        check_parent(path)
        return [path]
    if path.suffix and not path.exists():
        raise ConfigError(f"--output={output}: wanted a name with .csv, or a folder")
    make_folder(path)
    return [path / f"{name}.csv" for name in output_names(images)]


def _seed_finder(
    args: argparse.Namespace, task_dir: str, given: Sequence[ImageFile] | None
) -> SeedFinder:
    if args.raw:
        return lambda number, raw: ({}, None)
    if given is not None:
        kind = "map" if args.map else "enhanced"

        def read(number: int, raw: np.ndarray) -> tuple[dict[str, Any], str]:
            image = image_from(given[number].read())
            return {"enhanced": image, "seeds_from": kind}, str(given[number])

        return read
    own = args.model_name or args.config_path or args.checkpoint_path
    mode = None if own else args.mode
    predictor = load_predictor(args, task_dir, mode, args.device)
    kind = "map" if predictor.gives_map else "enhanced"
    # A wrong version of Paddle ends the run; it is no fault of an image.
    predictor.tiles.runner(*[predictor.defaults.tile_size] * 2)

    def enhance(number: int, raw: np.ndarray) -> tuple[dict[str, Any], dict]:
        # One hot pixel would change the network's result in its whole tile.
        result = predictor.enhance_image(without_hot_pixels(raw)[0])
        return {"enhanced": result.image, "seeds_from": kind}, result.record

    return enhance


def _measure_file(
    options: DetectOptions,
    image: ImageFile,
    number: int,
    table_path: Path,
    find_seeds: SeedFinder,
) -> tuple[ColumnTable, dict[str, str]]:
    """Measure an image and write its files.

    Returns:
        The table, and for each export that was left out the reason.
    """
    input_hash = hash_of_file(image.path)
    source = image.read()
    raw = image_from(source)
    seeds, seed_record = find_seeds(number, raw)
    size = options.pixel_size_of(source)
    table = detect_columns(raw, pixel_size=size, units="nm", **options.search, **seeds)
    paths = options.outputs(table_path)
    with replacing(paths["table"]) as temporary:
        table.to_csv(temporary)
    if options.overlay:
        from ppmat.stem.columns.detection_figure import draw_columns

        with replacing(paths["overlay"]) as temporary:
            draw_columns(raw, table, temporary, str(image))
    left_out = {}
    for name in options.exports:
        try:
            with replacing(paths[name]) as temporary:
                _export(name, table, options.elements, temporary)
        except (ValueError, OSError) as error:
            left_out[name] = str(error)
            paths[name].unlink(missing_ok=True)  # of an earlier table
    description = {
        "input": image.record(input_hash),
        "pixel_size_nm": size,
        "columns": len(table),
        "detection": table.info,
        "enhanced": seed_record,
        "not_exported": left_out,
    }
    with replacing(paths["record"]) as temporary:
        temporary.write_text(json.dumps(description, indent=1), encoding="utf-8")
    return table, left_out


def _export(
    name: str, table: ColumnTable, elements: Sequence[str] | None, path: Path
) -> None:
    """Write a table in the format of another program.

    Raises:
        InputError: The columns do not form the cell that the format needs.
    """
    if name == "atomap":
        table.to_atomap(path)
        return
    if table.pixel_size is None:
        raise ColumnTableError(
            f"the pixel size is unknown, so there is no cell. {_PIXEL_SIZE_HINT}"
        )
    if name == "ase":
        table.to_atoms(elements).write(path, format="extxyz")
    else:
        text = json.dumps(table.to_structure(elements).as_dict())
        path.write_text(text, encoding="utf-8")


def _summary(table: ColumnTable) -> str:
    if not len(table):
        return "no columns found: no signal is above the noise"
    position_errors = np.hypot(table.y_error, table.x_error) / np.sqrt(2)
    parts = [
        "1 column" if len(table) == 1 else f"{len(table)} columns",
        f"sigma {np.median(table.sigma):.2f} px",
        f"error of a position {np.nanmedian(position_errors):.2g} px",
    ]
    if table.pixel_size is not None:
        picometres = 1e3 * np.nanmedian(np.hypot(*table.errors_nm.T) / np.sqrt(2))
        parts[-1] += f" ({picometres:.2g} pm)"
    for name, which in (
        ("at the edge", table.edge),
        ("overlapping", table.overlapping),
        ("not fitted", ~table.fitted),
    ):
        if which.any():
            parts.append(f"{int(which.sum())} {name}")
    return ", ".join(parts)
