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

"""How many DFT labels a potential needs: from scratch, and from the shipped weights.

Of a set of ``real_potentials.py`` some training frames are drawn; both rows have the
same frames, epochs, validation and test. *Fine-tuned* starts from the shipped potential
(a student of CHGNet), with the energies of the elements fitted to the new labels. Every
(row, set, frames, seed) leaves a file in ``--work``, so a benchmark that was stopped
continues.

Usage::

    python -m benchmarks.data.real_potentials PATH DATA
    python -m benchmarks.potential_labels --data DATA --set mlearn_Cu
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from ase.io import read
from ase.io import write as write_frames

from benchmarks.potentials import score_test
from benchmarks.runs import RESULTS
from benchmarks.runs import ROOT
from benchmarks.runs import file_name
from benchmarks.runs import parse
from benchmarks.runs import read_runs
from benchmarks.runs import result_of
from benchmarks.runs import run_all
from benchmarks.runs import run_parser
from benchmarks.runs import train_with_command
from benchmarks.runs import values_of
from benchmarks.runs import words_of_one
from benchmarks.runs import write
from ppmat.calculator.sfin_calculator import DEFAULT_MODEL

CONFIG = ROOT / "interatomic_potentials/configs/sfin/sfin_potential.yaml"
SHIPPED = ROOT / f"ppmat/models/packages/{DEFAULT_MODEL}/checkpoints/best.pdparams"
RATE = "Optimizer.__init_params__.lr.__init_params__.learning_rate"
SCRATCH, TUNED = "from scratch", "fine-tuned"
ROWS = {
    SCRATCH: [],
    TUNED: [f"Trainer.pretrained_model_path={SHIPPED}", f"{RATE}=0.001"],
}
EPOCHS = {10: 60, 25: 40, 50: 25, 100: 15}  # by frames
VALIDATION = 10  # frames


def drawn(data: Path, frames: int, seed: int, out: Path) -> Path:
    """Write a folder with some of the frames; returns it."""
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for split, count in (("train", frames), ("val", VALIDATION), ("test", None)):
        found = read(data / f"{split}.extxyz.gz", ":")
        picked = sorted(rng.permutation(len(found))[:count])
        write_frames(out / f"{split}.extxyz.gz", [found[i] for i in picked])
    return out


def one(row: str, seed: int, args: argparse.Namespace) -> None:
    """Train one row with some frames, and score it on the test frames."""
    folder = args.work / args.name
    own = drawn(args.data / args.set, args.frames, seed, folder / "frames")
    epochs = EPOCHS[args.frames]
    words = [
        f"Global.data_root={own}",
        "Global.label_names=[energy,forces]",
        "Model.__init_params__.stress_weight=[0,0]",
        "Model.__init_params__.soft_lengths=false",  # as the shipped potential
        f"Trainer.seed={seed}",
        f"Trainer.max_epochs={epochs}",
        f"Trainer.eval_freq={epochs // 10}",
        "Trainer.log_freq=0",
        f"Trainer.output_dir={folder}",
        *ROWS[row],
    ]
    model, config, seconds = train_with_command(
        "interatomic_potentials", CONFIG, words, folder, weights="best.pdparams"
    )
    result = {"train_seconds": seconds, **score_test(model, config)}
    (args.work / f"{args.name}.json").write_text(json.dumps(result, indent=2))


def main() -> None:
    parser = run_parser(__doc__, "output/benchmark_potential_labels", None, ROWS)
    add = parser.add_argument
    add("--set", default="mlearn_Cu", help="folder of DATA")
    add("--sizes", type=int, nargs="+", choices=list(EPOCHS), default=list(EPOCHS))
    add("--out", type=Path, default=RESULTS)
    add("--name", help="name of --one")
    add("--frames", type=int, choices=list(EPOCHS), help="frames of --one")
    args = parse(parser)
    if args.one:
        one(args.one, args.seed, args)
        return
    runs, commands = {}, {}
    for frames in args.sizes:
        for row in ROWS:
            runs[row, frames] = more = {"set": args.set, "frames": frames}
            for seed in args.seeds:
                name = file_name(row, seed, **more)
                places = {"data": args.data, "work": args.work}
                commands[name] = words_of_one(row, seed, name, **places, **more)
    run_all(commands, args.work, args.jobs, "benchmarks.potential_labels")
    rows = []
    for row in ROWS:
        table: dict = {"name": row}
        for frames in args.sizes:
            found = read_runs(args.work, row, args.seeds, **runs[row, frames])
            table[f"{frames} frames"] = values_of(found, "forces_rmse")
        rows.append(table)
    result = result_of(
        f"python -m benchmarks.potential_labels --data DATA --set {args.set} --seeds "
        + " ".join(map(str, args.seeds)),
        note=f"Force RMSE [eV/Å] on the test frames of {args.set} (DFT: Zuo et al., J. "
        "Phys. Chem. A 2020). Fine-tuned: from the shipped potential.",
        rows=rows,
    )
    write(result, args.out / "potential_labels.yaml")


if __name__ == "__main__":
    main()
