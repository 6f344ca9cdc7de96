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


"""The command that finds and measures atomic columns; importing it loads no Paddle."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
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
from ppmat.commands.options import counted
from ppmat.commands.options import new_parser
from ppmat.commands.options import parse_with_overrides
from ppmat.commands.options import refuse_if
from ppmat.commands.options import task_command
from ppmat.predictor.image_store import make_folder
from ppmat.predictor.image_store import output_names
from ppmat.stem.columns.column_search import POLARITIES
from ppmat.stem.columns.column_table import UNITS
from ppmat.stem.columns.column_table import ColumnTable
from ppmat.stem.columns.column_table import ColumnTableError
from ppmat.stem.columns.column_table import unknown_elements
from ppmat.stem.columns.detection import MIN_SCORE
from ppmat.stem.columns.detection import detect_columns
from ppmat.stem.images.bad_pixels import without_hot_pixels
from ppmat.stem.images.image_inputs import ImageFile
from ppmat.stem.images.image_inputs import find_images
from ppmat.stem.images.micrograph import image_from
from ppmat.stem.images.micrograph_base import convert_pixel_size
from ppmat.stem.noise.noise_model import MODES
from ppmat.utils import logger
from ppmat.utils.download import hash_of_file
from ppmat.utils.files import locked
from ppmat.utils.files import replacing

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
_PIXEL_SIZE_HINT = "Give it, for example with --pixel_size 0.012 --units nm."


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; KEY=VALUE arguments are collected in ``overrides``."""
    parser = new_parser(
        "Find and measure atomic columns of microscope images.", _EPILOG
    )
    changes = "; KEY=VALUE changes the YAML"
    add_images(parser, "input", metavar="IMAGE", also=changes)
    parser.set_defaults(overrides=[])
    add = parser.add_argument
    add("-o", "--output", required=True, metavar="CSV|FOLDER",
        help="the table of one image, or a folder for those of several")  # fmt: skip
    add("--mode", choices=MODES, default="haadf",
        help="haadf: columns are bright; bf: dark (default: haadf)")  # fmt: skip
    add("--polarity", choices=POLARITIES,
        help="of the columns, if it is not that of the mode")  # fmt: skip
    add_image_model(parser)
    add("--enhanced", nargs="+", metavar="IMAGE", help="enhanced images, as many as "
        "inputs and in their order: no model is needed")  # fmt: skip
    add("--map", action="store_true",
        help="--enhanced are maps of a detection model: spots on black")  # fmt: skip
    add("--raw", action="store_true", help="search columns in the raw image")
    add("--pixel_size", type=float, nargs="+", metavar="SIZE",
        help="one size, or y and x, for files without a pixel size")  # fmt: skip
    add("--units", choices=tuple(UNITS), help="of --pixel_size (default: nm)")
    add("--sigma", type=float, help="width of the columns, pixels; estimated if absent")
    add("--separation", type=float,
        help="smallest distance of two columns, pixels (default: 2 sigma)")  # fmt: skip
    add("--min_score", type=float, default=MIN_SCORE,
        help=f"smallest score of a column, 0 to 1 (default: {MIN_SCORE})")  # fmt: skip
    add("--export", nargs="+", choices=tuple(EXPORTS), default=[], help="also write "
        "positions for Atomap, the average cell for ASE or pymatgen")  # fmt: skip
    add("--elements", nargs="+", metavar="ELEMENT",
        help="of the columns in exported cells, the brightest kind first")  # fmt: skip
    add("--overlay", action="store_true", help="also draw the columns on the image")
    add("--overwrite", action="store_true", help="replace existing outputs")
    return parse_with_overrides(parser, argv, "input")


def run(args: argparse.Namespace, task_dir: str) -> int:
    """Measure the images, holding the lock of the output; returns the exit status."""
    size = _check_options(args)
    images = find_images(args.input)
    tables = _table_paths(args.output, images)
    with locked(args.output):
        return _measure_all(args, task_dir, size, images, tables)


def _measure_all(
    args: argparse.Namespace,
    task_dir: str,
    size: tuple[float, float] | None,
    images: Sequence[ImageFile],
    tables: Sequence[Path],
) -> int:
    """Write the tables, one for each image; returns the exit status."""
    from tqdm import tqdm

    given = None if args.enhanced is None else find_images(args.enhanced)
    if given is not None:
        counts = f"{len(given)} images for {len(images)} inputs"
        refuse_if(len(given) != len(images), f"--enhanced: {counts}; wanted one each")
    outputs = (path for table in tables for path in _outputs(args, table).values())
    refuse_present(outputs, args.overwrite)
    find_seeds = _seed_finder(args, task_dir, given)
    uncalibrated: list[str] = []
    failed = not_exported = 0
    progress = tqdm(images, "detecting", unit=" files", disable=not sys.stderr.isatty())
    for number, image in enumerate(progress):
        try:
            paths = _outputs(args, tables[number])
            seeds = functools.partial(find_seeds, number)
            table, left_out = _measure_file(args, size, image, paths, seeds)
        except (ValueError, TypeError, OSError) as error:
            failed += 1
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
    of_all = f"of {len(images)} files"
    if not_exported:
        text = f"some exports were left out: {not_exported} {of_all}"
        logger.error(f"{text}; their tables were written")
    if failed:
        logger.error(f"failed: {failed} {of_all}")
    if failed == len(images):
        return EXIT_BAD_INPUT
    return EXIT_SOME_LEFT_OUT if failed or not_exported else 0


main = task_command(parse_args, run)


def _outputs(args: argparse.Namespace, table: Path) -> dict[str, Path]:
    """Return all files that belong to a table."""
    paths = {"table": table, "record": table.with_name(f"{table.name}.json")}
    for name in args.export:
        paths[name] = table.with_name(table.stem + EXPORTS[name])
    if args.overlay:
        paths["overlay"] = table.with_name(f"{table.stem}.overlay.png")
    return paths


def _check_options(args: argparse.Namespace) -> tuple[float, float] | None:
    """Return the pixel size (y, x) of all images, nm; None takes the files' own."""
    model = own_model_options(args)
    ways = [f"--{name}" for name in ("raw", "enhanced") if getattr(args, name)]
    refuse_if(
        len(ways) > 1 or (ways and model),
        f"{' and '.join([*ways, *model])} exclude each other: columns are searched in "
        "the raw image, in given enhanced images, or in those of a model",
    )
    map_help = "--map goes with --enhanced; a detection model is known by its target"
    refuse_if(args.map and not args.enhanced, map_help)
    score, size = args.min_score, args.pixel_size
    refuse_if(args.units is not None and size is None, "--units goes with --pixel_size")
    refuse_if(not 0 <= score < 1, f"--min_score={score}: wanted 0 to below 1")
    for name in ("sigma", "separation"):
        value = getattr(args, name)
        text = f"--{name}={value}: wanted at least half a pixel"
        refuse_if(value is not None and not value >= 0.5, text)
    refuse_if(
        args.elements and not {"ase", "pymatgen"}.intersection(args.export),
        "--elements goes with --export ase or pymatgen",
    )
    wrong = unknown_elements(args.elements or [])
    refuse_if(
        wrong,
        f"--elements: {', '.join(wrong)} is no symbol of an element; wanted such as "
        "Sr, or X for unknown atoms",
    )
    if size is None:
        return None
    refuse_if(
        len(size) > 2 or not all(np.isfinite(v) and v > 0 for v in size),
        f"--pixel_size={' '.join(map(str, size))}: wanted one number above 0, or two "
        "for y and x",
    )
    return convert_pixel_size((size[0], size[-1]), args.units or "nm", "nm")


def _table_paths(output: str, images: Sequence[ImageFile]) -> list[Path]:
    """Return the path of the table of each image."""
    path = Path(output)
    if path.suffix.lower() == ".csv" and not path.is_dir():
        several = f"--output={output} is one file, but there are {len(images)} images"
        refuse_if(len(images) > 1, f"{several}; wanted a folder")
        check_parent(path)
        return [path]
    wanted = f"--output={output}: wanted a name with .csv, or a folder"
    refuse_if(path.suffix and not path.exists(), wanted)
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
    predictor = load_predictor(args, task_dir, None if own else args.mode)
    kind = "map" if predictor.gives_map else "enhanced"
    # A wrong version of Paddle ends the run; it is no fault of an image.
    predictor.tiles.runner(*[predictor.defaults.tile_size] * 2)

    def enhance(number: int, raw: np.ndarray) -> tuple[dict[str, Any], dict]:
        # One hot pixel would change the network's result in its whole tile.
        result = predictor.enhance_image(without_hot_pixels(raw)[0])
        return {"enhanced": result.image, "seeds_from": kind}, result.record

    return enhance


def _measure_file(
    args: argparse.Namespace,
    size: tuple[float, float] | None,
    image: ImageFile,
    paths: Mapping[str, Path],
    find_seeds: Callable[[np.ndarray], tuple[dict[str, Any], Any]],
) -> tuple[ColumnTable, dict[str, str]]:
    """Measure an image and write its files.

    Returns:
        The table, and for each export that was left out the reason.
    """
    input_hash = hash_of_file(image.path)
    source = image.read()
    raw = image_from(source)
    seeds, seed_record = find_seeds(raw)
    if size is None and source.pixel_size is not None:
        size = convert_pixel_size(source.pixel_size, source.units, "nm")
    names = ("mode", "polarity", "sigma", "separation", "min_score")
    search = {name: getattr(args, name) for name in names}
    table = detect_columns(raw, pixel_size=size, units="nm", **search, **seeds)
    with replacing(paths["table"]) as temporary:
        table.to_csv(temporary)
    if args.overlay:
        from ppmat.stem.columns.detection_figure import draw_columns

        with replacing(paths["overlay"]) as temporary:
            draw_columns(raw, table, temporary, str(image))
    left_out = {}
    for name in args.export:
        try:
            with replacing(paths[name]) as temporary:
                _export(name, table, args.elements, temporary)
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
    """Write a table in the format of another program."""
    if name == "atomap":
        table.to_atomap(path)
    elif table.pixel_size is None:
        raise ColumnTableError(
            f"the pixel size is unknown, so there is no cell. {_PIXEL_SIZE_HINT}"
        )
    elif name == "ase":
        table.to_atoms(elements).write(path, format="extxyz")
    else:
        text = json.dumps(table.to_structure(elements).as_dict())
        path.write_text(text, encoding="utf-8")


def _summary(table: ColumnTable) -> str:
    if not len(table):
        return "no columns found: no signal is above the noise"
    position_errors = np.hypot(table.y_error, table.x_error) / np.sqrt(2)
    parts = [
        counted(len(table), "column"),
        f"sigma {np.median(table.sigma):.2f} px",
        f"error of a position {np.nanmedian(position_errors):.2g} px",
    ]
    if table.pixel_size is not None:
        picometres = 1e3 * np.nanmedian(np.hypot(*table.errors_nm.T) / np.sqrt(2))
        parts[-1] += f" ({picometres:.2g} pm)"
    marks = {
        "at the edge": table.edge,
        "overlapping": table.overlapping,
        "not fitted": ~table.fitted,
    }
    parts += [f"{int(m.sum())} {name}" for name, m in marks.items() if m.any()]
    return ", ".join(parts)
