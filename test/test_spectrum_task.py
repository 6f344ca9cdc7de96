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


"""Configurations and registered packages of the spectrum enhancement task."""

import zipfile
from pathlib import Path

import numpy as np
import paddle
import pytest
from omegaconf import OmegaConf
from PIL import Image

import ppmat.models as models
from ppmat.commands import train as entry
from ppmat.datasets import DATASETS
from ppmat.metrics import build_metric
from ppmat.models.sfin.sfin import SFIN
from ppmat.optimizer import build_optimizer
from ppmat.predictor import SpectrumPredictor
from ppmat.utils import download
from ppmat.utils import logger
from ppmat.utils.config import load_config
from ppmat.utils.config import resolve_config
from ppmat.utils.save_load import CheckpointError

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "spectrum_enhancement/configs/sfin"
NAMES = ("sfin_haadf_enhance", "sfin_haadf_detect", "sfin_bf_enhance", "sfin_bf_detect")

# Keys and nesting of the YAML that PaddleMaterials 0.3.0 trains with and packs.
UPSTREAM = """
Global: {{do_train: True, do_eval: True, do_test: False, prim_eager_enabled: False,
  build_image_cfg: {{format: image_file, mode: L, dtype: float32, num_cpus: 1}}}}
Trainer: {{max_epochs: 500, seed: 42, output_dir: ./output/{name}, save_freq: 100,
  log_freq: 100, start_eval_epoch: 1, eval_freq: 1, pretrained_model_path: null,
  pretrained_weight_name: null, resume_from_checkpoint: null, use_amp: False,
  amp_level: "O1", eval_with_no_grad: True, gradient_accumulation_steps: 1,
  best_metric_indicator: null, name_for_best_metric: null, greater_is_better: True,
  compute_metric_during_train: True, metric_strategy_during_eval: "epoch",
  use_visualdl: False, use_wandb: False, use_tensorboard: False}}
Model:
  __class_name__: SFIN
  __init_params__: {{in_channels: 1, base_channels: {channels}, num_blocks: {blocks},
    input_name: "noisy", target_name: "{target}", loss_type: "l1", loss_weight: 1.0}}
Optimizer:
  __class_name__: Adam
  __init_params__:
    lr:
      __class_name__: MultiStepDecay
      __init_params__: {{learning_rate: 2.0e-4, milestones: [250, 400, 425, 450, 475],
        gamma: 0.5, by_epoch: True}}
    beta1: 0.9
    beta2: 0.999
    epsilon: 1.0e-8
    weight_decay: 0.0
Metric:
  __class_name__: SFINStreamingAdapter
  __init_params__: {{target_name: "{target}", data_range: 255.0}}
Predict:
  eval_with_no_grad: True
  checkpoint_path: https://example.org/{name}.zip
Dataset:
  train:
    dataset:
      __class_name__: SFINDataset
      __init_params__: {{path: "./{data}", split: "train", target_subdir: "{target}",
        build_image_cfg: "${{Global.build_image_cfg}}"}}
    sampler:
      __class_name__: BatchSampler
      __init_params__: {{shuffle: True, drop_last: True, batch_size: 8}}
    loader: {{num_workers: 0, use_shared_memory: False, collate_fn: DefaultCollator}}
  val:
    dataset:
      __class_name__: SFINDataset
      __init_params__: {{path: "./{data}", split: "val", target_subdir: "{target}",
        build_image_cfg: "${{Global.build_image_cfg}}"}}
    sampler:
      __class_name__: BatchSampler
      __init_params__: {{shuffle: False, drop_last: False, batch_size: 1}}
    loader: {{num_workers: 0, use_shared_memory: False, collate_fn: DefaultCollator}}
  test: "${{Dataset.val}}"
"""


def upstream_yaml(name, channels=64, blocks=8):
    """Return a YAML text of the shape upstream's has."""
    mode, task = name.split("_")[1:]
    return UPSTREAM.format(
        name=name,
        data=f"sfin_{mode}",
        target=f"gt_{task}",
        channels=channels,
        blocks=blocks,
    )


def make_images(folder, train=11, test=2, size=(24, 32)):
    """Write noise in the layout of the SFIN data."""
    random = np.random.RandomState(0)
    for split, count in (("train", train), ("test", test)):
        for kind in ("noisy", "gt_enhance", "gt_detect"):
            (folder / split / kind).mkdir(parents=True)
            for i in range(count):
                grey = random.randint(0, 256, size, dtype="uint8")
                Image.fromarray(grey).save(folder / split / kind / f"{i}.png")


@pytest.mark.parametrize("name", NAMES)
def test_yaml_of_upstream_trains(name, tmp_path, monkeypatch):
    """Nothing is changed but the number of epochs."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr("ppmat.trainer.reporting.draw_loss_curve", lambda folder: None)
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / f"sfin_{name.split('_')[1]}", size=(12, 16))
    Path(f"{name}.yaml").write_text(upstream_yaml(name))
    try:
        config = load_config(f"{name}.yaml", ["Trainer.max_epochs=1"])
        trainer = entry.run(config, f"{name}.yaml")
    finally:
        logger.init_logger()
    assert trainer.state.global_step == 1
    log = (tmp_path / "output" / name / "run.log").read_text()
    assert "psnr" in log and "pooled" in log


@pytest.mark.parametrize("name", NAMES)
def test_recipe_is_that_of_the_paper(name):
    """The lines our YAML shares with upstream's have its values."""
    ours = load_config(str(FOLDER / f"{name}.yaml"))
    theirs = resolve_config(OmegaConf.create(upstream_yaml(name)))
    assert ours["Model"] == theirs["Model"]
    assert ours["Optimizer"] == theirs["Optimizer"]
    for key in ("max_epochs", "seed", "output_dir", "use_amp", "greater_is_better"):
        assert ours["Trainer"][key] == theirs["Trainer"][key]
    for split in ("train", "val", "test"):
        block, other = ours["Dataset"][split], theirs["Dataset"][split]
        assert block["sampler"] == other["sampler"]
        params = block["dataset"]["__init_params__"]
        assert params["split"] == split
        assert (
            params["target_subdir"] == ours["Model"]["__init_params__"]["target_name"]
        )
        assert Path(params["path"]).name == f"sfin_{name.split('_')[1]}"
    assert ours["Trainer"]["name_for_best_metric"] == "psnr_author"
    address = models.MODEL_REGISTRY[name]
    assert ours["Predict"]["checkpoint_path"] == address


def test_validation_images_are_never_test_images(tmp_path, monkeypatch):
    """No image is in two splits of our configurations."""
    monkeypatch.setenv("SFIN_ROOT", str(tmp_path))
    make_images(tmp_path / "sfin_haadf", train=20, test=5)
    config = load_config(str(FOLDER / "sfin_haadf_enhance.yaml"))
    files = {}
    for split in ("train", "val", "test"):
        dataset = DATASETS.build(config["Dataset"][split]["dataset"], split)
        files[split] = {sample["noisy"] for sample in dataset.samples}
    assert [len(files[s]) for s in ("train", "val", "test")] == [18, 2, 5]
    assert len(set().union(*files.values())) == 25


def test_scores_name_their_protocol():
    """Known images: pooled and author PSNR differ, each under its own name."""
    config = load_config(str(FOLDER / "sfin_bf_detect.yaml"))
    true = np.full([2, 1, 16, 16], 100.0, "float32")
    off = true + np.array([1.9, 20.2], "float32").reshape(2, 1, 1, 1)
    found = {}
    for metric in build_metric(config["Metric"]).values():
        metric.update_step(
            result={"pred_dict": {"gt_detect": paddle.to_tensor(off)}},
            batch={"gt_detect": paddle.to_tensor(true)},
            stage="eval",
        )
        found.update(metric.compute_epoch(stage="eval"))
    level = 20 * np.log10(255)
    author = level - 10 * np.mean(np.log10([1.0, 400.0]))
    pooled = level - 10 * np.log10(np.mean([1.9**2, 20.2**2]))
    assert found["psnr_author"] == pytest.approx(author, abs=1e-4)
    assert found["psnr_pooled"] == pytest.approx(pooled, abs=1e-4)
    assert config["Trainer"]["name_for_best_metric"] in found


def test_rate_is_halved_at_the_milestones():
    config = load_config(str(FOLDER / "sfin_bf_enhance.yaml"))
    epochs = config["Trainer"]["max_epochs"]
    model = paddle.nn.Linear(1, 1)
    _, schedule = build_optimizer(config["Optimizer"], model, epochs, 112)
    assert schedule.by_epoch
    rates = []
    for _ in range(epochs):
        rates.append(schedule.get_lr())
        schedule.step()
    changes = [i for i in range(1, epochs) if rates[i] != rates[i - 1]]
    assert changes == [250, 400, 425, 450, 475]
    assert rates[0] == 2e-4 and rates[-1] == pytest.approx(2e-4 / 32)


def upstream_weights(channels, blocks, seed):
    """Return random weights by the names of upstream's (and the authors') network."""
    half, random = channels // 2, np.random.RandomState(seed)
    shapes = {
        "head_conv.weight": (channels, 1, 3, 3),
        "head_conv.bias": (channels,),
        "tail_conv.weight": (1, channels, 3, 3),
        "tail_conv.bias": (1,),
    }
    for block in range(blocks):
        for conv in ("conv1", "conv2"):
            top = f"body.{block}.{conv}"
            for path, inputs in (
                ("convl2l", half),
                ("convl2g", half),
                ("convg2l", half),
                ("convg2g.conv1", half),
                ("convg2g.conv2", channels),
            ):
                shapes[f"{top}.ffc.{path}.weight"] = (half, inputs, 3, 3)
                shapes[f"{top}.ffc.{path}.bias"] = (half,)
            unit = f"{top}.ffc.convg2g.fu"
            shapes[f"{unit}.conv_layer.weight"] = (channels, channels + 2, 1, 1)
            for norm, width in (
                (f"{unit}.bn", channels),
                (f"{top}.bn_l", half),
                (f"{top}.bn_g", half),
            ):
                for part in ("weight", "bias", "_mean", "_variance"):
                    shapes[f"{norm}.{part}"] = (width,)
    return {
        key: random.uniform(0.1, 0.3, shape).astype("float32")
        for key, shape in shapes.items()
    }


@pytest.fixture(params=["nested", "flat"])
def package(request, tmp_path, monkeypatch):
    """A package of upstream's layout, where the download would put it."""
    name, cache = "sfin_bf_detect", tmp_path / "cache"
    cache.mkdir()
    top = f"{name}/" if request.param == "nested" else ""
    with zipfile.ZipFile(cache / f"{name}.zip", "w") as archive:
        archive.writestr(f"{top}{name}.yaml", upstream_yaml(name, channels=8, blocks=2))
        for seed, stem in enumerate(("best", "latest")):
            weights = upstream_weights(8, 2, seed)
            file = tmp_path / f"{stem}.pdparams"
            tensors = {key: paddle.to_tensor(value) for key, value in weights.items()}
            paddle.save(tensors, str(file))
            archive.write(file, f"{top}checkpoints/{stem}.pdparams")
    monkeypatch.setattr(download, "WEIGHTS_HOME", str(cache))
    return name


@pytest.mark.parametrize("weights", [None, "latest.pdparams"])
def test_package_of_upstream_loads(package, weights):
    model, config = models.build_trained_model(package, weights)
    assert isinstance(model, SFIN) and not model.training
    assert model.target_name == "gt_detect"
    wanted = upstream_weights(8, 2, seed=int(weights is not None))
    state = model.state_dict()
    assert set(state) == set(wanted)
    for key, value in wanted.items():
        np.testing.assert_array_equal(state[key].numpy(), value)
    images = paddle.rand([2, 1, 13, 16]) * 255
    assert model(images).shape == [2, 1, 13, 16]
    assert config["Metric"]["__class_name__"] == "SFINStreamingAdapter"


@pytest.mark.parametrize("package", ["nested"], indirect=True)
def test_registered_name_enhances_an_image(package):
    """From the name alone, as ``predict.py --model_name`` does it."""
    predictor = SpectrumPredictor(model_name=package)
    assert (predictor.target_name, predictor.defaults.tile_size) == ("gt_detect", 256)
    grey = np.random.RandomState(0).uniform(0, 255, (32, 32)).astype("float32")
    found = predictor.enhance(grey, tile_size=32, overlap=8, scaling="grey")
    wanted = predictor.model(grey[None, None]).numpy()[0, 0]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.ptp(wanted))


def test_package_with_other_weights_is_refused(package, tmp_path):
    """The broken twin: one name of the network differs."""
    archive = tmp_path / "cache" / f"{package}.zip"
    weights = upstream_weights(8, 2, seed=0)
    weights["tail.weight"] = weights.pop("tail_conv.weight")
    paddle.save(weights, str(tmp_path / "best.pdparams"))
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(f"{package}.yaml", upstream_yaml(package, channels=8, blocks=2))
        file.write(tmp_path / "best.pdparams", "checkpoints/best.pdparams")
    with pytest.raises(CheckpointError, match="missing tail_conv.weight; unexpected"):
        models.build_model_from_name(package)


def test_all_four_packages_of_upstream_are_registered():
    assert set(NAMES) <= set(models.MODEL_REGISTRY)
    folder = "/paddlematerials/checkpoints/spectrum_enhancement/sfin/"
    for name in NAMES:
        assert models.MODEL_REGISTRY[name].endswith(f"{folder}{name}.zip")
