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

"""The command that enhances images, or scores a network on a data set.

Importing it loads no Paddle.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np

from ppmat.commands.image_options import add_image_model
from ppmat.commands.image_options import add_images
from ppmat.commands.image_options import add_mode
from ppmat.commands.image_options import add_selection
from ppmat.commands.image_options import add_task
from ppmat.commands.image_options import add_tiles
from ppmat.commands.image_options import load_predictor
from ppmat.commands.image_options import own_model_options
from ppmat.commands.image_options import selected_images
from ppmat.commands.options import announce_task_config
from ppmat.commands.options import new_parser
from ppmat.commands.options import parse_with_overrides
from ppmat.commands.options import print_flags
from ppmat.commands.options import refuse_if
from ppmat.commands.options import status_of
from ppmat.commands.options import task_command
from ppmat.predictor.image_store import FORMATS
from ppmat.predictor.image_store import make_folder
from ppmat.predictor.packaged_models import DEFAULT_MODE
from ppmat.predictor.tile_model import BACKGROUNDS
from ppmat.predictor.tile_model import RESAMPLINGS
from ppmat.utils import logger
from ppmat.utils.config import save_config
from ppmat.utils.result_store import Column
from ppmat.utils.shares import in_order
from ppmat.utils.shares import rank

_EPILOG = """\
Without a model, a packaged one is used, trained on synthetic images. Without --input
as well, it enhances the example images beside this script.
Values keep their units; outputs are float32 with the pixel size of the input. The same
command given again continues where the last one stopped.
Exit status: 0 done, 1 some files failed (they are listed), 2 bad input.

examples:
  predict.py          (the example images, into output/enhanced)
  predict.py --input image.tif --save_path=enhanced
  predict.py --mode=bf --input image.tif --save_path=enhanced
  predict.py --task=superresolution --input image.tif --save_path=narrow
  predict.py --config_path=configs/sfin/sfin_haadf_enhance.yaml
             --checkpoint_path=best.pdparams --input monday/*.dm4 --save_path=enhanced
  predict.py --model_name=sfin_haadf_enhance --input image.tif --save_path=enhanced
             --residual --ensemble
  predict.py -c configs/sfin/sfin_smoke.yaml --split test
"""
_FLAGS = Column("flags", "flags")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; KEY=VALUE arguments are collected in ``overrides``."""
    parser = new_parser("Enhance microscope images with a trained network.", _EPILOG)
    add_image_model(parser)
    add_mode(parser)
    add_task(parser)
    add_images(parser, "--input", "--input_path", default=[], action="extend")
    add_tiles(parser)
    add_selection(parser)
    add = parser.add_argument
    add("--save_path", "--output_path", metavar="FOLDER", help="for the outputs")
    add("--format", choices=FORMATS, default="tif", help="of the outputs")
    add("--residual", action="store_true", help="also draw the residual as PNG")
    add("--picture", action="store_true", help="also write a PNG for the eye: 8 bits, "
        "full size, with a scale bar")  # fmt: skip
    add("--ensemble", action="store_true", help="average of four flips: 4 x the work")
    add("--scaling", choices=("robust", "grey"), help="robust: any intensities, by "
        "percentiles; grey: grey levels 0 to 255 as in training")  # fmt: skip
    add("--background", choices=BACKGROUNDS, help="slow variation of the image, such "
        "as thickness; auto: kept from the network where it is larger than in "
        "training, and added again; keep: always; remove: always, not added again "
        "(default: Predict.background, or auto)")  # fmt: skip
    add("--resample", choices=RESAMPLINGS, help="auto: a lattice finer or coarser than "
        "in training is resampled for the network; off: never (default: "
        "Predict.resample, or auto)")  # fmt: skip
    add("--batch_size", type=int, default=1, help="tiles given to the network at once")
    add("--overwrite", action="store_true", help="replace existing outputs")
    add("--split", choices=("train", "val", "test"), help="score the network on a "
        "split of the configuration's data set instead")  # fmt: skip
    add("overrides", nargs="*", metavar="KEY=VALUE", help="changes of the YAML")
    return parse_with_overrides(parser, argv, "input")


def run(args: argparse.Namespace, task_dir: str) -> int:
    """Enhance the images, or score a split; returns the exit status."""
    _check_options(args, task_dir)
    # Wrong names and folders are reported before the model is loaded.
    if args.input:
        selected_images(args, args.input)
    if args.save_path is not None:
        make_folder(args.save_path)
    if args.split is not None:  # only a split reads data that variables name
        args.config_path = announce_task_config(
            args.config_path, task_dir, args.overrides
        )
    predictor = load_predictor(args, task_dir, args.mode, args.task)
    names = ("tile_size", "overlap", "ensemble", "batch_size", "background")
    options = {name: getattr(args, name) for name in names}
    if args.split is not None:
        if rank() > 0:  # the scores of a split are the work of one process
            return 0
        return _score_split(predictor, args.split, args.save_path, options)
    rows = predictor.iter_files(
        selected_images(args, args.input),
        args.save_path,
        format=args.format,
        residual=args.residual,
        picture=args.picture,
        overwrite=args.overwrite,
        on_error="flag",
        progress=True,
        scaling=args.scaling,
        resample=args.resample,
        **options,
    )
    return _print_rows(rows)


main = task_command(parse_args, run)

_EXAMPLE = "example_data/stem_sample/test/noisy"  # below the task folder
_EXAMPLE_OUTPUT = "output/enhanced"  # below the current folder


def _check_options(args: argparse.Namespace, task_dir: str) -> None:
    """Refuse options that do not go together; without any, take the example images."""
    if args.split is not None:
        refuse_if(args.input, "give --input or --split; not both")
        names = ("residual", "picture", "overwrite", "scaling", "resample", "region")
        for name in (*names, "mask"):
            text = f"--{name} goes with --input; --split scores grey values only"
            refuse_if(getattr(args, name), text)
        return
    if args.input:
        missing = "--save_path is missing: wanted a folder for the outputs"
        refuse_if(args.save_path is None, missing)
        return
    example = os.path.relpath(os.path.join(task_dir, _EXAMPLE))
    missing = "--input is missing: wanted images, and --save_path for the outputs"
    other_mode = args.mode not in (None, DEFAULT_MODE)
    refuse_if(
        other_mode or args.task or args.overrides or own_model_options(args),
        f"{missing}. Without it, the {DEFAULT_MODE.upper()} example images ({example}) "
        "are enhanced by the packaged model only",
    )
    nothing = f"{missing}; there are no example images here ({example})"
    refuse_if(not os.path.isdir(example), nothing)
    args.input, args.save_path = [example], args.save_path or _EXAMPLE_OUTPUT
    logger.message(
        f"no --input: the example images {example} are enhanced into {args.save_path}"
    )


class _Line(NamedTuple):
    """What is printed of one file."""

    error: str | None
    text: str
    flags: list[str]


def _print_rows(rows: Iterable[Mapping[str, Any]]) -> int:
    """Print a line for each file as it is done; returns the exit status."""
    from ppmat.predictor.enhancement import FLAGS

    flagged: Counter[str] = Counter()
    failed = total = 0
    for line in in_order(map(_line, rows)):
        total += 1
        if line.error is not None:
            failed += 1
            logger.error(f"failed: {line.error}")
            continue
        flagged.update(line.flags)
        print(line.text, flush=True)
    print_flags(flagged, FLAGS, "file")
    return status_of(failed, total, "file", "failed")


def _line(row: Mapping[str, Any]) -> _Line:
    if row["error"] is not None:
        return _Line(row["error"], "", [])
    if row["skipped"]:
        return _Line(None, f"{row['output']}: is there already", [])
    flags = row["result"].flags
    text = f"{row['output']}: {_numbers(row['result'])}"
    return _Line(None, f"{text} [{_FLAGS.to_text(flags)}]" if flags else text, [*flags])


def _numbers(result: Any) -> str:
    """Return size and residual, of a stack the first frame's."""
    from ppmat.predictor.enhancement import VALUES_LIKE_INPUT

    shape = " x ".join(map(str, result.record["input"]["shape"]))
    if (meaning := result.record["output_values"]) != VALUES_LIKE_INPUT:
        return f"{shape}, {meaning}"
    found = result.record["frames"][0]["residual"]
    if found is None or found["slow_axis"][0] is None:
        return f"{shape}, nothing was removed: the residual is constant"
    lost = found["lost_contrast"]
    return (
        f"{shape}, residual std {found['std']:.4g}, correlation of lines "
        f"{found['slow_axis'][0]:+.3f}, contrast lost "
        f"{'-' if lost is None else format(lost, '+.3f')}"
    )


def _score_split(
    predictor: Any, split: str, save_path: str | None, options: dict[str, Any]
) -> int:
    """Score the network on grey values and print the scores of all protocols."""
    from ppmat.datasets import DATASETS

    where = f"Dataset.{split}.dataset"
    block = (predictor.config.get("Dataset") or {}).get(split) or {}
    missing = f"--split={split}: the configuration has no {where}"
    refuse_if(not block.get("dataset"), missing)
    dataset = DATASETS.build(block["dataset"], where)
    scores = score(predictor, dataset, **options)
    print(f"{split}, {len(dataset)} images, grey values 0 to 255")
    print(_score_lines(scores), flush=True)
    if save_path is not None:
        save_config(scores, os.path.join(save_path, f"metrics_{split}.yaml"))
    return 0


def score(
    predictor: Any, dataset: Any, **options: Any
) -> dict[str, dict[str, dict[str, float]]]:
    """Return PSNR [dB] and SSIM of inputs and outputs by all protocols.

    The samples of ``dataset`` hold ``[1, H, W]`` grey values. The result is
    ``scores["input" or "output"][protocol]["psnr" or "ssim"]``.
    """
    from ppmat.metrics.sfin_metric import PROTOCOLS
    from ppmat.metrics.sfin_metric import SFINStreamingAdapter

    source, target = predictor.model.input_name, predictor.target_name
    metrics = {
        (name, protocol): SFINStreamingAdapter(
            target, "image", "psnr", "ssim", protocol=protocol
        )
        for name in ("input", "output")
        for protocol in PROTOCOLS
    }
    for number in range(len(dataset)):
        sample = dataset[number]
        raw, truth = (np.asarray(sample[name])[None] for name in (source, target))
        clean = predictor.enhance(raw, scaling="grey", **options)
        images = {"input": raw, "output": clean}
        for (name, _), metric in metrics.items():
            result = {"pred_dict": {"image": images[name]}}
            metric.update_step(result=result, batch={target: truth}, stage="eval")
    scores: dict[str, Any] = {"input": {}, "output": {}}
    for (name, protocol), metric in metrics.items():
        values = metric.compute_epoch(stage="eval")
        scores[name][protocol] = {key: float(value) for key, value in values.items()}
    return scores


def _score_lines(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    from ppmat.metrics.sfin_metric import PROTOCOLS

    lines: list[str] = [f"{'protocol':<8}  {'image':<6}  PSNR [dB]    SSIM"]
    for protocol in PROTOCOLS:
        for name, of_name in scores.items():
            psnr, ssim = of_name[protocol]["psnr"], of_name[protocol]["ssim"]
            lines.append(f"{protocol:<8}  {name:<6}  {psnr:9.3f}  {ssim:6.4f}")
    lines += [f"{name}: {text}" for name, text in PROTOCOLS.items()]
    return "\n".join(lines)
