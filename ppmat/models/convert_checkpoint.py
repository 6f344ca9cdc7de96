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


"""Convert a file written by ``torch.save`` for the model of a configuration.

::

    python -m ppmat.models.convert_checkpoint in.pth out.pdparams --config sfin.yaml

Unlike ``python -m ppmat.utils.torch_checkpoint`` it knows the model, so that weights
of linear layers are transposed, and all names and shapes are checked.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ppmat.models import build_model
from ppmat.utils import save_load
from ppmat.utils import torch_checkpoint
from ppmat.utils.config import load_config
from ppmat.utils.registry import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Convert one file; return the exit status."""
    parser = torch_checkpoint.make_parser("python -m ppmat.models.convert_checkpoint")
    parser.description += (
        " The section Model of the configuration is built; weights of its linear "
        "layers are transposed, and all names and shapes must be the model's."
    )
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE.yaml",
        help="file with the section Model",
    )
    args = parser.parse_args(argv)
    try:
        model = build_model(load_config(args.config).get("Model"))
        if model is None:
            raise ConfigError(f"{args.config}: the section Model is missing")
        weights = save_load.load_torch_weights(model, args.input, args.key)
        save_load.apply_weights(model, weights, args.input)
        weights = {name: value.numpy() for name, value in model.state_dict().items()}
        torch_checkpoint.write_pdparams(args.output, weights, args.force)
    except (
        ConfigError,
        save_load.CheckpointError,
        torch_checkpoint.TorchCheckpointError,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(torch_checkpoint.report(args.output, weights))
    return 0


if __name__ == "__main__":
    sys.exit(main())
