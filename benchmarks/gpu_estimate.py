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

"""Estimate memory and arithmetic of a training on GPUs from what a CPU can measure.

Each configuration for GPUs takes two training steps on the CPU with two batch sizes, in
processes of their own. A line through their peaks, as Paddle's allocator counts them,
gives what the weights and the optimizer need and what each atom adds. Products of
matrices are counted as they are called; a training step has three times those of its
forward pass. A GPU needs more memory: workspaces, copies of other types, and what its
allocator keeps::

    python -m benchmarks.gpu_estimate       # writes docs/results/gpu_estimate.yaml

Checked against Paddle 3.3, whose count of the allocator has no public name on CPUs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import platform
import tempfile
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu_check import CPU
from benchmarks.gpu_check import NETWORKS
from benchmarks.gpu_check import config_of
from benchmarks.gpu_check import first_batch
from benchmarks.gpu_check import trainer_of
from benchmarks.runs import RESULTS
from benchmarks.runs import count_parameters
from benchmarks.runs import result_of
from benchmarks.runs import run_one
from benchmarks.runs import write

BATCHES = (4, 12)
ATOMS = 80  # of the structure of the estimate
STRUCTURES = 460_328  # in the OC20 training split of all
TRAIN = 3  # products of a training step over those of its forward pass


@contextlib.contextmanager
def counted_products() -> Iterator[dict[str, int]]:
    """Count the floating-point operations of products of matrices, key ``flop``."""
    import paddle
    from paddle.nn import functional

    count = {"flop": 0}

    def counting(function: Callable) -> Callable:
        def call(*args: Any, **options: Any) -> Any:
            out = function(*args, **options)
            first = args[0] if args else options["x"]
            inner = first.shape[-2 if options.get("transpose_x") else -1]
            count["flop"] += 2 * math.prod(out.shape) * inner
            return out

        return call

    names = [(paddle, "matmul"), (functional, "linear")]
    with contextlib.ExitStack() as stack:
        for module, name in names:
            function = getattr(module, name)
            stack.callback(setattr, module, name, function)
            setattr(module, name, counting(function))
        yield count


def measure(name: str, batch_size: int) -> dict[str, Any]:
    """Return sizes, operations of a forward pass and peak memory of a step."""
    from paddle.base import core

    with tempfile.TemporaryDirectory() as folder:
        config = config_of(NETWORKS[name], batch_size)
        trainer = trainer_of(config, CPU, Path(folder))
    batch = first_batch(config)
    trainer.model.train()
    with counted_products() as count:
        trainer.model(batch)
    for _ in range(2):  # the first makes the moments of the optimizer
        trainer.updater.step([batch])
    peak = core.host_memory_stat_peak_value("Allocated", 0) / 2**20
    return {
        "parameters": count_parameters(trainer.model),
        "structures": len(batch["id"]),
        "atoms": int(batch["structure_array"]["num_atoms"].sum()),
        "flop": count["flop"],
        "memory_mib": peak,
    }


def estimate(name: str) -> dict[str, Any]:
    """Return the row of one network."""
    small, large = (
        run_one("benchmarks.gpu_estimate", "--one", name, size) for size in BATCHES
    )
    config = config_of(NETWORKS[name], None)
    batch_size = config["Global"]["batch_size"]
    more_atoms = large["atoms"] - small["atoms"]
    atom = (large["memory_mib"] - small["memory_mib"]) / more_atoms
    fixed = small["memory_mib"] - atom * small["atoms"]
    forward = large["flop"] / large["atoms"]
    row = {
        "network": name,
        "configuration": Path(NETWORKS[name].config).name,
        "parameters [M]": round(small["parameters"] / 1e6, 1),
        "weights and optimizer [MiB]": round(fixed),
        "an atom [MiB]": round(atom, 2),
        "batch of a GPU": batch_size,
        "memory of a GPU [GiB], estimate": round(
            (fixed + batch_size * ATOMS * atom) / 1024, 1
        ),
        "forward [GFLOP an atom]": round(forward / 1e9, 4),
    }
    if config["Global"].get("subset") == "all":
        passes = config["Trainer"]["max_epochs"] * STRUCTURES * ATOMS
        row["training on OC20 [PFLOP]"] = round(TRAIN * forward * passes / 1e15)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "BATCH_SIZE"))
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu_estimate.yaml")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], int(args.one[1]))))
        return
    result = result_of(
        "python -m benchmarks.gpu_estimate",
        f"{platform.machine()}, CPU, one thread",
        note=f"Peak memory of a step with {BATCHES[0]} and {BATCHES[1]} structures.",
        rows=[estimate(name) for name in NETWORKS],
    )
    write(result, args.out)


if __name__ == "__main__":
    main()
