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

"""The command that writes a trained network of the image task as an ONNX file.

Importing it loads no Paddle.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from ppmat.commands.image_options import add_image_model
from ppmat.commands.image_options import add_mode
from ppmat.commands.image_options import add_tiles
from ppmat.commands.image_options import load_predictor
from ppmat.commands.options import new_parser
from ppmat.commands.options import refuse_if
from ppmat.commands.options import task_command
from ppmat.utils import logger
from ppmat.utils.shares import rank

_EPILOG = """\
The file takes tiles of one size; examples/enhance_onnx.py cuts images into such tiles
and needs neither Paddle nor this package. Exit status: 0 done, 2 bad input, or a file
that does not agree with Paddle (it is not written).

examples:
  export.py --output=haadf.onnx      # the packaged model
  export.py --config_path=configs/sfin/sfin_haadf_enhance.yaml
            --checkpoint_path=best.pdparams --output=haadf.onnx
  export.py --model_name=sfin_haadf_enhance --output=haadf.onnx --tile_size=128
"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; KEY=VALUE arguments are collected in ``overrides``."""
    about = "Write a trained network as an ONNX file, for machines without Paddle."
    parser = new_parser(about, _EPILOG)
    add_image_model(parser, device=False)
    parser.set_defaults(device="cpu")
    add_mode(parser)
    add_tiles(parser)
    add = parser.add_argument
    add("--output", "--save_path", required=True, metavar="FILE.onnx")
    add("--no_check", action="store_true",
        help="do not compare with Paddle in ONNX Runtime")  # fmt: skip
    add("overrides", nargs="*", metavar="KEY=VALUE", help="changes of the YAML")
    return parser.parse_intermixed_args(argv)


def run(args: argparse.Namespace, task_dir: str) -> int:
    """Write the ONNX file; returns the exit status."""
    from ppmat.models.sfin.sfin import SFIN
    from ppmat.predictor.onnx_export import export_onnx

    wanted = f"--output={args.output}: wanted FILE.onnx"
    refuse_if(not args.output.endswith(".onnx"), wanted)
    if rank() > 0:  # rank 0 writes the file
        return 0
    predictor = load_predictor(args, task_dir, args.mode)
    kind = type(predictor.model).__name__
    other = f"Model: {kind} cannot be written as ONNX; wanted SFIN"
    refuse_if(not isinstance(predictor.model, SFIN), other)
    options = predictor.defaults.updated(tile_size=args.tile_size, overlap=args.overlap)
    worst = export_onnx(
        predictor.model,
        args.output,
        (options.tile_size, options.tile_size),
        overlap=options.overlap,
        scaling=options.scaling,
        name=predictor.model_name,
        check=not args.no_check,
    )
    wrote = f"Wrote {args.output} ({os.path.getsize(args.output) / 1e6:.1f} MB)"
    if worst is None:
        logger.warning(f"{wrote}, not compared with Paddle")
    else:
        text = f"ONNX Runtime and Paddle differ by {worst:.1e} of the range at most"
        logger.message(f"{wrote}; {text}")
    return 0


main = task_command(parse_args, run)
