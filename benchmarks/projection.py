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

"""The projection of generated structures: how many are possible, at what score.

Each model relaxes each split once. The same results are scored as the network returned
them and after each projection, so that all differences are paired. Faults are sums over
all models and splits; ADwT is a list with a number for each model.

Usage::

    python -m benchmarks.data.oc20_emt DATA --train 240 --val 400 --max-atoms 60
    python -m benchmarks.projection --data DATA --weights W1.pdparams W2.pdparams \\
        --config CONFIG1.yaml CONFIG2.yaml
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.runs import RESULTS
from benchmarks.runs import SPLITS
from benchmarks.runs import result_of
from benchmarks.runs import write
from ppmat.metrics.is2rs_metric import structure_distances
from ppmat.metrics.is2rs_metric import success_curve
from ppmat.sampler import StructureSampler
from ppmat.sampler.distance_projection import DistanceProjection
from ppmat.sampler.slab_results import finish_slab
from ppmat.utils.periodic import minimum_image
from ppmat.utils.plausibility import CHECKS

PROJECTIONS = {
    "network": None,
    "projection (default)": DistanceProjection(),
    "projection, min_factor 0.65": DistanceProjection(min_factor=0.65),
    "projection, bonds kept": DistanceProjection(max_bond_stretch=1.3),
}
REFERENCES = {"copy input": "cart_coords_initial", "relaxed": "cart_coords_relaxed"}
TOO_CLOSE = 0.7  # Å
FAULTS = [name for name in CHECKS if name != "closest_distance"]
COUNTS = ["structures", "below_0.7", *FAULTS]
SCORES = ["adwt", "adwt_change"]


def scores_of(results: Sequence[dict]) -> np.ndarray:
    """Return the share of the 490 thresholds that each structure meets, [S]."""
    distances = structure_distances(
        *(
            [np.array(r[key]) for r in results]
            for key in ("cart_coords", "cart_coords_relaxed", "lattice", "fixed")
        )
    )
    return np.array([success_curve(d[None]).mean() for d in distances])


def summary(results: Sequence[dict], network: np.ndarray | None) -> dict:
    """Return score and faults; the change of the score from ``network`` [S]."""
    scores = scores_of(results)
    closest = np.array([r["closest_distance"] for r in results])
    row = {"adwt": round(float(scores.mean()), 4)}
    if network is not None:
        change = scores - network
        error = change.std(ddof=1) / len(change) ** 0.5
        row["adwt_change"] = round(float(change.mean()), 4)
        row["standard_error"] = round(float(error), 4)
    row["closest"] = round(float(closest.min()), 3)
    row["below_0.7"] = int((closest < TOO_CLOSE).sum())
    for name in FAULTS:
        row[name] = int(sum(r[name] for r in results))
    return row


def with_positions(result: dict, key: str) -> dict:
    """Return a result with other positions, on the way from the initial ones."""
    initial = np.array(result["cart_coords_initial"])
    moved = minimum_image(np.array(result[key]) - initial, np.array(result["lattice"]))
    return {**result, "cart_coords": (initial + moved).tolist()}


def rows_of(sampler: StructureSampler, split: str, samples: int) -> dict[str, dict]:
    """Return the scores of one model on one split, by the name of the row."""
    plain = list(
        sampler.sample_by_dataloader(
            split=split, seed=0, num_samples=samples, projection=False, progress=False
        )
    )
    network = scores_of(plain)
    rows = {}
    for name, projection in PROJECTIONS.items():
        base = None if projection is None else network
        rows[name] = summary([finish_slab(r, projection) for r in plain], base)
    for name, key in REFERENCES.items():
        moved = [finish_slab(with_positions(r, key), None) for r in plain]
        rows[name] = summary(moved, None)
    return {name: {"structures": len(plain), **row} for name, row in rows.items()}


def gather(found: Sequence[dict]) -> list[dict]:
    """Return a row for each name: scores of all models by split, sums of the faults."""
    rows: dict[str, dict] = {}
    for one in found:
        row = rows.setdefault(one["name"], {"name": one["name"]})
        for key in COUNTS:
            row[key] = row.get(key, 0) + one[key]
        row["closest"] = min(row.get("closest", np.inf), one["closest"])
        scores = row.setdefault(one["split"], {})
        for key in SCORES:
            if key in one:
                scores.setdefault(key, []).append(one[key])
    return list(rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", required=True, type=Path, help="folder of the splits")
    add("--config", required=True, nargs="+", help="YAML of each model")
    add("--weights", required=True, nargs="+", help="weights of each model")
    add("--splits", nargs="+", default=SPLITS)
    add("--samples", type=int, default=1, help="of each structure, with a flow")
    add("--note", default="", help="about data and models")
    add("--out", type=Path, default=RESULTS / "projection.yaml")
    args = parser.parse_args()
    found = []
    for config, weights in zip(args.config, args.weights, strict=True):
        overrides = [f"Global.data_root={args.data.resolve()}"]
        sampler = StructureSampler(
            config_path=config, checkpoint_path=weights, config_overrides=overrides
        )
        for split in args.splits:
            for name, row in rows_of(sampler, split, args.samples).items():
                found.append({"name": name, "split": split, **row})
                print(Path(config).name, found[-1], flush=True)
    models = [Path(config).name for config in args.config]
    command = (
        f"python -m benchmarks.projection --data DATA --config {' '.join(models)} "
        f"--weights ... --splits {' '.join(args.splits)} --samples {args.samples}"
    )
    note = {"note": args.note} if args.note else {}
    write(result_of(command, **note, rows=gather(found)), args.out)


if __name__ == "__main__":
    main()
