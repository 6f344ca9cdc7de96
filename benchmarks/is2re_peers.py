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


"""Adsorption energies by peers: mean, composition ridge, SchNet and PaiNN.

The networks are those of SchNetPack 2 (MIT) in PyTorch; the project depends on neither.
The first step needs ``ppmat`` and writes the records to ``.npz`` files. All others run
in an environment of their own, without ``ppmat``. SchNetPack 2.1.1 pins an old SymPy,
which PyTorch 2.13 refuses, hence ``--no-deps``::

    python -m venv PEERS
    PEERS/bin/pip install torch==2.13.0 \
        --index-url https://download.pytorch.org/whl/cpu
    PEERS/bin/pip install --no-deps schnetpack==2.1.1
    PEERS/bin/pip install numpy==2.4.6 ase==3.29.0 matscipy==1.3.1 h5py==3.16.0 \
        fasteners==0.20 dirsync==2.2.6 pyyaml==6.0.3 tqdm==4.70.1 torch-ema==0.3 \
        torchmetrics==1.9.0 pytorch-lightning==2.6.6 tensorboard==2.21.0 \
        tensorboardX==2.6.5 hydra-core==1.3.8 hydra-colorlog==1.2.0 rich==15.0.0

Every row learns ``y_relaxed`` from the initial positions, with the same epochs,
batches, loss and schedule. The networks learn the residual of the composition ridge, as
SFIN does. Every (row, seed) leaves a ``.json`` and its predictions in ``--work``, so a
benchmark that was stopped continues. ``--compile`` makes the networks 1.3 to 1.8 times
as fast, needs a C++ compiler, and changes energies by rounding only.

Usage::

    python -m benchmarks.data.oc20_emt DATA --train 3000 --val 400
    python -m benchmarks.is2re_peers --work WORK --export DATA
    PEERS/bin/python -m benchmarks.is2re_peers --work WORK --search
    PEERS/bin/python -m benchmarks.is2re_peers --work WORK --seeds 0 1 2
    PEERS/bin/python -m benchmarks.is2re_peers --work WORK --speed  # idle machine
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runs import SPLITS
from benchmarks.runs import file_name

CUTOFF = 6.0  # Å, with MAX_NEIGHBORS the graph of OC20
MAX_NEIGHBORS = 50
BATCH = 16
PART = 4  # structures at once: their gradients are summed, with less memory and time
ELEMENTS = 119
ENERGY_THRESHOLD = 0.02  # eV
MEAN = "mean"
RIDGE = "composition ridge"
# The settings that --search finds best on val_id.
ROWS: dict[str, dict[str, Any]] = {
    MEAN: {},
    RIDGE: {},
    "SchNet": {"hidden": 128, "rbf": 50, "lr": 1e-3, "readout": "all", "tags": True},
    "PaiNN": {"hidden": 64, "rbf": 20, "lr": 1e-3, "readout": "all", "tags": True},
}
SEARCH = [
    {"lr": 1e-3, "readout": "all"},
    {"lr": 3e-3, "readout": "all"},
    {"lr": 3e-3, "readout": "surface"},
]


# Data --------------------------------------------------------------------------------


def export(data: Path, work: Path) -> None:
    """Write the records of all splits below ``data`` to ``.npz`` files."""
    from ppmat.datasets.oc20_lmdb import OC20LMDB

    for split in ["train", *SPLITS]:
        rows = OC20LMDB(data, split=split)
        records = [rows[index] for index in range(len(rows))]
        path = work / f"{split}.npz"
        np.savez(
            path,
            sid=np.array([record.sid for record in records]),
            num_atoms=np.array([len(record.pos) for record in records]),
            pos=np.concatenate([record.pos for record in records]),
            cell=np.stack([record.cell for record in records]),
            numbers=np.concatenate([record.atomic_numbers for record in records]),
            tags=np.concatenate([record.tags for record in records]),
            fixed=np.concatenate([record.fixed for record in records]),
            y=np.array([record.y_relaxed for record in records], dtype=np.float64),
        )
        print(f"wrote {path}: {len(records)} records")


def neighbors(
    pos: np.ndarray, cell: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return centre, neighbour and vector of each edge, all images considered.

    Args:
        pos: Positions, [N, 3], Å.
        cell: Cell vectors as rows, [3, 3], Å.
    """
    from matscipy.neighbours import neighbour_list

    centre, other, distance, vector = neighbour_list(
        "ijdD",
        positions=pos.astype(np.float64),
        cell=cell.astype(np.float64),
        pbc=np.ones(3, dtype=bool),
        cutoff=CUTOFF,
    )
    order = np.lexsort((distance, centre))
    first = np.searchsorted(centre[order], np.arange(len(pos)))
    rank = np.arange(len(order)) - first[centre[order]]
    order = order[rank < MAX_NEIGHBORS]
    return centre[order], other[order], vector[order]


class Split:
    """One split: structures, their energies and, made once, their edges."""

    def __init__(self, work: Path, name: str) -> None:
        path = work / f"{name}.npz"
        if not path.exists():
            raise SystemExit(f"{path} is missing: run --export DATA first")
        with np.load(path) as stored:
            self.__dict__.update(stored.items())
        self.atom_ends = np.cumsum(self.num_atoms)
        self.reference = np.zeros(len(self.y))  # eV, of the composition ridge
        self.cache = work / f"{name}_edges.npz"

    def __len__(self) -> int:
        return len(self.y)

    def atoms(self, index: int) -> slice:
        end = self.atom_ends[index]
        return slice(end - self.num_atoms[index], end)

    def load_edges(self) -> None:
        """Read the stored edges, or compute and store them."""
        if not self.cache.exists():
            found = [
                neighbors(self.pos[self.atoms(index)], self.cell[index])
                for index in range(len(self))
            ]
            np.savez(
                self.cache,
                centre=np.concatenate([edges[0] for edges in found]),
                other=np.concatenate([edges[1] for edges in found]),
                vector=np.concatenate([edges[2] for edges in found], dtype=np.float32),
                num_edges=np.array([len(edges[0]) for edges in found]),
            )
        with np.load(self.cache) as stored:
            self.__dict__.update(stored.items())
        self.edge_ends = np.cumsum(self.num_edges)

    def parts(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """Return the parts of a batch."""
        return [self.tensors(part) for part in chunks(rows, PART)]

    def tensors(self, rows: np.ndarray) -> dict[str, Any]:
        """Return the tensors of some structures."""
        import torch

        atoms = [self.atoms(row) for row in rows]
        edges = [
            slice(self.edge_ends[row] - self.num_edges[row], self.edge_ends[row])
            for row in rows
        ]
        first = np.cumsum(self.num_atoms[rows]) - self.num_atoms[rows]
        shift = np.repeat(first, self.num_edges[rows])
        structure = np.repeat(np.arange(len(rows)), self.num_atoms[rows])
        parts = {
            "numbers": np.concatenate([self.numbers[part] for part in atoms]),
            "tags": np.concatenate([self.tags[part] for part in atoms]),
            "structure": structure,
            "centre": np.concatenate([self.centre[part] for part in edges]) + shift,
            "other": np.concatenate([self.other[part] for part in edges]) + shift,
            "vector": np.concatenate([self.vector[part] for part in edges]),
            "y": (self.y - self.reference)[rows].astype(np.float32),
        }
        return {key: torch.from_numpy(value) for key, value in parts.items()}


# Rows --------------------------------------------------------------------------------


def counts(split: Split) -> np.ndarray:
    """Return how many atoms of each (tag 1 or 2, element) a structure has, [S, 238]."""
    structure = np.repeat(np.arange(len(split)), split.num_atoms)
    table = np.zeros((len(split), 3, ELEMENTS))
    np.add.at(table, (structure, split.tags, split.numbers), 1.0)
    return table[:, 1:].reshape(len(split), -1)


def ridge(x: np.ndarray, y: np.ndarray, alpha: float) -> tuple[np.ndarray, float]:
    """Return weights and constant of a ridge regression that penalises the weights."""
    centre, level = x.mean(0), y.mean()
    moved = x - centre
    matrix = moved.T @ moved + alpha * np.eye(x.shape[1])
    weights = np.linalg.solve(matrix, moved.T @ (y - level))
    return weights, float(level - centre @ weights)


def fit_ridge(train: Split, seed: int) -> tuple[np.ndarray, float, float]:
    """Choose the penalty on a fifth of the training set, then fit on all of it."""
    x = counts(train)
    order = np.random.default_rng(seed).permutation(len(train))
    held, kept = np.split(order, [len(train) // 5])
    errors = {}
    for alpha in np.logspace(-3, 4, 29):
        weights, constant = ridge(x[kept], train.y[kept], alpha)
        errors[alpha] = np.abs(x[held] @ weights + constant - train.y[held]).mean()
    alpha = min(errors, key=errors.get)
    return *ridge(x, train.y, alpha), float(alpha)


def schnetpack():
    """Import SchNetPack under a PyTorch that renamed a type it imports."""
    import warnings

    from torch.utils.data import dataloader

    if not hasattr(dataloader, "T_co"):
        dataloader.T_co = dataloader._T_co
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import schnetpack as package
    return package


def network(row: str, settings: dict[str, Any]):
    """Return the network of a row: representation, and read-out of each atom."""
    from torch import nn

    spk = schnetpack()
    kind = getattr(spk.representation, row.split(",")[0])
    width = settings["hidden"]
    return nn.ModuleDict(
        {
            "representation": kind(
                n_atom_basis=width,
                n_interactions=3,
                radial_basis=spk.nn.GaussianRBF(settings["rbf"], CUTOFF),
                cutoff_fn=spk.nn.CosineCutoff(CUTOFF),
                nuclear_embedding=nn.Embedding(
                    ELEMENTS * (3 if settings["tags"] else 1), width
                ),
            ),
            # Random sums over 50 atoms would start at errors of many eV.
            "readout": spk.nn.build_mlp(
                n_in=width, n_out=1, n_layers=2, last_zero_init=True
            ),
        }
    )


def energies(model, batch: dict[str, Any], settings: dict[str, Any]):
    """Return the normalised energy of each structure, [S]."""
    import torch

    kinds = batch["numbers"]
    if settings["tags"]:
        kinds = kinds + ELEMENTS * batch["tags"]
    inputs = {
        "_atomic_numbers": kinds,
        "_Rij": batch["vector"],
        "_idx_i": batch["centre"],
        "_idx_j": batch["other"],
    }
    features = model["representation"](inputs)["scalar_representation"]
    atomic = model["readout"](features).squeeze(-1)
    if settings["readout"] == "surface":
        atomic = atomic * (batch["tags"] > 0)
    total = torch.zeros(len(batch["y"]), dtype=atomic.dtype)
    return total.index_add(0, batch["structure"], atomic)


class Training:
    """Network, optimiser, schedule and averaged weights of one run."""

    def __init__(
        self,
        row: str,
        settings: dict[str, Any],
        train: Split,
        steps: int,
        compiled: bool = False,
    ) -> None:
        import torch
        from torch.optim import swa_utils

        self.settings = settings
        self.energies = torch.compile(energies, dynamic=True) if compiled else energies
        self.model = network(row, settings)
        self.averaged = swa_utils.AveragedModel(
            self.model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.99)
        )
        rest = train.y - train.reference
        self.mean, self.std = float(rest.mean()), float(rest.std())
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings["lr"], weight_decay=0.01
        )
        warm = max(1, steps // 8)
        self.schedule = torch.optim.lr_scheduler.SequentialLR(
            self.optimizer,
            [
                torch.optim.lr_scheduler.LinearLR(
                    self.optimizer, 1 / warm, total_iters=warm
                ),
                torch.optim.lr_scheduler.CosineAnnealingLR(
                    self.optimizer, max(1, steps - warm), eta_min=1e-5
                ),
            ],
            [warm],
        )

    def step(self, parts: list[dict[str, Any]]) -> float:
        """Take one step with the parts of a batch; return the MAE in eV."""
        import torch

        self.model.train()
        size = sum(len(part["y"]) for part in parts)
        total = 0.0
        self.optimizer.zero_grad()
        for part in parts:
            target = (part["y"] - self.mean) / self.std
            values = self.energies(self.model, part, self.settings)
            loss = (values - target).abs().sum() / size
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()
        self.schedule.step()
        self.averaged.update_parameters(self.model)
        return total * self.std

    def predict(self, parts: list[dict[str, Any]]) -> np.ndarray:
        """Return the energies by the averaged weights, [S], eV."""
        import torch

        model = self.averaged.module.eval()
        with torch.no_grad():
            values = [self.energies(model, part, self.settings) for part in parts]
        return torch.cat(values).double().numpy() * self.std + self.mean


def chunks(order: np.ndarray, size: int = BATCH) -> list[np.ndarray]:
    return np.split(order, range(size, len(order), size))


def train_network(
    row: str,
    settings: dict[str, Any],
    seed: int,
    epochs: int,
    splits: dict[str, Split],
    scored: list[str],
    compiled: bool,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Train one network; return its figures and its predictions of ``scored``."""
    import torch

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    train = splits["train"]
    weights, constant, _ = fit_ridge(train, seed)
    for split in splits.values():
        split.reference = counts(split) @ weights + constant
    steps = epochs * len(chunks(np.arange(len(train))))
    run = Training(row, settings, train, steps, compiled)
    if compiled:
        # Compile before the time is measured; the gradients are not used.
        part = train.tensors(np.arange(PART))
        run.energies(run.model, part, settings).sum().backward()
    start, used = time.perf_counter(), time.process_time()
    for epoch in range(epochs):
        order = chunks(rng.permutation(len(train)))
        errors = [run.step(train.parts(rows)) for rows in order]
        print(
            f"{row} seed {seed} {settings} epoch {epoch + 1}: training MAE "
            f"{np.mean(errors):.4f} eV, {time.perf_counter() - start:.0f} s",
            flush=True,
        )
    trained, used = time.perf_counter(), time.process_time() - used
    if compiled:
        run.predict(train.parts(np.arange(BATCH)))
    predicting = time.perf_counter()
    predictions = {}
    for name in scored:
        split = splits[name]
        batches = (split.parts(rows) for rows in chunks(np.arange(len(split))))
        rest = np.concatenate([run.predict(batch) for batch in batches])
        predictions[name] = split.reference + rest
    predicting = time.perf_counter() - predicting
    count = sum(len(splits[name]) for name in scored)
    figures = {
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "train_seconds": round(trained - start, 1),
        "train_cpu_seconds": round(used, 1),
        "train_structures_per_s": round(epochs * len(train) / (trained - start), 1),
        "infer_structures_per_s": round(count / predicting, 1),
        "learning_rate": settings["lr"],
        "readout": settings["readout"],
        "tags": settings["tags"],
        "epochs": epochs,
        "compiled": compiled,
    }
    return figures, predictions


def fit(
    row: str, seed: int, epochs: int, splits: dict[str, Split], compiled: bool
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Fit any row; return its figures and its predictions of all scored splits."""
    train = splits["train"]
    if ROWS[row]:
        return train_network(
            row, ROWS[row], seed, epochs, splits, scored=SPLITS, compiled=compiled
        )
    start = time.perf_counter()
    figures: dict[str, Any] = {"parameters": 1}
    if row == MEAN:
        predictions = {s: np.full(len(splits[s]), train.y.mean()) for s in SPLITS}
    else:
        weights, constant, alpha = fit_ridge(train, seed)
        figures = {"parameters": int(np.count_nonzero(weights)) + 1, "alpha": alpha}
        predictions = {s: counts(splits[s]) @ weights + constant for s in SPLITS}
    figures["train_seconds"] = round(time.perf_counter() - start, 3)
    figures["learning_rate"] = None
    return figures, predictions


# Steps -------------------------------------------------------------------------------


def score(predicted: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Return energy MAE in eV and the share within the threshold, strictly."""
    error = np.abs(predicted - wanted)
    return {
        "energy_mae": float(error.mean()),
        "ewt": float((error < ENERGY_THRESHOLD).mean()),
    }


def run_all(args: argparse.Namespace, splits: dict[str, Split]) -> None:
    """Fit and score the runs that are missing."""
    for row in args.rows:
        for seed in args.seeds:
            path = args.work / f"{file_name(row, seed)}.json"
            if path.exists():
                continue
            figures, predictions = fit(row, seed, args.epochs, splits, args.compile)
            result = {"row": row, "seed": seed, **figures}
            for name in SPLITS:
                split = splits[name]
                result[name] = score(predictions[name], split.y)
                np.savez(
                    args.work / f"{file_name(row, seed)}_{name}.npz",
                    sid=split.sid,
                    y=split.y,
                    prediction=predictions[name],
                )
            path.write_text(json.dumps(result, indent=2))
            print(row, seed, *(result[name] for name in SPLITS), flush=True)


def search(args: argparse.Namespace, splits: dict[str, Split]) -> None:
    """Score the settings of :data:`SEARCH` after a few epochs, on val_id alone."""
    for row in args.rows:
        for number, trial in enumerate(SEARCH if ROWS[row] else []):
            path = args.work / f"search_{file_name(row, number)}.json"
            if path.exists():
                continue
            figures, predictions = train_network(
                row,
                {**ROWS[row], **trial},
                0,
                args.search_epochs,
                splits,
                scored=["val_id"],
                compiled=args.compile,
            )
            result = score(predictions["val_id"], splits["val_id"].y)
            path.write_text(json.dumps({"row": row, **figures, "val_id": result}))
            print(row, trial, result, flush=True)


def speed(args: argparse.Namespace, splits: dict[str, Split]) -> None:
    """Write median structures/s of training steps and of inference, no loading."""
    split = splits["val_id"]
    batches = [split.parts(rows) for rows in chunks(np.arange(len(split)))[:6]]
    rates: dict[str, dict[str, float]] = {}
    for row in args.rows:
        if not ROWS[row]:
            continue
        run = Training(row, ROWS[row], splits["train"], 100, args.compile)
        rates[row] = {}
        for name, step in (("train", run.step), ("infer", run.predict)):
            step(batches[0])
            times = []
            for batch in batches * 2:
                start = time.perf_counter()
                step(batch)
                times.append(BATCH / (time.perf_counter() - start))
            rates[row][f"{name}_structures_per_s"] = round(statistics.median(times), 1)
        print(row, rates[row], flush=True)
    (args.work / "speed.json").write_text(json.dumps(rates, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("output/benchmark_peers"))
    parser.add_argument("--export", type=Path, metavar="DATA", help="first step")
    parser.add_argument("--search", action="store_true", help="try the settings")
    parser.add_argument("--speed", action="store_true", help="only measure rates")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--search-epochs", type=int, default=2)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.export:
        export(args.export, args.work)
        return
    import torch

    torch.set_num_threads(1)
    # Radial functions far from their centre are subnormal numbers: three times slower.
    torch.set_flush_denormal(True)
    splits = {name: Split(args.work, name) for name in ["train", *SPLITS]}
    if any(ROWS[row] for row in args.rows):
        for split in splits.values():
            split.load_edges()
    if args.search:
        search(args, splits)
    elif args.speed:
        speed(args, splits)
    else:
        run_all(args, splits)


if __name__ == "__main__":
    main()
