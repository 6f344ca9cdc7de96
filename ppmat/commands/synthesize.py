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

"""Command ``synthesize``: write a synthetic data set with the noise of a microscope."""

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
from importlib.metadata import version
from typing import Any

import numpy as np

import ppmat
from ppmat.commands.options import EXIT_SOME_LEFT_OUT
from ppmat.commands.options import exit_status
from ppmat.commands.options import new_parser
from ppmat.commands.options import refuse_if
from ppmat.commands.synthesize_scenes import OPTICS
from ppmat.commands.synthesize_scenes import CrystalOptions
from ppmat.commands.synthesize_scenes import CrystalScenes
from ppmat.commands.synthesize_scenes import RandomScenes
from ppmat.commands.synthesize_scenes import read_specimens
from ppmat.stem.noise.noise_model import MODES
from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.stem.scenes.atom_columns import Scene
from ppmat.stem.scenes.scene_folder import FORMATS
from ppmat.stem.scenes.scene_folder import SynthesisFolder
from ppmat.stem.scenes.scene_folder import noise_in_grey_levels
from ppmat.utils import logger
from ppmat.utils.shares import rank

_EPILOG = """\
Two values, as in --pixel_size 0.1 0.15, are a range from which each image draws one.
Orientation and offset are always drawn; HAADF images also draw the tails of the probe
and the contrast of light columns. The same command given again continues an
interrupted run.
Exit status: 0 done, 1 some structures were left out, 2 bad input.

examples:
  synthesize.py --structure slab.cif --noise noise.json -n 1000 -o folder
  synthesize.py --structure crystals/*.cif --zone_axis 0 0 1 --zone_axis 1 1 0
                --noise noise.json -n 1000 -o folder --thickness 50 300
  synthesize.py --structure mos2.cif -n 200 -o folder --vacancies S:0.03
                --substitute Mo:W:0.05 --grain_boundary 0.3
  synthesize.py --noise noise.json -n 1000 -o folder        (random scenes)
"""
_CRYSTAL_OPTIONS = (
    *("zone_axis", "direction", "pixel_size", "thickness", "rotation"),
    *(name for options in OPTICS.values() for name in options),
    *("vacancies", "substitute", "adatoms", "strain", "local_strain"),
    "grain_boundary",
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the arguments of the command line."""
    about = "Write synthetic images with the noise of a microscope, to train on."
    parser = new_parser(about, _EPILOG)
    add = parser.add_argument
    add("--structure", nargs="+", default=[], action="extend", metavar="FILE",
        help="crystals, slabs, molecules: .cif, POSCAR, .xyz, .traj, .lmdb, folders, "
        "patterns; without it scenes are random")  # fmt: skip
    add("--noise", metavar="JSON",
        help="of calibrate.py (default: noise of the paper's example)")  # fmt: skip
    add("-n", "--number", type=int, default=1000, help="images (default: 1000)")
    add("-o", "--output", required=True, metavar="FOLDER", help="of the data set")
    add("--test_share", type=float, default=0.1,
        help="images in test/, at least one if above 0 (default: 0.1)")  # fmt: skip
    add("--size", type=int, nargs="+", default=[256], metavar="PIXELS",
        help="height and width (default: 256)")  # fmt: skip
    add("--mode", choices=MODES, help="default: the mode of the noise model")
    add("--format", choices=FORMATS, default="png",
        help="png: 8 bits, but gt_superresolution is always tif; tif: float32, not "
        "rounded or clipped")  # fmt: skip
    add("--seed", type=int, default=0)
    add("--overwrite", action="store_true", help="replace an existing data set")
    group = parser.add_argument_group("crystals (with --structure)")
    add = group.add_argument
    add("--zone_axis", type=int, nargs=3, action="append", metavar=("U", "V", "W"),
        help="direction of the beam, of the direct lattice (default: 0 0 1); given "
        "several times, each image draws one")  # fmt: skip
    add("--direction", type=float, nargs=3, metavar=("X", "Y", "Z"),
        help="Cartesian direction of the beam instead of a zone axis")  # fmt: skip
    for name, unit, text in (
        ("pixel_size", "Å", "default: 0.12"),
        ("thickness", "Å", "of structures that repeat along the beam (default: 50)"),
        ("rotation", "DEGREES", "of the structure in the image (default: 0 360)"),
        ("probe", "Å", "HAADF: standard deviation of the probe (default: 0.3 0.5)"),
        ("energy", "keV", "BF: energy of the electrons (default: 200)"),
        ("semiangle", "MRAD", "BF: semiangle of the probe (default: 22)"),
        ("detector", "MRAD", "BF: semiangle of the detector (default: 11)"),
        ("defocus", "Å", "BF: depth of the focus below the first atoms (default: -20 "
            "20)"),
    ):  # fmt: skip
        add(f"--{name}", type=float, nargs="+", metavar=unit, help=text)
    add("--vacancies", action="append", metavar="[ELEMENT:]SHARE", help="of the atoms")
    add("--substitute", action="append", metavar="ELEMENT:BY:SHARE",
        help="replace a share of the atoms of an element")  # fmt: skip
    add("--adatoms", action="append", metavar="ELEMENT:NUMBER", help="per nm²")
    add("--strain", type=float, metavar="SD",
        help="standard deviation of the components of a uniform strain")  # fmt: skip
    add("--local_strain", type=float, metavar="Å",
        help="root mean square of a smooth random displacement")  # fmt: skip
    add("--grain_boundary", type=float, metavar="SHARE",
        help="share of the images that show two grains")  # fmt: skip
    return parser.parse_args(argv)


def _check(args: argparse.Namespace) -> None:
    """Check what argparse does not."""
    refuse_if(args.number < 1, f"--number={args.number}: wanted at least 1")
    for name in ("test_share", "grain_boundary"):
        share = getattr(args, name)
        wrong = share is not None and not 0 <= share <= 1
        refuse_if(wrong, f"--{name}={share}: wanted 0 to 1")
    refuse_if(args.seed < 0, f"--seed={args.seed}: wanted at least 0")
    size = " ".join(map(str, args.size))
    wanted = "wanted one or two numbers of pixels, at least 16"
    refuse_if(len(args.size) > 2 or min(args.size) < 16, f"--size {size}: {wanted}")
    for name in () if args.structure else _CRYSTAL_OPTIONS:
        text = f"--{name} goes with --structure; random scenes have no scale"
        refuse_if(getattr(args, name) is not None, text)
    both = args.direction is not None and args.zone_axis is not None
    refuse_if(both, "give --zone_axis or --direction, not both")


def split_counts(number: int, test_share: float) -> dict[str, int]:
    """Return the number of images of each split.

    Of two or more images, a split with a share above 0 gets at least one.

    Example:
        >>> split_counts(4, 0.1)
        {'train': 3, 'test': 1}
    """
    test = round(test_share * number)
    if number > 1:
        test = min(max(test, int(test_share > 0)), number - int(test_share < 1))
    return {"train": number - test, "test": test}


def _read_noise(args: argparse.Namespace) -> NoiseModel:
    if args.noise is None:
        logger.message("no --noise: the noise of the paper's example image is used")
        return NoiseModel(mode=args.mode or "haadf")
    noise = NoiseModel.load(args.noise)
    refuse_if(
        args.mode not in (None, noise.mode),
        f"--mode={args.mode}, but {args.noise} was measured on {noise.mode} images; "
        "calibrate on images of that mode",
    )
    return noise


def _draw(
    scenes: Any, noise: NoiseModel, shape: tuple[int, int], seeds: Sequence[int]
) -> tuple[np.ndarray, Scene, dict]:
    """Return noisy image, scene and drawn parameters, a function of the arguments."""
    of_scene, of_noise = np.random.default_rng(seeds).spawn(2)
    scene, record = scenes.draw(of_scene, shape)
    return noise.apply(scene.gt_enhance, of_noise), scene, record


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if rank() > 0:  # rank 0 writes the whole data set
        return 0
    return exit_status(lambda: run(words))


def run(words: Sequence[str]) -> int:
    """Write the data set of a command line; returns the exit status."""
    from ppmat.utils.progress import Progress

    args = parse_args(words)
    _check(args)
    given = _read_noise(args)
    counts = split_counts(args.number, args.test_share)
    shape = (args.size[0], args.size[-1])
    left_out = 0
    scenes_of: Callable[[NoiseModel], Any] = RandomScenes
    if args.structure:
        crystal = CrystalOptions.from_args(args, given.mode)
        specimens, left_out = read_specimens(
            args.structure, args.zone_axis, args.direction
        )
        scenes_of = functools.partial(CrystalScenes, crystal, specimens)
        scenes_of(given).check(shape)
    # Scenes that cannot be drawn are reported before anything is written or removed.
    noise, factor, offset = noise_in_grey_levels(
        given,
        lambda noise, number: _draw(
            scenes_of(noise), noise, shape, [args.seed, 0, number]
        )[0],
    )
    scenes = scenes_of(noise)
    logger.info(
        f"grey level = {factor:.4g} x value of the noise model's images {offset:+.4g}, "
        "so that the data set has the grey levels of prediction"
    )
    settings = {
        "seed": args.seed,
        "size": list(shape),
        "noise": given.to_json(),
        "scenes": scenes.settings(),
    }
    about = {
        "command": shlex.join(["synthesize.py", *words]),
        "grey_levels": {"factor": factor, "offset": offset},
        "versions": {
            "ppmat": ppmat.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scipy", "ase")},
        },
    }
    with SynthesisFolder.opened(
        args.output,
        counts=counts,
        mode=noise.mode,
        settings=settings,
        about=about,
        format=args.format,
        overwrite=args.overwrite,
    ) as folder:
        missing, total = list(folder.missing()), sum(counts.values())
        if len(missing) < total:
            logger.info(f"{total - len(missing)} of {total} images exist already")
        start = time.perf_counter()
        for split, number in Progress(missing, "synthesizing", unit=" images"):
            seeds = [args.seed, list(counts).index(split), number]
            folder.write(split, number, *_draw(scenes, noise, shape, seeds))
        rate = len(missing) / (time.perf_counter() - start)
        clipped = folder.clipped() / (total * math.prod(shape))
        folder.finish({"clipped_share_of_noisy_pixels": clipped})
    parts = ", ".join(f"{count} {split}" for split, count in counts.items())
    speed = f", {rate:.1f} images/s" if missing else ""
    print(
        f"{args.output}: {parts}{speed}; {100 * clipped:.2f} % of the noisy pixels "
        "were clipped",
        flush=True,
    )
    return EXIT_SOME_LEFT_OUT if left_out else 0
