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
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import NamedTuple

import numpy as np

from ppmat.commands.image_options import add_image_model
from ppmat.commands.image_options import add_images
from ppmat.commands.image_options import add_selection
from ppmat.commands.image_options import add_task
from ppmat.commands.image_options import check_parent
from ppmat.commands.image_options import first_names
from ppmat.commands.image_options import load_predictor
from ppmat.commands.image_options import own_model_options
from ppmat.commands.image_options import refuse_present
from ppmat.commands.image_options import selected_images
from ppmat.commands.options import EXIT_BAD_INPUT
from ppmat.commands.options import EXIT_SOME_LEFT_OUT
from ppmat.commands.options import counted
from ppmat.commands.options import new_parser
from ppmat.commands.options import parse_with_overrides
from ppmat.commands.options import refuse_if
from ppmat.commands.options import task_command
from ppmat.predictor.image_store import make_folder
from ppmat.predictor.image_store import output_names
from ppmat.stem.columns.analysis import ANALYSES
from ppmat.stem.columns.analysis import analyse
from ppmat.stem.columns.analysis_figure import draw_displacement
from ppmat.stem.columns.analysis_figure import draw_strain
from ppmat.stem.columns.column_search import POLARITIES
from ppmat.stem.columns.column_table import UNITS
from ppmat.stem.columns.column_table import ColumnTable
from ppmat.stem.columns.column_table import ColumnTableError
from ppmat.stem.columns.column_table import unknown_elements
from ppmat.stem.columns.detection import MIN_SCORE
from ppmat.stem.columns.detection import detect_columns
from ppmat.stem.columns.detection_figure import COLORS
from ppmat.stem.columns.detection_figure import draw_columns
from ppmat.stem.columns.lattice_fit import LatticeError
from ppmat.stem.images.bad_pixels import without_hot_pixels
from ppmat.stem.images.image_inputs import ImageFile
from ppmat.stem.images.micrograph import image_from
from ppmat.stem.images.micrograph_base import Micrograph
from ppmat.stem.images.micrograph_base import convert_pixel_size
from ppmat.stem.noise.noise_model import MODES
from ppmat.utils import logger
from ppmat.utils.download import hash_of_file
from ppmat.utils.errors import InputError
from ppmat.utils.files import replacing
from ppmat.utils.shares import in_order
from ppmat.utils.shares import locked_for_all
from ppmat.utils.shares import my_share
from ppmat.utils.shares import wait

_EPILOG = """\
Start positions come from the network (or --enhanced). Positions, errors and intensities
are fitted to the raw image. Without a model, a packaged one is used.
Each table x.csv has x.csv.json beside it, with its input, options and warnings.
The table of a stack [n, H, W] has a column with the frame of each row.
Cells for ASE and pymatgen need the pixel size, and columns that form one lattice.
Exit status: 0 done, 1 some files or results failed (they are listed), 2 bad input.

examples:
  detect.py image.tif -o columns.csv --overlay
  detect.py monday/*.dm4 -o tables --mode bf --export atomap ase
  detect.py image.png -o columns.csv --raw --pixel_size 0.012 --units nm
  detect.py film.tif -o columns.csv --analysis strain voronoi --maps
  detect.py image.tif -o columns.csv -c configs/sfin/sfin_haadf_detect.yaml
            --checkpoint_path best.pdparams
"""
# Number of an image, number of a frame in it, its raw pixels -> ``enhanced`` and
# ``seeds_from`` of ``detect_columns`` (empty for the raw image), and how it was made.
SeedFinder = Callable[[int, int, np.ndarray], tuple[dict[str, Any], Any]]

_FRAME = "frame [1]"  # name of the column with the number of the frame, from 0
_FRAME_DIGITS = 3  # at least, in names of files
# What a figure needs of the analysis.
_COLUMN_OF_MAP = {"displacement": "displacement_y [px]", "strain": "e_yy [1]"}
_COLUMN_OF_COLOR = {
    "sublattice": "sublattice [1]",
    "displacement": "displacement_y [px]",
}
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
    add_selection(parser)
    add = parser.add_argument
    add("-o", "--output", required=True, metavar="CSV|FOLDER",
        help="the table of one image, or a folder for those of several")  # fmt: skip
    add("--mode", choices=MODES, default="haadf",
        help="haadf: columns are bright; bf: dark (default: haadf)")  # fmt: skip
    add("--polarity", choices=POLARITIES,
        help="of the columns, if it is not that of the mode")  # fmt: skip
    add_image_model(parser)
    add_task(parser)
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
    add("--analysis", nargs="+", choices=ANALYSES, default=[], help="also compute, "
        "as further columns: docs/stem/analysis.md has the definitions")  # fmt: skip
    add("--reference_region", type=float, nargs=4, metavar=("Y0", "Y1", "X0", "X1"),
        help="pixels; displacement and strain are relative to the mean lattice there "
        "(default: to that of the whole crystal)")  # fmt: skip
    add("--maps", action="store_true",
        help="also draw the displacement and the strain of --analysis")  # fmt: skip
    add("--overlay", action="store_true", help="also draw the columns on the image")
    add("--overlay_color", choices=COLORS,
        help="what the colour of a marker shows (default: score)")  # fmt: skip
    add("--overwrite", action="store_true", help="replace existing outputs")
    return parse_with_overrides(parser, argv, "input")


def run(args: argparse.Namespace, task_dir: str) -> int:
    """Measure the images, holding the lock of the output; returns the exit status."""
    size = _check_options(args)
    images = selected_images(args, args.input)
    tables = _table_paths(args.output, images)
    with locked_for_all(args.output):
        return _measure_all(args, task_dir, size, images, tables)


def _measure_all(
    args: argparse.Namespace,
    task_dir: str,
    size: tuple[float, float] | None,
    images: Sequence[ImageFile],
    tables: Sequence[Path],
) -> int:
    """Write the tables, one for each image; returns the exit status."""
    from ppmat.utils.progress import Progress

    given = args.enhanced
    if given is not None:
        given = selected_images(args, given)
        counts = f"{len(given)} images for {len(images)} inputs"
        refuse_if(len(given) != len(images), f"--enhanced: {counts}; wanted one each")
    outputs = (path for table in tables for path in _outputs(args, table).values())
    refuse_present(outputs, args.overwrite)
    wait()  # each rank has looked at the folder
    find_seeds = _seed_finder(args, task_dir, given)
    mine = my_share(len(images))
    bar = Progress(mine, "detecting", unit=" files")
    outcomes = (
        _measure_one(args, size, images[i], tables[i], functools.partial(find_seeds, i))
        for i in bar
    )
    uncalibrated: list[str] = []
    failed = incomplete = 0
    for outcome in in_order(outcomes):
        if outcome.failure is not None:
            failed += 1
            logger.error(f"failed: {outcome.failure}")
            continue
        print(outcome.summary, flush=True)
        for text in outcome.warnings:
            logger.warning(f"{outcome.image}: {text}")
        for text in outcome.left_out:
            logger.error(f"{outcome.image}: {text}")
        incomplete += bool(outcome.left_out)
        if not outcome.calibrated:
            uncalibrated.append(outcome.image)
    if uncalibrated:
        logger.warning(
            "positions are in pixels only, since the pixel size is unknown: "
            f"{first_names(uncalibrated)}. {_PIXEL_SIZE_HINT}"
        )
    of_all = f"of {len(images)} files"
    if incomplete:
        text = f"some results were left out: {incomplete} {of_all}"
        logger.error(f"{text}; their tables were written")
    if failed:
        logger.error(f"failed: {failed} {of_all}")
    if failed == len(images):
        return EXIT_BAD_INPUT
    return EXIT_SOME_LEFT_OUT if failed or incomplete else 0


main = task_command(parse_args, run)


class _Outcome(NamedTuple):
    """What is reported of one image."""

    image: str
    failure: str | None = None
    summary: str = ""
    warnings: Sequence[str] = ()
    left_out: Sequence[str] = ()  # results that could not be made, with the reason
    calibrated: bool = True  # the pixel size is known


def _measure_one(
    args: argparse.Namespace,
    size: tuple[float, float] | None,
    image: ImageFile,
    table_path: Path,
    seeds: Callable[[int, np.ndarray], tuple[dict[str, Any], Any]],
) -> _Outcome:
    try:
        paths = _outputs(args, table_path)
        table, left_out = _measure_file(args, size, image, paths, seeds)
    except (ValueError, TypeError, OSError) as error:
        return _Outcome(str(image), image.error_text(error))
    return _Outcome(
        str(image),
        summary=f"{table_path}: {_summary(table)}",
        warnings=list(table.info["warnings"]),
        left_out=[f"{name}: {reason}" for name, reason in left_out.items()],
        calibrated=table.pixel_size is not None,
    )


def _outputs(args: argparse.Namespace, table: Path) -> dict[str, Path]:
    """Return all files that belong to the table of one image."""
    record = table.with_name(f"{table.name}.json")
    return {"table": table, "record": record, **_drawn_and_exported(args, table)}


def _drawn_and_exported(
    args: argparse.Namespace, table: Path, frame: str = ""
) -> dict[str, Path]:
    """Return the files that each image or frame has."""
    ends = {name: EXPORTS[name] for name in args.export}
    if args.overlay:
        ends["overlay"] = ".overlay.png"
    if args.maps:
        names = [name for name in _COLUMN_OF_MAP if name in args.analysis]
        ends |= {name: f".{name}.png" for name in names}
    return {n: table.with_name(table.stem + frame + end) for n, end in ends.items()}


def _check_options(args: argparse.Namespace) -> tuple[float, float] | None:
    """Return the pixel size (y, x) of all images, nm; None takes the files' own."""
    model = own_model_options(args)
    ways = [f"--{name}" for name in ("raw", "enhanced") if getattr(args, name)]
    refuse_if(
        len(ways) > 1 or (ways and model),
        f"{' and '.join([*ways, *model])} exclude each other: columns are searched in "
        "the raw image, in given enhanced images, or in those of a model",
    )
    task_help = f"--task chooses a network, which {' and '.join(ways)} does not use"
    refuse_if(ways and args.task, task_help)
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
    _check_analysis(args)
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


def _check_analysis(args: argparse.Namespace) -> None:
    """Refuse options of analyses that are not asked for."""
    color, region = args.overlay_color, args.reference_region
    refuse_if(color is not None and not args.overlay, "--overlay_color needs --overlay")
    needed = {"sublattice": set(ANALYSES[:3]), "displacement": {"displacement"}}
    wanted = needed.get(color, set())
    refuse_if(
        wanted and not wanted.intersection(args.analysis),
        f"--overlay_color {color} needs --analysis {' or '.join(sorted(wanted))}",
    )
    mapped = set(_COLUMN_OF_MAP).intersection(args.analysis)
    for name in ("maps", "reference_region"):
        text = f"--{name} needs --analysis displacement or strain"
        refuse_if(getattr(args, name) and not mapped, text)
    refuse_if(
        region is not None and not (region[0] < region[1] and region[2] < region[3]),
        f"--reference_region {region}: wanted Y0 Y1 X0 X1 with Y0 < Y1 and X0 < X1",
    )


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
        return lambda number, frame, raw: ({}, None)
    if given is not None:
        kind = "map" if args.map else "enhanced"

        @functools.lru_cache(maxsize=1)
        def frames_of(number: int) -> list[np.ndarray]:
            return _frames(given[number].read())

        def read(
            number: int, frame: int, raw: np.ndarray
        ) -> tuple[dict[str, Any], str]:
            frames, path = frames_of(number), str(given[number])
            if frame >= len(frames):
                found = f"{path} has {counted(len(frames), 'frame')}"
                raise InputError(found, wanted="as many as the input")
            return {"enhanced": frames[frame], "seeds_from": kind}, path

        return read
    own = args.model_name or args.config_path or args.checkpoint_path
    predictor = load_predictor(args, task_dir, None if own else args.mode, args.task)
    kind = "map" if predictor.gives_map else "enhanced"
    # A wrong version of Paddle ends the run; it is no fault of an image.
    predictor.tiles.runner(*[predictor.defaults.tile_size] * 2)

    def enhance(
        number: int, frame: int, raw: np.ndarray
    ) -> tuple[dict[str, Any], dict]:
        # One hot pixel would change the network's result in its whole tile.
        result = predictor.enhance_image(without_hot_pixels(raw)[0])
        return {"enhanced": result.image, "seeds_from": kind}, result.record

    return enhance


def _frames(source: Micrograph) -> list[np.ndarray]:
    """Return the images [H, W] of a file with one image or a stack [n, H, W]."""
    data = source.data
    return list(data) if data.ndim == 3 and len(data) > 1 else [image_from(source)]


def _measure_file(
    args: argparse.Namespace,
    size: tuple[float, float] | None,
    image: ImageFile,
    paths: Mapping[str, Path],
    find_seeds: Callable[[int, np.ndarray], tuple[dict[str, Any], Any]],
) -> tuple[ColumnTable, dict[str, str]]:
    """Measure an image, or each frame of a stack, and write its files.

    Returns:
        The table, and for each result that was left out the reason.
    """
    input_hash = hash_of_file(image.path)
    source = image.read()
    raws = _frames(source)
    if size is None and source.pixel_size is not None:
        size = convert_pixel_size(source.pixel_size, source.units, "nm")
    tables, details, left_out = [], [], {}
    files = _files_of_frames(args, paths["table"], len(raws))
    for frame, (end, of_frame) in enumerate(files.items()):
        try:
            seeds, seed_record = find_seeds(frame, raws[frame])
            table = _detect(args, size, raws[frame], seeds)
        except (ValueError, TypeError) as error:
            if not end:
                raise
            left_out[f"frame {frame}"] = str(error)
            continue
        table, failed = _analyse(args, table, raws[frame], source.offset)
        failed |= _draw_results(args, table, raws[frame], of_frame, f"{image}{end}")
        table = table.moved(*source.offset)  # from the region to the whole image
        failed |= _export_all(args, table, of_frame)
        detail = {"detection": table.info, "enhanced": seed_record}
        if end:
            failed = {f"frame {frame}: {name}": text for name, text in failed.items()}
            table.extra = {_FRAME: np.full(len(table), frame), **table.extra}
            detail = {"frame": frame, "columns": len(table), **detail}
        left_out |= failed
        tables.append(table)
        details.append(detail)
    if not tables:
        raise InputError(f"no frame could be measured, frame 0: {left_out['frame 0']}")
    table = tables[0] if len(raws) == 1 else _joined(tables)
    with replacing(paths["table"]) as temporary:
        table.to_csv(temporary)
    description = {
        "input": image.record(input_hash),
        "pixel_size_nm": size,
        "columns": len(table),
        **(details[0] if len(raws) == 1 else {"frames": details}),
        "left_out": left_out,
    }
    with replacing(paths["record"]) as temporary:
        temporary.write_text(json.dumps(description, indent=1), encoding="utf-8")
    return table, left_out


def _files_of_frames(
    args: argparse.Namespace, table: Path, number: int
) -> dict[str, dict[str, Path]]:
    """Return figures and exports of each frame, by the end of their name.

    The end is empty for a single image, and ``.frame_000`` for the first of a stack,
    whose files are checked here, since the number of frames was not known before.
    """
    if number == 1:
        return {"": _drawn_and_exported(args, table)}
    digits = max(_FRAME_DIGITS, len(str(number - 1)))
    ends = [f".frame_{k:0{digits}}" for k in range(number)]
    files = {end: _drawn_and_exported(args, table, end) for end in ends}
    outputs = (path for of_frame in files.values() for path in of_frame.values())
    refuse_present(outputs, args.overwrite)
    return files


def _joined(tables: Sequence[ColumnTable]) -> ColumnTable:
    """Return the table of a stack, with the warnings of its frames."""
    table = ColumnTable.concatenate(tables)
    warnings = [text for of_frame in tables for text in of_frame.info["warnings"]]
    table.info = {"warnings": list(dict.fromkeys(warnings))}
    return table


def _detect(
    args: argparse.Namespace,
    size: tuple[float, float] | None,
    raw: np.ndarray,
    seeds: dict[str, Any],
) -> ColumnTable:
    names = ("mode", "polarity", "sigma", "separation", "min_score")
    search = {name: getattr(args, name) for name in names}
    return detect_columns(raw, pixel_size=size, units="nm", **search, **seeds)


def _analyse(
    args: argparse.Namespace,
    table: ColumnTable,
    raw: np.ndarray,
    offset: tuple[float, float],
) -> tuple[ColumnTable, dict[str, str]]:
    """Return the table with the wanted analyses, and the reasons of those left out.

    ``offset`` is where the image ``raw`` begins in that of ``--reference_region``.
    """
    left_out = {}
    if not args.analysis:
        return table, left_out
    image = without_hot_pixels(raw)[0]
    of_lattice = [name for name in args.analysis if name != "voronoi"]
    others = [name for name in args.analysis if name == "voronoi"]
    region = args.reference_region
    if region is not None:
        region = list(np.subtract(region, np.repeat(offset, 2)))
    for names in filter(None, (of_lattice, others)):
        try:
            table = analyse(table, names, image=image, region=region)
        except LatticeError as error:
            left_out[f"no {', '.join(names)}"] = str(error)
    return table, left_out


def _draw_results(
    args: argparse.Namespace,
    table: ColumnTable,
    raw: np.ndarray,
    paths: Mapping[str, Path],
    title: str,
) -> dict[str, str]:
    """Draw the figures of an image; returns what was left out, and why."""
    left_out = {}
    for name in [name for name in paths if name not in EXPORTS]:
        path = paths[name]
        if name in _COLUMN_OF_MAP and _COLUMN_OF_MAP[name] not in table.extra:
            path.unlink(missing_ok=True)  # of an earlier table; the reason is known
            continue
        try:
            with replacing(path) as temporary:
                if name == "overlay":
                    color = _checked_color(args.overlay_color or "score", table)
                    draw_columns(raw, table, temporary, title, color)
                else:
                    draw = {"displacement": draw_displacement, "strain": draw_strain}
                    draw[name](raw, table, temporary, title)
        except (ValueError, OSError) as error:
            left_out[f"no {name} figure"] = str(error)
            path.unlink(missing_ok=True)  # of an earlier table
    return left_out


def _export_all(
    args: argparse.Namespace, table: ColumnTable, paths: Mapping[str, Path]
) -> dict[str, str]:
    """Write the files of other programs; returns what was left out, and why."""
    left_out = {}
    for name in args.export:
        try:
            with replacing(paths[name]) as temporary:
                _export(name, table, args.elements, temporary)
        except (ValueError, OSError) as error:
            left_out[f"not exported to {name}"] = str(error)
            paths[name].unlink(missing_ok=True)  # of an earlier table
    return left_out


def _checked_color(color: str, table: ColumnTable) -> str:
    """Return what the colour shows, unless the analysis that it needs has failed."""
    needed = _COLUMN_OF_COLOR.get(color)
    if needed is not None and needed not in table.extra:
        raise ColumnTableError(f"there is no {needed} for its colours")
    return color


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
        return "no columns found"
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
