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

"""Check the structure networks on GPUs: numbers, mixed precision, two ranks, memory.

For each network the same weights and the same batch are computed on the CPU and on one
GPU, there in float32 and in each mode of ``Trainer.use_amp``. Loss and gradient are
compared, then some training steps are taken with the project's trainer, whose rate and
peak memory are kept. With two GPUs, a training in two processes (NCCL) is compared with
the same training in one. Every part is a process of its own, so one that fails does not
end the others. Send back the file that is written, whatever it says::

    python -m benchmarks.gpu_check          # make gpu-check

Structures are those of the shipped sample, or of OC20 if ``OC20_ROOT`` is set. Without
a GPU it ends with status 1 and writes nothing. If a difference exceeds its limit or a
part fails, it ends with status 1 as well, after writing the file.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import NamedTuple

import numpy as np

from benchmarks.runs import ROOT
from benchmarks.runs import median_rate
from benchmarks.runs import result_of
from benchmarks.runs import write
from ppmat.utils.errors import InputError

MARK = ".gpu_check"  # a file of the folder of the runs: this check may remove it
SAMPLE = ROOT / "structure_generation/example_data/oc20_emt"
CPU = "CPU"
FLOAT32 = "float32"
RANKS = "2_ranks"
# Level and type of each mode of mixed precision.
AMP = {
    f"{level} {dtype}": (level, dtype)
    for level in ("O1", "O2")
    for dtype in ("float16", "bfloat16")
}
# Relative differences that are accepted; float32 is compared with the CPU, the others
# with float32. They are judged, not measured on a GPU. On a CPU, weights rounded to
# bfloat16 change the loss of SFINFlow by 4e-4 and its gradient by 3e-2.
LIMITS = {
    "float32": {"loss": 1e-4, "gradient": 1e-3, "loss_after": 1e-2},
    "float16": {"loss": 2e-2, "gradient": 1e-1, "loss_after": 1e-1},
    "bfloat16": {"loss": 5e-2, "gradient": 3e-1, "loss_after": 2e-1},
    RANKS: {"loss_of_a_step": 1e-3},  # two processes on a CPU: 1.2e-6 in 20 steps
}
STEPS = 20  # training steps of each part
NOISE = 0.3  # of the first weights, over the root of the number of inputs
LOSS_SCALE = 2.0**10  # keeps small gradients of float16, as the trainer's scaler does


class Network(NamedTuple):
    """A configuration, and what makes it the same computation everywhere."""

    task: str  # task folder
    config: str  # below its ``configs``
    changes: tuple[str, ...] = ()
    is_random: bool = False  # in training; then each rank draws other numbers


_MODEL = "Model.__init_params__"
NETWORKS = {
    "SFINFlow": Network("structure_generation", "sfin/oc20_all.yaml"),
    "SFINEnergy": Network(
        "property_prediction",
        "sfin/sfin_oc20_is2re_all.yaml",
        (f"{_MODEL}.noisy_nodes=0.0", f"{_MODEL}.weight_batches=1000000"),
    ),
    "ARDiff": Network(
        "structure_generation", "ardiff/oc20.yaml", (f"{_MODEL}.diff_steps=1",), True
    ),
    "SFINPotential": Network(
        "interatomic_potentials",
        "sfin/sfin_potential.yaml",
        (f"{_MODEL}.weight_batches=1000000",),
    ),
}


# One part, in a process of its own ---------------------------------------------------


def config_of(network: Network, batch_size: int | None, *changes: str) -> dict:
    """Return the configuration of a network, with statistics of its labels.

    Args:
        network: One of ``NETWORKS``.
        batch_size: None keeps that of the YAML.
        changes: More changes, ``KEY=VALUE``.
    """
    from ppmat.commands.train import fill_statistics
    from ppmat.datasets import build_dataloader
    from ppmat.utils.config import load_config

    os.environ.setdefault("OC20_ROOT", str(SAMPLE))
    size = [] if batch_size is None else [f"Global.batch_size={batch_size}"]
    changes = (*network.changes, *size, "Global.num_workers=0", *changes)
    path = ROOT / network.task / "configs" / network.config
    config = load_config(str(path), list(changes))
    if config["Dataset"].get("transform"):
        fill_statistics(config, build_dataloader(config["Dataset"]["train"]))
    return config


def first_batch(config: dict) -> dict:
    """Return the first batch of the validation data."""
    from ppmat.datasets import build_dataloader

    return next(iter(build_dataloader(config["Dataset"]["val"])))


def trainer_of(config: dict, mode: str, folder: Path) -> Any:
    """Return a trainer with model and optimizer, in the precision of a mode."""
    from ppmat.models import build_model
    from ppmat.optimizer import build_optimizer
    from ppmat.trainer.base_trainer import build_trainer

    settings = {**config["Trainer"], "output_dir": str(folder), "use_amp": mode in AMP}
    if mode in AMP:
        settings["amp_level"], settings["amp_dtype"] = AMP[mode]
    model = build_model(config["Model"])
    weights = folder / "start.pdparams"
    _start_from(model, weights)
    optimizer, schedule = build_optimizer(config["Optimizer"], model, 10, STEPS)
    parts = {"model": model, "optimizer": optimizer, "lr_scheduler": schedule}
    return build_trainer(settings, **parts)


def _start_from(model: Any, path: Path) -> None:
    """Load the weights that all parts of a network start from; make them if needed.

    Heads start near zero, so that a new network hardly depends on its other weights.
    Noise makes it depend on all of them.
    """
    import paddle

    if path.exists():
        model.set_state_dict(paddle.load(str(path)))
        return
    for weight in model.parameters():
        if weight.ndim > 1:
            noise = paddle.randn(weight.shape) * NOISE / weight.shape[0] ** 0.5
            weight.set_value(weight + noise)
    path.parent.mkdir(parents=True, exist_ok=True)
    paddle.save(model.state_dict(), str(path))


def outcome(trainer: Any, batch: dict) -> dict[str, np.ndarray]:
    """Return loss [] and gradient [P] of a model for a batch, without random numbers.

    Forces are derivatives, so a potential computes as in training.
    """
    run = trainer.run
    (run.model.train if hasattr(run.model, "derivatives") else run.model.eval)()
    with run.autocast():
        loss = run.model(batch)["loss_dict"]["loss"]
    (loss.astype("float32") * LOSS_SCALE).backward()
    gradients = [
        np.zeros(p.shape, "float32").reshape(-1)
        if p.grad is None
        else p.grad.astype("float32").numpy().reshape(-1) / LOSS_SCALE
        for p in trainer.updater.parameters
    ]
    run.optimizer.clear_grad()
    return {
        "loss": loss.astype("float32").numpy(),
        "gradient": np.concatenate(gradients),
    }


def measure(
    network: Network, mode: str, folder: Path, batch_size: int | None, *changes: str
) -> dict[str, Any]:
    """Compute one part and leave its numbers in ``<folder>/<mode>.npz``.

    Args:
        network: One of ``NETWORKS``.
        mode: ``CPU``, ``float32`` or one of ``AMP``.
        folder: Files of the network.
        batch_size: None keeps that of the YAML.
        changes: More changes of the configuration, ``KEY=VALUE``.

    Returns:
        Sizes, and on a GPU structures/s and peak memory.
    """
    import paddle

    paddle.set_device("cpu" if mode == CPU else "gpu:0")
    paddle.seed(0)
    config = config_of(network, batch_size, *changes)
    trainer = trainer_of(config, mode, folder)
    batch = first_batch(config)
    count = len(batch["id"])
    found = outcome(trainer, batch)
    row = {
        "batch_size": count,
        "atoms": int(batch["structure_array"]["num_atoms"].sum()) // count,
        "loss": float(found["loss"]),
    }
    if mode != CPU:
        paddle.seed(1)
        paddle.device.cuda.reset_max_memory_allocated()

        def train(batch: dict) -> None:
            trainer.model.train()
            trainer.updater.step([batch])
            trainer.lr_scheduler.step()

        def predict(batch: dict) -> None:
            trainer.model.eval()
            with trainer.run.autocast():
                trainer.model(batch)

        row["train_structures_per_s"] = median_rate(train, [batch] * (STEPS // 2))
        peak = paddle.device.cuda.max_memory_allocated()
        row["train_memory_mib"] = round(peak / 2**20)
        found["loss_after"] = outcome(trainer, batch)["loss"]
        row["evaluate_structures_per_s"] = median_rate(predict, [batch] * 5)
    np.savez(folder / f"{mode}.npz", **found)
    return row


# The comparison of two parts, or of two trainings ------------------------------------


def differences(
    found: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Return the length of each difference over that of the reference.

    Names that only one of them has are left out.
    """
    result = {}
    for name in found:
        if name in reference:
            a, b = np.float64(found[name]), np.float64(reference[name])
            result[name] = float(np.linalg.norm(a - b) / np.linalg.norm(b))
    return result


def faults(mode: str, found: Mapping[str, float]) -> list[str]:
    """Return a line for each difference that is not within its limit; NaN is not.

    Mixed precision that changes nothing has not been in effect.
    """
    limits = LIMITS[mode.split()[-1]]
    lines = [
        f"{name} differs by {value:.2g}, limit {limits[name]:g}"
        for name, value in found.items()
        if not value <= limits[name]
    ]
    if mode in AMP and found["gradient"] == 0:
        lines.append("mixed precision had no effect: the gradient is that of float32")
    return lines


def step_losses(folder: Path) -> np.ndarray:
    """Return the loss of each logged step of a training, [steps]."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["stage"] == "train(step)"]
    return np.array([float(row["loss(loss)"]) for row in rows])


def largest_difference(losses: np.ndarray, reference: np.ndarray) -> float:
    """Return the largest relative difference of two curves of the same length."""
    if losses.shape != reference.shape or not losses.size:
        raise ValueError(
            f"the trainings logged {len(losses)} and {len(reference)} steps; wanted "
            "the same number, at least 1"
        )
    return float((np.abs(losses - reference) / np.abs(reference)).max())


def compare_ranks(
    network: Network,
    launchers: Sequence[Sequence[str]],
    batch_sizes: Sequence[int],
    folder: Path,
    *changes: str,
) -> float:
    """Train twice; return the largest relative difference of the losses.

    Args:
        network: One of ``NETWORKS``.
        launchers: Words before the script, for each of the two trainings.
        batch_sizes: ``Global.batch_size`` of each.
        folder: Receives both trainings and their logs.
        changes: More changes of the configuration, ``KEY=VALUE``.
    """
    os.environ.setdefault("OC20_ROOT", str(SAMPLE))
    curves = []
    for number, (launcher, size) in enumerate(zip(launchers, batch_sizes, strict=True)):
        output = folder / f"training_{number}"
        words = [f"Trainer.output_dir={output}", f"Global.batch_size={size}"]
        words += [f"Trainer.max_iter={STEPS}", "Trainer.log_freq=1"]
        words += ["Trainer.eval_freq=0", "Trainer.best_metric_indicator=null"]
        run_process(
            [*launcher, str(ROOT / network.task / "train.py"), "--overwrite"]
            + ["-c", str(ROOT / network.task / "configs" / network.config)]
            + [*network.changes, *words, *changes],
            folder / f"training_{number}.log",
        )
        curves.append(step_losses(output))
    return largest_difference(*reversed(curves))


# All parts ---------------------------------------------------------------------------


class PartFailed(RuntimeError):
    """A process failed; the text is the last line of its log."""


def run_process(words: Sequence[str], log: Path, **variables: str) -> str:
    """Run a process and return its standard output.

    Args:
        words: The command.
        log: Receives standard error.
        variables: Environment variables.

    Raises:
        PartFailed: The process failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as stderr:
        done = subprocess.run(
            words,
            cwd=ROOT,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    if done.returncode:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise PartFailed(f"status {done.returncode}: {(lines or ['no message'])[-1]}")
    return done.stdout


def supported_modes() -> list[str]:
    """Return the modes of mixed precision that this GPU has."""
    import paddle

    bfloat16 = paddle.amp.is_bfloat16_supported()
    return [mode for mode in AMP if bfloat16 or "bfloat16" not in mode]


def check_precision(
    name: str, modes: Sequence[str], work: Path, batch_size: int | None
) -> list[dict]:
    """Return the rows of one network: CPU, float32 and the modes of mixed precision."""
    folder = work / name
    rows = []
    for mode in (CPU, FLOAT32, *modes):
        words = [sys.executable, "-m", "benchmarks.gpu_check", "--work", str(work)]
        words += ["--one", name, mode]
        words += [] if batch_size is None else ["--batch_size", str(batch_size)]
        row: dict[str, Any] = {"network": name, "mode": mode}
        # TF32 would round what float32 is to be compared with.
        exact = {"NVIDIA_TF32_OVERRIDE": "0"} if mode == FLOAT32 else {}
        try:
            output = run_process(words, folder / f"{mode}.log", **exact)
            row |= json.loads(output.splitlines()[-1])
            if mode != CPU:
                other = CPU if mode == FLOAT32 else FLOAT32
                pair = (np.load(folder / f"{part}.npz") for part in (mode, other))
                found = differences(*pair)
                row["differences"] = {
                    key: float(f"{x:.3g}") for key, x in found.items()
                }
                row["faults"] = faults(mode, found)
        except (PartFailed, OSError) as error:
            row["faults"] = [str(error)]
        print(row, flush=True)
        rows.append(row)
    return rows


def check_ranks(name: str, work: Path, batch_size: int | None) -> dict:
    """Return the row of two GPUs against one."""
    network, row = NETWORKS[name], {"network": name, "mode": RANKS}
    size = config_of(network, batch_size)["Global"]["batch_size"]
    one = [sys.executable, "-m", "paddle.distributed.launch", "--gpus=0"]
    two = [*one[:-1], "--gpus=0,1"]
    logs = f"--log_dir={work / name / 'launch'}"
    try:
        launchers = [[*one, logs], [*two, logs]]
        found = compare_ranks(network, launchers, [2 * size, size], work / name)
        row["differences"] = {"loss_of_a_step": float(f"{found:.3g}")}
        row["faults"] = faults(RANKS, {"loss_of_a_step": found})
    except (PartFailed, OSError, ValueError) as error:
        row["faults"] = [str(error)]
    print(row, flush=True)
    return row


def find_gpus() -> list[str]:
    """Return the names of the GPUs.

    Raises:
        SystemExit: Paddle is built without CUDA, or finds none.
    """
    import paddle

    if not paddle.is_compiled_with_cuda():
        raise SystemExit(
            "no GPU was found: this Paddle is built for CPUs only (docs/core/gpu.md "
            "says how to install the other one). Nothing was checked or written."
        )
    count = paddle.device.cuda.device_count()
    if count == 0:
        raise SystemExit(
            "no GPU was found: Paddle is built with CUDA but sees no device (is "
            "nvidia-smi fine, is CUDA_VISIBLE_DEVICES empty?). Nothing was checked or "
            "written."
        )
    return [paddle.device.cuda.get_device_name(i) for i in range(count)]


def fresh_folder(path: Path) -> None:
    """Make the folder of the runs; remove that of an earlier check.

    Raises:
        InputError: There is something else, which is left as it is.
    """
    mark = path / MARK
    if mark.is_file():
        shutil.rmtree(path)
    elif path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(
            f"{path} holds other files",
            where="--work",
            wanted="a new folder, or that of an earlier check",
        )
    path.mkdir(parents=True, exist_ok=True)
    mark.touch()


def left_out(networks: Sequence[str], modes: Sequence[str], gpus: int) -> list[str]:
    """Return a line for each part that is not run, with the reason."""
    lines = [f"{mode}: this GPU has no bfloat16" for mode in AMP if mode not in modes]
    if gpus == 1:
        return [*lines, "two ranks (NCCL): there is only one GPU"]
    return lines + [
        f"{name}, two ranks (NCCL): each rank draws other random numbers"
        for name in networks
        if NETWORKS[name].is_random
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    add("--batch_size", type=int, help="structures; default: that of each YAML")
    add("--work", type=Path, default=Path("output/gpu_check"), help="files of the runs")
    add("--out", type=Path, default=Path("output/gpu_check.yaml"), help="the result")
    add("--one", nargs=2, metavar=("NETWORK", "MODE"), help="one part (used by itself)")
    args = parser.parse_args()
    if args.one:
        name, mode = args.one
        folder = args.work / name
        print(json.dumps(measure(NETWORKS[name], mode, folder, args.batch_size)))
        return
    gpus = find_gpus()
    import paddle

    modes = supported_modes()
    not_run = left_out(args.networks, modes, len(gpus))
    work = args.work.resolve()
    try:
        fresh_folder(work)
    except InputError as error:
        parser.error(str(error))
    rows: list[dict] = []
    for name in args.networks:
        rows += check_precision(name, modes, work, args.batch_size)
        if len(gpus) > 1 and not NETWORKS[name].is_random:
            rows.append(check_ranks(name, work, args.batch_size))
    bad = [
        f"{r['network']}, {r['mode']}: {f}" for r in rows for f in r.get("faults", ())
    ]
    software = f"CUDA {paddle.version.cuda()}, Paddle {paddle.__version__}"
    result = result_of(
        "python -m benchmarks.gpu_check",
        f"{', '.join(gpus)}; {software}",
        steps=STEPS,
        limits=LIMITS,
        not_run=not_run,
        faults=bad,
        rows=rows,
    )
    write(result, args.out)
    print("\n".join(f"not run: {line}" for line in not_run))
    if bad:
        raise SystemExit(
            "\n  ".join([f"{len(bad)} faults; send {args.out} back:", *bad])
        )
    print(f"All is within its limits. Please send {args.out} back.")


if __name__ == "__main__":
    main()
