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


"""The use of the frequency half: ionic clusters beyond each other's cut-off.

Trains small energy networks on the set of ``benchmarks.data.ionic_clusters``, whose
clusters are further apart than the cut-off of the radius graph, and measures

* the error, compared with that of the best model with a cut-off (``cutoff_floor`` of
  the set's statistics) and with that of the spatial half alone;
* whether the trained networks give the same energy for another basis of the same
  lattice, and twice the energy for a doubled cell. The *index box* is a variant of the
  network that fails: its reciprocal vectors are ``|n_i| <= (1, 1, 3)`` with a free
  weight for each index, as in Ewald message passing (arXiv 2303.04791).

Every (row, seed) is a process and leaves a file in ``--work``, so a benchmark that was
stopped continues; the last step collects them and draws the figure.

Usage::

    python -m benchmarks.data.ionic_clusters DATA
    python -m benchmarks.long_range --data DATA --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.runs import IMAGES
from benchmarks.runs import RESULTS
from benchmarks.runs import count_parameters
from benchmarks.runs import file_name
from benchmarks.runs import minutes_of
from benchmarks.runs import new_figure
from benchmarks.runs import parse
from benchmarks.runs import read_runs
from benchmarks.runs import result_of
from benchmarks.runs import run_all
from benchmarks.runs import run_parser
from benchmarks.runs import tensors_of
from benchmarks.runs import values_of
from benchmarks.runs import write

BACKBONE = {
    "channels": 24,
    "vectors": 8,
    "num_blocks": 1,
    "cutoff": 6.0,
    "k_cut": 0.7,
    "num_basis": 8,
}
SCALE = 0.1  # eV; the label's spread divided by the atoms that are summed
SPATIAL = "spatial half only"
WIDE = "spatial half only, wider"
QUARTER = "full network"  # the frequency half has a quarter of the channels
FULL = "full network, equal halves"
BOX = "full network, equal halves, index box"
ROWS = {
    SPATIAL: {"halves": "spatial"},
    WIDE: {"halves": "spatial", "channels": 44, "vectors": 14},
    QUARTER: {},
    FULL: {"frequency_ratio": 1.0},
    BOX: {"frequency_ratio": 1.0},
}
BOX_SIZE = (1, 1, 3)
ON_TWINS = "MAE on the twins [eV]"
WARMUP = 100  # steps
LATTICE_CHANGES = 100  # structures of each check of invariance


def box_indices() -> np.ndarray:
    """Return half of the index box, one of each pair k, -k: int64 [31, 3]."""
    ranges = [range(-n, n + 1) for n in BOX_SIZE]
    return np.array([n for n in itertools.product(*ranges) if n > (0, 0, 0)])


def build(row: str, seed: int):
    """Return the network of a row; the index box replaces the sphere and its filter."""
    import paddle

    from ppmat.models.sfin.sfin_energy import SFINEnergy
    from ppmat.models.sfin.sfin_structure import SFINBackbone

    class IndexBox(SFINBackbone):
        def __init__(self, **kwargs) -> None:
            super().__init__(**kwargs)
            self.register_buffer("box", paddle.to_tensor(box_indices()))
            for block in itertools.chain(*self.blocks):
                outputs = block.g2g.unit.radial.weight.shape[1]
                block.g2g.unit.radial = paddle.nn.Linear(
                    len(self.box),
                    outputs,
                    weight_attr=paddle.nn.initializer.Normal(std=1.0),
                    bias_attr=False,
                )

        def geometry(self, batch, positions):
            count = len(batch["structure_array"]["num_atoms"])
            size = len(self.box)
            graph = {
                **batch["graph"],
                "k_index": self.box.tile([count, 1]),
                "num_k": paddle.full([count], size, dtype="int64"),
            }
            geo = super().geometry({**batch, "graph": graph}, positions)
            own = paddle.eye(size, dtype=positions.dtype)
            return geo._replace(k_radial=own.unsqueeze(0).tile([count, 1, 1]))

    paddle.seed(seed)
    config = {**BACKBONE, **ROWS[row]}
    # without an offset, so that two cells have twice the energy of one
    model = SFINEnergy(backbone_cfg=config, data_mean=0.0, data_std=SCALE)
    if row == BOX:
        model.backbone = IndexBox(**config)
    return model


def samples_of(records) -> list[dict]:
    """Return samples of records, with the graphs of their present cells."""
    from ppmat.datasets.graph_utils.periodic_graph import PeriodicGraphConverter
    from ppmat.datasets.oc20_is2re_dataset import record_to_sample

    graph = PeriodicGraphConverter(
        cutoff=BACKBONE["cutoff"], max_neighbors=None, k_cut=BACKBONE["k_cut"]
    )
    return [record_to_sample(record, build_graph=graph) for record in records]


def read(data: Path, split: str) -> list:
    """Return the records of a split."""
    from ppmat.datasets.oc20_lmdb import OC20LMDB

    rows = OC20LMDB(data, split)
    return [rows[i] for i in range(len(rows))]


def to_batch(samples: list[dict]) -> dict:
    """Return a batch of tensors."""
    from ppmat.datasets.collate_fn import DefaultCollator

    return tensors_of(DefaultCollator()(samples))


def train(model, samples: list[dict], seed: int, args: argparse.Namespace) -> None:
    """Train with AdamW, a warm-up and a cosine; the loss is L1 on the energy."""
    import paddle

    rng = np.random.default_rng(seed)
    per_epoch = len(samples) // args.batch_size
    steps = args.epochs * per_epoch
    lr = paddle.optimizer.lr
    cosine = lr.CosineAnnealingDecay(args.lr, steps)
    schedule = lr.LinearWarmup(cosine, WARMUP, 0.0, args.lr)
    optimizer = paddle.optimizer.AdamW(
        schedule, parameters=model.parameters(), weight_decay=0.01
    )
    model.train()
    for epoch in range(args.epochs):
        losses = []
        order = rng.permutation(len(samples))[: per_epoch * args.batch_size]
        for rows in order.reshape(per_epoch, -1):
            loss = model(to_batch([samples[i] for i in rows]))["loss_dict"]["loss"]
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            schedule.step()
            losses.append(float(loss))
        print(f"epoch {epoch + 1}: loss {SCALE * np.mean(losses):.4f} eV", flush=True)


def predict(model, samples: list[dict]) -> np.ndarray:
    """Return the energies of samples, [S] eV."""
    model.eval()
    parts = [samples[i : i + 50] for i in range(0, len(samples), 50)]
    return np.concatenate(
        [model.predict(to_batch(part))["y_relaxed"] for part in parts]
    )


def unimodular(rng: np.random.Generator) -> np.ndarray:
    """Return a random change of lattice basis: int [3, 3], determinant 1 or -1."""
    change = np.eye(3, dtype=int)
    while (np.abs(change).sum(axis=1) == 1).any():  # every row a new vector
        i, j = rng.permutation(3)[:2]
        change[i] += rng.choice([-1, 1]) * change[j]
    return change[rng.permutation(3)] * [[-1], [1], [1]]


def other_basis(record, rng: np.random.Generator):
    """Return the same crystal with other lattice vectors."""
    return replace(record, cell=(unimodular(rng) @ record.cell).astype(np.float32))


def doubled(record):
    """Return the same crystal with a cell twice as long in the first direction."""
    arrays = {
        name: np.concatenate([getattr(record, name)] * 2)
        for name in ("atomic_numbers", "tags", "fixed")
    }
    pos = np.concatenate([record.pos, record.pos + record.cell[0]])
    cell = record.cell * np.array([[2], [1], [1]], dtype=np.float32)
    return replace(record, pos=pos, cell=cell, **arrays)


def invariance(model, records: list) -> dict[str, float]:
    """Return the largest differences [eV] between two descriptions of one crystal."""
    rng = np.random.default_rng(0)
    energy = predict(model, samples_of(records))
    basis = predict(model, samples_of([other_basis(r, rng) for r in records]))
    double = predict(model, samples_of([doubled(r) for r in records]))
    return {
        "basis_change": float(np.abs(basis - energy).max()),
        "supercell": float(np.abs(double - 2 * energy).max()),
    }


def one(row: str, seed: int, args: argparse.Namespace) -> None:
    """Train and score one row with one seed."""
    import paddle

    records = {split: read(args.data, split) for split in ("train", "val_id", "twins")}
    model = build(row, seed)
    samples = samples_of(records["train"][: args.train])
    start = time.process_time()
    train(model, samples, seed, args)
    seconds = time.process_time() - start
    paddle.save(model.state_dict(), str(args.work / f"{file_name(row, seed)}.pdparams"))
    found = {
        split: predict(model, samples_of(records[split])).tolist()
        for split in ("val_id", "twins")
    }
    labels = np.array([record.y_relaxed for record in records["val_id"]])
    result = {
        "row": row,
        "seed": seed,
        "parameters": count_parameters(model),
        "train_seconds": round(seconds, 1),
        "mae": float(np.abs(np.array(found["val_id"]) - labels).mean()),
        "twins": found["twins"],
        **invariance(model, records["val_id"][:LATTICE_CHANGES]),
    }
    path = args.work / f"{file_name(row, seed)}.json"
    path.write_text(json.dumps(result))
    print({key: value for key, value in result.items() if key != "twins"})


def run_missing(args: argparse.Namespace) -> None:
    """Run what is missing."""
    words = ["--data", args.data, "--work", args.work, "--lr", args.lr]
    words += ["--epochs", args.epochs, "--batch-size", args.batch_size]
    words += ["--train", args.train]
    commands = {
        file_name(row, seed): [*words, "--one", row, "--seed", seed]
        for seed in args.seeds
        for row in ROWS
    }
    run_all(commands, args.work, args.jobs, "benchmarks.long_range")


def gather(args: argparse.Namespace) -> dict:
    """Return the result of all rows and seeds."""
    statistics = json.loads((args.data / "statistics.json").read_text())
    floor = statistics["cutoff_floor"]
    train_labels = [r.y_relaxed for r in read(args.data, "train")[: args.train]]
    labels = np.array([r.y_relaxed for r in read(args.data, "val_id")])
    twins = np.array([r.y_relaxed for r in read(args.data, "twins")])
    median = np.median(train_labels)
    rows = [
        {
            "name": "median of the training set",
            "energy_mae": round(float(np.abs(labels - median).mean()), 4),
            ON_TWINS: round(float(np.abs(twins - median).mean()), 4),
        },
        {
            "name": "best model with a cut-off",
            ON_TWINS: "{:.3f} to {:.3f}".format(*floor["mae"]),
        },
    ]
    seeds = read_runs(args.work, SPATIAL, args.seeds)
    spatial = float(np.mean([s["mae"] for s in seeds]))
    for row in ROWS:
        seeds = read_runs(args.work, row, args.seeds)
        rows.append(
            {
                "name": row,
                "parameters": seeds[0]["parameters"],
                "train_minutes": minutes_of(seeds),
                "energy_mae": values_of(seeds, "mae"),
                ON_TWINS: [
                    round(float(np.abs(np.array(s["twins"]) - twins).mean()), 4)
                    for s in seeds
                ],
                "MAE / spatial half's": [round(s["mae"] / spatial, 3) for s in seeds],
                "other basis [meV]": [round(1e3 * s["basis_change"], 4) for s in seeds],
                "doubled cell [meV]": [round(1e3 * s["supercell"], 4) for s in seeds],
            }
        )
    return result_of(
        f"python -m benchmarks.long_range --data DATA --epochs {args.epochs}"
        f" --batch-size {args.batch_size} --lr {args.lr} --train {args.train}"
        f" --seeds {' '.join(map(str, args.seeds))}",
        note="Training minutes are minutes of processor time. The last two columns "
        "are the largest change of the energy when the same crystal is described "
        f"anew, over {LATTICE_CHANGES} structures of the validation set.",
        long_range_share=round(statistics["val_id"]["long_range_share"], 3),
        share_no_cutoff_sees=round(floor["share"], 3),
        rows=rows,
    )


def draw(result: dict, args: argparse.Namespace) -> None:
    """Draw the twins, equal within the cut-off, and the errors of all rows."""
    from benchmarks.data.ionic_clusters import ARRANGEMENTS

    def deviation(energies) -> np.ndarray:
        groups = np.reshape(energies, (-1, ARRANGEMENTS))
        return (groups - groups.mean(axis=1, keepdims=True)).ravel()

    truth = deviation([record.y_relaxed for record in read(args.data, "twins")])
    figure, axes = new_figure(1, 2, figsize=(10, 4), layout="constrained")
    for row, colour in ((SPATIAL, "tab:orange"), (FULL, "tab:blue")):
        predicted = deviation(read_runs(args.work, row, args.seeds)[0]["twins"])
        axes[0].plot(truth, predicted, ".", ms=3, alpha=0.5, color=colour, label=row)
    ends = np.array([truth.min(), truth.max()])
    axes[0].plot(ends, ends, "k-", lw=0.8)
    axes[0].set(
        title="the same clusters, arranged anew",
        xlabel="energy - mean of the arrangements [eV]",
        ylabel="predicted [eV]",
    )
    axes[0].legend(frameon=False, markerscale=3)
    rows = [row for row in result["rows"] if row["name"] in ROWS]
    names = [row["name"].replace(", ", ",\n") for row in rows]
    errors = [np.mean(row[ON_TWINS]) for row in rows]
    axes[1].barh(names, errors, color="tab:blue", alpha=0.7)
    for number, row in enumerate(rows):
        seeds = row[ON_TWINS]
        axes[1].plot(seeds, [number] * len(seeds), "k.", ms=4)
    floor = json.loads((args.data / "statistics.json").read_text())["cutoff_floor"]
    axes[1].axvspan(
        *floor["mae"], color="tab:red", alpha=0.3, label="best model with a cut-off"
    )
    axes[1].set(xlabel="MAE on the twins [eV]")
    axes[1].invert_yaxis()
    axes[1].legend(loc="lower left")
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(args.figure, dpi=110)


def main() -> None:
    parser = run_parser(__doc__, "output/long_range", 24, ROWS)
    add = parser.add_argument
    add("--train", type=int, default=2000, help="training structures")
    add("--batch-size", type=int, default=32)
    add("--lr", type=float, default=3e-3)
    add("--out", type=Path, default=RESULTS / "long_range.yaml")
    add("--figure", type=Path, default=IMAGES / "long_range.png")
    args = parse(parser)
    if args.one:
        one(args.one, args.seed, args)
        return
    run_missing(args)
    result = gather(args)
    write(result, args.out)
    draw(result, args)
    print(f"wrote {args.figure}")


if __name__ == "__main__":
    main()
