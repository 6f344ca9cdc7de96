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


"""Expected errors against true errors of energies: error head, and ensemble.

Reads the predictions that ``is2re.py`` left: the expected errors of each seed's error
head, and those of the seeds as an ensemble (standard deviation of their energies). One
factor, measured on val_id, scales each method. The result has, for every split, mean
expected and mean absolute error, the rank correlation of the two, and the error of the
half with smaller expected errors, relative to all.

Usage::

    python -m benchmarks.uncertainty --work output/benchmark_is2re
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from benchmarks.runs import IMAGES
from benchmarks.runs import RESULTS
from benchmarks.runs import SPLITS
from benchmarks.runs import file_name
from benchmarks.runs import new_figure
from benchmarks.runs import result_of
from benchmarks.runs import write

ROW = "full network, with relaxed structure"
CALIBRATION = "val_id"
BINS = 8
COLUMNS = (
    "MAE [eV]",
    "expected error [eV]",
    "rank correlation",
    "MAE of the trusted half / MAE",
)


def predictions(work: Path, seeds: list[int], split: str) -> list:
    """Return the files that the seeds left for a split."""
    return [np.load(work / f"{file_name(ROW, seed)}_{split}.npz") for seed in seeds]


def of_heads(work: Path, seeds: list[int]) -> dict[str, list[tuple]]:
    """Return (absolute error, expected error) of each split, one pair a seed."""
    found = {}
    for split in SPLITS:
        files = predictions(work, seeds, split)
        found[split] = [
            (np.abs(f["energy"] - f["label"]), f["expected_error"]) for f in files
        ]
    return found


def of_ensemble(work: Path, seeds: list[int]) -> dict[str, list[tuple]]:
    """Return (absolute error of the mean, standard deviation) of each split."""
    found = {}
    for split in SPLITS:
        files = predictions(work, seeds, split)
        energy = np.stack([f["energy"] for f in files])
        error = np.abs(energy.mean(axis=0) - files[0]["label"])
        found[split] = [(error, energy.std(axis=0, ddof=1))]
    return found


def judge(pairs: dict[str, list[tuple]]) -> tuple[list[dict], dict[str, list[tuple]]]:
    """Scale on val_id; return the table rows of the splits and the scaled pairs."""
    factors = [error.sum() / expected.sum() for error, expected in pairs[CALIBRATION]]
    scaled = {
        split: [(error, f * expected) for f, (error, expected) in zip(factors, both)]
        for split, both in pairs.items()
    }
    rows = []
    for split in SPLITS:
        numbers = {key: [] for key in COLUMNS}
        for error, expected in scaled[split]:
            trusted = error[expected <= np.median(expected)]
            rank = spearmanr(error, expected).statistic
            row = (error.mean(), expected.mean(), rank, trusted.mean() / error.mean())
            for key, value in zip(COLUMNS, row):
                numbers[key].append(round(float(value), 3))
        rows.append({"split": split, **numbers})
    rows[0]["factor"] = [round(float(f), 3) for f in factors]
    return rows, scaled


def draw(methods: dict[str, dict[str, list[tuple]]], path: Path) -> None:
    """Draw mean absolute against mean expected error in bins of the latter."""
    figure, panels = new_figure(1, len(methods), figsize=(9, 4.2), sharey=True)
    for axes, (name, scaled) in zip(panels, methods.items()):
        for split, pairs in scaled.items():
            error, expected = (np.concatenate(x) for x in zip(*pairs))
            bins = np.array_split(np.argsort(expected), BINS)
            axes.plot(
                [expected[b].mean() for b in bins],
                [error[b].mean() for b in bins],
                "o-",
                label=split + (" (scaled here)" if split == CALIBRATION else ""),
            )
        limit = max(axes.get_xlim()[1], axes.get_ylim()[1])
        axes.plot([0, limit], [0, limit], color="0.6", linewidth=1)
        axes.set_title(name)
        axes.set_xlabel("expected error [eV]")
    panels[0].set_ylabel("mean absolute error [eV]")
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("output/benchmark_is2re"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows, methods = [], {}
    for name, read in (("scale head", of_heads), ("ensemble of seeds", of_ensemble)):
        found, methods[name] = judge(read(args.work, args.seeds))
        rows += [{"name": name, **row} for row in found]
    result = result_of(
        "python -m benchmarks.uncertainty --seeds " + " ".join(map(str, args.seeds)),
        note="Expected errors are scaled by the factor measured on val_id. The rank "
        "correlation (Spearman) is that of absolute and expected errors; the trusted "
        "half are the structures with the smaller expected errors.",
        rows=rows,
    )
    write(result, args.out / "uncertainty.yaml")
    draw(methods, IMAGES / "is2re_uncertainty.png")


if __name__ == "__main__":
    main()
