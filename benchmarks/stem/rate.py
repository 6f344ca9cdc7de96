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

"""How fast synthetic images are made, and whether a training waits for them.

Rates of one process by mode, noise and image size, and the share of a training step
that is spent waiting for data with two workers: ``sfin_synthetic.yaml`` with
the network and the batch of ``sfin_smoke.yaml``, one epoch through the entry of
train.py.

Usage::

    python -m benchmarks.stem.rate
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path

from benchmarks.runs import machine
from benchmarks.runs import write

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "spectrum_enhancement/configs/sfin"
SIZES = (64, 128, 256, 512)
SECONDS = 3.0  # duration of one measurement


def rates(mode: str, size: int, noise: str) -> list[float]:
    """Return the images/s of three measurements in this process."""
    from ppmat.datasets import SFINSyntheticDataset

    data = SFINSyntheticDataset(100_000, size, mode=mode, noise=noise)
    data[0]
    found, number = [], 1
    for _ in range(3):
        start, first = time.perf_counter(), number
        while time.perf_counter() - start < SECONDS:
            data[number]
            number += 1
        found.append((number - first) / (time.perf_counter() - start))
    return found


def waiting(mode: str, folder: Path) -> dict[str, float]:
    """Return the median time of a training step, and of its waiting, s."""
    from ppmat.commands import train
    from ppmat.utils.config import load_config

    file = CONFIGS / "sfin_synthetic.yaml"
    smoke = load_config(CONFIGS / "sfin_smoke.yaml")["Model"]["__init_params__"]
    config = load_config(
        file,
        [
            f"Global.mode={mode}",
            "Global.num_workers=2",
            "Global.do_test=false",
            "Trainer.max_epochs=1",
            "Trainer.eval_freq=2",
            "Trainer.log_freq=1",
            f"Trainer.output_dir={folder}",
            "Dataset.train.dataset.__init_params__.count=240",
            "Optimizer.__init_params__.lr.__init_params__.warmup_epoch=0",
            *(
                f"Model.__init_params__.{k}={smoke[k]}"
                for k in ("base_channels", "num_blocks")
            ),
        ],
    )
    train.run(config, str(file), overwrite=True)
    with open(folder / "metrics.csv", newline="") as file:
        steps = [row for row in csv.DictReader(file) if row["stage"] == "train(step)"]
    # The first steps start the workers.
    return {
        name: round(statistics.median(float(row[name]) for row in steps[5:]), 5)
        for name in ("batch_cost", "reader_cost")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results")
    args = parser.parse_args()
    os.chdir(ROOT)
    from ppmat.stem.noise.noise_model import MODES
    from ppmat.stem.noise.noise_model import NoiseModel

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for mode in MODES:
            model = Path(folder) / f"{mode}.json"
            NoiseModel(mode=mode).save(model)
            for name, noise in (("any", "any"), ("a noise model", str(model))):
                for size in SIZES:
                    found = rates(mode, size, noise)
                    rows.append(
                        {
                            "mode": mode,
                            "noise": name,
                            "size": size,
                            "images_per_s": round(statistics.median(found), 1),
                            "least": round(min(found), 1),
                            "most": round(max(found), 1),
                        }
                    )
        training = {mode: waiting(mode, Path(folder) / mode) for mode in MODES}
    write(
        {
            "command": "python -m benchmarks.stem.rate",
            "machine": machine(),
            "date": str(date.today()),
            "note": "images/s of one process, median of three turns; training: medians "
            "of a step of the smoke network, batch 4, 64 x 64, two workers, seconds",
            "rows": rows,
            "training": training,
        },
        args.out / "stem_rate.yaml",
    )


if __name__ == "__main__":
    main()
