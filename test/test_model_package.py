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

"""The folder layout of registered models, and building one by name."""

import hashlib
import zipfile

import numpy as np
import paddle
import pytest

import ppmat.models as models
from ppmat.utils import download
from ppmat.utils.config import save_config
from ppmat.utils.model_package import find_packages
from ppmat.utils.model_package import get_model_config_path
from ppmat.utils.model_package import resolve_model_package_dir
from ppmat.utils.registry import ConfigError
from ppmat.utils.save_load import CheckpointError

NAME = "tiny_test_model"


class TinyModel(paddle.nn.Layer):
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.linear = paddle.nn.Linear(width, 1)


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(models.MODELS, "data", dict(models.MODELS))
    models.MODELS.register(TinyModel)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_flat_and_nested_packages_are_found(tmp_path):
    touch(tmp_path / "flat" / f"{NAME}.yaml")
    touch(tmp_path / "nested" / NAME / f"{NAME}.yml")
    flat = resolve_model_package_dir(NAME, str(tmp_path / "flat"))
    nested = resolve_model_package_dir(NAME, str(tmp_path / "nested"))
    assert flat == str(tmp_path / "flat")
    assert nested == str(tmp_path / "nested" / NAME)
    assert get_model_config_path(NAME, flat) == f"{flat}/{NAME}.yaml"
    assert get_model_config_path(NAME, nested) == f"{nested}/{NAME}.yml"


def test_package_without_its_yaml_is_refused(tmp_path):
    touch(tmp_path / "other.yaml")
    touch(tmp_path / "a" / "b" / f"{NAME}.yaml")
    with pytest.raises(FileNotFoundError, match=f"no '{NAME}.yaml'"):
        resolve_model_package_dir(NAME, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"no '{NAME}.yaml'"):
        get_model_config_path(NAME, str(tmp_path))


def test_ambiguous_packages_are_refused(tmp_path):
    touch(tmp_path / f"{NAME}.yaml")
    touch(tmp_path / NAME / f"{NAME}.yaml")
    with pytest.raises(ValueError, match="ambiguous"):
        resolve_model_package_dir(NAME, str(tmp_path))
    touch(tmp_path / f"{NAME}.yml")
    with pytest.raises(ValueError, match="ambiguous"):
        get_model_config_path(NAME, str(tmp_path))


@pytest.fixture
def package(tmp_path, monkeypatch, registered):
    """A zip in the download cache, so that nothing is fetched."""
    folder = tmp_path / "make" / NAME
    config = {
        "Model": {"__class_name__": "TinyModel", "__init_params__": {"width": 3}},
        "Predict": {"eval_with_no_grad": True},
    }
    save_config(config, folder / f"{NAME}.yaml")
    for name, value in (("best", 1.0), ("latest", 2.0)):
        weights = {
            "linear.weight": paddle.full([3, 1], value),
            "linear.bias": paddle.zeros([1]),
        }
        paddle.save(weights, str(folder / "checkpoints" / f"{name}.pdparams"))
    cache = tmp_path / "cache"
    cache.mkdir()
    with zipfile.ZipFile(cache / f"{NAME}.zip", "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder.parent))
    monkeypatch.setattr(download, "WEIGHTS_HOME", str(cache))
    monkeypatch.setitem(models.MODEL_REGISTRY, NAME, f"http://0.0.0.0/{NAME}.zip")
    return cache / f"{NAME}.zip"


def test_model_is_built_from_its_name(package):
    model, config = models.build_model_from_name(NAME)
    assert config["Model"]["__init_params__"] == {"width": 3}
    np.testing.assert_array_equal(model.linear.weight.numpy(), np.ones([3, 1]))
    model, _ = models.build_model_from_name(NAME, "latest.pdparams")
    np.testing.assert_array_equal(model.linear.weight.numpy(), 2 * np.ones([3, 1]))


def test_config_modifier_changes_the_model_before_it_is_built(package):
    def widen(block):
        return {**block, "__init_params__": {"width": 4}}

    with pytest.raises(CheckpointError, match="belongs to another model"):
        models.build_model_from_name(NAME, model_config_modifier=widen)


def test_trained_model_takes_overrides_of_other_sections_only(package):
    model, config = models.build_trained_model(
        NAME, config_overrides=["Predict.eval_with_no_grad=false"]
    )
    assert config["Predict"] == {"eval_with_no_grad": False}
    assert not model.training
    with pytest.raises(ConfigError, match="Model.a=1.*only Dataset, Metric"):
        models.build_trained_model(NAME, config_overrides=["Model.a=1"])


def test_package_yaml_cannot_run_code(package, tmp_path):
    marker = tmp_path / "ran"
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr(f"{NAME}.yaml", f'Model:\n  __class_name__: "{code}"\n')
    with pytest.raises(ConfigError, match="unknown model"):
        models.build_model_from_name(NAME)
    assert not marker.exists()


def test_unknown_name_lists_the_registered(package):
    with pytest.raises(ConfigError, match=f"Did you mean '{NAME}'"):
        models.build_model_from_name(NAME + "s")


def test_every_registered_model_names_its_package():
    downloads = 0
    for name, address in models.MODEL_REGISTRY.items():
        if download.is_url(address):
            assert address.endswith(f"/{name}.zip")
            assert models.package_label(name) is None
            downloads += 1
        else:
            assert address == str(models.PACKAGES / name)
    assert downloads == 4


def test_packages_of_a_folder(tmp_path):
    assert find_packages(tmp_path / "none") == {}
    touch(tmp_path / "b" / "b.yaml")
    touch(tmp_path / "a" / "a.yml")
    touch(tmp_path / "c" / "other.yaml")
    touch(tmp_path / "d.yaml")
    assert find_packages(tmp_path) == {n: str(tmp_path / n) for n in "ab"}


@pytest.fixture
def local(package, monkeypatch):
    """The same package, but in a folder, as those that are part of the tree."""
    folder = package.parents[1] / "make" / NAME
    monkeypatch.setitem(models.MODEL_REGISTRY, NAME, str(folder))
    monkeypatch.setattr(download, "WEIGHTS_HOME", "/nowhere")
    return folder


def test_a_local_package_is_built_as_a_downloaded_one(local):
    model, config = models.build_model_from_name(NAME)
    assert config["Model"]["__init_params__"] == {"width": 3}
    np.testing.assert_array_equal(model.linear.weight.numpy(), np.ones([3, 1]))
    model, _ = models.build_trained_model(NAME, "latest.pdparams")
    np.testing.assert_array_equal(model.linear.weight.numpy(), 2 * np.ones([3, 1]))


def test_a_local_package_says_what_it_is(local):
    with pytest.raises(ConfigError, match="results.yaml is missing"):
        models.package_label(NAME)
    for bad in ({}, {"trained_on": ""}, {"trained_on": 3}):
        save_config({"rows": [], **bad}, local / "results.yaml")
        with pytest.raises(ConfigError, match="results.yaml: trained_on is .*wanted"):
            models.package_label(NAME)
    save_config({"trained_on": "drawn images"}, local / "results.yaml")
    label = models.package_label(NAME)
    assert label["name"] == NAME and label["trained_on"] == "drawn images"
    assert label["results"].endswith(f"{NAME}/results.yaml")
    with pytest.raises(ConfigError, match="unknown registered model"):
        models.package_label("other")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either model_name"),
        ({"model_name": "a", "config_path": "b"}, "give either model_name"),
        ({"model_name": "a", "checkpoint_path": "b"}, "checkpoint_path goes with"),
        ({"config_path": "a", "weights_name": "b"}, "weights_name goes with"),
        ({"config_path": "none.yaml"}, "none.yaml: cannot be read"),
    ],
)
def test_arguments_that_do_not_go_together(arguments, message):
    with pytest.raises(ConfigError, match=message):
        models.build_trained_model(**arguments)


def test_own_model_needs_model_section_and_weights(tmp_path, registered):
    path = tmp_path / "a.yaml"
    save_config({"Predict": {}}, path)
    with pytest.raises(ConfigError, match="no weights"):
        models.build_trained_model(config_path=str(path))
    with pytest.raises(ConfigError, match="section Model is missing"):
        models.build_trained_model(config_path=str(path), checkpoint_path="x")


def test_predict_names_the_default_weights(tmp_path, registered):
    weights = str(tmp_path / "w.pdparams")
    source = TinyModel()
    paddle.save(source.state_dict(), weights)
    config = {
        "Model": {"__class_name__": "TinyModel"},
        "Predict": {"checkpoint_path": weights},
    }
    save_config(config, tmp_path / "a.yaml")
    model, _ = models.build_trained_model(config_path=str(tmp_path / "a.yaml"))
    np.testing.assert_array_equal(model.linear.weight, source.linear.weight)


def test_cache_notices_a_changed_archive(package):
    """With an md5 a new archive under the old name is unpacked again."""
    url = models.MODEL_REGISTRY[NAME]
    for text in ("Model: {a: 1}", "Model: {a: 2}"):
        with zipfile.ZipFile(package, "w") as archive:
            archive.writestr(f"{NAME}.yaml", text)
        md5 = hashlib.md5(package.read_bytes()).hexdigest()
        folder = download.get_weights_path_from_url(url, md5)
        assert open(f"{folder}/{NAME}.yaml").read() == text
