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


"""Adsorption energies and relaxed positions by peers: means, ridge, SchNet, PaiNN.

The networks are those of SchNetPack 2 (MIT) in PyTorch; the project depends on neither.
The first step needs Paddle and writes the records to ``.npz`` files. All others run in
an environment of their own, without Paddle. SchNetPack 2.1.1 pins an old SymPy, which
PyTorch 2.13 refuses, hence ``--no-deps``::

    python -m venv PEERS
    PEERS/bin/pip install torch==2.13.0 \
        --index-url https://download.pytorch.org/whl/cpu
    PEERS/bin/pip install --no-deps schnetpack==2.1.1
    PEERS/bin/pip install numpy==2.4.6 ase==3.29.0 matscipy==1.3.1 h5py==3.16.0 \
        fasteners==0.20 dirsync==2.2.6 pyyaml==6.0.3 tqdm==4.70.1 torch-ema==0.3 \
        torchmetrics==1.9.0 pytorch-lightning==2.6.6 tensorboard==2.21.0 \
        tensorboardX==2.6.5 hydra-core==1.3.8 hydra-colorlog==1.2.0 rich==15.0.0

Every network exists with and without a second target, the displacement of the free
atoms to their relaxed positions, and has the epochs, batches, loss and schedule of
SFIN. It learns the residual of the composition ridge, as SFIN does; with a surface
reference that of a ridge whose energies of the adsorbate's elements are linear in
properties of the surface, as ``surface_scaling`` of SFIN. Errors are those of one
adsorbate: a structure with n adsorbates has n times the mean of one, and its error is
divided by n.

DATA has the folders ``train``, ``val_id`` and, if there are any, ``val_ood_ads`` and
``val_ood_cat``. ``--folds`` names several such folders below DATA, and one process
trains them all. Every (fold, row, seed) leaves a ``.json`` and its predictions in
``--work``, so a benchmark that was stopped continues. The learning rate of a row is the
best of a ``--search`` if there was one in ``--work``. ``--compile`` makes the networks
1.3 to 1.8 times as fast, needs a C++ compiler, and changes results by rounding only.

Usage::

    python -m benchmarks.data.oc20_emt DATA --train 3000 --val 400
    python -m benchmarks.is2re_peers --work WORK --export DATA
    PEERS/bin/python -m benchmarks.is2re_peers --work WORK --search --epochs 2
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
from benchmarks.runs import WARMUP
from benchmarks.runs import best_rate
from benchmarks.runs import file_name
from benchmarks.runs import search_name
from benchmarks.runs import splits_in

CUTOFF = 6.0  # Å, with MAX_NEIGHBORS the graph of OC20
MAX_NEIGHBORS = 50
BATCH = 16
PART = 4  # structures at once: their gradients are summed, with less memory and time
ELEMENTS = 119
ENERGY_THRESHOLD = 0.02  # eV
DISTANCE_THRESHOLDS = np.arange(0.01, 0.5, 0.001)  # Å, of ADwT
DISPLACEMENT_WEIGHT = (3.0, 0.3)  # 1/Å, at the start and at the end of training
CURVE_POINTS = 5  # how often the validation splits are scored during training
MEAN = "mean"
ADSORBATE_MEAN = "mean of each adsorbate"
RIDGE = "composition ridge"
SURFACE_RIDGE = "ridge of the surface reference"
BASELINES = [MEAN, ADSORBATE_MEAN, RIDGE, SURFACE_RIDGE]
SURFACE_PENALTY = 1.0  # as ridge of surface_scaling
NETWORKS = {
    "SchNet": {"hidden": 128, "rbf": 50},
    "PaiNN": {"hidden": 64, "rbf": 20},
}
TWO_TARGETS = ", with relaxed structure"
SURFACE = ", surface reference"
ROWS = [*BASELINES, *(name + end for name in NETWORKS for end in ("", TWO_TARGETS))]
ROWS += [f"PaiNN{TWO_TARGETS}{SURFACE}"]
RATE = 1e-3  # without a search
READ = {"all": (0, 1, 2), "adsorbate": (2,)}  # tags of the atoms that have energies
RATES = [0.0005, 0.001, 0.003]  # of a search


# Data --------------------------------------------------------------------------------


def export(data: Path, work: Path) -> None:
    """Write the records of all splits below ``data`` to ``.npz`` files."""
    from ppmat.datasets.oc20_lmdb import OC20LMDB
    from ppmat.utils.element_properties import element_properties

    properties = element_properties()
    work.mkdir(parents=True, exist_ok=True)
    for split in ["train", *splits_in(data)]:
        records = list(OC20LMDB(data, split=split))
        path = work / f"{split}.npz"
        np.savez(
            path,
            sid=np.array([record.sid for record in records]),
            num_atoms=np.array([len(record.pos) for record in records]),
            num_adsorbates=np.array([record.num_adsorbates or 1 for record in records]),
            pos=np.concatenate([record.pos for record in records]),
            cell=np.stack([record.cell for record in records]),
            numbers=np.concatenate([record.atomic_numbers for record in records]),
            tags=np.concatenate([record.tags for record in records]),
            fixed=np.concatenate([record.fixed for record in records]),
            y=np.array([record.y_relaxed for record in records], dtype=np.float64),
            displacement=np.concatenate([record.displacement for record in records]),
            surface=np.array(
                [
                    properties[record.atomic_numbers[record.tags == 1]].mean(axis=0)
                    for record in records
                ]
            ),
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
    """One split: structures, their labels and, made once, their edges."""

    def __init__(self, path: Path, read: str) -> None:
        with np.load(path) as stored:
            self.__dict__.update(stored.items())
        self.read_tags = READ[read]
        self.atom_ends = np.cumsum(self.num_atoms)
        self.structure = np.repeat(np.arange(len(self.y)), self.num_atoms)
        self.reference = np.zeros(len(self.y))  # eV, of the composition ridge
        self.cache = path.with_name(f"{path.stem}_edges.npz")

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
        free = np.concatenate([~self.fixed[part] for part in atoms])
        structure = np.repeat(np.arange(len(rows)), self.num_atoms[rows])
        num_free = np.bincount(structure, free, len(rows)).clip(min=1)
        parts = {
            "numbers": np.concatenate([self.numbers[part] for part in atoms]),
            "tags": np.concatenate([self.tags[part] for part in atoms]),
            "read": np.isin(
                np.concatenate([self.tags[part] for part in atoms]), self.read_tags
            ).astype(np.float32),
            "structure": structure,
            "centre": np.concatenate([self.centre[part] for part in edges]) + shift,
            "other": np.concatenate([self.other[part] for part in edges]) + shift,
            "vector": np.concatenate([self.vector[part] for part in edges]),
            "y": (self.y - self.reference)[rows].astype(np.float32),
            "num_adsorbates": self.num_adsorbates[rows].astype(np.float32),
            "displacement": np.concatenate([self.displacement[part] for part in atoms]),
            # of each atom in the mean over the free atoms of its structure
            "share": (free / num_free[structure]).astype(np.float32),
        }
        return {key: torch.from_numpy(value) for key, value in parts.items()}


def load(folder: Path, rows: list[str], read: str) -> dict[str, Split]:
    """Return the splits of an exported folder, with edges if a network is to run."""
    paths = {name: folder / f"{name}.npz" for name in ["train", *SPLITS]}
    if not paths["train"].exists():
        raise SystemExit(f"{paths['train']} is missing: run --export DATA first")
    splits = {name: Split(path, read) for name, path in paths.items() if path.exists()}
    if set(rows) - set(BASELINES):
        for split in splits.values():
            split.load_edges()
    return splits


# Baselines ---------------------------------------------------------------------------


def counts(split: Split) -> np.ndarray:
    """Return how many atoms of each (tag, element) a structure has, [S, 357].

    Of surface and adsorbate, or only of the adsorbate if the energy is read from it.
    """
    table = np.zeros((len(split), 3, ELEMENTS))
    np.add.at(table, (split.structure, split.tags, split.numbers), 1.0)
    table[:, 0] = 0.0
    table[:, 1] *= 1 in split.read_tags
    return table.reshape(len(split), -1)


def per_one(values: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return ``m`` for which ``n * m`` is nearest to the values [S, ...]."""
    return n @ values / (n @ n)


def ridge(
    x: np.ndarray, y: np.ndarray, n: np.ndarray, alpha: float
) -> tuple[np.ndarray, float]:
    """Return the weights and the constant of one adsorbate of a ridge regression.

    Only the weights are penalised; n is the number of adsorbates.
    """
    centre, level = per_one(x, n), per_one(y, n)
    moved = x - np.outer(n, centre)
    matrix = moved.T @ moved + alpha * np.eye(x.shape[1])
    weights = np.linalg.solve(matrix, moved.T @ (y - n * level))
    return weights, float(level - centre @ weights)


def with_surface(split: Split) -> np.ndarray:
    """Return :func:`counts`, and those of the adsorbate times properties, [S, 952]."""
    x = counts(split)
    products = x[:, -ELEMENTS:, None] * split.surface[:, None]
    return np.concatenate([x, products.reshape(len(x), -1)], axis=1)


def references(row: str, splits: dict[str, Split], seed: int) -> float:
    """Set the energies [eV] that a network need not learn; return their spread.

    The spread is that around the composition ridge for every network.
    """
    train = splits["train"]
    weights, constant, alpha = fit_ridge(train, seed)
    spread = train.y - counts(train) @ weights - train.num_adsorbates * constant
    features = counts
    if row.endswith(SURFACE):
        features = with_surface
        x, n = features(train), train.num_adsorbates
        weights, constant = ridge(x, train.y, n, SURFACE_PENALTY)
    for split in splits.values():
        split.reference = features(split) @ weights + split.num_adsorbates * constant
    return float(np.sqrt((spread**2).mean()))


def fit_ridge(train: Split, seed: int) -> tuple[np.ndarray, float, float]:
    """Choose the penalty on a fifth of the training set, then fit on all of it."""
    x, y, n = counts(train), train.y, train.num_adsorbates
    order = np.random.default_rng(seed).permutation(len(train))
    held, kept = np.split(order, [len(train) // 5])
    errors = {}
    for alpha in np.logspace(-3, 4, 29):
        weights, constant = ridge(x[kept], y[kept], n[kept], alpha)
        error = x[held] @ weights + n[held] * constant - y[held]
        errors[alpha] = np.abs(error / n[held]).mean()
    alpha = min(errors, key=errors.get)
    return *ridge(x, y, n, alpha), float(alpha)


def adsorbate_means(train: Split, split: Split) -> np.ndarray:
    """Return the mean of the training data with the same adsorbate, [S] eV.

    An adsorbate that was not seen has the mean of all.
    """

    def kinds(of: Split) -> list[bytes]:
        atoms = counts(of)[:, ELEMENTS:] / of.num_adsorbates[:, None]
        return [row.tobytes() for row in atoms]

    one, found = train.y / train.num_adsorbates, kinds(train)
    means = {kind: one[[k == kind for k in found]].mean() for kind in set(found)}
    means = [means.get(kind, one.mean()) for kind in kinds(split)]
    return split.num_adsorbates * np.array(means)


# Networks ----------------------------------------------------------------------------


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


def network(row: str):
    """Return the network of a row: representation and heads."""
    from torch import nn

    spk = schnetpack()
    kind = row.partition(",")[0]
    width = NETWORKS[kind]["hidden"]
    model = nn.ModuleDict(
        {
            "representation": getattr(spk.representation, kind)(
                n_atom_basis=width,
                n_interactions=3,
                radial_basis=spk.nn.GaussianRBF(NETWORKS[kind]["rbf"], CUTOFF),
                cutoff_fn=spk.nn.CosineCutoff(CUTOFF),
                nuclear_embedding=nn.Embedding(ELEMENTS * 3, width),
            ),
            # Random sums over 50 atoms would start at errors of many eV.
            "readout": spk.nn.build_mlp(
                n_in=width, n_out=1, n_layers=2, last_zero_init=True
            ),
        }
    )
    if TWO_TARGETS in row:
        if kind == "SchNet":
            model["centre"] = nn.Linear(width, width)
            model["other"] = nn.Linear(width, width, bias=False)
        model["displacement"] = nn.Linear(width, 1, bias=False)
        nn.init.normal_(model["displacement"].weight, std=0.01)
    return model


def outputs(model, batch: dict[str, Any]):
    """Return the normalised energies [S] and displacements, [N, 3] Å or None.

    The vectors of PaiNN give the displacement by a linear map. SchNet has none: there
    it is the sum over the edges of their directions, times a number that an MLP makes
    of the scalars of both atoms, times the cut-off function.
    """
    import torch

    centre, other = batch["centre"], batch["other"]
    inputs = {
        "_atomic_numbers": batch["numbers"] + ELEMENTS * batch["tags"],
        "_Rij": batch["vector"],
        "_idx_i": centre,
        "_idx_j": other,
    }
    features = model["representation"](inputs)
    s = features["scalar_representation"]
    energy = torch.zeros(len(batch["y"]), dtype=s.dtype)
    atomic = model["readout"](s).squeeze(-1) * batch["read"]
    energy = energy.index_add(0, batch["structure"], atomic)
    if "displacement" not in model:
        return energy, None
    if "centre" not in model:
        vectors = features["vector_representation"]  # [N, 3, hidden]
        return energy, model["displacement"](vectors).squeeze(-1)
    hidden = model["centre"](s)[centre] + model["other"](s)[other]
    size = model["displacement"](torch.nn.functional.silu(hidden))
    length = batch["vector"].norm(dim=-1, keepdim=True)
    size = size * model["representation"].cutoff_fn(length) / length
    moved = torch.zeros(len(s), 3, dtype=s.dtype)
    return energy, moved.index_add(0, centre, size * batch["vector"])


class Training:
    """Network, optimiser, schedule and averaged weights of one run."""

    def __init__(
        self, row: str, rate: float, std: float, steps: int, compiled: bool = False
    ) -> None:
        import torch
        from torch.optim import swa_utils

        self.outputs = torch.compile(outputs, dynamic=True) if compiled else outputs
        self.model = network(row)
        self.averaged = swa_utils.AveragedModel(
            self.model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.99)
        )
        self.std, self.steps, self.done = std, steps, 0
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=rate, weight_decay=0.01
        )
        warm = max(1, round(steps * WARMUP))
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

    def loss(self, part: dict[str, Any]):
        """Return the sums over structures of the loss and of the absolute errors."""
        energy, moved = self.outputs(self.model, part)
        error = (energy - part["y"] / self.std).abs() / part["num_adsorbates"]
        loss = error = error.sum()
        if moved is not None:
            start, end = DISPLACEMENT_WEIGHT
            weight = start + (end - start) * self.done / self.steps
            miss = (moved - part["displacement"]).square().sum(-1)
            loss = error + weight * ((miss + 1e-12).sqrt() * part["share"]).sum()
        return loss, error

    def step(self, parts: list[dict[str, Any]]) -> float:
        """Take one step with the parts of a batch; return the energy MAE in eV."""
        import torch

        self.model.train()
        size = sum(len(part["y"]) for part in parts)
        total = 0.0
        self.optimizer.zero_grad()
        for part in parts:
            loss, error = self.loss(part)
            (loss / size).backward()
            total += float(error.detach()) / size
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()
        self.schedule.step()
        self.averaged.update_parameters(self.model)
        self.done += 1
        return total * self.std

    def predict(
        self, parts: list[dict[str, Any]]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return energies [S] eV and displacements [N, 3] Å by the averaged weights."""
        import torch

        model = self.averaged.module.eval()
        with torch.no_grad():
            found = [self.outputs(model, part) for part in parts]
        energy = torch.cat([energy for energy, _ in found])
        energy = energy.double().numpy() * self.std
        if found[0][1] is None:
            return energy, None
        return energy, torch.cat([moved for _, moved in found]).double().numpy()

    def predict_split(self, split: Split) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the predictions of a split, :meth:`predict` with the ridge."""
        rows = chunks(np.arange(len(split)))
        found = [self.predict(split.parts(part)) for part in rows]
        energy = split.reference + np.concatenate([energy for energy, _ in found])
        if found[0][1] is None:
            return energy, None
        return energy, np.concatenate([moved for _, moved in found])


def chunks(order: np.ndarray, size: int = BATCH) -> list[np.ndarray]:
    """Cut rows into chunks; a last row alone, to be compiled anew, joins the others."""
    return np.split(order, range(size, len(order) - 1, size))


def train_network(
    row: str,
    rate: float,
    seed: int,
    epochs: int,
    splits: dict[str, Split],
    scored: list[str],
    compiled: bool,
) -> tuple[dict[str, Any], dict[str, tuple]]:
    """Train one network; return its figures and its predictions of ``scored``."""
    import torch

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    train = splits["train"]
    std = references(row, splits, seed)
    steps = epochs * len(chunks(np.arange(len(train))))
    run = Training(row, rate, std, steps, compiled)
    if compiled:
        # Compile before the time is measured; the gradients are not used.
        parts = train.parts(np.arange(BATCH))
        run.loss(parts[0])[0].backward()
        run.predict(parts)
    seconds = used = 0.0
    curve = []
    for epoch in range(1, epochs + 1):
        start, used_before = time.perf_counter(), time.process_time()
        order = chunks(rng.permutation(len(train)))
        errors = [run.step(train.parts(rows)) for rows in order]
        seconds += time.perf_counter() - start
        used += time.process_time() - used_before
        print(
            f"{row} seed {seed} rate {rate:g} epoch {epoch}: training MAE "
            f"{np.mean(errors):.4f} eV, {seconds:.0f} s",
            flush=True,
        )
        if epoch % max(1, epochs // CURVE_POINTS) == 0 or epoch == epochs:
            start = time.perf_counter()
            predictions = {name: run.predict_split(splits[name]) for name in scored}
            predicting = time.perf_counter() - start
            scores = {name: score(splits[name], *predictions[name]) for name in scored}
            curve.append({"epoch": epoch, "seconds": round(seconds, 1), **scores})
    count = sum(len(splits[name]) for name in scored)
    figures = {
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "train_seconds": round(seconds, 1),
        "train_cpu_seconds": round(used, 1),
        "train_structures_per_s": round(epochs * len(train) / seconds, 1),
        "infer_structures_per_s": round(count / predicting, 1),
        "learning_rate": rate,
        "epochs": epochs,
        "compiled": compiled,
        "curve": curve,
    }
    return figures, predictions


def fit_baseline(
    row: str, seed: int, splits: dict[str, Split], scored: list[str]
) -> tuple[dict[str, Any], dict[str, tuple]]:
    """Fit a row that is no network; as :func:`train_network`."""
    train = splits["train"]
    start = time.perf_counter()
    figures: dict[str, Any] = {"parameters": 1}
    if row == MEAN:
        mean = (train.y / train.num_adsorbates).mean()
        energies = {name: splits[name].num_adsorbates * mean for name in scored}
    elif row == ADSORBATE_MEAN:
        energies = {name: adsorbate_means(train, splits[name]) for name in scored}
        figures["parameters"] = len(set(adsorbate_means(train, train)))
    elif row == SURFACE_RIDGE:
        references(SURFACE, splits, seed)
        energies = {name: splits[name].reference for name in scored}
        used = with_surface(train).any(axis=0)
        figures["parameters"] = int(np.count_nonzero(used)) + 1
    else:
        weights, constant, alpha = fit_ridge(train, seed)
        figures = {"parameters": int(np.count_nonzero(weights)) + 1, "alpha": alpha}
        energies = {
            name: counts(splits[name]) @ weights
            + splits[name].num_adsorbates * constant
            for name in scored
        }
    figures["train_seconds"] = round(time.perf_counter() - start, 3)
    figures["learning_rate"] = None
    return figures, {name: (energies[name], None) for name in scored}


# Steps -------------------------------------------------------------------------------


def score(
    split: Split, energy: np.ndarray, moved: np.ndarray | None
) -> dict[str, float]:
    """Return MAE [eV] and share within the threshold of one adsorbate, and ADwT."""
    error = np.abs(energy - split.y) / split.num_adsorbates
    result = {
        "energy_mae": float(error.mean()),
        "ewt": float((error < ENERGY_THRESHOLD).mean()),
    }
    if moved is not None:
        result["adwt"] = adwt(split, moved)
    return result


def adwt(split: Split, moved: np.ndarray) -> float:
    """Return ADwT as ``ppmat.metrics.is2rs_metric``, of displacements [N, 3] Å."""
    from ppmat.utils.periodic import minimum_image  # needs NumPy alone

    distances = []
    for index in range(len(split)):
        atoms = split.atoms(index)
        free = ~split.fixed[atoms]
        miss = (moved - split.displacement)[atoms][free]
        miss = minimum_image(miss, split.cell[index])
        distances.append(np.linalg.norm(miss, axis=-1).mean())
    return float((np.array(distances)[:, None] < DISTANCE_THRESHOLDS).mean())


def run_all(args: argparse.Namespace, folder: Path, splits: dict[str, Split]) -> None:
    """Fit and score the runs of a folder that are missing."""
    scored = [name for name in SPLITS if name in splits]
    for row in args.rows:
        for seed in args.seeds:
            path = folder / f"{file_name(row, seed)}.json"
            if path.exists():
                continue
            if row in BASELINES:
                figures, predictions = fit_baseline(row, seed, splits, scored)
            else:
                figures, predictions = train_network(
                    row,
                    best_rate(args.work, row) or RATE,
                    seed,
                    args.epochs,
                    splits,
                    scored,
                    args.compile,
                )
            result = {"row": row, "seed": seed, **figures}
            for name in scored:
                split = splits[name]
                result[name] = score(split, *predictions[name])
                np.savez(
                    folder / f"{file_name(row, seed)}_{name}.npz",
                    sid=split.sid,
                    y=split.y,
                    prediction=predictions[name][0],
                )
            path.write_text(json.dumps(result, indent=2))
            print(folder.name, row, seed, *(result[s] for s in scored), flush=True)


def search(args: argparse.Namespace, folder: Path, splits: dict[str, Split]) -> None:
    """Score the learning rates of the networks in a folder, on val_id alone."""
    for row in args.rows:
        for rate in () if row in BASELINES else args.lr:
            path = folder / f"{search_name(row, rate)}.json"
            if path.exists():
                continue
            figures, predictions = train_network(
                row, rate, 0, args.epochs, splits, ["val_id"], args.compile
            )
            result = score(splits["val_id"], *predictions["val_id"])
            path.write_text(json.dumps({"row": row, **figures, "val_id": result}))
            print(folder.name, row, rate, result, flush=True)


def speed(args: argparse.Namespace, folder: Path, splits: dict[str, Split]) -> None:
    """Write median structures/s of training steps and of inference, no loading."""
    split = splits["val_id"]
    batches = [split.parts(rows) for rows in chunks(np.arange(len(split)))[:6]]
    rates: dict[str, dict[str, float]] = {}
    for row in args.rows:
        if row in BASELINES:
            continue
        run = Training(row, RATE, references(row, splits, 0), 100, args.compile)
        rates[row] = {}
        for name, step in (("train", run.step), ("infer", run.predict)):
            step(batches[0])
            times = []
            for batch in batches * 2:
                start = time.perf_counter()
                step(batch)
                size = sum(len(part["y"]) for part in batch)
                times.append(size / (time.perf_counter() - start))
            rates[row][f"{name}_structures_per_s"] = round(statistics.median(times), 1)
        print(row, rates[row], flush=True)
    (folder / "speed.json").write_text(json.dumps(rates, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--work", type=Path, default=Path("output/benchmark_peers"))
    add("--folds", nargs="+", default=[""], help="folders below DATA, and below --work")
    add("--export", type=Path, metavar="DATA", help="first step")
    add("--search", action="store_true", help="try the learning rates")
    add("--lr", type=float, nargs="+", default=RATES, help="those of --search")
    add("--read", choices=READ, default="all", help="atoms that have energies")
    add("--speed", action="store_true", help="only measure rates")
    add("--compile", action="store_true", help="use torch.compile")
    add("--rows", nargs="+", choices=ROWS, default=ROWS)
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--epochs", type=int, default=5)
    args = parser.parse_args()
    if args.export:
        for fold in args.folds:
            export(args.export / fold, args.work / fold)
        return
    import torch

    torch.set_num_threads(1)
    # Radial functions far from their centre are subnormal numbers: three times slower.
    torch.set_flush_denormal(True)
    # One graph for each row in training, and one in prediction; later folds and seeds
    # use them again.
    torch._dynamo.config.recompile_limit = 64
    step = search if args.search else speed if args.speed else run_all
    for fold in args.folds:
        step(args, args.work / fold, load(args.work / fold, args.rows, args.read))


if __name__ == "__main__":
    main()
