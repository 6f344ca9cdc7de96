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

"""``Dataset.transform``: statistics of the training labels, by hand and by command."""

import math
import re
import statistics
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers_trainer import read_rows
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from paddle import io
from pymatgen.core import Element

from ppmat.commands import train as entry
from ppmat.commands.options import EXIT_BAD_INPUT
from ppmat.datasets import OC20IS2REDataset
from ppmat.datasets.custom_data_type import ConcatData
from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_lmdb import OC20FormatError
from ppmat.datasets.oc20_writer import write_lmdb
from ppmat.datasets.transform import run_dataset_transform
from ppmat.utils import logger
from ppmat.utils import save_load
from ppmat.utils.config import load_config
from ppmat.utils.config import save_config
from ppmat.utils.element_properties import PROPERTIES
from ppmat.utils.element_properties import element_properties
from ppmat.utils.registry import ConfigError

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = str(ROOT / "structure_generation/example_data/oc20_emt")
TASK = str(ROOT / "property_prediction")
PLAIN = (
    "Dataset.transform.__class_name__=mean_std_scaling",
    "Dataset.transform.__init_params__=null",
)
SMOKE = "sfin_oc20_is2re_smoke.yaml"


class Labelled(io.Dataset):
    """Whole samples only; label ``y`` where it is known, ``rows`` per atom."""

    def __init__(self, labels):
        self.labels = list(labels)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        sample = {"id": f"s{index}", "rows": ConcatData(np.full([index + 1, 2], index))}
        if self.labels[index] is not None:
            sample["y"] = np.array([self.labels[index]], dtype="float32")
        return sample


class LabelledQuickly(Labelled):
    """Gives labels without making samples."""

    def __getitem__(self, index):
        raise AssertionError("a sample was made to read a label")

    def read_label(self, index, name):
        assert name == "y"
        return np.array([self.labels[index]], dtype="float32")


def measure(dataset, target="y", **loader):
    """Return mean and standard deviation over a data set."""
    return run_dataset_transform(
        "mean_std_scaling", io.DataLoader(dataset, **loader), target
    )


class Composed(Labelled):
    """Slabs of counts [n, elements] with labels that the counts explain."""

    def __init__(self, counts, labels):
        super().__init__(labels)
        self.counts = counts

    def __getitem__(self, index):
        elements = np.repeat([1, 8, 29], self.counts[index])
        atoms = {
            "atom_types": ConcatData(np.append(elements, [6, 6])),
            "tags": ConcatData(np.append(np.full(len(elements), 2), [0, 0])),
        }
        return {**super().__getitem__(index), "structure_array": atoms}


# By hand -----------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.floats(-1e3, 1e3, width=32, allow_subnormal=False), min_size=2, max_size=30
    )
)
def test_equals_the_statistics_module(labels):
    if len(set(labels)) == 1:
        return
    for dataset in (Labelled(labels), LabelledQuickly(labels)):
        mean, std = measure(dataset)
        assert mean == pytest.approx(statistics.fmean(labels), rel=1e-9, abs=1e-9)
        assert std == pytest.approx(statistics.stdev(labels), rel=1e-7, abs=1e-12)


def test_the_sampler_does_not_matter():
    """The twin that reads batches loses what drop_last drops."""
    data = Labelled([1.0, 2.0, 3.0, 4.0, 50.0])
    loader = {"batch_size": 2, "drop_last": True}
    assert measure(data, **loader)[0] == pytest.approx(12.0)
    twin = [float(y.mean()) for y in _labels_by_batch(data, 2)]
    assert np.mean(twin) == pytest.approx(2.5)


def _labels_by_batch(data, size):
    for first in range(0, len(data) - size + 1, size):
        yield np.array([data[i]["y"] for i in range(first, first + size)])


def test_a_part_of_a_data_set_is_measured_alone():
    part = io.Subset(io.Subset(LabelledQuickly([9, 1, 9, 3, 9, 8]), [5, 3, 1]), [1, 2])
    assert measure(part) == pytest.approx((2.0, math.sqrt(2)))


def test_labels_per_atom_count_each_number():
    assert measure(Labelled([1, 2]), "rows") == pytest.approx(
        (4 / 6, np.std([0, 0, 1, 1, 1, 1], ddof=1))
    )


def composed(noise=0.0, n=200):
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 5, (n, 3))
    labels = counts @ [0.5, -1.0, 2.0] - 3.0 + noise * rng.normal(size=n)
    return Composed(counts, labels)


def test_composition_finds_the_energies_of_the_elements():
    """Planted energies come back; atoms of other tags are not counted."""
    data = composed(noise=0.1)
    loader = io.DataLoader(data)
    mean, std, reference = run_dataset_transform(
        "composition_scaling", loader, "y", tags=[2]
    )
    assert reference == pytest.approx({"H": 0.5, "O": -1.0, "Cu": 2.0}, abs=0.03)
    assert mean == pytest.approx(-3.0, abs=0.1)
    assert std == pytest.approx(0.1, rel=0.1)
    assert measure(data)[1] > 10 * std


def test_composition_does_not_depend_on_the_origin_of_the_energies():
    a, b = composed(0.1), composed(0.1)
    b.labels = [y + 100.0 for y in b.labels]
    one, two = (
        run_dataset_transform("composition_scaling", io.DataLoader(d), "y", ridge=50.0)
        for d in (a, b)
    )
    assert two[0] - one[0] == pytest.approx(100.0, rel=1e-5)
    assert two[1] == pytest.approx(one[1], rel=1e-4)
    assert two[2] == pytest.approx(one[2], rel=1e-3)


class WithAdsorbates(Composed):
    """The same with several adsorbates in some slabs."""

    adsorbates = (1, 2, 1, 4, 3)

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        n = np.array([self.adsorbates[index % 5]])
        sample["structure_array"]["num_adsorbates"] = ConcatData(n)
        return sample


def test_the_mean_is_that_of_one_adsorbate():
    """A cell of n copies has n times the label; a mean taken once would differ."""
    n = np.tile(WithAdsorbates.adsorbates, 40)
    rng = np.random.default_rng(0)
    noise = 0.01 * rng.normal(size=200)
    mean, std = measure(WithAdsorbates(np.zeros([200, 3], int), -1.5 * n + noise))
    assert mean == pytest.approx(-1.5, abs=2e-3)
    assert std == pytest.approx(0.01, rel=0.1)
    once, _ = measure(Composed(np.zeros([200, 3], int), -1.5 * n + noise))
    assert once == pytest.approx(-1.5 * 11 / 5, rel=0.01)
    counts = rng.integers(0, 5, [200, 3]) * n[:, None]
    labels = -1.5 * n + counts @ [0.5, -2.0, 1.0] + noise
    loader = io.DataLoader(WithAdsorbates(counts, labels))
    mean, std, energies = run_dataset_transform(
        "composition_scaling", loader, "y", tags=[2], ridge=1e-6
    )
    assert mean == pytest.approx(-1.5, abs=5e-3)
    assert std == pytest.approx(0.01, rel=0.1)
    assert list(energies.values()) == pytest.approx([0.5, -2.0, 1.0], abs=5e-3)


class OnSurfaces(Composed):
    """Adsorbates of counts [n, elements] on surfaces of two metals each."""

    def __init__(self, counts, labels, metals):
        super().__init__(counts, labels)
        self.metals = metals

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        atoms = sample["structure_array"]
        z, tags = atoms["atom_types"].data, atoms["tags"].data
        z = np.append(z, self.metals[index])
        atoms["atom_types"] = ConcatData(z)
        atoms["tags"] = ConcatData(np.append(tags, [1, 1]))
        return sample


def test_surface_scaling_says_something_of_metals_it_has_not_seen():
    """Planted slopes come back, and hold for a metal that no record has."""
    rng = np.random.default_rng(0)
    metals = rng.choice([27, 28, 29, 44, 45, 46, 47, 76, 77, 78], (300, 2))
    counts = rng.integers(0, 3, (300, 3))
    slopes = rng.normal(size=(3, len(PROPERTIES)))
    surfaces = element_properties()[metals].mean(axis=1)

    def energy(counts, surface):
        return float(counts @ ([0.5, -1.0, 2.0] + slopes @ surface))

    labels = [energy(*row) + 0.01 * rng.normal() for row in zip(counts, surfaces)]
    loader = io.DataLoader(OnSurfaces(counts, labels, metals))
    _, plain, _ = run_dataset_transform("composition_scaling", loader, "y", tags=[2])
    mean, std, reference, found = run_dataset_transform(
        "surface_scaling", loader, "y", tags=[2], ridge=1e-4
    )
    assert std == pytest.approx(plain, rel=0.01)  # the spread, not what is left of it
    found = np.array([found[symbol] for symbol in ("H", "O", "Cu")])
    unseen = element_properties()[79]
    for one in np.eye(3):
        got = mean + one @ (list(reference.values()) + found @ unseen)
        assert got == pytest.approx(energy(one, unseen), abs=0.05)
        assert abs(got - energy(one, 0 * unseen)) > 0.1  # the twin without slopes


def test_elements_of_few_records_are_reported(capsys):
    """Of O in four records; not if its atoms are not read."""
    counts = np.array([[i % 3, i < 4, 2] for i in range(20)])
    loader = io.DataLoader(Composed(counts, np.arange(20.0) ** 2))
    logger.init_logger()
    run_dataset_transform("composition_scaling", loader, "y", tags=[2])
    shown = capsys.readouterr().out
    assert "elements in fewer than 5 training records: O 4. Their energies" in shown
    counts[4, 1] = 1
    loader = io.DataLoader(Composed(counts, np.arange(20.0) ** 2))
    run_dataset_transform("composition_scaling", loader, "y", tags=[2])
    assert "elements in fewer" not in capsys.readouterr().out


def test_composition_that_says_everything_is_refused():
    counts = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    data = Composed(counts, [2.0, 2.0, 2.0])
    with pytest.raises(ConfigError, match="what the composition explains"):
        run_dataset_transform("composition_scaling", io.DataLoader(data), "y")


def test_surface_scaling_wants_surfaces():
    counts = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    with pytest.raises(ConfigError, match="3 of 3 .* no atoms of the surface"):
        data = io.DataLoader(Composed(counts, [1.0, 2.0, 4.0]))
        run_dataset_transform("surface_scaling", data, "y", tags=[2])


def test_statistics_that_the_scaling_does_not_measure_are_refused(train):
    """Else the label would be normalised without them, and predicted with them."""
    slopes = "Model.__init_params__.surface_reference={O: [1, 1, 1, 1, 5]}"
    status, shown = train(slopes, scaling=())
    assert status == 2
    assert "surface_reference is given, but composition_scaling measures" in shown


def test_composition_is_read_without_making_samples():
    """The shipped sample: the same numbers from records and from whole samples."""
    params = {"path": SAMPLE, "split": "val_id"}
    quick = OC20IS2REDataset(**params)
    slow = [quick[i] for i in range(len(quick))]

    class Whole(io.Dataset):
        def __len__(self):
            return len(slow)

        def __getitem__(self, index):
            return slow[index]

    found = [
        run_dataset_transform("composition_scaling", io.DataLoader(d), "y_relaxed")
        for d in (quick, Whole())
    ]
    assert found[0][:2] == pytest.approx(found[1][:2], rel=1e-6)
    assert found[0][2] == pytest.approx(found[1][2], rel=1e-6)


@pytest.mark.parametrize(
    "labels, target, match",
    [
        ([1, None, 2], "y", r"record 1 \(id 's1'\) has no 'y'.*it has id, rows"),
        ([1, float("nan")], ["y"], "record 1: 'y' is .nan"),
        ([2, 2, 2], "y", "the 3 training labels 'y' have no spread"),
        ([2], "y", "the 1 training labels"),
        ([1, 2], ["y", "z"], "statistics need exactly one target, got 2"),
    ],
)
def test_what_cannot_be_measured_is_named(labels, target, match):
    with pytest.raises(ConfigError, match=match):
        measure(Labelled(labels), target)


def test_known_numbers():
    def scale(name, **params):
        return run_dataset_transform(name, None, "y", **params)

    assert scale("no_scaling") == (0.0, 1.0)
    assert scale("custom_scaling", mean=-1, std=2) == (-1.0, 2.0)
    assert scale("custom_scaling", rmsd=3.0) == (0.0, 3.0)
    for params in ({}, {"mean": 1.0}, {"rmsd": 1.0, "std": 1.0}):
        with pytest.raises(ConfigError, match="give mean and std, or rmsd alone"):
            scale("custom_scaling", **params)


def test_oc20_labels_without_graphs(monkeypatch):
    data = OC20IS2REDataset(SAMPLE, split="val_id", subset="10k")
    plain = [record.y_relaxed for record in OC20LMDB(SAMPLE, "val_id")]
    monkeypatch.setattr(
        OC20IS2REDataset, "__getitem__", lambda *_: pytest.fail("a sample was made")
    )
    mean, std = measure(data, "y_relaxed")
    assert mean == pytest.approx(np.mean(plain), abs=1e-6)
    assert std == pytest.approx(np.std(plain, ddof=1), abs=1e-6)
    ways = [record.displacement for record in OC20LMDB(SAMPLE, "val_id")]
    assert measure(data, "displacement")[1] == pytest.approx(
        np.concatenate(ways).std(ddof=1), abs=1e-6
    )


# By command --------------------------------------------------------------------------


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Return a function: run the task's train.py; returns status and what was shown."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr("ppmat.trainer.reporting.draw_loss_curve", lambda folder: None)
    monkeypatch.setenv("OC20_ROOT", SAMPLE)

    def call(*overrides, name="out", config=f"configs/sfin/{SMOKE}", scaling=PLAIN):
        capsys.readouterr()
        folder = f"Trainer.output_dir={tmp_path / name}"
        status = entry.main(TASK, ["-c", config, folder, *scaling, *overrides])
        logger.init_logger()
        return status, capsys.readouterr().out

    yield call
    logger.init_logger()


def model_params(folder):
    return load_config(folder / SMOKE)["Model"]["__init_params__"]


def weights_of(folder):
    """Return the weights of a run; Paddle adds a table of automatic names."""
    found = save_load.load_file(str(folder / "checkpoints/latest.pdparams"))
    return {name: np.array(x) for name, x in found.items() if not isinstance(x, dict)}


def test_statistics_reach_log_yaml_and_checkpoint(train, tmp_path):
    status, shown = train()
    assert status == 0
    labels = [OC20LMDB(SAMPLE, "train")[i].y_relaxed for i in range(8)]
    params = model_params(tmp_path / "out")
    assert params["data_mean"] == pytest.approx(np.mean(labels), abs=1e-6)
    assert params["data_std"] == pytest.approx(np.std(labels, ddof=1), abs=1e-6)
    assert "mean_std_scaling of y_relaxed over 8 training records" in shown
    assert f"data_mean {params['data_mean']:.6g}" in shown
    weights = weights_of(tmp_path / "out")
    assert float(weights["data_std"]) == pytest.approx(params["data_std"], rel=1e-6)


def test_energies_of_the_elements_reach_yaml_and_checkpoint(train, tmp_path):
    assert train(scaling=())[0] == 0
    params = model_params(tmp_path / "out")
    data = OC20IS2REDataset(SAMPLE, subset="10k", max_samples=8)
    mean, std, reference = run_dataset_transform(
        "composition_scaling", io.DataLoader(data), "y_relaxed"
    )
    assert params["element_reference"] == pytest.approx(reference)
    assert (params["data_mean"], params["data_std"]) == pytest.approx((mean, std))
    buffer = weights_of(tmp_path / "out")["reference"]
    kept = {Element.from_Z(int(z)).symbol: buffer[z] for z in np.flatnonzero(buffer)}
    assert kept == pytest.approx(reference, rel=1e-5)


def test_numbers_known_beforehand_give_the_same_run(train, tmp_path):
    """Measuring draws nothing and changes nothing but the two numbers."""
    assert train()[0] == 0
    params = model_params(tmp_path / "out")
    status, _ = train(
        "Dataset.transform=null",
        f"Model.__init_params__.data_mean={params['data_mean']!r}",
        f"Model.__init_params__.data_std={params['data_std']!r}",
        name="given",
    )
    assert status == 0
    first, second = (weights_of(tmp_path / name) for name in ("out", "given"))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], name)


def test_evaluation_takes_the_statistics_of_the_checkpoint(train, tmp_path):
    train("Global.do_eval=true")
    best = tmp_path / "out/checkpoints/latest_ema.pdparams"
    flags = ["Global.do_train=false", "Global.do_eval=true"]
    status, shown = train(*flags, f"Trainer.pretrained_model_path={best}", name="eval")
    assert status == 0 and "training records" not in shown
    assert "data_mean" not in model_params(tmp_path / "eval")
    log = (tmp_path / "out/run.log").read_text()

    def score(text):
        (line,) = (row for row in text.splitlines() if " Val:" in row)
        return line.partition("energy_mae(metric): ")[2].partition(" ")[0]

    assert score(shown) == score(log) != ""
    # The merged YAML of the training says the same numbers by itself.
    merged = str(tmp_path / "out" / SMOKE)
    assert train(*flags, config=merged, name="again")[0] == 0
    assert model_params(tmp_path / "again") == model_params(tmp_path / "out")


def test_a_resumed_run_measures_the_same(train, tmp_path):
    train()
    measured = model_params(tmp_path / "out")
    latest = tmp_path / "out/checkpoints/latest"
    status, _ = train(
        "Trainer.max_epochs=2", f"Trainer.resume_from_checkpoint={latest}"
    )
    assert status == 0
    assert len(read_rows(tmp_path / "out", "train(epoch)")) == 2
    assert model_params(tmp_path / "out") == measured


def test_fine_tuning_takes_the_statistics_of_the_new_set(train, tmp_path):
    """The counter starts again, and elements of the first set stay seen."""
    first = ["Dataset.transform.__class_name__=no_scaling", "Trainer.max_epochs=2"]
    train(*first, name="first")
    path = tmp_path / "old.pdparams"
    old = weights_of(tmp_path / "first")
    assert (float(old["data_mean"]), float(old["data_std"])) == (0.0, 1.0)
    old["elements_seen"][92] = True
    old["error_factor"][...] = 3.0
    paddle.save(old, str(path))
    status, shown = train(f"Trainer.pretrained_model_path={path}", scaling=())
    assert status == 0
    kept = "data_mean, data_std, reference, surface_slopes, batches_seen, error_factor"
    assert f"Loaded weights {path}, except {kept}" in shown
    found, params = weights_of(tmp_path / "out"), model_params(tmp_path / "out")
    assert float(found["data_mean"]) == pytest.approx(params["data_mean"], rel=1e-6)
    assert float(found["data_std"]) == pytest.approx(params["data_std"], rel=1e-6)
    assert np.abs(found["reference"]).max() > 0 == np.abs(old["reference"]).max()
    assert found["batches_seen"] == old["batches_seen"] / 2 > 0
    assert found["error_factor"] == 1
    alone = tmp_path / "alone"
    train(scaling=(), name="alone")
    new = weights_of(alone)["elements_seen"]
    assert not new[92] and found["elements_seen"][92]
    np.testing.assert_array_equal(found["elements_seen"], new | old["elements_seen"])


def test_statistics_of_pretrained_weights_are_kept_if_there_are_no_others(
    train, tmp_path
):
    train(name="first")
    weights = f"Trainer.pretrained_model_path={tmp_path}/first/checkpoints/latest"
    old = weights_of(tmp_path / "first")
    assert train(weights, "Dataset.transform=null", name="none")[0] == 0
    found = weights_of(tmp_path / "none")
    assert found["data_mean"] == old["data_mean"] != 0
    assert found["batches_seen"] == old["batches_seen"]
    mean = "Model.__init_params__.data_mean=-7.0"
    assert train(weights, "Dataset.transform=null", mean, name="given")[0] == 0
    found = weights_of(tmp_path / "given")
    assert (found["data_mean"], found["data_std"]) == (-7, 1)


def test_only_named_parts_of_pretrained_weights_are_loaded(train, tmp_path):
    """A head of another size is left behind; a name of nothing is refused."""
    train("Model.__init_params__.predict_error=false", name="first")
    weights = f"Trainer.pretrained_model_path={tmp_path}/first/checkpoints/latest"
    status, shown = train(weights, name="whole")
    assert status == 2 and "missing error_head.hidden.weight" in shown
    exclude = "Trainer.pretrained_exclude=[error_head,error_factor,energy_head]"
    frozen = "Optimizer.__init_params__.lr_mult={backbone: 0, energy_head: 0}"
    status, shown = train(weights, exclude, frozen)
    assert status == 0
    old, new = weights_of(tmp_path / "first"), weights_of(tmp_path / "out")
    same = {name for name in old if np.array_equal(old[name], new[name])}
    assert {name for name in old if name.startswith("backbone.")} <= same
    assert not {name for name in same if name.startswith("energy_head.hidden")}
    assert "except error_head, error_factor, energy_head, data_mean, data_std" in shown
    status, shown = train(weights, "Trainer.pretrained_exclude=[enrgy_head]", name="w")
    assert status == 2
    assert (
        "Trainer.pretrained_exclude: no name in the model begins with 'enrgy" in shown
    )
    assert "Did you mean 'energy_head'?" in shown


def test_slower_untrained_weights_are_reported(train):
    status, shown = train("Optimizer.__init_params__.lr_mult={backbone: 0.1}")
    assert status == 0 and "slows or freezes untrained weights" in shown
    assert "lr_mult: backbone learns at 0.1 times the rate" in shown


def test_split_by_ratio_measures_the_training_part(train, tmp_path):
    """One data set, split at random: train.py runs all three parts."""
    config = load_config(f"{TASK}/configs/sfin/{SMOKE}")
    block = config["Dataset"]
    dataset = block["train"]["dataset"]
    dataset["__init_params__"]["max_samples"] = 20
    sampler = {"__class_name__": "BatchSampler", "__init_params__": {"batch_size": 4}}
    config["Dataset"] = {
        "dataset": dataset,
        "transform": block["transform"],
        "split_dataset_ratio": {"train": 0.4, "val": 0.2, "test": 0.4},
        **{f"{name}_sampler": sampler for name in ("train", "val", "test")},
    }
    config["Global"].update(do_eval=True, do_test=True)
    path = tmp_path / SMOKE
    save_config(config, path)
    status, shown = train(config=str(path))
    assert status == 0
    assert "train 8, val 4, test 8" in shown and "over 8 training records" in shown
    order = np.random.RandomState(config["Trainer"]["seed"]).permutation(20)[:8]
    records = OC20LMDB(SAMPLE, "train")
    labels = [records[int(i)].y_relaxed for i in order]
    params = model_params(tmp_path / "out")
    assert params["data_mean"] == pytest.approx(np.mean(labels), abs=1e-6)
    assert "Val:" in shown and "Test:" in shown


@pytest.mark.parametrize(
    "overrides, text",
    [
        (
            ["Dataset.transform.__class_name__=mean_scaling"],
            "Dataset.transform.__class_name__: unknown scaling 'mean_scaling'.*Did you",
        ),
        (
            ["Dataset.transform.__init_params__.meen=1"],
            "Dataset.transform.__init_params__ of mean_std_scaling: unknown key 'meen'",
        ),
        (["Global.label_names=null"], "named by Global.label_names.*found None"),
        (["Global.label_names=7"], "named by Global.label_names.*found 7"),
        (["Global.label_names=[a,b]"], "exactly one target, got 2"),
        (["Global.label_names=y"], "label is 'y'; wanted one of y_relaxed"),
        (["Model.__init_params__.poolin=sum"], "unknown key 'poolin'.*'pooling'"),
        (
            ["Model.__init_params__.displacement_weight=null"],
            "Model.__init_params__ of SFINEnergy: noisy_nodes",
        ),
    ],
)
def test_wrong_settings_end_with_status_2(train, overrides, text):
    status, shown = train(*overrides)
    assert status == EXIT_BAD_INPUT
    assert "ConfigError" in shown
    assert re.search(text, shown), shown


def test_wrong_model_keys_are_found_before_data_are_read(train):
    _, shown = train("Model.__init_params__.poolin=sum", "Global.data_root=/nowhere")
    assert "poolin" in shown and "/nowhere" not in shown.replace("data_root: ", "")


def test_a_model_without_statistics_is_named(train):
    status, shown = train("Model.__class_name__=SFINFlow")
    assert status == EXIT_BAD_INPUT
    assert "SFINFlow lacks such arguments; remove the block" in shown


def test_records_without_energies_are_named(train, tmp_path):
    """The first record, a later one, and records that are skipped on request."""
    records = [OC20LMDB(SAMPLE, "train")[i] for i in range(8)]
    records[2].y_relaxed = None
    for split in ("train", "val_id"):
        write_lmdb(tmp_path / split / "data.lmdb", records)
    root = f"Global.data_root={tmp_path}"
    status, shown = train(root)
    assert status == EXIT_BAD_INPUT
    sid = records[2].sid
    assert f"train/data.lmdb key '2': sid {sid} has no y_relaxed" in shown
    skip = [
        f"Dataset.{split}.dataset.__init_params__.on_error=skip"
        for split in ("train", "val")
    ]
    status, shown = train(root, *skip)
    assert status == 0 and "over 7 training records" in shown

    for record in records:
        record.y_relaxed = None
    for split in ("train", "val_id"):
        write_lmdb(tmp_path / split / "data.lmdb", records, overwrite=True)
    status, shown = train(root, "Dataset.transform=null", name="none")
    assert status == EXIT_BAD_INPUT
    assert "key '0'" in shown and "has no y_relaxed, which the label" in shown
    with pytest.raises(OC20FormatError, match="has no y_relaxed"):
        OC20IS2REDataset(str(tmp_path)).read_label(0, "y_relaxed")
