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


"""The predicting command of the task folder of images.

Importing this module does not import Paddle: the number of threads has to be set
before.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from ppmat.commands.image_options import add_image_model
from ppmat.commands.image_options import add_images
from ppmat.commands.image_options import add_mode
from ppmat.commands.image_options import check_tiles
from ppmat.commands.image_options import load_predictor
from ppmat.commands.options import EXIT_BAD_INPUT
from ppmat.commands.options import EXIT_SOME_LEFT_OUT
from ppmat.commands.options import announce_task_config
from ppmat.commands.options import find_task_config
from ppmat.commands.options import move_overrides
from ppmat.commands.options import task_command
from ppmat.predictor.image_store import FORMATS
from ppmat.predictor.image_store import find_images
from ppmat.predictor.image_store import make_folder
from ppmat.predictor.packaged_models import DEFAULT_MODE
from ppmat.utils import logger
from ppmat.utils.config import save_config
from ppmat.utils.registry import ConfigError
from ppmat.utils.result_store import Column

_EPILOG = """\
Without a model a small one that comes with ppmat is taken, trained on synthetic images;
without --input, too, it enhances the example images beside this script.
Values keep their units; outputs are float32 with the pixel size of the input. The same
command given again goes on where the last one stopped.
Exit status: 0 done, 1 some files failed (they are listed), 2 bad input.

examples:
  predict.py          (the example images, into output/enhanced)
  predict.py --input image.tif --save_path=enhanced
  predict.py --mode=bf --input image.tif --save_path=enhanced
  predict.py --config_path=configs/sfin/sfin_haadf_enhance.yaml
             --checkpoint_path=best.pdparams --input monday/*.dm4 --save_path=enhanced
  predict.py --model_name=sfin_haadf_enhance --input image.tif --save_path=enhanced
             --residual --ensemble
  predict.py -c configs/sfin/sfin_smoke.yaml --split test
"""
_FLAGS = Column("flags", "flags")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; KEY=VALUE arguments are gathered in ``overrides``."""
    parser = argparse.ArgumentParser(
        description="Enhance microscope images with a trained network.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_image_model(parser)
    add_mode(parser)
    add_images(parser, "--input", "--input_path", default=[], action="extend")
    add = parser.add_argument
    add("--save_path", "--output_path", metavar="FOLDER", help="for the outputs")
    add("--format", choices=FORMATS, default="tif", help="of the outputs")
    add("--residual", action="store_true",
        help="also draw raw image, enhanced image and what was taken away")  # fmt: skip
    add("--ensemble", action="store_true",
        help="average over the four flips: four times the work")  # fmt: skip
    add("--tile_size", type=int, help="pixels; default: Predict.tile_size, or 256")
    add("--overlap", type=int, help="pixels; default: Predict.overlap, or 64")
    add("--scaling", choices=("robust", "grey"),
        help="robust: any intensities, by percentiles; grey: values are grey levels "
        "0 to 255 as in training")  # fmt: skip
    add("--batch_size", type=int, default=1, help="tiles given to the network at once")
    add("--overwrite", action="store_true", help="redo and replace what is there")
    add("--split", choices=("train", "val", "test"),
        help="score the network on a split of the configuration's data set "
        "instead")  # fmt: skip
    add("overrides", nargs="*", metavar="KEY=VALUE", help="changes of the YAML")
    args = parser.parse_intermixed_args(argv)
    move_overrides(args, ("input",))
    return args


def run(args: argparse.Namespace, task_dir: str) -> int:
    """Do what the options say; returns the exit status.

    Raises:
        ConfigError: Options that do not go together, and see ``SpectrumPredictor``.
    """
    _take_example(args, task_dir)
    _check_options(args)
    # What is misspelt or cannot be written shows before the model is loaded.
    if args.input:
        find_images(args.input)
    if args.save_path is not None:
        make_folder(args.save_path)
    # Only a split reads the data that the configuration's variables name.
    find = find_task_config if args.split is None else announce_task_config
    predictor = load_predictor(args, task_dir, args.mode, args.device, find)
    check_tiles(args, predictor)
    if args.split is not None:
        return _score_split(predictor, args)
    rows = predictor.iter_files(
        args.input,
        args.save_path,
        format=args.format,
        residual=args.residual,
        overwrite=args.overwrite,
        on_error="flag",
        progress=sys.stderr.isatty(),
        scaling=args.scaling,
        tile_size=args.tile_size,
        overlap=args.overlap,
        ensemble=args.ensemble,
        batch_size=args.batch_size,
    )
    return _show(rows)


main = task_command(parse_args, run)


_EXAMPLE = "example_data/stem_sample/test/noisy"  # below the task folder
_EXAMPLE_OUTPUT = "output/enhanced"


def _take_example(args: argparse.Namespace, task_dir: str) -> None:
    """Name the example images as input where neither images nor a model are named.

    Raises:
        ConfigError: There is a model for them to name, or no example.
    """
    if args.input or args.split is not None:
        return
    example = os.path.relpath(os.path.join(task_dir, _EXAMPLE))
    missing = (
        "--input is missing: wanted image files or folders, and --save_path for the "
        "outputs"
    )
    own = (args.model_name, args.weights_name, args.config_path, args.checkpoint_path)
    other = args.mode not in (None, DEFAULT_MODE) or args.overrides
    if other or any(value is not None for value in own):
        raise ConfigError(
            f"{missing}. Without it, {DEFAULT_MODE.upper()} example images are enhanced"
            f", and by the shipped model only ({example})"
        )
    if not os.path.isdir(example):
        raise ConfigError(f"{missing}; there are no example images here ({example})")
    args.input = [example]
    args.save_path = _EXAMPLE_OUTPUT if args.save_path is None else args.save_path
    logger.message(
        f"no --input: the example images {example} are enhanced into {args.save_path}"
    )


def _check_options(args: argparse.Namespace) -> None:
    if args.batch_size < 1:
        raise ConfigError(f"--batch_size={args.batch_size}: wanted at least 1")
    if args.input and args.split is not None:
        raise ConfigError("give --input with --save_path, or --split; not both")
    if args.input and args.save_path is None:
        raise ConfigError("--save_path is missing: wanted a folder for the outputs")
    if args.split is not None:
        for name in ("residual", "overwrite", "scaling"):
            if getattr(args, name):
                raise ConfigError(
                    f"--{name} goes with --input; --split scores grey values and "
                    "writes no images"
                )


def _show(rows: Any) -> int:
    """Print a line for each file as it is done; returns the exit status."""
    from ppmat.predictor.enhancement import FLAGS

    seen: dict[str, int] = {}
    failed = done = 0
    for row in rows:
        if row["error"] is not None:
            failed += 1
            logger.error(f"failed: {row['error']}")
        elif row["skipped"]:
            done += 1
            print(f"{row['output']}: is there already", flush=True)
        else:
            done += 1
            flags = row["result"].flags
            for name in flags:
                seen[name] = seen.get(name, 0) + 1
            text = f" [{_FLAGS.to_text(flags)}]" if flags else ""
            print(f"{row['output']}: {_numbers(row['result'])}{text}", flush=True)
    for name, count in seen.items():
        print(f"flag {name} ({_count(count)}): {FLAGS[name]}", flush=True)
    if not done:
        logger.error("no file could be enhanced")
        return EXIT_BAD_INPUT
    if failed:
        logger.error(f"failed: {_count(failed)}; the others are done")
        return EXIT_SOME_LEFT_OUT
    return 0


def _numbers(result: Any) -> str:
    """Return size and residual, of a stack the first frame's."""
    from ppmat.predictor.enhancement import VALUES_OF_MAP

    shape = " x ".join(map(str, result.record["input"]["shape"]))
    if result.record["output_values"] == VALUES_OF_MAP:
        return f"{shape}, {VALUES_OF_MAP}"
    found = result.record["frames"][0]["residual"]
    if found is None or found["slow_axis"][0] is None:
        return f"{shape}, nothing was taken away"
    lost = found["lost_contrast"]
    return (
        f"{shape}, residual std {found['std']:.4g}, correlation of lines "
        f"{found['slow_axis'][0]:+.3f}, contrast lost "
        f"{'-' if lost is None else format(lost, '+.3f')}"
    )


def _count(number: int) -> str:
    return "1 file" if number == 1 else f"{number} files"


# Splits of a data set -------------------------------------------------------------


def _score_split(predictor: Any, args: argparse.Namespace) -> int:
    """Score the network on grey values and print both protocols."""
    from ppmat.datasets import DATASETS

    where = f"Dataset.{args.split}.dataset"
    block = (predictor.config.get("Dataset") or {}).get(args.split) or {}
    if not block.get("dataset"):
        raise ConfigError(f"--split={args.split}: the configuration has no {where}")
    dataset = DATASETS.build(block["dataset"], where)
    scores = score(
        predictor,
        dataset,
        tile_size=args.tile_size,
        overlap=args.overlap,
        ensemble=args.ensemble,
        batch_size=args.batch_size,
    )
    print(f"{args.split}, {len(dataset)} images, grey values 0 to 255")
    print(_score_table(scores), flush=True)
    if args.save_path is not None:
        save_config(scores, os.path.join(args.save_path, f"metrics_{args.split}.yaml"))
    return 0


def score(
    predictor: Any, dataset: Any, **options: Any
) -> dict[str, dict[str, dict[str, float]]]:
    """Return PSNR [dB] and SSIM of inputs and outputs by both protocols.

    Args:
        predictor: A ``SpectrumPredictor``.
        dataset: Samples with ``[1, H, W]`` grey values under the model's
            ``input_name`` and ``target_name``.
        **options: See ``enhance_image``; the scaling is ``"grey"``.
    """
    from ppmat.metrics.sfin_metric import PROTOCOLS
    from ppmat.metrics.sfin_metric import SFINStreamingAdapter

    source, target = predictor.model.input_name, predictor.target_name
    metrics = {
        name: {
            protocol: SFINStreamingAdapter(
                target, "image", "psnr", "ssim", protocol=protocol
            )
            for protocol in PROTOCOLS
        }
        for name in ("input", "output")
    }
    for number in range(len(dataset)):
        sample = dataset[number]
        raw, truth = (np.asarray(sample[name])[None] for name in (source, target))
        clean = predictor.enhance(raw, scaling="grey", **options)
        for name, image in (("input", raw), ("output", clean)):
            for metric in metrics[name].values():
                metric.update_step(
                    result={"pred_dict": {"image": image}},
                    batch={target: truth},
                    stage="eval",
                )
    return {
        name: {
            protocol: {
                k: float(v) for k, v in metric.compute_epoch(stage="eval").items()
            }
            for protocol, metric in of_name.items()
        }
        for name, of_name in metrics.items()
    }


def _score_table(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    from ppmat.metrics.sfin_metric import PROTOCOLS

    lines: list[str] = [f"{'protocol':<8}  {'image':<6}  PSNR [dB]    SSIM"]
    for protocol in PROTOCOLS:
        for name, of_name in scores.items():
            psnr, ssim = of_name[protocol]["psnr"], of_name[protocol]["ssim"]
            lines.append(f"{protocol:<8}  {name:<6}  {psnr:9.3f}  {ssim:6.4f}")
    lines += [f"{name}: {text}" for name, text in PROTOCOLS.items()]
    return "\n".join(lines)
