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


"""Images through a model: arrays, tensors, files, resumed runs, real networks."""

import json
import os
from pathlib import Path

import helpers_image
import numpy as np
import paddle
import pytest
from helpers_image import TILE
from helpers_image import ToyImage
from helpers_image import picture
from helpers_image import replace_packaged_models
from helpers_image import toy
from helpers_image import write_image_model
from helpers_image import write_pictures

from ppmat.models.sfin.sfin import SFIN
from ppmat.predictor import SpectrumPredictor
from ppmat.predictor import enhance
from ppmat.predictor import spectrum_predictor
from ppmat.predictor import static_program
from ppmat.predictor.image_store import output_names
from ppmat.predictor.packaged_models import MODELS_OF_TASK
from ppmat.predictor.packaged_models import PACKAGED_MODELS
from ppmat.predictor.packaged_models import choose_model_name
from ppmat.predictor.tile_model import EnhanceOptions
from ppmat.predictor.tile_model import TileModel
from ppmat.stem.images.image_inputs import ImageFile
from ppmat.stem.images.micrograph import read_micrograph
from ppmat.stem.images.micrograph import write_micrograph
from ppmat.utils.download import hash_of_file
from ppmat.utils.files import StoredRunError
from ppmat.utils.registry import ConfigError


@pytest.fixture
def arguments(tmp_path):
    ToyImage.calls.clear()
    return write_image_model(tmp_path / "model")


@pytest.fixture
def predictor(arguments):
    return SpectrumPredictor(**arguments, device="cpu")


def names_in(folder):
    """Return the files of a folder but its lock."""
    return {path.name for path in folder.iterdir()}


def expected(x, **options):
    return enhance(x, toy, tile_size=TILE, overlap=4, **options)


def test_arrays(predictor):
    x = picture()
    found = predictor.enhance(x)
    np.testing.assert_allclose(found, expected(x), atol=1e-5)
    assert all(shape == [1, 1, TILE, TILE] for shape in ToyImage.calls)
    assert predictor.defaults == EnhanceOptions("robust", TILE, 4)
    grey = 200 * x
    found = enhance(grey, predictor, scaling="grey", batch_size=3, ensemble=True)
    wanted = expected(grey, scaling="grey", ensemble=True)
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    record = predictor.enhance_image(x).record
    assert record["model"] == {"__class_name__": "ToyImage"}
    assert len(record["weights"]) == 16 and "paddle" in record["versions"]


def test_upstreams_form_of_a_call(predictor):
    x = picture()
    wanted = predictor.enhance(x)
    for image in (x, x[None], x[None, None], paddle.to_tensor(x[None])):
        result = predictor.from_image(image)
        assert list(result) == ["gt_enhance"]
        assert list(result["gt_enhance"].shape) == [1, 1, 20, 30]
        np.testing.assert_array_equal(result["gt_enhance"].numpy()[0, 0], wanted)
    both = predictor.from_image([x, picture(16, 40)])
    assert [list(r["gt_enhance"].shape[2:]) for r in both] == [[20, 30], [16, 40]]
    for shape in ((9,), (3, 20, 30), (2, 3, 20, 30)):
        with pytest.raises(ValueError, match="from_image: .*wanted"):
            predictor.from_image(np.zeros(shape))


def test_section_predict(arguments, tmp_path):
    changes = ["Predict.scaling=grey", "Predict.tile_size=32", "Predict.overlap=8"]
    predictor = SpectrumPredictor(**arguments, config_overrides=changes)
    record = predictor.enhance_image(100 * picture(50, 50)).record
    assert (record["tile"], record["overlap"]) == ([32, 32], 8)
    assert record["scaling"] == "grey"
    changes = ["Predict.background=keep", "Predict.resample=off"]
    changes += ["Predict.background_limit=0.7", "Global.spacing=[3,48]"]
    predictor = SpectrumPredictor(**arguments, config_overrides=changes)
    record = predictor.enhance_image(100 * picture(50, 50)).record
    assert (record["background"], record["resample"]) == ("keep", "off")
    assert record["trained"] == {"spacing": [3.0, 48.0], "background": 0.7}
    predictor = SpectrumPredictor(**write_image_model(tmp_path, Predict={}))
    assert predictor.defaults == EnhanceOptions("robust", 256, 64)


@pytest.mark.parametrize(
    "change",
    [
        "tile_size=big",
        "tile_size=true",
        "overlap=9",
        "tile_size=0",
        "scaling=minmax",
        "background=flat",
        "resample=on",
        "spacing=[9]",
        "spacing=[36,9]",
        "background_limit=0",
    ],
)
def test_section_predict_that_cannot_be_meant(arguments, change):
    with pytest.raises(ConfigError, match="Predict"):
        SpectrumPredictor(**arguments, config_overrides=[f"Predict.{change}"])


def test_a_model_that_gives_no_image(tmp_path):
    arguments = write_image_model(tmp_path, model="ToyPotential")
    with pytest.raises(ConfigError, match="ToyPotential has no 'target_name'"):
        SpectrumPredictor(**arguments)


def test_networks_and_names(arguments):
    network = ToyImage()
    with pytest.raises(ValueError, match=r"training mode.*\.eval\(\)"):
        enhance(picture(), network)
    network.eval()
    x = picture()
    np.testing.assert_allclose(
        enhance(x, network, tile_size=TILE, overlap=4), expected(x), atol=1e-5
    )
    with pytest.raises(ConfigError, match="unknown registered model 'sfin_haadf'"):
        enhance(x, "sfin_haadf")


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    replace_packaged_models(tmp_path, monkeypatch)
    spectrum_predictor._packaged_model.cache_clear()
    yield
    spectrum_predictor._packaged_model.cache_clear()


def test_a_packaged_model_needs_no_name(packaged):
    x = 200 * picture()
    wanted = {"haadf": expected(x), "bf": enhance(x, doubled, tile_size=TILE)}
    assert abs(wanted["haadf"] - wanted["bf"]).max() > 10
    for mode in PACKAGED_MODELS:
        predictor = SpectrumPredictor(mode=mode)
        assert predictor.model_name == PACKAGED_MODELS[mode]
        assert predictor.describe()["package"]["trained_on"] == f"drawn {mode}"
        np.testing.assert_allclose(predictor.enhance(x), wanted[mode], atol=1e-3)
        np.testing.assert_allclose(enhance(x, mode=mode), wanted[mode], atol=1e-3)
    assert SpectrumPredictor().model_name == PACKAGED_MODELS["haadf"]
    np.testing.assert_array_equal(enhance(x), enhance(x, mode="haadf"))
    assert (
        spectrum_predictor._packaged_model.cache_info().misses == 2
    )  # loaded once each
    as_tile_model = spectrum_predictor.as_tile_model
    assert as_tile_model(None) is as_tile_model(None, "haadf")


def doubled(tiles):
    return toy(tiles, 2.0)


def test_a_mode_beside_a_model_is_refused(arguments, packaged):
    with pytest.raises(ConfigError, match="mode=bf .*config_path and checkpoint_path"):
        SpectrumPredictor(**arguments, mode="bf")
    with pytest.raises(ConfigError, match="does not go with model_name"):
        SpectrumPredictor(model_name=PACKAGED_MODELS["bf"], mode="bf")
    with pytest.raises(ConfigError, match="'df'; wanted 'haadf' or 'bf'"):
        SpectrumPredictor(mode="df")
    with pytest.raises(ValueError, match="'df'; wanted 'haadf' or 'bf'"):
        enhance(picture(), mode="df")
    with pytest.raises(ValueError, match="mode='bf' chooses a packaged model"):
        enhance(picture(), toy, mode="bf")
    with pytest.raises(ConfigError, match="give either model_name"):
        SpectrumPredictor(checkpoint_path=arguments["checkpoint_path"])


# Maps of columns ------------------------------------------------------------------


def test_a_map_of_columns_stays_in_grey_levels(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(ToyImage, "target_name", "gt_detect")
    predictor = SpectrumPredictor(**arguments)
    x = 1e-3 * picture() - 7.0
    result = predictor.enhance_image(x)
    frame = result.record["frames"][0]
    assert result.record["output_values"] == "map of columns, grey levels 0 to 255"
    grey = (x.astype("f8") - frame["offset"]) / frame["scale"]
    wanted = enhance(grey, toy, scaling="grey", tile_size=TILE, overlap=4)
    np.testing.assert_allclose(result.image, wanted, atol=0.02)
    assert 20 < result.image.mean() < 200
    # Units and gain of the detector do not reach a map.
    again = predictor.enhance(50 * x + 3)
    np.testing.assert_allclose(again, result.image, atol=0.1)
    assert result.whiteness is None and result.flags == {}
    with pytest.raises(ValueError, match="has no residual"):
        _ = result.residual
    x[2, 3] = np.nan
    holed = predictor.enhance(x)
    assert np.isnan(holed[2, 3]) and np.isnan(holed).sum() == 1
    empty = predictor.enhance_image(np.full((20, 20), 5.0))
    assert "constant" in empty.flags and not empty.image.any()
    write_pictures(tmp_path / "in", ["a"])
    with pytest.raises(ConfigError, match="residual: the model gives a map"):
        predictor.from_files(tmp_path / "in", tmp_path / "out", residual=True)
    (row,) = predictor.from_files(tmp_path / "in", tmp_path / "out", progress=False)
    np.testing.assert_array_equal(
        read_micrograph(row["output"]).data, predictor.enhance(picture())
    )


def test_super_resolution_has_the_units_of_the_image_and_no_offset(
    arguments, monkeypatch
):
    """The same network as an enhancer differs by the offset alone."""
    x = 1e-3 * picture() - 7.0
    clean = SpectrumPredictor(**arguments).enhance_image(x)
    monkeypatch.setattr(ToyImage, "target_name", "gt_superresolution")
    predictor = SpectrumPredictor(**arguments)
    result = predictor.enhance_image(x)
    frame = result.record["frames"][0]
    assert "spots on zero" in result.record["output_values"]
    offset = clean.image.astype("f8") - result.image
    assert offset == pytest.approx(frame["offset"], abs=1e-5)
    # Equivariance: f(a x + b) = a f(x).
    again = predictor.enhance(50 * x.astype("f8") + 3)
    np.testing.assert_allclose(again, 50 * result.image, rtol=1e-3, atol=1e-4)
    assert result.whiteness is None
    with pytest.raises(ValueError, match="has no residual"):
        _ = result.residual
    assert not predictor.enhance(np.full((20, 20), 5.0)).any()


def test_a_task_chooses_a_packaged_model(arguments):
    assert choose_model_name(task="enhance") == PACKAGED_MODELS["haadf"]
    name = choose_model_name(task="superresolution")
    assert name == MODELS_OF_TASK["superresolution"]["haadf"]
    with pytest.raises(ConfigError, match="'draw'; wanted 'enhance' or 'superres"):
        choose_model_name(task="draw")
    with pytest.raises(ConfigError, match="no BF model for superres.*for HAADF only"):
        choose_model_name("bf", task="superresolution")
    with pytest.raises(ConfigError, match="task=enhance .*does not go with config_pa"):
        SpectrumPredictor(**arguments, task="enhance")


# A real network -------------------------------------------------------------------


@pytest.fixture(scope="module")
def sfin():
    """A small SFIN in evaluation mode with used statistics."""
    paddle.seed(3)
    network = SFIN(base_channels=8, num_blocks=1)
    network.train()
    for seed in range(3):
        network(255 * picture(32, 32, seed)[None, None])
    network.eval()
    return network


def test_sfin_through_its_program(sfin):
    x = picture(40, 70)
    found = enhance(x, sfin, tile_size=32)

    def eager(tiles):
        with paddle.no_grad():
            return sfin(tiles).numpy()

    wanted = enhance(x, eager, tile_size=32)
    assert abs(found - wanted).max() < 1e-4 * np.ptp(wanted)
    assert np.ptp(wanted) > 0
    assert type(TileModel(sfin).runner(32, 32)).__name__ == "StaticProgram"


def test_sfin_scales_and_shifts(sfin):
    x = picture(40, 70).astype("f8")
    y = enhance(x, sfin, tile_size=32)
    for gain, shift in ((1e-4, 0.02), (3e4, -1e4), (1.0, 1e3)):
        found = enhance(gain * x + shift, sfin, tile_size=32)
        assert abs(found - (gain * y + shift)).max() < 1e-4 * gain * np.ptp(y)


# Files ----------------------------------------------------------------------------


def test_files(predictor, tmp_path):
    paths = write_pictures(tmp_path / "in")
    rows = predictor.from_files(tmp_path / "in", tmp_path / "out", progress=False)
    assert [row["input"] for row in rows] == paths
    assert not any(row["skipped"] or row["error"] for row in rows)
    for seed, row in enumerate(rows):
        found = read_micrograph(row["output"])
        x = picture(seed=seed)
        np.testing.assert_array_equal(found.data, predictor.enhance(x))
        assert found.data.dtype == np.float32
        assert found.pixel_size == pytest.approx((0.0118, 0.0118))
        assert found.units == "nm"
        assert found.metadata["ppmat"]["weights"] == predictor.describe()["weights"]
        told = json.loads(Path(row["output"] + ".json").read_text())
        assert told["input"]["path"] == os.path.abspath(paths[seed])
        assert told["input"]["pixel_size"] == pytest.approx([0.0118, 0.0118])
        assert told["record"]["frames"][0]["scale"] > 0
        assert told["settings"]["scaling"] == "robust"
    names = {f"{n}.tif{end}" for n in "abc" for end in ("", ".json")}
    assert names_in(tmp_path / "out") == names


def test_a_folder_in_upstreams_form(predictor, tmp_path):
    write_pictures(tmp_path / "in")
    results = predictor.from_image_file(tmp_path / "in", save_path=tmp_path / "out")
    assert [list(r) for r in results] == [["gt_enhance"]] * 3
    for name, result in zip("abc", results, strict=True):
        image = result["gt_enhance"].numpy()[0, 0]
        found = read_micrograph(tmp_path / "out" / f"{name}.tif").data
        np.testing.assert_array_equal(found, image)
    (one,) = predictor.from_image_file(tmp_path / "in" / "b.tif")
    np.testing.assert_array_equal(one["gt_enhance"], results[1]["gt_enhance"])


def test_stacks_and_other_formats(predictor, tmp_path):
    stack = np.stack([picture(seed=i) for i in range(3)])
    np.save(tmp_path / "s.npy", stack)
    for format in ("npy", "tif", "mrc"):
        (row,) = predictor.from_files(
            tmp_path / "s.npy", tmp_path / "out", format=format, residual=True
        )
        found = read_micrograph(row["output"]).data
        np.testing.assert_array_equal(found, predictor.enhance(stack))
        assert Path(row["output"] + ".residual.png").stat().st_size > 10_000


def test_a_stopped_run_goes_on(predictor, tmp_path, monkeypatch):
    write_pictures(tmp_path / "in")

    def run(**options):
        ToyImage.calls.clear()
        return predictor.from_files(
            tmp_path / "in", tmp_path / "out", progress=False, **options
        )

    class Killed(BaseException):
        pass

    def dies(path, *_args, **_options):
        raise Killed

    write = write_micrograph
    order = []

    def second_dies(path, *args, **options):
        order.append(path)
        (write if len(order) < 2 else dies)(path, *args, **options)

    monkeypatch.setattr("ppmat.predictor.image_store.write_micrograph", second_dies)
    with pytest.raises(Killed):
        run()
    monkeypatch.undo()
    assert names_in(tmp_path / "out") == {"a.tif", "a.tif.json"}
    first = (tmp_path / "out" / "a.tif").read_bytes()
    assert [row["skipped"] for row in run()] == [True, False, False]
    assert (tmp_path / "out" / "a.tif").read_bytes() == first
    assert [row["skipped"] for row in run()] == [True, True, True]
    assert ToyImage.calls == []
    # A description without its image is that of a run that was killed between.
    (tmp_path / "out" / "b.tif").unlink()
    assert [row["skipped"] for row in run()] == [True, False, True]
    assert [row["skipped"] for row in run(residual=True)] == [False] * 3
    assert [row["skipped"] for row in run(overwrite=True)] == [False] * 3


def test_what_is_there_is_not_overwritten(predictor, arguments, tmp_path):
    (path,) = write_pictures(tmp_path / "in", ["a"])
    out = tmp_path / "out"

    def run(predictor=predictor, **options):
        return predictor.from_files(path, out, progress=False, **options)

    run()
    before = (out / "a.tif").read_bytes()
    with pytest.raises(
        StoredRunError, match="a.tif.json: belongs to a run with other scal"
    ):
        run(scaling="grey")
    with pytest.raises(StoredRunError, match="a run with other overlap, tile_size"):
        run(tile_size=32)
    other = write_image_model(tmp_path / "other", 2.0)
    with pytest.raises(StoredRunError, match="a run with other weights"):
        run(SpectrumPredictor(**other))
    write_micrograph(path, picture(seed=9))
    with pytest.raises(StoredRunError, match="made from another input"):
        run()
    assert (out / "a.tif").read_bytes() == before
    run(overwrite=True)
    (out / "a.tif").write_bytes(before)
    with pytest.raises(StoredRunError, match="was changed since it was written"):
        run()
    (out / "a.tif.json").unlink()
    with pytest.raises(StoredRunError, match="was not written by this command"):
        run()
    (out / "a.tif.json").write_text("{}")
    with pytest.raises(StoredRunError, match="a.tif.json: is damaged, or another"):
        run()
    with pytest.raises(ConfigError, match="is an input and would be replaced"):
        predictor.from_files(path, tmp_path / "in", overwrite=True)
    np.testing.assert_array_equal(read_micrograph(path).data, picture(seed=9))


def test_a_file_that_fails(predictor, tmp_path):
    write_pictures(tmp_path / "in", ["a"])
    good = (tmp_path / "in" / "a.tif").read_bytes()
    (tmp_path / "in" / "b.tif").write_bytes(good[: len(good) // 2])
    np.save(tmp_path / "in" / "c.npy", np.full((8, 8), np.nan, "f4"))
    rows = predictor.from_files(tmp_path / "in", tmp_path / "out", on_error="flag")
    assert [row["error"] is None for row in rows] == [True, False, False]
    assert "b.tif" in rows[1]["error"] and "c.npy" in rows[2]["error"]
    assert "no pixel can be used" in rows[2]["error"]
    assert len(names_in(tmp_path / "out")) == 2
    with pytest.raises(ValueError, match="b.tif"):
        predictor.from_files(tmp_path / "in", tmp_path / "out2", progress=False)
    with pytest.raises(ValueError, match="on_error"):
        predictor.from_files(tmp_path / "in", tmp_path / "out2", on_error="skip")


def test_a_wrong_engine_ends_the_run(predictor, sfin, tmp_path, monkeypatch):
    write_pictures(tmp_path / "in")
    predictor.tiles = TileModel(sfin, defaults=EnhanceOptions("robust", 24, 6))
    monkeypatch.setattr(static_program, "default_cache_dir", lambda: tmp_path / "p")
    monkeypatch.setattr(static_program, "_TOLERANCE", -1.0)
    with pytest.raises(static_program.StaticProgramError, match="of the range"):
        predictor.from_files(tmp_path / "in", tmp_path / "out", on_error="flag")
    assert names_in(tmp_path / "out") == set()


def test_a_second_run_in_the_same_folder_is_refused(predictor, tmp_path):
    write_pictures(tmp_path / "in")
    rows = predictor.iter_files(tmp_path / "in", tmp_path / "out")
    next(rows)
    with pytest.raises(StoredRunError, match="another process is writing there"):
        predictor.from_files(tmp_path / "in", tmp_path / "out")
    assert len(list(rows)) == 2


def test_files_are_hashed_once(predictor, tmp_path, monkeypatch):
    write_pictures(tmp_path / "in")
    hashed = []

    def count(path):
        hashed.append(Path(path).name)
        return hash_of_file(path)

    monkeypatch.setattr("ppmat.predictor.image_store.hash_of_file", count)
    predictor.from_files(tmp_path / "in", tmp_path / "out")
    assert len(hashed) == 6 and {"a.tif", "b.tif", "c.tif"} < set(hashed)
    (tmp_path / "out" / "b.tif").unlink()
    hashed.clear()
    predictor.from_files(tmp_path / "in", tmp_path / "out")
    # Three inputs; the two outputs that are there, and the new one.
    assert len(hashed) == 6 and hashed.count("b.tif") == 1


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/d/a.tif", "/d/b.tif"], ["a", "b"]),
        (["/d/a.tif", "/d/a.dm4", "/d/b.tif"], ["a_tif", "a_dm4", "b"]),
        (["/d/x/a.tif", "/d/y/a.tif"], ["x_a_tif", "y_a_tif"]),
        (["/d/x/s/a.tif", "/d/y/s/a.tif"], ["x_s_a_tif", "y_s_a_tif"]),
        (["/d/a.tif", "/d/a.dm4", "/d/a_tif.npy"], ["d_a_tif", "a_dm4", "a_tif_npy"]),
    ],
)
def test_names_of_outputs_differ(paths, names):
    assert output_names([ImageFile(path) for path in paths]) == names


def test_names_of_files_that_hold_several_images():
    many = [ImageFile("/d/a.emd", 0), ImageFile("/d/a.emd", 1)]
    assert output_names(many) == ["a_0", "a_1"]


def test_names_that_differ_in_large_letters_only():
    with pytest.raises(ConfigError, match="would both become"):
        output_names([ImageFile("/d/a.tif"), ImageFile("/d/A.tif")])


def test_the_helper_network_is_the_one_of_numpy():
    tiles = np.random.default_rng(0).normal(size=(2, 1, 8, 8)).astype("f4")
    with paddle.no_grad():
        found = helpers_image.ToyImage(2.0)(paddle.to_tensor(tiles)).numpy()
    np.testing.assert_allclose(found, toy(tiles, 2.0), atol=1e-6)
