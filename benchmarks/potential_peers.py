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

"""Interatomic potentials by a peer, PaiNN, on the frames of ``real_potentials.py``.

The network is that of SchNetPack 2 (MIT) in PyTorch; the project depends on neither.
It runs in the environment that ``is2re_peers.py`` describes, without Paddle. Frames,
epochs, batches, loss, schedule, clipping, averaged weights, energies of the elements
and the choice of the best weights by the force MAE on ``val`` are those of
:class:`SFINPotential` in ``potentials.py``; forces are gradients of the energy by
autograd, trained through second derivatives.

Every (set, row, seed) leaves a ``.json`` in ``--work``, so a benchmark that was stopped
continues.

Usage::

    python -m benchmarks.data.real_potentials PATH DATA
    PEERS/bin/python -m benchmarks.potential_peers --data DATA --work WORK
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read
from ase.neighborlist import neighbor_list

from benchmarks.is2re_peers import schnetpack
from benchmarks.runs import file_name

CUTOFF = 5.0  # Å
ELEMENTS = 119
# Epochs by set, so that the steps are about 10,000, but fewer of cells of 100 atoms.
EPOCHS = {
    "mlearn_Cu": 12,
    "mlearn_Mo": 30,
    "mlearn_Si": 24,
    "acac": 60,
    "lode_CC": 400,
    "lode_PA": 400,
    "lode_AA": 400,
}
BATCH = 4  # frames a step
EVALUATIONS = 30  # on val in a training, about
RATE, LOWEST_RATE = 1e-3, 1e-5
WARMUP_EPOCHS = 1
DECAY = 0.99  # of the averaged weights
CLIP = 10.0
ENERGY_WEIGHT = (1.0, 10.0)  # of an atom's energy, first and last step
NETWORKS = {"PaiNN": {"hidden": 64, "rbf": 20, "interactions": 3}}
ROWS = list(NETWORKS)


def evaluation_epochs(epochs: int) -> int:
    """Return after how many epochs the validation frames are scored."""
    return max(1, epochs // EVALUATIONS)


# Data --------------------------------------------------------------------------------


class Frame:
    """A frame, its labels and its edges within the cut-off, made once."""

    def __init__(self, atoms: Atoms) -> None:
        self.numbers = atoms.numbers.astype(np.int64)
        self.pos = atoms.positions.astype(np.float32)
        self.energy = atoms.get_potential_energy()  # eV
        self.forces = atoms.get_forces(apply_constraint=False).astype(np.float32)
        self.centre, self.other, image = neighbor_list("ijS", atoms, CUTOFF)
        self.offset = (image @ atoms.cell.array).astype(np.float32)  # [E, 3] Å


def load(folder: Path) -> dict[str, list[Frame]]:
    """Return the frames of the splits of a set."""
    return {
        split: [Frame(atoms) for atoms in read(folder / f"{split}.extxyz.gz", ":")]
        for split in ("train", "val", "test")
    }


def element_energies(frames: list[Frame]) -> np.ndarray:
    """Return the energies of the elements by least squares, [119] eV."""
    counts = [np.bincount(frame.numbers, minlength=ELEMENTS) for frame in frames]
    return np.linalg.lstsq(np.array(counts), [frame.energy for frame in frames])[0]


def tensors(frames: list[Frame], element: np.ndarray) -> dict[str, Any]:
    """Return a batch; ``energy`` is above that of the elements, per atom."""
    import torch

    sizes = np.array([len(frame.pos) for frame in frames])
    first = np.cumsum(sizes) - sizes
    energy = [(f.energy - element[f.numbers].sum()) / len(f.pos) for f in frames]
    parts = {
        "numbers": np.concatenate([frame.numbers for frame in frames]),
        "pos": np.concatenate([frame.pos for frame in frames]),
        "forces": np.concatenate([frame.forces for frame in frames]),
        "offset": np.concatenate([frame.offset for frame in frames]),
        "centre": np.concatenate([f.centre + n for f, n in zip(frames, first)]),
        "other": np.concatenate([f.other + n for f, n in zip(frames, first)]),
        "frame": np.repeat(np.arange(len(frames)), sizes),
        "energy": np.array(energy, dtype=np.float32),
        "size": sizes.astype(np.float32),
    }
    return {key: torch.from_numpy(value) for key, value in parts.items()}


# Network -----------------------------------------------------------------------------


def network(row: str):
    """Return the network of a row: representation and energy of an atom."""
    from torch import nn

    spk = schnetpack()
    sizes = NETWORKS[row]
    width = sizes["hidden"]
    return nn.ModuleDict(
        {
            "representation": getattr(spk.representation, row)(
                n_atom_basis=width,
                n_interactions=sizes["interactions"],
                radial_basis=spk.nn.GaussianRBF(sizes["rbf"], CUTOFF),
                cutoff_fn=spk.nn.CosineCutoff(CUTOFF),
                nuclear_embedding=nn.Embedding(ELEMENTS, width),
            ),
            "readout": spk.nn.build_mlp(
                n_in=width, n_out=1, n_layers=2, last_zero_init=True
            ),
        }
    )


def derivatives(model, batch: dict[str, Any], scale: float, keep_graph: bool):
    """Return energies above the elements, per atom [S] eV, and forces [N, 3] eV/Å."""
    import torch

    pos = batch["pos"].detach().requires_grad_()
    centre, other = batch["centre"], batch["other"]
    inputs = {
        "_atomic_numbers": batch["numbers"],
        "_Rij": pos[other] - pos[centre] + batch["offset"],
        "_idx_i": centre,
        "_idx_j": other,
    }
    features = model["representation"](inputs)["scalar_representation"]
    atomic = scale * model["readout"](features).squeeze(-1)
    energy = torch.zeros(len(batch["size"])).index_add(0, batch["frame"], atomic)
    (gradient,) = torch.autograd.grad(energy.sum(), pos, create_graph=keep_graph)
    return energy / batch["size"], -gradient


class Training:
    """Network, optimiser, schedule and averaged weights of one run."""

    def __init__(
        self, row: str, rate: float, scale: float, steps: int, warm: int
    ) -> None:
        import torch
        from torch.optim import lr_scheduler
        from torch.optim import swa_utils

        self.model = network(row)
        self.averaged = swa_utils.AveragedModel(
            self.model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(DECAY)
        )
        self.scale, self.steps, self.done = scale, steps, 0
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=rate, weight_decay=0.0
        )
        rising = lr_scheduler.LinearLR(self.optimizer, 1 / warm, total_iters=warm)
        falling = lr_scheduler.CosineAnnealingLR(
            self.optimizer, max(1, steps - warm), eta_min=LOWEST_RATE
        )
        self.schedule = lr_scheduler.SequentialLR(
            self.optimizer, [rising, falling], [warm]
        )

    def step(self, batch: dict[str, Any]) -> None:
        """Take one step."""
        import torch

        self.model.train()
        self.optimizer.zero_grad()
        energy, forces = derivatives(self.model, batch, self.scale, keep_graph=True)
        start, end = ENERGY_WEIGHT
        weight = start + (end - start) * self.done / self.steps
        miss = (forces - batch["forces"]).square().sum(-1)
        loss = weight * (energy - batch["energy"]).abs().mean()
        loss = (loss + (miss + 1e-12).sqrt().mean()) / self.scale
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.schedule.step()
        self.averaged.update_parameters(self.model)
        self.done += 1

    def score(self, frames: list[Frame], element: np.ndarray) -> dict[str, float]:
        """Return the scores of ``PotentialMetric`` by the averaged weights."""
        model = self.averaged.module.eval()
        energy, force = [], []
        for start in range(0, len(frames), BATCH):
            batch = tensors(frames[start : start + BATCH], element)
            found = derivatives(model, batch, self.scale, keep_graph=False)
            energy.append((found[0].detach() - batch["energy"]).double().numpy())
            force.append((found[1] - batch["forces"]).double().numpy().ravel())
        energy, force = np.concatenate(energy), np.concatenate(force)
        return {
            "energy_mae": float(np.abs(energy).mean()),
            "forces_mae": float(np.abs(force).mean()),
            "forces_rmse": float(np.sqrt(np.mean(force**2))),
        }


def train(
    row: str, seed: int, rate: float, epochs: int, splits: dict[str, list[Frame]]
) -> dict[str, Any]:
    """Train one network; return its figures, with the test scores of the best weights.

    The best are those with the smallest force MAE on the validation frames.
    """
    import torch

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    frames = splits["train"]
    element = element_energies(frames)
    forces = np.concatenate([frame.forces for frame in frames])
    scale = float(np.sqrt(np.mean(forces.astype(np.float64) ** 2)))
    steps = -(-len(frames) // BATCH)
    run = Training(row, rate, scale, epochs * steps, WARMUP_EPOCHS * steps)
    every, best, kept = evaluation_epochs(epochs), np.inf, None
    start = time.perf_counter()
    for epoch in range(1, epochs + 1):
        order = rng.permutation(len(frames))
        for first in range(0, len(order), BATCH):
            rows = order[first : first + BATCH]
            run.step(tensors([frames[i] for i in rows], element))
        if epoch % every == 0 or epoch == epochs:
            found = run.score(splits["val"], element)
            seconds = time.perf_counter() - start
            print(f"{row} {seed} epoch {epoch}: {found}, {seconds:.0f} s", flush=True)
            if found["forces_mae"] < best:
                best, kept = found["forces_mae"], run.averaged.module.state_dict()
                kept = {name: value.clone() for name, value in kept.items()}
    seconds = time.perf_counter() - start
    run.averaged.module.load_state_dict(kept)
    return {
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "train_seconds": round(seconds, 1),
        "epochs": epochs,
        "learning_rate": rate,
        "test": run.score(splits["test"], element),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", required=True, type=Path, help="folder of the sets")
    add("--work", type=Path, default=Path("output/benchmark_potential_peers"))
    add("--sets", nargs="+", choices=list(EPOCHS), default=list(EPOCHS))
    add("--rows", nargs="+", choices=ROWS, default=ROWS)
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--epochs", type=int, help="of all sets, instead of their own")
    add("--lr", type=float, default=RATE, help="learning rate")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    # Radial functions far from their centre are subnormal numbers: three times slower.
    torch.set_flush_denormal(True)
    args.work.mkdir(parents=True, exist_ok=True)
    for name in args.sets:
        splits = None
        for row in args.rows:
            for seed in args.seeds:
                epochs = args.epochs or EPOCHS[name]
                run = file_name(row, seed, set=name, epochs=epochs)
                path = args.work / f"{run}.json"
                if path.exists():
                    continue
                splits = splits or load(args.data / name)
                figures = train(row, seed, args.lr, epochs, splits)
                result = {"set": name, "row": row, "seed": seed, **figures}
                path.write_text(json.dumps(result, indent=2))
                print(name, row, seed, figures["test"], flush=True)


if __name__ == "__main__":
    main()
