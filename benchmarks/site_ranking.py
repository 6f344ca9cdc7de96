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

"""Which energy models tell adsorption sites apart: training labels with sites, or not.

The test is real DFT data: H, C, N, O and F on the fcc, hcp, bridge and ontop sites of
five fcc(111) metals at 1/4 to 1 monolayer (Xu and Kitchin, J. Phys. Chem. C 2014, doi
10.1021/jp508805h), extended XYZ files of the fairchem documentation. One metal is held
out. Two models of the same configuration are compared: one trained on the other metals,
and one trained on other data (``--weights``), such as the shipped set, in which hardly
any surface and adsorbate occur twice.

Usage::

    python -m benchmarks.site_ranking --slabs ads.extxyz --clean clean.extxyz \\
        --weights output/sfin_oc20_is2re/checkpoints/best.pdparams
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.io import read

from benchmarks.runs import RESULTS
from benchmarks.runs import ROOT
from benchmarks.runs import result_of
from benchmarks.runs import train_with_command
from benchmarks.runs import write
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.oc20_writer import write_lmdb
from ppmat.predictor import PropertyPredictor

CONFIG = ROOT / "property_prediction/configs/sfin/sfin_oc20_is2re.yaml"
ADSORBATES = (1, 6, 7, 8, 9)  # one atom each, so that atoms are adsorbates
APART = 0.05  # eV; sites whose true energies differ less are not compared
HELD = 3.0  # Å above the lowest atom; atoms below do not move (two layers)
LEAST_HEIGHT = 0.6  # Å of the adsorbate above the surface


def initial_positions(relaxed: Atoms, clean: Atoms) -> np.ndarray:
    """Return the clean slab with the adsorbates at their nominal sites, [N, 3] Å."""
    n, cell = len(clean), relaxed.cell.array
    positions = relaxed.positions.copy()
    positions[:n] = clean.positions
    side = np.linalg.norm(cell[0]) / 2  # distance of metal atoms in a 2 x 2 cell
    beside = {"ontop": 0.0, "bridge": side / 2}
    lateral = beside.get(relaxed.info["site"], side / np.sqrt(3))
    plane = cell[:2, :2]
    for i in range(n, len(relaxed)):
        share = np.linalg.solve(plane.T, positions[i, :2])
        positions[i, :2] = np.round(share * 12) / 12 @ plane
        bond = covalent_radii[relaxed.numbers[[n - 1, i]]].sum()
        height = np.sqrt(max(bond**2 - lateral**2, LEAST_HEIGHT**2))
        positions[i, 2] = clean.positions[:, 2].max() + height
    return positions


def record_of(relaxed: Atoms, clean: Atoms, sid: str) -> OC20Record:
    """Return the relaxation of a structure as a record."""
    n = len(clean)
    fixed = np.zeros(len(relaxed), dtype=bool)
    fixed[:n] = clean.positions[:, 2] < clean.positions[:, 2].min() + HELD
    tags = np.where(fixed, 0, 1)
    tags[n:] = 2
    energy = float(relaxed.info["e_ads_eV_per_adsorbate"] * (len(relaxed) - n))
    return OC20Record(
        sid=sid,
        atomic_numbers=relaxed.numbers.astype(np.int64),
        pos=initial_positions(relaxed, clean).astype(np.float32),
        cell=relaxed.cell.array.astype(np.float32),
        tags=tags,
        fixed=fixed,
        y_relaxed=energy,
        pos_relaxed=relaxed.positions.astype(np.float32),
    )


def scores(energies: dict[str, float], groups: dict) -> dict[str, float]:
    """Return how well energies of an adsorbate [eV] distinguish sites.

    Args:
        energies: Predicted energy by id.
        groups: Ids and true energies of the sites of each surface and adsorbate.
    """
    spreads, found, right, compared, best, errors = [], [], 0, 0, 0, []
    for sites in groups.values():
        true = np.array([energy for _, energy in sites])
        predicted = np.array([energies[sid] for sid, _ in sites])
        spreads.append(np.ptp(true))
        found.append(np.ptp(predicted))
        best += int(true.argmin() == predicted.argmin())
        errors.extend(abs(predicted - true))
        for i, j in itertools.combinations(range(len(true)), 2):
            if abs(true[i] - true[j]) > APART:
                compared += 1
                right += int((true[i] - true[j]) * (predicted[i] - predicted[j]) > 0)
    return {
        "surfaces": len(spreads),
        "true_spread_eV": round(float(np.median(spreads)), 4),
        "predicted_spread_eV": round(float(np.median(found)), 4),
        "pairs": compared,
        "pairs_in_right_order": right,
        "best_site_found": best,
        "energy_mae": round(float(np.mean(errors)), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--slabs", required=True, help="relaxed structures with adsorbates")
    add("--clean", required=True, help="one clean slab of each metal")
    add("--weights", required=True, help="of the other model, same configuration")
    add("--held-out", default="Cu", help="metal that is not trained on")
    add("--epochs", type=int, default=40)
    add("--work", type=Path, default=Path("output/benchmark_site_ranking"))
    add("--out", type=Path, default=RESULTS / "site_ranking.yaml")
    args = parser.parse_args()
    work = args.work.resolve()
    clean = {slab.info["metal"]: slab for slab in read(args.clean, ":")}
    parts: dict[str, list] = {"train": [], "val_id": []}
    groups = defaultdict(list)
    for number, slab in enumerate(read(args.slabs, ":")):
        metal = slab.info["metal"]
        if slab.numbers[-1] not in ADSORBATES:
            continue
        record = record_of(slab, clean[metal], str(number))
        if metal != args.held_out:
            parts["train"].append(record)
            continue
        parts["val_id"].append(record)
        same = (slab.numbers[-1], slab.info["coverage"])
        energy = slab.info["e_ads_eV_per_adsorbate"]
        groups[same].append((record.sid, energy))
    groups = {same: sites for same, sites in groups.items() if len(sites) > 1}
    for split, records in parts.items():
        write_lmdb(work / "data" / split / "data.lmdb", records)
    output = work / "model"
    changes = [
        f"Global.data_root={work / 'data'}",
        "Global.num_workers=0",
        f"Trainer.max_epochs={args.epochs}",
        f"Trainer.output_dir={output}",
    ]
    train_with_command("property_prediction", CONFIG, changes, output)
    rows = []
    for name, weights in (
        ("labels of several sites a surface", output / "checkpoints/best.pdparams"),
        ("labels of the shipped EMT set", args.weights),
    ):
        model = PropertyPredictor(config_path=CONFIG, checkpoint_path=weights)
        table = model.from_structures(parts["val_id"], progress=False)
        counts = {r.sid: int((r.tags == 2).sum()) for r in parts["val_id"]}
        energies = {row["id"]: row["y_relaxed"] / counts[row["id"]] for row in table}
        rows.append({"name": name, **scores(energies, groups)})
        print(rows[-1], flush=True)
    result = result_of(
        f"python -m benchmarks.site_ranking --slabs SLABS --clean CLEAN --weights "
        f"WEIGHTS --held-out {args.held_out} --epochs {args.epochs}",
        note=f"{len(parts['train'])} training and {len(parts['val_id'])} test "
        "structures (Xu and Kitchin, DFT). Energies are per adsorbate. Spread: largest "
        "minus smallest energy of the sites of one surface and adsorbate, median. "
        f"Pairs: two sites that differ by more than {APART} eV.",
        rows=rows,
    )
    write(result, args.out)


if __name__ == "__main__":
    main()
