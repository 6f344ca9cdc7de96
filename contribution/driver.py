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

"""Train, evaluate, sample and predict with the ``ppmat`` that Python finds.

``contribution/check.py`` runs this file twice with the same settings: in upstream with
the series applied, and in this tree. Both have the same factories, trainer, sampler
and predictors by name, so every number has a twin. Written is one JSON file.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import paddle
from omegaconf import OmegaConf
from pymatgen.io.ase import AseAtomsAdaptor

from ppmat.datasets import build_dataloader
from ppmat.metrics import build_metric
from ppmat.models import build_model
from ppmat.optimizer import build_optimizer
from ppmat.trainer.base_trainer import BaseTrainer

# The example structures of this tree, for every run
SLABS = "structure_generation/example_data/oc20_emt"
IMAGES = "spectrum_enhancement/example_data/stem_sample"
ENERGY = "property_prediction/configs/sfin/sfin_oc20_is2re_10k.yaml"
FLOW = "structure_generation/configs/sfin/sfin_oc20_is2rs_10k.yaml"
IMAGE = "contribution/files/sfin_sample.yaml"
DATA = ("train", "val")
PARAMS = "__init_params__"
SMALL = {  # a network that trains in seconds
    "channels": 16,
    "vectors": 8,
    "messages": 8,
    "num_blocks": 2,
    "num_basis": 8,
    "num_radial": 4,
}


def settings(path: Path, changes: dict[str, Any], output: Path) -> Path:
    """Write a YAML of the series with the settings of the check; return its path."""
    config = OmegaConf.load(path)
    always = {
        "Global.num_workers": 0,
        "Global.batch_size": 4,
        "Trainer.max_epochs": 2,
        "Trainer.log_freq": 1,
        "Trainer.eval_freq": 1,
        "Trainer.output_dir": str(output),
        # each ppmat draws an order of its own
        f"Dataset.train.sampler.{PARAMS}.shuffle": False,
    }
    for key, value in {**always, **changes}.items():
        OmegaConf.update(config, key, value)
    plain = OmegaConf.to_container(config, resolve=True)
    OmegaConf.save(OmegaConf.create(plain), output / "run.yaml")
    return output / "run.yaml"


def slab_changes(root: Path) -> dict[str, Any]:
    """Return the settings of both networks for structures."""
    counts = zip(DATA, (16, 8))
    changes = {f"Dataset.{k}.dataset.{PARAMS}.max_samples": n for k, n in counts}
    small = {f"Model.{PARAMS}.backbone_cfg.{k}": v for k, v in SMALL.items()}
    return {**changes, **small, "Global.data_root": str(root / SLABS)}


def first_weights(path: Path, weights: Path) -> None:
    """Load the first weights into the settings; the first of two runs makes them."""
    config = OmegaConf.load(path)
    if not weights.exists():
        weights.parent.mkdir(parents=True, exist_ok=True)
        paddle.seed(1)
        model = build_model(OmegaConf.to_container(config["Model"]))
        paddle.save(model.state_dict(), str(weights))
    config.Trainer.pretrained_model_path = str(weights)
    OmegaConf.save(config, path)


def train(path: Path) -> dict:
    """Train as the task scripts do; return the losses of all steps and the scores."""
    config = OmegaConf.to_container(OmegaConf.load(path))
    model = build_model(config["Model"])
    data = config["Dataset"]
    loaders = {name: build_dataloader(data[name]) for name in ("train", "val")}
    args = config["Trainer"]["max_epochs"], len(loaders["train"])
    optimizer, schedule = build_optimizer(config["Optimizer"], model, *args)
    losses: list[dict[str, float]] = []

    def record(layer, inputs, result):
        if layer.training:
            losses.append({k: float(v) for k, v in result["loss_dict"].items()})

    hook = model.register_forward_post_hook(record)
    trainer = BaseTrainer(
        config["Trainer"],
        model,
        train_dataloader=loaders["train"],
        val_dataloader=loaders["val"],
        optimizer=optimizer,
        lr_scheduler=schedule,
        compute_metric_func_dict=build_metric(config["Metric"]),
    )
    paddle.seed(0)
    trainer.train()
    hook.remove()
    _, loss, scores = trainer.eval(loaders["val"])
    return {
        "losses": losses,
        "evaluation": {k: meter.avg for k, meter in {**loss, **scores}.items()},
    }


def gradients(path: Path) -> dict:
    """Return forward losses and sums of gradients of the first batch."""
    config = OmegaConf.to_container(OmegaConf.load(path))
    model = build_model(config["Model"])
    model.set_state_dict(paddle.load(config["Trainer"]["pretrained_model_path"]))
    batch = next(iter(build_dataloader(config["Dataset"]["train"])))
    model.train()
    paddle.seed(0)
    result = model(batch)["loss_dict"]
    result["loss"].backward()
    sums = {
        name: float(p.grad.astype("float64").abs().sum())
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    return {"loss": {k: float(v) for k, v in result.items()}, "gradients": sums}


def energies(path: Path, checkpoint: Path, slabs: Path) -> dict:
    """Predict the energies of structures with the property predictor."""
    from ppmat.predictor import PropertyPredictor

    predictor = PropertyPredictor(
        config_path=str(path), checkpoint_path=str(checkpoint)
    )
    found = []
    for atoms in ase.io.read(slabs, ":"):
        structure = AseAtomsAdaptor.get_structure(atoms)
        result = predictor.from_structures(structure)
        found.append(float(np.ravel(result["y_relaxed"])[0]))
    return {"energies": found}


def samples(path: Path, checkpoint: Path, output: Path) -> dict:
    """Generate structures with the structure sampler, and score them."""
    from ppmat.sampler import StructureSampler

    sampler = StructureSampler(config_path=str(path), checkpoint_path=str(checkpoint))
    scores = sampler.compute_metric(save_path=str(output))
    return {"scores": {name: float(value) for name, value in scores.items()}}


def enhanced(path: Path, checkpoint: Path, image: str) -> dict:
    """Enhance an image with the spectrum predictor; return moments of the result."""
    from ppmat.predictor import SpectrumPredictor

    predictor = SpectrumPredictor(
        config_path=str(path), checkpoint_path=str(checkpoint)
    )
    (result,) = predictor.from_image_file(image)
    pixels = np.asarray(result["gt_enhance"], dtype="float64")
    return {"pixels": [pixels.mean(), pixels.std(), *pixels.ravel()[::1000]]}


def run(root: Path, series: Path, output: Path, side: str, weights: Path) -> dict:
    """Make all numbers of one side, ``upstream`` or ``core``."""
    slabs = slab_changes(root)
    energy = {
        **slabs,
        # random numbers are drawn in another order in each trainer
        f"Model.{PARAMS}.noisy_nodes": 0.0,
        f"Model.{PARAMS}.weight_batches": 8,  # two epochs
    }
    if side == "core":  # reads structures in its predictor, not in a converter
        energy["Predict.graph_converter.__class_name__"] = "PeriodicGraphConverter"
    images = output / "images"  # upstream writes its cache beside the images
    shutil.copytree(root / IMAGES, images)
    image = {"Global.data_root": str(images)}
    latest = Path("checkpoints", "latest.pdparams")
    numbers: dict[str, Any] = {}
    for name, base, path, changes in (
        ("energy", series, ENERGY, energy),
        ("flow", series, FLOW, slabs),
        ("image", root, IMAGE, image),
    ):
        folder = output / name
        folder.mkdir()
        yaml = settings(base / path, changes, folder)
        first_weights(yaml, weights / f"{name}.pdparams")
        numbers[name] = {"first batch": gradients(yaml), "training": train(yaml)}
        checkpoint = folder / latest
        if name == "energy":
            file = root / "structure_generation" / "example_data" / "slabs.traj"
            numbers[name]["prediction"] = energies(yaml, checkpoint, file)
        elif name == "flow":
            made = samples(yaml, checkpoint, folder / "samples")
            numbers[name]["samples"] = made
        else:
            file = images / "test" / "noisy" / "0.png"
            numbers[name]["prediction"] = enhanced(yaml, checkpoint, str(file))
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="this tree")
    parser.add_argument("--series", type=Path, required=True, help="series applied")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--weights", type=Path, required=True, help="of both runs")
    parser.add_argument("--side", choices=("upstream", "core"), required=True)
    options = parser.parse_args()
    paddle.set_device("cpu")
    paths = (options.root, options.series, options.output)
    numbers = run(*paths, options.side, options.weights)
    text = json.dumps(numbers, indent=1, default=float)
    (options.output / "numbers.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
