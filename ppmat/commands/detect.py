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

Importing this module does not import Paddle: the number of threads has to be set
before.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppmat.commands.image_options import add_image_model
from ppmat.commands.image_options import add_images
from ppmat.commands.image_options import check_parent
from ppmat.commands.image_options import first_names
from ppmat.commands.image_options import load_predictor
from ppmat.commands.image_options import refuse_present
from ppmat.commands.options import EXIT_BAD_INPUT
from ppmat.commands.options import EXIT_SOME_LEFT_OUT
from ppmat.commands.options import move_overrides
from ppmat.commands.options import task_command
from ppmat.predictor.image_store import ImageFile
from ppmat.predictor.image_store import find_images
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
from ppmat.stem.images.micrograph import image_from
from ppmat.stem.images.micrograph import read_micrograph
from ppmat.stem.images.micrograph_base import convert_pixel_size
from ppmat.stem.noise.noise_model import MODES
from ppmat.utils import logger
from ppmat.utils.download import hash_of_file
from ppmat.utils.files import replacing
from ppmat.utils.registry import ConfigError

_EPILOG = """\
The network (or --enhanced) says where to look; positions, errors and intensities are
fitted to the raw image. Without a model a small one that comes with ppmat is taken.
Each table x.csv has x.csv.json beside it, which tells how it was made.
Cells for ASE and pymatgen need the pixel size, and columns that form one lattice.
Exit status: 0 done, 1 some files or exports failed (they are listed), 2 bad input.

examples:
  detect.py image.tif -o columns.csv --overlay
  detect.py monday/*.dm4 -o tables --mode bf --export atomap ase
  detect.py image.png -o columns.csv --raw --pixel_size 0.012 --units nm
  detect.py image.tif -o columns.csv -c configs/sfin/sfin_haadf_detect.yaml
            --checkpoint_path best.pdparams
"""
EXPORTS = {"atomap": ".atomap.npy", "ase": ".extxyz", "pymatgen": ".structure.json"}
_CELLS = ("ase", "pymatgen")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; KEY=VALUE arguments are gathered in ``overrides``."""
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
        help="of the columns, where it is not that of the mode")  # fmt: skip
    add_image_model(parser)
    add("--enhanced", nargs="+", metavar="IMAGE",
        help="enhanced images, as many as inputs and in their order: no model is "
        "needed")  # fmt: skip
    add("--map", action="store_true",
        help="--enhanced are maps of a detection model: spots on black")  # fmt: skip
    add("--raw", action="store_true", help="look for columns in the raw image")
    add("--pixel_size", type=float, nargs="+", metavar="SIZE",
        help="of a pixel, or of its y and x, when the file does not say")  # fmt: skip
    add("--units", choices=tuple(UNITS), help="of --pixel_size (default: nm)")
    add("--sigma", type=float, help="width of the columns, pixels; found if not given")
    add("--separation", type=float,
        help="least distance of two columns, pixels (default: 2 sigma)")  # fmt: skip
    add("--min_score", type=float, default=MIN_SCORE,
        help=f"leave out what is less sure, 0 to 1 (default: {MIN_SCORE})")  # fmt: skip
    add("--export", nargs="+", choices=tuple(EXPORTS), default=[],
        help="also write positions for Atomap, the average cell for ASE or "
        "pymatgen (needs the pixel size)")  # fmt: skip
    add("--elements", nargs="+", metavar="ELEMENT",
        help="of the columns in exported cells, the brightest kind first")  # fmt: skip
    add("--overlay", action="store_true", help="also draw the columns on the image")
    add("--overwrite", action="store_true", help="replace what is there")
    args = parser.parse_intermixed_args(argv)
    args.overrides = []
    move_overrides(args, ("input",))
    return args


def run(args: argparse.Namespace, task_dir: str) -> int:
    """Do what the options say; returns the exit status.

    Raises:
        ConfigError: Options that do not go together, missing files.
        StoredRunError: An output is there already.
    """
    from tqdm import tqdm

    _check_options(args)
    images = find_images(args.input)
    tables = _table_paths(args.output, images)
    given = None if args.enhanced is None else find_images(args.enhanced)
    if given is not None and len(given) != len(images):
        raise ConfigError(
            f"--enhanced: {len(given)} images for {len(images)} inputs; wanted one each"
        )
    outputs = (path for table in tables for path in _outputs(args, table).values())
    refuse_present(outputs, args.overwrite)
    seeds = _seed_maker(args, task_dir, given)
    failed: list[str] = []
    uncalibrated: list[str] = []
    not_exported = 0
    progress = tqdm(images, "detecting", unit=" files", disable=not sys.stderr.isatty())
    for number, image in enumerate(progress):
        try:
            table, left_out = _do_image(args, number, image, tables[number], seeds)
        except (ValueError, TypeError, OSError) as error:
            failed.append(str(image))
            where = "" if image.path in str(error) else f"{image}: "
            logger.error(f"failed: {where}{error}")
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
            "positions are in pixels only, since the pixel size is not known: "
            f"{first_names(uncalibrated)}. --pixel_size 0.012 --units nm gives it"
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


def _check_options(args: argparse.Namespace) -> None:
    model = [
        name
        for name in ("model_name", "weights_name", "config_path", "checkpoint_path")
        if getattr(args, name) is not None
    ]
    ways = [f"--{name}" for name in ("raw", "enhanced") if getattr(args, name)]
    if len(ways) > 1 or (ways and model):
        raise ConfigError(
            f"{' and '.join([*ways, *('--' + name for name in model)])} exclude each "
            "other: columns are looked for in the raw image, in given enhanced ones, "
            "or in those a model makes"
        )
    if args.map and not args.enhanced:
        raise ConfigError(
            "--map tells what --enhanced is; a detection model is known by its target"
        )
    if args.units is not None and args.pixel_size is None:
        raise ConfigError("--units goes with --pixel_size")
    if args.pixel_size is not None:
        size = args.pixel_size
        if len(size) > 2 or not all(np.isfinite(v) and v > 0 for v in size):
            raise ConfigError(
                f"--pixel_size={' '.join(map(str, size))}: wanted one number above 0, "
                "or two for y and x"
            )
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
            "an element; wanted such as Sr, or X for atoms that are not known"
        )


def _table_paths(output: str, images: Sequence[ImageFile]) -> list[Path]:
    """Return where the table of each image goes.

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


def _outputs(args: argparse.Namespace, table: Path) -> dict[str, Path]:
    """Return all files that belong to a table."""
    paths = {"table": table, "record": table.with_name(f"{table.name}.json")}
    for name in args.export:
        paths[name] = table.with_name(table.stem + EXPORTS[name])
    if args.overlay:
        paths["overlay"] = table.with_name(f"{table.stem}.overlay.png")
    return paths


def _seed_maker(
    args: argparse.Namespace, task_dir: str, given: Sequence[ImageFile] | None
) -> Callable[[int, np.ndarray], dict[str, Any]]:
    """Return what gives ``enhanced``, ``seeds_from`` and ``record`` of an image."""
    if args.raw:
        return lambda number, raw: {"record": None}
    if given is not None:
        kind = "map" if args.map else "enhanced"

        def read(number: int, raw: np.ndarray) -> dict[str, Any]:
            file = given[number]
            image = image_from(read_micrograph(file.path, file.index))
            return {"enhanced": image, "seeds_from": kind, "record": str(file)}

        return read
    own = args.model_name or args.config_path or args.checkpoint_path
    mode = None if own else args.mode
    predictor = load_predictor(args, task_dir, mode, args.device)
    kind = "map" if predictor.gives_map else "enhanced"

    def enhance(number: int, raw: np.ndarray) -> dict[str, Any]:
        # One of them would spoil the whole image.
        result = predictor.enhance_image(without_hot_pixels(raw)[0])
        return {
            "enhanced": result.image,
            "seeds_from": kind,
            "record": result.record,
        }

    return enhance


def _do_image(
    args: argparse.Namespace,
    number: int,
    image: ImageFile,
    path: Path,
    seeds: Callable[[int, np.ndarray], dict[str, Any]],
) -> tuple[ColumnTable, dict[str, str]]:
    """Measure an image and write its files; returns the table, and why which exports
    were not made."""
    source = read_micrograph(image.path, image.index)
    raw = image_from(source)
    size = _pixel_size_nm(args, source)
    options = seeds(number, raw)
    record = options.pop("record")
    table = detect_columns(
        raw,
        pixel_size=size,
        units="nm",
        mode=args.mode,
        polarity=args.polarity,
        sigma=args.sigma,
        separation=args.separation,
        min_score=args.min_score,
        **options,
    )
    paths = _outputs(args, path)
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
        "input": image.record(hash_of_file(image.path)),
        "pixel_size_nm": size,
        "columns": len(table),
        "detection": table.info,
        "enhanced": record,
        "not_exported": left_out,
    }
    with replacing(paths["record"]) as temporary:
        temporary.write_text(json.dumps(description, indent=1), encoding="utf-8")
    return table, left_out


def _pixel_size_nm(args: argparse.Namespace, source: Any) -> tuple | None:
    """Return the pixel size (y, x), nm: the option's, else the file's, else None."""
    if args.pixel_size is not None:
        y, x = (args.pixel_size * 2)[:2]
        return convert_pixel_size((y, x), args.units or "nm", "nm")
    if source.pixel_size is None:
        return None
    return convert_pixel_size(source.pixel_size, source.units, "nm")


def _export(
    name: str, table: ColumnTable, elements: Sequence[str] | None, path: Path
) -> None:
    """Write a table in the form of another program.

    Raises:
        ValueError: That is not possible.
    """
    if name == "atomap":
        table.to_atomap(path)
        return
    if table.pixel_size is None:
        raise ColumnTableError(
            "the pixel size is not known, so there is no cell; --pixel_size 0.012 "
            "--units nm gives it"
        )
    if name == "ase":
        table.to_atoms(elements).write(path, format="extxyz")
    else:
        text = json.dumps(table.to_structure(elements).as_dict())
        path.write_text(text, encoding="utf-8")


def _summary(table: ColumnTable) -> str:
    if not len(table):
        return "no columns found: nothing stands out of the noise"
    parts = [
        "1 column" if len(table) == 1 else f"{len(table)} columns",
        f"sigma {np.median(table.sigma):.2f} px",
        f"error of a position {np.nanmedian(_position_errors(table)):.2g} px",
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


def _position_errors(table: ColumnTable) -> np.ndarray:
    return np.hypot(table.y_error, table.x_error) / np.sqrt(2)
