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

"""The command that converts a file written by ``torch.save`` for Paddle.

::

    python -m ppmat.commands.convert_checkpoint in.pth out.pdparams --config sfin.yaml
    python -m ppmat.commands.convert_checkpoint in.pth out.pdparams --linear 'head.*'

With ``--config`` the model of the configuration says which weights belong to linear
layers, and all names and shapes are checked. Without it neither a model nor Paddle is
needed; the user names the weights of linear layers.
"""

from __future__ import annotations

import argparse
import fnmatch
import math
import sys
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from ppmat.commands.options import exit_status
from ppmat.utils import logger
from ppmat.utils import torch_checkpoint
from ppmat.utils.config import load_config
from ppmat.utils.torch_checkpoint import TorchCheckpointError


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="python -m ppmat.commands.convert_checkpoint",
        description="Convert the weights of a file written by torch.save to a "
        ".pdparams file, without PyTorch. Nothing in the file is run. Names of batch "
        "normalisation become Paddle's, weights of linear layers are transposed.",
        epilog="Exit status: 0 written, 2 not written, with the reason.",
    )
    add = parser.add_argument
    add("input", help="file written by torch.save")
    add("output", help="file to write, NAME.pdparams")
    wrappers = ", ".join(torch_checkpoint.WRAPPERS)
    add("--key", help=f"key of the weights in the file, if it is none of {wrappers}")
    add("--force", action="store_true", help="replace the output")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--config", metavar="FILE.yaml", help="build the section Model of "
        "this file, take its linear layers, check all names and shapes")  # fmt: skip
    how.add_argument("--linear", nargs="*", metavar="PATTERN", help="names of weights "
        "of linear layers (* and ? are wildcards), which the file does not say; no "
        "pattern: there are none")  # fmt: skip
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Convert one file; returns the exit status."""
    if args.config is None:
        weights = torch_checkpoint.load(args.input, args.key)
        weights = torch_checkpoint.to_paddle(weights)
        names = linear_names(weights, args.linear)
        weights = torch_checkpoint.to_paddle(weights, names)
    else:
        weights = weights_for_model(args.config, args.input, args.key)
    torch_checkpoint.write_pdparams(args.output, weights, args.force)
    count = sum(math.prod(array.shape) for array in weights.values())
    logger.message(f"Wrote {args.output}: {len(weights)} arrays, {count} numbers")
    return 0


def weights_for_model(config: str, path: str, key: str | None) -> dict[str, np.ndarray]:
    """Return the weights of a file under the names of a configuration's model."""
    from ppmat.models import build_model_of
    from ppmat.utils import save_load

    model = build_model_of(load_config(config), config)
    weights = save_load.load_torch_weights(model, path, key)
    save_load.apply_weights(model, weights, path)
    return {name: value.numpy() for name, value in model.state_dict().items()}


def linear_names(
    weights: Mapping[str, np.ndarray], patterns: Sequence[str] | None
) -> list[str]:
    """Return the names of weights of linear layers that match ``patterns``."""
    flat = [name for name, array in weights.items() if array.ndim == 2]
    flat = [name for name in flat if name.rpartition(".")[2] == "weight"]
    shown = torch_checkpoint.shortened_list(flat)
    if flat and patterns is None:
        raise TorchCheckpointError(
            f"{shown}: of a linear layer (transposed in Paddle) or of an embedding "
            "(not)? The file does not say. Name those of linear layers with --linear "
            "PATTERN ..., give --linear alone if there are none, or give the model "
            "with --config"
        )
    chosen = set()
    for pattern in patterns or ():
        found = fnmatch.filter(flat, pattern)
        if not found:
            raise TorchCheckpointError(
                f"--linear {pattern}: no two-dimensional weight has such a name; there "
                f"are {shown or 'none'}"
            )
        chosen.update(found)
    return sorted(chosen)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = parse_args(argv)
    return exit_status(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
