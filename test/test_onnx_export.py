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


"""ONNX files: checked, small, self-describing, and of use without this package."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
import tifffile
from helpers_folded import difference
from helpers_folded import eager
from helpers_folded import grey
from helpers_folded import trained_like
from helpers_image import replace_packaged_models
from helpers_image import write_image_model

from ppmat.commands import export_onnx as export_onnx_command
from ppmat.predictor import enhance
from ppmat.predictor import onnx_export
from ppmat.predictor import static_program
from ppmat.predictor.onnx_export import OnnxExportError
from ppmat.predictor.onnx_export import export_onnx
from ppmat.predictor.packaged_models import PACKAGED_MODELS
from ppmat.stem.images.grey_scaling import GREY
from ppmat.stem.images.grey_scaling import PERCENTILES
from ppmat.stem.images.micrograph import read_micrograph
from ppmat.stem.images.micrograph import write_micrograph
from ppmat.utils.config import save_config

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "spectrum_enhancement" / "examples" / "enhance_onnx.py"


@pytest.fixture(scope="module")
def model():
    return trained_like(num_blocks=1)


def session_of(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory):
    """Keep the compiled programs of these tests out of the user's cache."""
    folder = tmp_path_factory.mktemp("programs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(static_program, "default_cache_dir", lambda: folder)
        yield


@pytest.mark.parametrize("height, width", [(32, 32), (15, 18)])
def test_it_is_the_same_function(model, tmp_path, height, width):
    path = tmp_path / "folder" / "x.onnx"
    assert export_onnx(model, path, (height, width)) < 1e-6
    tile = grey(1, 1, height, width)
    (found,) = session_of(path).run(None, {"tile": tile})
    assert difference(found, eager(model, tile)) < 1e-6
    assert [p.name for p in path.parent.iterdir()] == ["x.onnx"]


def test_several_channels_in(tmp_path):
    model = trained_like(in_channels=2, base_channels=4, num_blocks=1)
    assert export_onnx(model, tmp_path / "x.onnx", (9, 10)) < 1e-6


def test_the_tables_stand_in_the_file_once(tmp_path):
    tile = 64
    sizes = []
    for blocks in (1, 3):
        path = tmp_path / f"{blocks}.onnx"
        export_onnx(trained_like(num_blocks=blocks), path, (tile, tile))
        sizes.append(path.stat().st_size)
    table = 4 * tile * 2 * tile
    assert sizes[0] > 3 * table
    assert sizes[1] - sizes[0] < 2 * table  # weights and nodes of two more blocks


def test_the_file_says_what_it_needs(model, tmp_path):
    path = tmp_path / "x.onnx"
    export_onnx(model, path, (32, 32), 8, (1.5, 0.25), name="sfin_haadf_enhance")
    about = json.loads(session_of(path).get_modelmeta().custom_metadata_map["ppmat"])
    assert about.pop("versions")["paddle"] == paddle.__version__
    assert about.pop("weights") == onnx_export.fingerprint(model)
    assert about == {
        "tile": [32, 32],
        "overlap": 8,
        "scaling": [1.5, 0.25],
        "percentiles": [0.1, 99.9],
        "grey": [2.0, 214.0],
        "model": "sfin_haadf_enhance",
        "target": "gt_enhance",
    }


def wrong_columns(self, x):
    cosine, sine = self.halves(self.add("MatMul", "columns", x), axis=2)
    return [*self.halves(sine, axis=3), *self.halves(cosine, axis=3)]


def test_a_wrong_file_is_not_written(model, tmp_path, monkeypatch):
    path = tmp_path / "x.onnx"
    path.write_text("old")
    monkeypatch.setattr(onnx_export._Graph, "columns", wrong_columns)
    with pytest.raises(OnnxExportError, match="of the range, more than 1e-04"):
        export_onnx(model, path, (16, 16))
    assert path.read_text() == "old"
    assert export_onnx(model, path, (16, 16), check=False) is None
    assert path.stat().st_size > 1000


def test_weights_with_nan_are_found(tmp_path):
    model = trained_like(num_blocks=1)
    model.tail_conv.bias.set_value(paddle.full([1], float("nan")))
    with pytest.raises(OnnxExportError, match="differ by inf of the range"):
        export_onnx(model, tmp_path / "x.onnx", (16, 16))
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(OnnxExportError, match=r"onnxruntime .* 'ppmat\[onnx\]'"):
        export_onnx(model, tmp_path / "x.onnx", (16, 16))
    assert export_onnx(model, tmp_path / "x.onnx", (16, 16), check=False) is None
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(OnnxExportError, match="onnx is not installed"):
        export_onnx(model, tmp_path / "y.onnx", (16, 16), check=False)


# The command ----------------------------------------------------------------------


def write_sfin(folder, base_channels=8):
    """Write YAML and weights of a small SFIN; returns options of the command."""
    model = trained_like(num_blocks=1, base_channels=base_channels)
    params = {"base_channels": base_channels, "num_blocks": 1}
    config = {
        "Model": {"__class_name__": "SFIN", "__init_params__": params},
        "Predict": {"tile_size": 32, "overlap": 8},
    }
    save_config(config, str(folder / "model.yaml"))
    paddle.save(model.state_dict(), str(folder / "w.pdparams"))
    return [
        f"--config_path={folder / 'model.yaml'}",
        f"--checkpoint_path={folder / 'w.pdparams'}",
    ]


def command(*argv):
    return export_onnx_command.main(
        str(ROOT / "spectrum_enhancement"), list(map(str, argv))
    )


def test_the_command_writes_a_file(tmp_path, capsys):
    options = write_sfin(tmp_path)
    path = tmp_path / "x.onnx"
    assert command(*options, f"--output={path}") == 0
    assert "ONNX Runtime and Paddle differ by" in capsys.readouterr().out
    assert session_of(path).get_inputs()[0].shape == [1, 1, 32, 32]
    argv = [f"--output={path}", "--tile_size=24", "--no_check"]
    assert command(*options, *argv) == 0
    assert "not compared with Paddle" in capsys.readouterr().out
    assert session_of(path).get_inputs()[0].shape == [1, 1, 24, 24]


def test_bad_input_ends_with_2(tmp_path, capsys):
    def fails(*argv):
        assert command(*argv) == 2
        return capsys.readouterr().out

    options = write_sfin(tmp_path)
    output = f"--output={tmp_path / 'x.onnx'}"
    assert "wanted FILE.onnx" in fails(*options, "--output=x.tif")
    assert "half a tile of 32, 16" in fails(*options, output, "--overlap=17")
    assert "wanted at least 1" in fails(*options, output, "--tile_size=0")
    (tmp_path / "file").write_text("")
    below = f"--output={tmp_path / 'file' / 'x.onnx'}"
    assert "cannot be written" in fails(*options, below)
    wider = "Model.__init_params__.base_channels=12"
    assert "CheckpointError" in fails(*options, output, wider)
    missing = f"--checkpoint_path={tmp_path / 'no.pdparams'}"
    assert "do not exist" in fails(options[0], missing, output)
    toy = write_image_model(tmp_path / "toy")
    toy = [f"--{name}={value}" for name, value in toy.items()]
    assert "ToyImage cannot be written as ONNX; wanted SFIN" in fails(*toy, output)
    assert not (tmp_path / "x.onnx").exists()


def test_without_a_model_the_packaged_one_is_written(tmp_path, monkeypatch, capsys):
    replace_packaged_models(tmp_path, monkeypatch)
    output = f"--output={tmp_path / 'x.onnx'}"
    assert command(output, "--mode=bf") == 2  # the stand-in is no SFIN
    text = capsys.readouterr().out
    assert (
        f"Packaged model '{PACKAGED_MODELS['bf']}'" in text
        and "ToyImage cannot" in text
    )
    assert command(*write_sfin(tmp_path), output, "--mode=bf") == 2
    assert "does not go with config_path" in capsys.readouterr().out


# The example ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("enhance_onnx", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "shape, kind",
    [((70, 53), "float64"), ((32, 32), "uint16"), ((20, 41), "float32")],
)
def test_the_example_does_what_enhance_does(example, model, tmp_path, shape, kind):
    path = tmp_path / "x.onnx"
    export_onnx(model, path, (32, 32), 8)
    image = (grey(*shape) * 31.7 + 900).astype(kind)
    expected = enhance(image, model, tile_size=32, overlap=8)
    found = example.enhance(image.astype(np.float64), session_of(path))
    assert found.dtype == np.float32 and found.shape == shape
    assert difference(found, expected) < 1e-5
    # The twin without overlap is another picture.
    about = json.loads(session_of(path).get_modelmeta().custom_metadata_map["ppmat"])
    assert about["overlap"] == 8
    if max(shape) > 32:
        other = enhance(image, model, tile_size=32, overlap=0)
        assert difference(other, expected) > 1e-4


@pytest.mark.parametrize("scaling", ["grey", (20.0, 3.0)])
def test_the_example_takes_the_scaling_of_the_file(example, model, tmp_path, scaling):
    path = tmp_path / "x.onnx"
    export_onnx(model, path, (32, 32), 8, scaling)
    image = grey(32, 40)
    expected = enhance(image, model, tile_size=32, overlap=8, scaling=scaling)
    assert difference(example.enhance(image, session_of(path)), expected) < 1e-5


def test_the_example_leaves_a_map_in_grey_levels(example, model, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "target_name", "gt_detect")
    path = tmp_path / "x.onnx"
    export_onnx(model, path, (16, 16), 4, check=False)
    image = grey(16, 16) * 31.7 + 900
    found = example.enhance(image, session_of(path))
    low, high = np.percentile(image, PERCENTILES)
    levels = GREY[0] + (image - low) / (high - low) * (GREY[1] - GREY[0])
    assert difference(found, eager(model, levels[None, None])[0, 0]) < 1e-5
    assert not example.enhance(np.full((20, 20), 7.5), session_of(path)).any()


def test_the_example_leaves_constant_images_and_refuses_others(
    example, model, tmp_path
):
    path = tmp_path / "x.onnx"
    export_onnx(model, path, (16, 16), 4)
    constant = np.full((20, 20), 7.5)
    np.testing.assert_array_equal(example.enhance(constant, session_of(path)), constant)
    for bad in (np.zeros((2, 16, 16)), np.full((16, 16), np.nan)):
        with pytest.raises(SystemExit, match="wanted one image without NaN"):
            example.enhance(bad, session_of(path))


def test_the_example_needs_neither_paddle_nor_this_package(model, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    export_onnx(model, tmp_path / "x.onnx", (32, 32), 8)
    tifffile.imwrite(tmp_path / "in.tif", grey(40, 33))
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['x', 'x.onnx', 'in.tif', 'out.tif']\n"
        f"runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')\n"
        "assert not {'paddle', 'ppmat'} & set(sys.modules)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    out = tifffile.imread(tmp_path / "out.tif")
    assert out.shape == (40, 33) and out.dtype == np.float32


@pytest.mark.parametrize("kind", ["imagej", "micrograph", "ome", "dm", "npy"])
def test_the_example_keeps_the_pixel_size(example, model, tmp_path, kind):
    export_onnx(model, tmp_path / "x.onnx", (32, 32), 8)
    image = grey(40, 36).astype(np.float32)
    source, target = tmp_path / "in.tif", tmp_path / "out.tif"
    size, units = (0.013, 0.012), "nm"
    resolution = (1 / size[1], 1 / size[0])
    if kind == "imagej":
        options = {"imagej": True, "metadata": {"unit": "nm"}}
        tifffile.imwrite(source, image, resolution=resolution, **options)
    elif kind == "micrograph":
        units = "Å"
        write_micrograph(source, image, size, units)
    elif kind == "ome":
        about = {f"PhysicalSize{a}": v for a, v in zip("YX", size)}
        about |= {"PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "nm", "axes": "YX"}
        tifffile.imwrite(source, image, ome=True, metadata=about)
    elif kind == "dm":
        tags = [(65003, "s", 0, "nm", True), (65004, "s", 0, "nm", True)]
        tags += [(65009, "d", 1, size[1], True), (65010, "d", 1, size[0], True)]
        tifffile.imwrite(source, image, extratags=tags)
    else:
        source, target = tmp_path / "in.npy", tmp_path / "out.npy"
        np.save(source, image)
    example.main(str(tmp_path / "x.onnx"), str(source), str(target))
    found = read_micrograph(target)
    expected = enhance(image, model, tile_size=32, overlap=8)
    assert found.data.dtype == np.float32
    assert difference(found.data, expected) < 1e-5
    if kind != "npy":
        assert found.pixel_size == pytest.approx(size, rel=1e-6)
        assert found.units == units


def test_the_example_refuses_a_png(example, tmp_path):
    with pytest.raises(SystemExit, match="out.png: the result is float32, which only"):
        example.main("x.onnx", "in.tif", str(tmp_path / "out.png"))
    assert not list(tmp_path.iterdir())
