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


"""The command that writes a synthetic data set for one's own microscope."""

from __future__ import annotations

import argparse
import functools
import math
import platform
import shlex
import sys
import time
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np

import ppmat
from ppmat.commands.options import EXIT_SOME_LEFT_OUT
from ppmat.commands.options import exit_status
from ppmat.commands.synthesize_scenes import OPTICS
from ppmat.commands.synthesize_scenes import CrystalPainter
from ppmat.commands.synthesize_scenes import RandomPainter
from ppmat.commands.synthesize_scenes import read_specimens
from ppmat.stem.noise.noise_model import MODES
from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.stem.scenes.scene_folder import FORMATS
from ppmat.stem.scenes.scene_folder import SynthesisFolder
from ppmat.stem.scenes.scene_folder import noise_in_grey_levels
from ppmat.utils import logger
from ppmat.utils.registry import ConfigError

_EPILOG = """\
A value that may be given twice, like --pixel_size 0.1 0.15, is drawn between the two
for each image; orientation and offset are drawn anyway, and so are the tails of the
probe and the contrast of light columns in HAADF. The same command given again goes on
where the last stopped.
Exit status: 0 done, 1 some structures were left out, 2 bad input.

examples:
  synthesize.py --structure slab.cif --noise noise.json -n 1000 -o folder
  synthesize.py --structure crystals/*.cif --zone_axis 0 0 1 --zone_axis 1 1 0
                --noise noise.json -n 1000 -o folder --thickness 50 300
  synthesize.py --structure mos2.cif -n 200 -o folder --vacancies S:0.03
                --substitute Mo:W:0.05 --grain_boundary 0.3
  synthesize.py --noise noise.json -n 1000 -o folder        (random scenes)
"""
_OF_CRYSTALS = (
    *("zone_axis", "direction", "pixel_size", "thickness", "rotation"),
    *(name for options in OPTICS.values() for name in options),
    *("vacancies", "substitute", "adatoms", "strain", "local_strain"),
    "grain_boundary",
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description="Write synthetic images with the noise of a microscope, in the "
        "folder layout that training reads.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--structure", nargs="+", default=[], action="extend", metavar="FILE",
        help="crystals, slabs, molecules: .cif, POSCAR, .xyz, .traj, .lmdb, folders, "
        "patterns; without it random scenes are drawn")  # fmt: skip
    add("--noise", metavar="JSON",
        help="of calibrate.py; default: the paper's example image")  # fmt: skip
    add("-n", "--number", type=int, default=1000, help="images (default: 1000)")
    add("-o", "--output", required=True, metavar="FOLDER", help="of the data set")
    add("--test_share", type=float, default=0.1,
        help="of the images that go to test/, at least one unless 0 (default: "
        "0.1)")  # fmt: skip
    add("--size", type=int, nargs="+", default=[256], metavar="PIXELS",
        help="height and width (default: 256)")  # fmt: skip
    add("--mode", choices=MODES, help="default: that of the noise")
    add("--format", choices=FORMATS, default="png",
        help="png: 8 bits; tif: float32, not rounded or clipped")  # fmt: skip
    add("--seed", type=int, default=0)
    add("--overwrite", action="store_true", help="replace the data set that is there")
    group = parser.add_argument_group("crystals (with --structure)")
    add = group.add_argument
    add("--zone_axis", type=int, nargs=3, action="append", metavar=("U", "V", "W"),
        help="along the beam, of the direct lattice (default: 0 0 1); given several "
        "times, one is drawn")  # fmt: skip
    add("--direction", type=float, nargs=3, metavar=("X", "Y", "Z"),
        help="Cartesian, along the beam, instead of a zone axis")  # fmt: skip
    add("--pixel_size", type=float, nargs="+", metavar="Å", help="default: 0.12")
    add("--thickness", type=float, nargs="+", metavar="Å",
        help="along the beam, where structures repeat (default: 50)")  # fmt: skip
    add("--rotation", type=float, nargs="+", metavar="DEGREES",
        help="in the image (default: 0 360)")  # fmt: skip
    add("--probe", type=float, nargs="+", metavar="Å",
        help="HAADF: standard deviation of the probe (default: 0.3 0.5)")  # fmt: skip
    add("--energy", type=float, nargs="+", metavar="keV",
        help="BF: of the electrons (default: 200)")  # fmt: skip
    add("--semiangle", type=float, nargs="+", metavar="MRAD",
        help="BF: of the probe (default: 22)")  # fmt: skip
    add("--detector", type=float, nargs="+", metavar="MRAD",
        help="BF: semiangle of the detector (default: 11)")  # fmt: skip
    add("--defocus", type=float, nargs="+", metavar="Å",
        help="BF: depth of the focus below the first atoms "
        "(default: -20 20)")  # fmt: skip
    add("--vacancies", action="append", metavar="[ELEMENT:]SHARE", help="of the atoms")
    add("--substitute", action="append", metavar="ELEMENT:BY:SHARE",
        help="replace a share of the atoms of an element")  # fmt: skip
    add("--adatoms", action="append", metavar="ELEMENT:NUMBER", help="for each nm²")
    add("--strain", type=float, metavar="SD",
        help="standard deviation of the components of a uniform strain")  # fmt: skip
    add("--local_strain", type=float, metavar="Å",
        help="root mean square of a smooth random displacement")  # fmt: skip
    add("--grain_boundary", type=float, metavar="SHARE",
        help="of the images that show two grains")  # fmt: skip
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = parse_args(words)
    return exit_status(lambda: run(args, words))


def run(args: argparse.Namespace, words: Sequence[str]) -> int:
    """Do what the options say; returns the exit status.

    Args:
        args: See :func:`parse_args`.
        words: The command line, for the record of the folder.

    Raises:
        ConfigError: Options that cannot be meant or do not go together.
        CrystalError: A structure of which no image can be made.
        FolderError: Something else is in the folder.
    """
    shape, counts = _check(args)
    noise, factor, offset = _noise(args)
    left_out = 0
    if args.structure:
        specimens, left_out = read_specimens(args)
        painter: Any = CrystalPainter(args, specimens, noise)
        painter.check(shape)
    else:
        painter = RandomPainter(noise)
    settings = {
        "seed": args.seed,
        "size": list(shape),
        "noise": noise.to_json(),
        "scenes": painter.settings(),
    }
    about = {
        "command": shlex.join(["synthesize.py", *words]),
        "grey_levels": {"factor": factor, "offset": offset},
        "versions": _versions(),
    }
    start = time.perf_counter()
    draw = _drawing(painter, noise, shape, args.seed, list(counts))
    # What cannot be drawn shows before anything is written or removed.
    draw(next(split for split, count in counts.items() if count), 0)
    folder = SynthesisFolder(
        args.output, counts, settings, about, args.format, args.overwrite
    )
    _write(folder, draw, math.prod(shape), start)
    return EXIT_SOME_LEFT_OUT if left_out else 0


def _check(args: argparse.Namespace) -> tuple[tuple[int, int], dict[str, int]]:
    """Return the size of the images and how many there are of each split."""
    if args.number < 1:
        raise ConfigError(f"--number={args.number}: wanted at least 1")
    if not 0 <= args.test_share <= 1:
        raise ConfigError(f"--test_share={args.test_share}: wanted 0 to 1")
    if args.seed < 0:
        raise ConfigError(f"--seed={args.seed}: wanted at least 0")
    if len(args.size) > 2 or min(args.size) < 16:
        raise ConfigError(
            f"--size {' '.join(map(str, args.size))}: wanted one or two numbers of "
            "pixels, at least 16"
        )
    if not args.structure:
        given = [name for name in _OF_CRYSTALS if getattr(args, name) is not None]
        if given:
            raise ConfigError(
                f"--{given[0]} goes with --structure; without it the scenes are "
                "random and have no scale"
            )
    if args.direction is not None and args.zone_axis is not None:
        raise ConfigError("give --zone_axis or --direction, not both")
    share = args.grain_boundary
    if share is not None and not 0 <= share <= 1:
        raise ConfigError(f"--grain_boundary={share}: wanted 0 to 1")
    shape = (args.size[0], args.size[-1])
    return shape, _split(args.number, args.test_share)


def _split(number: int, test_share: float) -> dict[str, int]:
    """Return how many images go where; a share above 0 has one, if there are two."""
    test = round(test_share * number)
    if number > 1:
        test = min(max(test, int(test_share > 0)), number - int(test_share < 1))
    return {"train": number - test, "test": test}


def _noise(args: argparse.Namespace) -> tuple[NoiseModel, float, float]:
    """Return the noise in grey levels, and how they came about."""
    if args.noise is None:
        noise = NoiseModel(mode=args.mode or "haadf")
        logger.message("no --noise: that of the paper's example image is used")
    else:
        noise = NoiseModel.load(args.noise)
    if args.mode not in (None, noise.mode):
        raise ConfigError(
            f"--mode={args.mode}, but {args.noise} was measured on {noise.mode} images;"
            " calibrate on images of that mode"
        )
    try:
        noise, factor, offset = noise_in_grey_levels(noise)
    except ValueError as error:
        raise ConfigError(f"{args.noise}: {error}") from error
    if (factor, offset) != (1.0, 0.0):
        logger.info(
            f"grey level = {factor:.4g} x value of the noise model's images "
            f"{offset:+.4g}, so that three standard deviations of noise fit into 0..255"
        )
    return noise, factor, offset


# Writing --------------------------------------------------------------------------


def _drawing(
    painter: Any,
    noise: NoiseModel,
    shape: tuple[int, int],
    seed: int,
    splits: Sequence[str],
) -> Callable[[str, int], tuple]:
    """Return what draws an image, given split and number: noisy, scene and record.

    An image is a function of seed, split and number only, so that a run can be
    continued. The last one is kept.
    """

    @functools.lru_cache(maxsize=1)
    def draw(split: str, number: int) -> tuple:
        rng = np.random.default_rng([seed, splits.index(split), number])
        of_scene, of_noise = rng.spawn(2)
        scene, record = painter.paint(of_scene, shape)
        return noise.apply(scene.gt_enhance, of_noise), scene, record

    return draw


def _write(
    folder: SynthesisFolder,
    draw: Callable[[str, int], tuple],
    pixels: int,
    start: float,
) -> None:
    """Write what is missing and tell how it went.

    Args:
        folder: Gets the images.
        draw: See :func:`_drawing`.
        pixels: Of an image.
        start: Time at which drawing began, by ``time.perf_counter``.
    """
    from tqdm import tqdm

    missing = list(folder.missing())
    total = sum(folder.counts.values())
    if len(missing) < total:
        logger.info(f"{total - len(missing)} of {total} images are there already")
    for split, number in tqdm(missing, unit="image", disable=not sys.stderr.isatty()):
        folder.write(split, number, *draw(split, number))
    seconds = time.perf_counter() - start
    clipped = folder.clipped() / (total * pixels)
    folder.finish({"clipped_share_of_noisy_pixels": clipped})
    rate = f", {len(missing) / seconds:.1f} images/s" if missing else ""
    parts = ", ".join(f"{count} {split}" for split, count in folder.counts.items())
    print(
        f"{folder.path}: {parts}{rate}; {100 * clipped:.2f} % of the noisy pixels were "
        "clipped",
        flush=True,
    )


def _versions() -> dict[str, str]:
    import ase
    import scipy

    return {
        "ppmat": ppmat.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "ase": ase.__version__,
    }
