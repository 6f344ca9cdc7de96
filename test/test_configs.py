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

"""Every YAML of the task folders is loaded, built and run for one training step."""

import re
from pathlib import Path

import paddle
import pytest
from PIL import Image

from ppmat.commands import train as entry
from ppmat.utils import logger
from ppmat.utils.config import load_config

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "structure_generation/example_data/oc20_emt"
IMAGES = ROOT / "spectrum_enhancement/example_data/stem_sample"
# Those of distil.py train with another one; test_distillation.py runs them.
CONFIGS = sorted(
    path
    for path in ROOT.glob("*/configs/**/*.yaml")
    if not path.name.startswith("distil")
)
# How a data set is made small.
SMALL = {
    "OC20IS2REDataset": {"max_samples": 2},
    "PlacementDataset": {"max_systems": 2, "draws": 1},
    "PotentialDataset": {},  # LAST of each file
    "SFINDataset": {"data_count": 2},
    "SFINSyntheticDataset": {"count": 2, "size": [24, 32]},
}
LAST = "@-2:"  # slabs; small cells of bulk have no wave vectors below k_cut
NAMES = {path: str(path.relative_to(ROOT)) for path in CONFIGS}
FINETUNE = ROOT / "property_prediction/configs/sfin/sfin_oc20_finetune.yaml"
SYNTHETIC = ROOT / "spectrum_enhancement/configs/sfin/sfin_synthetic.yaml"
# The sizes of the notes would take 2 GB here.
ARDIFF = ROOT / "structure_generation/configs/ardiff/oc20.yaml"
NARROW = [
    f"Model.__init_params__.{key}"
    for key in (
        "decoder_cfg.hidden_size=64",
        "decoder_cfg.intermediate_size=64",
        "diff_width=32",
        "diff_steps=3",
    )
]
# Layers that start at zero let the gradient reach the others after some steps.
STEPS = {"ARDiff": 4}
# Each file, and the one that is for two modes and two targets in all four forms.
FORMS = [(path, ()) for path in CONFIGS if path != SYNTHETIC]
FORMS += [
    (SYNTHETIC, (f"Global.mode={mode}", f"Global.target={target}"))
    for mode in ("haadf", "bf")
    for target in ("gt_enhance", "gt_detect")
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Return a folder with both SFIN data sets, made of corners of the sample's."""
    folder = tmp_path_factory.mktemp("images")
    for source in sorted(IMAGES.glob("*/*/*.png")):
        corner = Image.open(source).crop((0, 0, 24, 32))
        for name in ("sfin_haadf", "sfin_bf"):
            target = folder / name / source.relative_to(IMAGES)
            target.parent.mkdir(parents=True, exist_ok=True)
            corner.save(target)
    return folder


def load(path, *overrides):
    """Return a configuration that reads the sample."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OC20_ROOT", str(SAMPLE))
        return load_config(str(path), overrides)


def data_sets(config):
    """Return the data set blocks, also of one data set that is split by ratio."""
    data = config["Dataset"]
    splits = [data[s] for s in ("train", "val", "test") if s in data]
    return [block["dataset"] for block in ([data] if "dataset" in data else splits)]


def shrunk(path, folder, overrides=()):
    """Return a configuration for one step of two samples, an evaluation and a test.

    Some models take more than one step, see :data:`STEPS`.
    """
    if path == FINETUNE:  # has no variable either, and no weights here
        own = (f"Global.data_root={SAMPLE}", "Trainer.pretrained_model_path=null")
        held_out = "Dataset.test.dataset.__init_params__.split=val_ood_cat"
        overrides = (*overrides, *own, held_out)
    if path == ARDIFF:
        overrides = (*overrides, *NARROW)
    everywhere = ("num_workers=0", "batch_size=2", "do_test=true")
    config = load(path, *overrides, *(f"Global.{change}" for change in everywhere))
    for block in data_sets(config):
        block["__init_params__"].update(SMALL[block["__class_name__"]])
        if block["__class_name__"] == "PotentialDataset":
            block["__init_params__"]["path"] += LAST
    rate = config["Optimizer"]["__init_params__"]["lr"]
    if "warmup_epoch" in rate["__init_params__"]:
        rate["__init_params__"]["warmup_epoch"] = 0
    steps = STEPS.get(config["Model"]["__class_name__"], 1)
    config["Trainer"].update(output_dir=str(folder), max_epochs=steps, eval_freq=steps)
    return config


def test_fine_tuning_takes_the_network_that_is_pretrained():
    """Weights, graph and head fit; the rest is how it is trained."""
    config = load(FINETUNE)
    first = load(FINETUNE.with_name("sfin_oc20_is2re.yaml"))
    assert config["Model"] == first["Model"]
    assert config["Global"]["graph"] == first["Global"]["graph"]
    folder = Path(first["Trainer"]["output_dir"]) / "checkpoints"
    weights = Path(config["Trainer"]["pretrained_model_path"])
    assert weights == folder / "best.pdparams"
    assert set(config["Optimizer"]["__init_params__"]["lr_mult"]) == {"backbone"}


def test_there_are_configs():
    names = {path.name for path in CONFIGS}
    assert {"oc20.yaml", "oc20_10k.yaml", "oc20_all.yaml", "oc20_flow.yaml"} <= names
    is2re = ("", "_10k", "_all", "_smoke")
    assert {f"sfin_oc20_is2re{kind}.yaml" for kind in is2re} <= names
    assert FINETUNE in CONFIGS
    assert ARDIFF in CONFIGS
    image = ("haadf_enhance", "haadf_detect", "bf_enhance", "bf_detect", "smoke")
    assert {f"sfin_{kind}.yaml" for kind in image} <= names
    assert SYNTHETIC in CONFIGS


@pytest.mark.parametrize(
    "path, overrides", FORMS, ids=[" ".join((NAMES[p], *more)) for p, more in FORMS]
)
def test_config_trains_evaluates_and_tests(
    path, overrides, tmp_path, monkeypatch, images
):
    """The best checkpoint is there only if the metric it is chosen by was computed."""
    clear, reached = paddle.optimizer.Optimizer.clear_grad, []

    def look_and_clear(optimizer, *args, **kwargs):
        gradients = [w.grad for w in optimizer._parameter_list if w.grad is not None]
        reached.append(sum(bool((grad != 0).any()) for grad in gradients))
        clear(optimizer, *args, **kwargs)

    monkeypatch.setattr(paddle.optimizer.Optimizer, "clear_grad", look_and_clear)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr("ppmat.trainer.reporting.draw_loss_curve", lambda folder: None)
    monkeypatch.setenv("SFIN_ROOT", str(images))
    monkeypatch.chdir(ROOT)  # the smoke configuration of images has no variable
    config = shrunk(path, tmp_path, overrides)
    try:
        trainer = entry.run(config, str(path))
    finally:
        logger.init_logger()
    assert trainer.state.global_step == len(reached)
    assert (tmp_path / "checkpoints" / "best.pdparams").exists()
    log = (tmp_path / "run.log").read_text(encoding="utf-8")
    assert re.search(r"Evaluating \d+ samples \(test\)", log)
    weights = [w for w in trainer.model.parameters() if not w.stop_gradient]
    used = reached[-1]
    assert len(reached) == config["Trainer"]["max_epochs"]
    assert 0.9 * len(weights) < used <= len(weights)


@pytest.mark.parametrize(
    "path",
    [p for p in CONFIGS if "backbone_cfg" in load(p)["Model"]["__init_params__"]],
    ids=NAMES.get,
)
def test_graph_reaches_as_far_as_the_network(path):
    """A network whose cut-off passes the graph's would meet a sharp edge."""
    config = load(path)
    graph = config["Global"]["graph"]["__init_params__"]
    backbone = config["Model"]["__init_params__"]["backbone_cfg"]
    assert backbone["cutoff"] <= graph["cutoff"]
    assert backbone["k_cut"] <= graph["k_cut"]
    for block in data_sets(config):
        assert block["__init_params__"]["build_graph_cfg"]["__init_params__"] == graph
    predict = config.get("Predict", {}).get("graph_converter")
    assert predict is None or predict["__init_params__"] == graph
