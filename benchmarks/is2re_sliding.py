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


"""Errors of adsorption energies: structures whose slab slides, and the others.

The label includes the relaxation of the slab that the adsorbate causes. Each validation
set is divided by the mean displacement of its surface atoms (tag 1) in relaxation. The
result has the error of every row of ``is2re.py`` in both parts.

Usage::

    python -m benchmarks.is2re_sliding --data DATA --work WORK --peers WORK_OF_THE_PEERS
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.is2re import PEERS
from benchmarks.is2re import ROWS
from benchmarks.is2re import SIZES
from benchmarks.runs import RESULTS
from benchmarks.runs import SPLITS
from benchmarks.runs import file_name
from benchmarks.runs import result_of
from benchmarks.runs import write

SLIDING = 0.5  # Å; between the two peaks of the distribution of displacements


def sliding(data: Path, split: str) -> np.ndarray:
    """Return which structures of a split have a sliding slab, [S]."""
    from ppmat.datasets.oc20_lmdb import OC20LMDB

    records = OC20LMDB(data, split)
    means = []
    for record in records:
        lengths = np.linalg.norm(record.displacement, axis=1)
        means.append(lengths[record.tags == 1].mean())
    return np.array(means) > SLIDING


def errors(folder: Path, row: str, seed: int, split: str, **more: object) -> np.ndarray:
    """Return the absolute errors of a run, [S] eV."""
    found = np.load(folder / f"{file_name(row, seed, **more)}_{split}.npz")
    if "energy" in found:
        return np.abs(found["energy"] - found["label"])
    return np.abs(found["prediction"] - found["y"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("output/benchmark_is2re"))
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    slides = {split: sliding(args.data, split) for split in SPLITS}
    runs = [(args.peers, row, {}) for row in PEERS]
    runs += [(args.work, row, {}) for row in ROWS]
    # of the learning curve, one seed each
    runs += [(args.work, list(ROWS)[-1], {"size": size}) for size in SIZES]
    rows = []
    for folder, row, more in runs:
        name = f"{row}, {more['size']:,} structures" if more else row
        parts: dict = {"name": name, "slab slides": [], "slab stays": []}
        for seed in args.seeds[:1] if more else args.seeds:
            found = {s: errors(folder, row, seed, s, **more) for s in SPLITS}
            for part, wanted in (("slab slides", True), ("slab stays", False)):
                means = [found[s][slides[s] == wanted].mean() for s in SPLITS]
                parts[part].append(round(float(np.mean(means)), 4))
        rows.append(parts)
    shares = ", ".join(f"{s} {slides[s].mean():.1%}" for s in SPLITS)
    result = result_of(
        "python -m benchmarks.is2re_sliding --data DATA --peers PEERS",
        note="Energy MAE [eV], mean of the three splits. A slab slides when its "
        f"surface atoms move more than {SLIDING} Å on average: {shares}.",
        rows=rows,
    )
    write(result, args.out / "is2re_sliding.yaml")


if __name__ == "__main__":
    main()
