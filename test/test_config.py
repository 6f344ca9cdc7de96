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

"""Reading configurations: values, overrides, and errors that say where."""

import pytest
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ppmat.utils.config import SECTIONS
from ppmat.utils.config import check_global
from ppmat.utils.config import check_sections
from ppmat.utils.config import find_config
from ppmat.utils.config import load_config
from ppmat.utils.config import resolve_config
from ppmat.utils.config import save_config
from ppmat.utils.config import unset_variables
from ppmat.utils.registry import ConfigError

TEXT = """\
Global:
  root: ${oc.env:PPMAT_TEST_ROOT,fallback}
  lr: 1e-3
Model:
  layers: [1, {width: 2}]
  lr: ${Global.lr}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(TEXT)
    return path


def test_interpolations_are_resolved_to_plain_containers(file, monkeypatch):
    config = load_config(file)
    assert config == {
        "Global": {"root": "fallback", "lr": 0.001},
        "Model": {"layers": [1, {"width": 2}], "lr": 0.001},
    }
    assert type(config["Model"]) is dict and type(config["Model"]["layers"]) is list
    monkeypatch.setenv("PPMAT_TEST_ROOT", "/data")
    assert load_config(file)["Global"]["root"] == "/data"


def test_overrides_merge_before_interpolation(file):
    config = load_config(
        file,
        [
            "Global.lr=0.5",
            "Model.layers.1.width=3",
            "Trainer={max_epochs: 5}",
            "Global.names=[a,b]",
            "Global.none=null",
            "Global.copy=${Model.lr}",
            "Global.text=a=b",
        ],
    )
    assert config["Model"] == {"layers": [1, {"width": 3}], "lr": 0.5}
    assert config["Trainer"] == {"max_epochs": 5}
    assert config["Global"]["names"] == ["a", "b"]
    assert config["Global"]["none"] is None
    assert config["Global"]["copy"] == 0.5
    assert config["Global"]["text"] == "a=b"


def test_the_given_object_is_not_changed():
    given_config = {"Global": {"a": 1}}
    resolve_config(given_config, ["Global.a=2"])
    assert given_config == {"Global": {"a": 1}}


BAD_FILES = {
    "syntax": ("Global: [1\nModel: 2\n", r"model\.yaml:2:\d+: not valid YAML"),
    "duplicate key": ("Global:\n  a: 1\n  a: 2\n", r"model\.yaml:3:\d+.*duplicate"),
    "python object": (
        "Global: !!python/object/apply:os.system [ls]\n",
        r"model\.yaml:1:\d+: not valid YAML.*python/object",
    ),
    "section": ("Modle: {}\n", "unknown key 'Modle'.*Did you mean 'Model'"),
    "list": ("- 1\n", "top level must be a mapping.*got list"),
    "interpolation": ("Global: {a: '${Global.b}'}\n", "Global.a.*Global.b"),
    "grammar": ("Global: {a: '${'}\n", "Global.a"),
    "mandatory": ("Global:\n  a: ???\n", "Global.a.*[Mm]issing mandatory"),
    "environment": ("Global:\n  a: ${oc.env:PPMAT_NO_SUCH}\n", "PPMAT_NO_SUCH"),
    "resolver": ("Global:\n  a: ${eval:1}\n", "Global.a.*interpolation type eval"),
    "not text": (b"\xff\xfe\x00\xd8", "not valid YAML"),
}


@pytest.mark.parametrize("case", sorted(BAD_FILES))
def test_bad_file_names_the_place(file, case):
    content, message = BAD_FILES[case]
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message):
        load_config(file)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("Global.a", "expected KEY=VALUE"),
        ("=1", "expected KEY=VALUE"),
        ("Global.a=[1", "'Global.a=\\[1'"),
        ("Model.layers.7=1", "Model.layers"),
        ("Trainner.a=1", "Did you mean 'Trainer'"),
    ],
)
def test_bad_override_is_named(file, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(file, [override])


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="none.yaml: cannot be read"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="none.yaml, also not below task"):
        find_config("none.yaml", "task")


def test_config_is_found_as_given_then_below_the_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "a.yaml").touch()
    assert find_config("a.yaml", "task") == "task/a.yaml"
    (tmp_path / "a.yaml").touch()
    assert find_config("a.yaml", "task") == "a.yaml"


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(alphabet="abcXYZ 0123456789.:-_=#", max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(st.dictionaries(st.sampled_from(SECTIONS), plain))
def test_saved_config_is_read_back(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("c") / "deep" / "saved.yaml"
    save_config(config, path)
    assert load_config(path) == config


def test_values_are_never_run(tmp_path):
    """The twin that evaluates shows that the value would have run."""
    marker = tmp_path / "ran"
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    path = tmp_path / "a.yaml"
    OmegaConf.save(OmegaConf.create({"Model": {"__class_name__": code}}), path)
    assert load_config(path) == {"Model": {"__class_name__": code}}
    assert not marker.exists()
    eval(load_config(path)["Model"]["__class_name__"])  # noqa: S307
    assert marker.exists()


def test_the_nearest_configuration_is_named(tmp_path):
    folder = tmp_path / "configs"
    (folder / "sfin").mkdir(parents=True)
    (folder / "sfin" / "oc20.yaml").write_text("")
    for wrong in ("sfin/oc2.yaml", "oc20.yml", "configs/sfin/oc20.yalm"):
        with pytest.raises(
            ConfigError, match=r"Did you mean '(configs/)?sfin/oc20\.ya"
        ):
            find_config(wrong, tmp_path, folder)
    with pytest.raises(ConfigError, match=r"not found: zzz, also .*configs\.$"):
        find_config("zzz", tmp_path, folder)


def test_keys_of_global_need_a_use(file):
    file.write_text(
        "Global: {lr: 1, rate: 2, do_train: true}\nModel: {x: '${Global.lr}'}"
    )
    with pytest.raises(ConfigError, match=r"Global\.rate: nothing refers to it"):
        check_global(file)
    check_global(file, ["Model.y=${Global.rate}"])
    check_global(file, ["Global.rate=3", "Model.y='${Global.rate}'"])
    check_global(file, ["Global.rate=3", "Model.y=${Global.rate}", "Model.x=1"])
    with pytest.raises(ConfigError, match=r"Global\.do_trian.*Did you mean 'do_train'"):
        check_global(file, ["Global.do_trian=1", "Model.y=${Global.rate}"])


def test_a_file_without_interpolations_may_have_old_keys(file):
    """Such a file was written by a run, which has put the values into their places."""
    file.write_text("Global: {rate: 2}\nModel: {x: 2}")
    check_global(file)
    with pytest.raises(ConfigError, match=r"Global\.rate: nothing refers to it"):
        check_global(file, ["Global.rate=3"])


VARIABLES = """\
Global: {root: "${oc.env:PPMAT_A,a}", other: "${oc.env:PPMAT_B,b}"}
Model: {x: "${Global.other}"}
Dataset: {train: {path: "${Global.root}/train"}, val: "${Dataset.train}"}
Sample: {data: "${Dataset.val}", list: ["${oc.env:PPMAT_C, c}"]}
"""


@pytest.mark.parametrize(
    "overrides, sections, names",
    [
        ((), ["Dataset"], ["PPMAT_A"]),
        ((), ["Model"], ["PPMAT_B"]),
        ((), ["Sample"], ["PPMAT_A", "PPMAT_C"]),
        ((), ["Trainer"], []),
        (["Global.root=/mine"], ["Dataset", "Model"], ["PPMAT_B"]),
        (["Dataset.train.path=x"], ["Dataset"], []),
    ],
)
def test_variables_whose_default_is_used(file, overrides, sections, names, monkeypatch):
    file.write_text(VARIABLES)
    assert unset_variables(file, overrides, sections) == names
    for name in names:
        monkeypatch.setenv(name, "set")
    assert unset_variables(file, overrides, sections) == []


def test_a_section_is_a_mapping():
    check_sections({"Trainer": {}, "Metric": None})
    with pytest.raises(ConfigError, match="Trainer: 5; wanted a mapping of keys"):
        check_sections({"Trainer": 5})
