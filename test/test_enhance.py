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


"""The enhancing command: files, formats, resumed runs, scores, exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers_image import ToyImage
from helpers_image import picture
from helpers_image import replace_packaged_models
from helpers_image import write_image_model
from helpers_image import write_pictures
from omegaconf import OmegaConf
from paddle.io import Dataset

from ppmat.commands.enhance import main
from ppmat.datasets import DATASETS
from ppmat.metrics.sfin_metric import calc_psnr
from ppmat.metrics.sfin_metric import calc_ssim
from ppmat.predictor.packaged_models import PACKAGED_MODELS
from ppmat.stem.images.image_inputs import image_names
from ppmat.stem.images.micrograph import read_micrograph
from ppmat.utils.files import locked

ROOT = Path(__file__).resolve().parents[1]


@DATASETS.register
class ToyPairs(Dataset):
    """Noisy and clean grey pictures."""

    def __init__(self, number: int = 3) -> None:
        self.number = number

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        clean = 150 * picture(20, 24, 99)
        noisy = clean + np.random.default_rng(index).normal(size=clean.shape)
        return {
            "noisy": noisy[None].astype("f4"),
            "gt_enhance": clean[None],
            "id": str(index),
        }


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs the command in a folder with images and a model."""
    monkeypatch.chdir(tmp_path)
    write_pictures("in")
    data = {"test": {"dataset": {"__class_name__": "ToyPairs"}}}
    write_image_model("task/configs", Dataset=data)

    def command(*options, model="model.yaml", weights="task/configs/w1.0.pdparams"):
        ToyImage.calls.clear()
        arguments = [f"--config_path={model}", f"--checkpoint_path={weights}"]
        return main("task", [*arguments, *options])

    return command


def names_in(folder):
    return sorted(os.listdir(folder))


def test_files_folders_and_patterns(run, capsys):
    options = ["--save_path=out", "--residual"]
    assert run("--input", "in/a.tif", "in/[bc].tif", *options) == 0
    ends = ("", ".json", ".residual.png")
    assert names_in("out") == sorted(f"{n}.tif{end}" for n in "abc" for end in ends)
    text = capsys.readouterr().out
    assert "out/b.tif: 20 x 30, residual std " in text
    assert ", correlation of lines " in text and ", contrast lost " in text
    assert "flag lost_contrast (3 files): the residual is correlated with" in text
    image = read_micrograph("out/a.tif")
    assert image.data.dtype == np.float32
    assert image.pixel_size == pytest.approx((0.0118, 0.0118))
    assert run("--input", "in", *options) == 0  # nothing left to do
    assert ToyImage.calls == []
    assert capsys.readouterr().out.count("is there already") == 3


def test_settings_of_the_command_line(run):
    options = ["--tile_size=32", "--overlap=10", "--scaling=grey", "--ensemble"]
    assert run("--input=in/a.tif", "--save_path=out", "--format=npy", *options) == 0
    assert ToyImage.calls == [[1, 1, 32, 32]] * 4
    record = json.loads(Path("out/a.npy.json").read_text())["record"]
    assert record["tile"] == [32, 32] and record["overlap"] == 10
    assert record["scaling"] == "grey" and len(record["flips"]) == 4
    assert run("--input=in/a.tif", "--save_path=out2", "Predict.tile_size=64") == 0
    record = json.loads(Path("out2/a.tif.json").read_text())["record"]
    assert record["tile"] == [64, 64]


def test_background_and_resampling_of_the_command_line(run, capsys):
    files = ["--input=in/a.tif", "--save_path=out"]
    assert run(*files, "--background=remove", "--resample=off") == 0
    record = json.loads(Path("out/a.tif.json").read_text())["record"]
    assert (record["background"], record["resample"]) == ("remove", "off")
    assert record["frames"][0]["background"]["separated"]
    # They are settings: without them, the output is that of another run.
    assert run(*files) == 2
    assert run(*files, "--background=keep", "--resample=off") == 2
    capsys.readouterr()
    assert run(*files, "--background=remove", "--resample=off") == 0
    assert "is there already" in capsys.readouterr().out
    assert run("--split=test", "--resample=off") == 2
    assert "--resample goes with --input" in capsys.readouterr().out


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    replace_packaged_models(tmp_path, monkeypatch)


def test_without_a_model_the_packaged_one_is_used(run, packaged, capsys):
    def record(folder):
        return json.loads(Path(folder, "a.tif.json").read_text())["record"]

    for folder, options in {"haadf": [], "bf": ["--mode=bf"]}.items():
        files = ["--input=in/a.tif", f"--save_path={folder}"]
        assert main("task", [*files, *options]) == 0
        text = capsys.readouterr().out
        assert f"{PACKAGED_MODELS[folder]}', trained on drawn {folder}" in text
        found = record(folder)["package"]
        assert found["name"] == PACKAGED_MODELS[folder]
        assert found["trained_on"] == f"drawn {folder}"
        assert Path(found["results"]).name == "results.yaml"
    assert record("haadf")["weights"] != record("bf")["weights"]
    # The same weights are the same model, whatever they are called.
    assert main("task", ["--input=in/a.tif", "--save_path=bf", "--mode=bf"]) == 0
    assert "is there already" in capsys.readouterr().out
    named = [
        "--input=in/a.tif",
        "--save_path=bf",
        f"--model_name={PACKAGED_MODELS['bf']}",
    ]
    assert main("task", named) == 0
    assert "is there already" in capsys.readouterr().out
    assert main("task", [*named, "--mode=bf"]) == 2
    assert "does not go with model_name" in capsys.readouterr().out


EXAMPLE = "example_data/stem_sample/test/noisy"


@pytest.fixture
def example(run, packaged):
    """Two small images for those of the tree."""
    assert len(image_names(ROOT / "spectrum_enhancement" / EXAMPLE)) == 16
    write_pictures(f"task/{EXAMPLE}", ["0", "1"])


def test_without_options_the_example_images_are_enhanced(example, capsys):
    assert main("task", []) == 0
    text = capsys.readouterr().out
    assert f"task/{EXAMPLE} are enhanced into output/enhanced" in text
    assert PACKAGED_MODELS["haadf"] in text
    assert names_in("output/enhanced") == ["0.tif", "0.tif.json", "1.tif", "1.tif.json"]
    assert main("task", []) == 0
    assert capsys.readouterr().out.count("is there already") == 2
    assert main("task", ["--save_path=other", "--format=npy", "--mode=haadf"]) == 0
    assert "0.npy" in names_in("other")


@pytest.mark.parametrize("options", [["--mode=bf"], ["in/a.tif"], ["-c=model.yaml"]])
def test_the_example_is_for_the_packaged_model(example, capsys, options):
    assert main("task", options) == 2
    text = capsys.readouterr().out
    assert "--input is missing" in text and "HAADF example images" in text
    assert not Path("output").exists()


def test_without_the_example_an_input_is_asked_for(run, packaged, capsys):
    assert main("task", []) == 2
    text = capsys.readouterr().out
    assert "--input is missing" in text
    assert f"no example images here (task/{EXAMPLE})" in text
    assert not Path("output").exists()


def test_equal_names_do_not_clash(run):
    write_pictures("in2", ["a"])
    assert run("--input", "in/a.tif", "in2/a.tif", "in2/a.tif", "--save_path=out") == 0
    assert names_in("out") == sorted(
        f"{folder}_a_tif.tif{end}" for folder in ("in", "in2") for end in ("", ".json")
    )


def test_bad_files_are_left_out_and_listed(run, capsys):
    Path("in/b.tif").write_bytes(Path("in/b.tif").read_bytes()[:300])
    np.save("in/rgb.npy", np.zeros((20, 20, 3), "u1"))
    assert run("--input", "in", "--save_path=out") == 1
    text = capsys.readouterr().out
    assert "failed: in/b.tif" in text
    assert "failed: in/rgb.npy" in text and "colours" in text
    assert "failed: 2 files; the others are done" in text
    assert names_in("out") == sorted(f"{n}.tif{e}" for n in "ac" for e in ("", ".json"))
    assert run("--input", "in/b.tif", "--save_path=out") == 2
    assert "no file could be used" in capsys.readouterr().out


def test_a_split_is_scored_by_both_protocols(run, capsys):
    assert run("--split=test", "--save_path=scores") == 0
    text = capsys.readouterr().out
    assert "test, 3 images, grey values 0 to 255\nprotocol" in text
    found = OmegaConf.to_container(OmegaConf.load("scores/metrics_test.yaml"))
    pairs = [ToyPairs()[i] for i in range(3)]
    noisy, clean = (
        np.stack([pair[name] for pair in pairs]) for name in ("noisy", "gt_enhance")
    )
    for protocol in ("author", "pooled"):
        psnr = float(calc_psnr(noisy, clean, protocol=protocol))
        ssim = float(calc_ssim(noisy, clean, protocol=protocol))
        assert found["input"][protocol]["psnr"] == pytest.approx(psnr, abs=1e-6)
        assert found["input"][protocol]["ssim"] == pytest.approx(ssim, abs=1e-6)
        assert found["output"][protocol]["psnr"] != pytest.approx(psnr, abs=0.1)
        assert f"{protocol:<8}  input   {psnr:9.3f}  {ssim:6.4f}" in text
    assert "clipped and truncated to 8 bits" in text


BAD = {
    "nothing": ([], "--input is missing: wanted images, and --save"),
    "both": (["--input=in", "--split=test"], "or --split; not both"),
    "no output": (["--input=in"], "--save_path is missing"),
    "missing file": (["--input=in/aa.tif", "--save_path=o"], "Did you mean 'a.tif'"),
    "pattern": (["--input=no/*.tif", "--save_path=o"], "no file matches"),
    "tile": (["--input=in", "--save_path=o", "--tile_size=0"], "tile_size is 0"),
    "overlap": (["--input=in", "--save_path=o", "--overlap=9"], "half a tile of 16"),
    "batch": (["--input=in", "--save_path=o", "--batch_size=0"], "batch_size is 0"),
    "onto the input": (["--input=in", "--save_path=in"], "would be replaced"),
    "split": (["--split=val"], "has no Dataset.val.dataset"),
    "picture of a split": (["--split=test", "--residual"], "--residual goes with"),
    "override": (["--input=in", "--save_path=o", "Predictt.a=1"], "Did you mean"),
    "two models": (
        ["--input=in", "--save_path=o", "--model_name=x"],
        "give either model_name",
    ),
    "mode": (
        ["--input=in", "--save_path=o", "--mode=bf"],
        "mode=bf chooses a packaged model and does not go with config_path",
    ),
    "name": (["--input=in", "--save_path=in/a.tif"], "cannot be written to"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_options_give_exit_status_2(run, capsys, case):
    options, message = BAD[case]
    assert run(*options) == 2
    assert message in capsys.readouterr().out
    assert ToyImage.calls == []
    for name in "abc":
        assert read_micrograph(f"in/{name}.tif").data.shape == (20, 30)


def test_bad_models_and_foreign_outputs_give_exit_status_2(run, capsys):
    options = ["--input=in", "--save_path=out"]
    assert run(*options, weights="none.pdparams") == 2
    assert run(*options, model="none.yaml") == 2
    Path("out/b.tif").write_text("my own file")
    assert run(*options) == 2
    text = capsys.readouterr().out
    assert "out/b.tif was not written by this command" in text and "--overwrite" in text
    assert names_in("out") == ["b.tif"]
    assert run(*options, "--overwrite") == 0


def test_a_folder_that_another_process_writes_to(run, capsys):
    os.makedirs("out")
    with locked("out"):
        assert run("--input=in", "--save_path=out") == 2
    assert "out: another process is writing there" in capsys.readouterr().out
    assert names_in("out") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(run, capsys):
    os.makedirs("locked", mode=0o500)
    assert run("--input=in", "--save_path=locked") == 2
    assert "cannot be written to: Permission denied" in capsys.readouterr().out


def test_the_script_of_the_task_folder():
    script = ROOT / "spectrum_enhancement" / "predict.py"
    done = subprocess.run(
        [sys.executable, script, "--help"], capture_output=True, text=True, check=True
    )
    assert "--residual" in done.stdout and "Exit status" in done.stdout
