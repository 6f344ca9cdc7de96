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


"""SFINDataset: pairs, honest splits, flips and crops that every worker draws alike."""

import inspect
import shutil

import numpy as np
import paddle
import pytest
import tifffile
from PIL import Image

from ppmat.datasets import build_dataloader
from ppmat.datasets import sfin_dataset
from ppmat.datasets.sfin_dataset import SFINDataset
from ppmat.stem.images.micrograph import ImageFormatError
from ppmat.utils import logger
from ppmat.utils.registry import ConfigError

KINDS = ("noisy", "gt_enhance", "gt_detect")
SIZE = (12, 10)


def values_of(number, kind, size=SIZE):
    """Grey values by which an image and its orientation can be told."""
    ramp = np.arange(size[0] * size[1]).reshape(size) % 200
    return (ramp + number + 10 * KINDS.index(kind)).astype("u1")


def make(root, splits=(("train", 20), ("test", 6)), kinds=KINDS, size=SIZE):
    for split, count in splits:
        for kind in kinds:
            folder = root / split / kind
            folder.mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(values_of(number, kind, size))
                image.save(folder / f"{number}.png")
    return root


@pytest.fixture
def root(tmp_path):
    return make(tmp_path / "data")


def names(dataset):
    return [dataset[i]["name"] for i in range(len(dataset))]


def block(root, split="train", loader=None, batch_size=2, **params):
    params = {"path": str(root), "split": split, **params}
    return {
        "dataset": {"__class_name__": "SFINDataset", "__init_params__": params},
        "loader": loader or {},
        "sampler": {
            "__class_name__": "BatchSampler",
            "__init_params__": {"batch_size": batch_size, "shuffle": False},
        },
    }


# Samples and batches ---------------------------------------------------------------


def test_a_sample(root):
    sample = SFINDataset(str(root), split="test")[3]
    assert set(sample) == {*KINDS, "name", "id"}
    assert sample["name"] == "3.png" and sample["id"] == 3
    for kind in KINDS:
        assert sample[kind].shape == (1, *SIZE) and sample[kind].dtype == np.float32
        assert np.array_equal(sample[kind][0], values_of(3, kind))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch(root, workers):
    loader = build_dataloader(
        block(root, "test", {"num_workers": workers}, batch_size=4)
    )
    first, second = list(loader)
    for kind in KINDS:
        assert first[kind].shape == [4, 1, *SIZE]
        assert first[kind].dtype == paddle.float32
        assert second[kind].shape == [2, 1, *SIZE]
    assert first["name"] == ["0.png", "1.png", "2.png", "3.png"]
    assert first["id"].tolist() == [0, 1, 2, 3]


def test_yaml_of_upstream_builds(root):
    params = {
        "target_subdir": "gt_detect",
        "data_count": None,
        "build_samples_cfg": {"match_mode": "indexed"},
        "build_image_cfg": {
            "format": "image_file",
            "mode": "L",
            "dtype": "float32",
            "num_cpus": 1,
        },
        "transforms": None,
        "cache_path": None,
        "overwrite": False,
    }
    assert len(build_dataloader(block(root, "train", **params)).dataset) == 18
    signature = list(inspect.signature(SFINDataset).parameters)
    assert signature[:9] == ["path", "split", *params]


def test_an_unknown_argument_is_named(root):
    with pytest.raises(ConfigError, match="'crop_sise'.*Did you mean 'crop_size'"):
        build_dataloader(block(root, crop_sise=4))
    with pytest.raises(ConfigError, match="flips: 'transpose' is not possible"):
        build_dataloader(block(root, flips=["transpose"]))


def test_noisy_images_alone(tmp_path):
    root = make(tmp_path, splits=[("test", 3)], kinds=["noisy"])
    sample = SFINDataset(str(root), split="test", target_subdir=None)[0]
    assert set(sample) == {"noisy", "name", "id"}
    with pytest.raises(FileNotFoundError, match="gt_enhance' does not exist"):
        SFINDataset(str(root), split="test")


def test_the_other_target_is_loaded_if_it_is_there(tmp_path):
    root = make(tmp_path, splits=[("test", 3)], kinds=["noisy", "gt_detect"])
    sample = SFINDataset(str(root), split="test", target_subdir="gt_detect")[0]
    assert set(sample) == {"noisy", "gt_detect", "name", "id"}


def test_transforms_are_applied_last(root):
    dataset = SFINDataset(str(root), crop_size=4, transforms=lambda s: s["noisy"].shape)
    assert dataset[0] == (1, 4, 4)


def test_depth_is_kept_and_other_formats_pair(tmp_path):
    counts = np.arange(120, dtype="u2").reshape(SIZE) * 500
    fractions = counts.astype("f4") * 1e-6 - 0.01
    for kind in KINDS:
        (tmp_path / "test" / kind).mkdir(parents=True)
    Image.fromarray(counts).save(tmp_path / "test" / "noisy" / "007.png")
    tifffile.imwrite(tmp_path / "test" / "gt_enhance" / "7.tif", fractions)
    np.save(tmp_path / "test" / "gt_detect" / "07.npy", fractions.astype("f8"))
    for folder in (tmp_path / "test").iterdir():
        (folder / "Thumbs.db").write_bytes(b"x")
        (folder / "._7.png").write_bytes(b"x")
    sample = SFINDataset(str(tmp_path), split="test")[0]
    assert sample["name"] == "007.png"
    assert np.array_equal(sample["noisy"][0], counts)
    assert np.array_equal(sample["gt_enhance"][0], fractions)
    assert sample["gt_detect"].dtype == np.float32


def test_values_far_from_0_to_255_are_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(logger, "warning", said.append)
    for number, scale in enumerate((1.0, 0.001, 200.0)):
        root = tmp_path / str(number)
        for kind in KINDS:
            (root / "test" / kind).mkdir(parents=True)
            image = values_of(0, kind) * np.float32(scale)
            tifffile.imwrite(root / "test" / kind / "0.tif", image)
        SFINDataset(str(root), split="test")
        assert len(said) == number
    assert "expect grey levels 0 to 255" in said[0]


# Splits ----------------------------------------------------------------------------


@pytest.mark.parametrize("val_ratio, split_seed", [(0.1, 0), (0.3, 0), (0.3, 5)])
def test_train_and_val_share_no_image_and_test_is_untouched(
    root, val_ratio, split_seed
):
    options = {"val_ratio": val_ratio, "split_seed": split_seed}
    sets = {
        split: SFINDataset(str(root), split=split, **options)
        for split in ("train", "val", "test")
    }
    paths = {
        split: {path for sample in dataset.samples for path in sample.values()}
        for split, dataset in sets.items()
    }
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not paths[a] & paths[b], (a, b)
    assert len(sets["val"]) == round(val_ratio * 20)
    assert len(sets["train"]) + len(sets["val"]) == 20
    assert all("/train/" in path for path in paths["train"] | paths["val"])
    assert all("/test/" in path for path in paths["test"]) and len(sets["test"]) == 6


def test_the_split_is_the_same_at_every_start(root, tmp_path):
    first = names(SFINDataset(str(root), split="val", val_ratio=0.3))
    shutil.copytree(root, tmp_path / "copy")
    again = SFINDataset(str(tmp_path / "copy"), split="val", val_ratio=0.3)
    assert names(again) == first
    other = SFINDataset(str(root), split="val", val_ratio=0.3, split_seed=1)
    assert names(other) != first
    one_target = SFINDataset(
        str(root), split="val", val_ratio=0.3, target_subdir="gt_detect"
    )
    assert names(one_target) == first


def test_broken_twin_validates_on_the_test_images(root):
    """Upstream's choice, spelled out: val and test are the same files."""

    class Upstream(SFINDataset):
        def _folder(self, val_ratio):
            self.split = "test" if self.split == "val" else self.split
            return f"{self.path}/{self.split}", None

    for cls, shared in ((Upstream, 6), (SFINDataset, 0)):
        val, test = (cls(str(root), split=split) for split in ("val", "test"))
        paths = [{s["noisy"] for s in dataset.samples} for dataset in (val, test)]
        assert len(paths[0] & paths[1]) == shared


def test_a_folder_val_of_ones_own_is_used(tmp_path):
    root = make(tmp_path, splits=[("train", 10), ("val", 4), ("test", 2)])
    assert len(SFINDataset(str(root), split="train")) == 10
    val = SFINDataset(str(root), split="val")
    assert len(val) == 4 and "/val/" in val.samples[0]["noisy"]


def test_without_validation(root):
    assert len(SFINDataset(str(root), val_ratio=0)) == 20
    with pytest.raises(ValueError, match="val_ratio is 0.*no validation images"):
        SFINDataset(str(root), split="val", val_ratio=0)
    for ratio in (-0.1, 1, 2):
        with pytest.raises(ValueError, match="val_ratio is .*; wanted 0 to below 1"):
            SFINDataset(str(root), val_ratio=ratio)


def test_small_folders_leave_something_to_train_on(tmp_path):
    root = make(tmp_path / "two", splits=[("train", 2)])
    assert len(SFINDataset(str(root))) == len(SFINDataset(str(root), split="val")) == 1
    root = make(tmp_path / "one", splits=[("train", 1)])
    with pytest.raises(ValueError, match="leaves none for training"):
        SFINDataset(str(root))


def test_data_count_takes_the_first_of_the_split(root):
    whole = names(SFINDataset(str(root)))
    assert names(SFINDataset(str(root), data_count=5)) == whole[:5]
    assert len(SFINDataset(str(root), data_count=500)) == len(whole)
    with pytest.raises(ValueError, match="data_count is 0; wanted at least 1"):
        SFINDataset(str(root), data_count=0)


# Pairs -----------------------------------------------------------------------------


def test_images_are_in_the_order_of_their_numbers(root):
    assert names(SFINDataset(str(root), val_ratio=0))[8:12] == [
        "8.png",
        "9.png",
        "10.png",
        "11.png",
    ]


def test_images_without_a_partner_are_named(root):
    (root / "test" / "gt_detect" / "2.png").unlink()
    (root / "test" / "noisy" / "4.png").unlink()
    with pytest.raises(ValueError, match=r"1 images have no partner.*gt_enhance/4.png"):
        SFINDataset(str(root), split="test")
    for number in (3, 5):
        (root / "test" / "gt_enhance" / f"{number}.png").unlink()
    (root / "test" / "gt_enhance" / "4.png").unlink()
    with pytest.raises(ValueError, match=r"2 images.*noisy/3.png.*noisy/5.png"):
        SFINDataset(str(root), split="test")


def test_names_that_are_no_number(root):
    for kind in KINDS:
        folder = root / "test" / kind
        (folder / "0.png").rename(folder / "first.png")
    with pytest.raises(
        ValueError, match="first.png': the name is no whole number.*ed}"
    ):
        SFINDataset(str(root), split="test")
    for mode in ("matched", "same_name", "BuildMatchedNameSamples"):
        dataset = SFINDataset(
            str(root), split="test", build_samples_cfg={"match_mode": mode}
        )
        assert names(dataset)[-1] == "first.png" and len(dataset) == 6


def test_two_files_of_one_image(root):
    Image.fromarray(values_of(0, "noisy")).save(root / "test" / "noisy" / "00.png")
    with pytest.raises(ValueError, match="'0.png'.*'00.png'|'00.png'.*'0.png'"):
        SFINDataset(str(root), split="test")


def test_matching_that_is_not_known(root):
    with pytest.raises(
        ValueError, match="match_mode is 'fuzzy'; wanted one of indexed"
    ):
        SFINDataset(str(root), build_samples_cfg={"match_mode": "fuzzy"})
    with pytest.raises(ValueError, match="unknown key 'noisy_key'"):
        SFINDataset(str(root), build_samples_cfg={"noisy_key": "x"})


# Bad input -------------------------------------------------------------------------


def replace(root, kind, number, values):
    path = root / "test" / kind / f"{number}.png"
    path.unlink()
    tifffile.imwrite(path.with_suffix(".tif"), values)
    return path.with_suffix(".tif")


def test_images_of_another_size(root):
    path = replace(root, "gt_detect", 3, values_of(3, "gt_detect", (12, 11)))
    with pytest.raises(ValueError, match=f"{path} has 12 x 11 pixels, but .*12 x 10"):
        SFINDataset(str(root), split="test")[3]


def test_batches_have_one_size(root):
    for kind in KINDS:
        replace(root, kind, 3, values_of(3, kind, (16, 11)))
    dataset = SFINDataset(str(root), split="test")
    with pytest.raises(ValueError, match="noisy/3.tif has 16 x 11.*Set crop_size"):
        dataset[3]
    cut = SFINDataset(str(root), split="test", crop_size=[9, 8])
    assert {cut[i]["noisy"].shape for i in range(6)} == {(1, 9, 8)}
    assert np.array_equal(
        cut[3]["gt_enhance"][0], values_of(3, "gt_enhance", (16, 11))[3:12, 1:9]
    )
    single = SFINDataset(str(root), split="test", same_size=False)
    assert single[3]["noisy"].shape == (1, 16, 11)
    with pytest.raises(ValueError, match="0.png has 12 x 10 pixels, less than crop"):
        SFINDataset(str(root), split="test", crop_size=11)[0]


def test_nan_is_an_error_with_the_file(root):
    values = np.ones(SIZE, "f4")
    values[2, 3] = np.nan
    path = replace(root, "gt_enhance", 0, values)
    with pytest.raises(ValueError, match=f"{path}: 1 of 120 pixels are NaN"):
        SFINDataset(str(root), split="test")


def test_constant_images_are_data_too(root):
    replace(root, "gt_detect", 1, np.zeros(SIZE, "u1"))
    assert not SFINDataset(str(root), split="test")[1]["gt_detect"].any()


def test_files_that_are_no_grey_image(root):
    colours = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), "u1")
    Image.fromarray(colours).save(root / "test" / "noisy" / "1.png")
    whole = (root / "test" / "noisy" / "2.png").read_bytes()
    (root / "test" / "noisy" / "2.png").write_bytes(whole[:45])
    replace(root, "noisy", 3, np.zeros((2, *SIZE), "f4"))
    dataset = SFINDataset(str(root), split="test")
    for number, reason in ((1, "colour"), (2, "truncated"), (3, "is a stack")):
        with pytest.raises(ImageFormatError, match=f"{number}[.](png|tif).*{reason}"):
            dataset[number]


def test_wrong_arguments(root):
    for params, reason in [
        ({"split": "valid"}, "split is 'valid'; wanted one of train, val, test"),
        ({"target_subdir": "clean"}, "target_subdir is 'clean'; wanted one of gt_"),
        ({"crop_size": 0}, "crop_size is 0; wanted at least 1, or"),
        ({"crop_size": [4, 4, 4]}, "crop_size is .4, 4, 4.; wanted"),
        ({"split": "val", "flips": ["up_down"]}, "flips are for training"),
        ({"build_image_cfg": {"mode": "RGB"}}, "mode is 'RGB'; wanted one of L"),
    ]:
        with pytest.raises(ValueError, match=reason):
            SFINDataset(str(root), **params)
    with pytest.raises(IndexError, match="sample 18 of 18"):
        SFINDataset(str(root))[18]


def test_a_folder_without_images(root):
    for kind in KINDS:
        shutil.rmtree(root / "test" / kind)
        (root / "test" / kind).mkdir()
    with pytest.raises(FileNotFoundError, match="noisy' holds no image .*png"):
        SFINDataset(str(root), split="test")


# Flips and crops -------------------------------------------------------------------


def find(part, whole):
    """Return (top, left, flip) of a cut-out, trying all four orientations."""
    height, width = part.shape
    found = []
    for up_down in (False, True):
        for left_right in (False, True):
            turned = part[:: -1 if up_down else 1, :: -1 if left_right else 1]
            for top in range(whole.shape[0] - height + 1):
                for left in range(whole.shape[1] - width + 1):
                    if np.array_equal(
                        turned, whole[top : top + height, left : left + width]
                    ):
                        found.append((top, left, up_down, left_right))
    assert len(found) == 1
    return found[0]


def windows(dataset):
    """Return where each sample comes from, the same in all its images."""
    places = []
    for sample in (dataset[i] for i in range(len(dataset))):
        number = int(sample["name"].removesuffix(".png"))
        found = {find(sample[kind][0], values_of(number, kind)) for kind in KINDS}
        assert len(found) == 1
        places.append(found.pop())
    return places


def test_flips_and_crops_are_the_same_in_all_images(root):
    dataset = SFINDataset(
        str(root), val_ratio=0, flips=["up_down", "left_right"], crop_size=[5, 7]
    )
    found = []
    for epoch in range(12):
        dataset.set_epoch(epoch)
        found += windows(dataset)
    places = {(top, left) for top in range(8) for left in range(4)}
    assert {place[:2] for place in found} == places
    for axis in (2, 3):
        assert 0.3 < np.mean([place[axis] for place in found]) < 0.7


def test_only_the_flips_asked_for(root):
    for flip, axis in (("up_down", 2), ("left_right", 3)):
        dataset = SFINDataset(str(root), val_ratio=0, flips=flip)
        dataset.set_epoch(0)
        found = np.array(windows(dataset))
        assert found[:, axis].any() and not found[:, 5 - axis].any()
        assert not found[:, :2].any()


def test_draws_follow_seed_epoch_and_sample_only(root):
    options = {"flips": ["up_down", "left_right"], "crop_size": 5}

    def draw(epoch, seed=0, noise=0):
        dataset = SFINDataset(str(root), seed=seed, **options)
        dataset.set_epoch(epoch)
        np.random.seed(noise)
        return windows(dataset)

    assert draw(1) == draw(1, noise=7)
    assert draw(1) != draw(2) and draw(1) != draw(1, seed=3)


def test_draws_do_not_depend_on_the_workers(root):
    options = {"flips": ["up_down", "left_right"], "crop_size": 5}

    def epochs(workers):
        loader = build_dataloader(
            block(root, "train", {"num_workers": workers}, **options)
        )
        found = []
        for epoch in range(2):
            loader.batch_sampler.set_epoch(epoch)
            found.append([batch["noisy"].numpy() for batch in loader])
        return found

    alone, shared = epochs(0), epochs(2)
    for one, other in zip(alone, shared):
        assert all(np.array_equal(a, b) for a, b in zip(one, other))
    assert not all(np.array_equal(a, b) for a, b in zip(*alone))


def test_without_an_epoch_numpys_generator_is_used(root):
    dataset = SFINDataset(str(root), crop_size=4)
    np.random.seed(0)
    first = windows(dataset)
    assert windows(dataset) != first
    np.random.seed(0)
    assert windows(dataset) == first


def test_validation_is_cut_from_the_middle(root):
    dataset = SFINDataset(str(root), split="val", crop_size=4, val_ratio=0.3)
    assert set(windows(dataset)) == {(4, 3, False, False)}


# Download and cache ----------------------------------------------------------------


@pytest.mark.parametrize("inner", [True, False])
@pytest.mark.parametrize("name", ["sfin_haadf", "sfin_bf"])
def test_download_on_request(tmp_path, monkeypatch, name, inner):
    unpacked = tmp_path / "home" / name
    make(unpacked / name if inner else unpacked)
    calls = []

    def fetch(url, md5):
        calls.append((url, md5))
        return str(unpacked)

    monkeypatch.setattr(sfin_dataset, "get_datasets_path_from_url", fetch)
    path = tmp_path / "missing" / name
    with pytest.raises(FileNotFoundError, match=f"download: true.*SFIN/{name}.zip"):
        SFINDataset(str(path))
    assert not calls
    dataset = SFINDataset(f"{path}/", download=True)
    assert len(dataset) == 18
    cls = SFINDataset
    known = {"sfin_haadf": (cls.url, cls.md5), "sfin_bf": (cls.bf_url, cls.bf_md5)}
    assert calls == [known[name]]
    assert calls[0][0].endswith(f"/SFIN/{name}.zip") and len(calls[0][1]) == 32


def test_folders_that_cannot_be_fetched(tmp_path):
    with pytest.raises(FileNotFoundError, match="named sfin_haadf or sfin_bf, 'down"):
        SFINDataset(str(tmp_path / "mine"), download=True)


def test_what_is_there_is_not_fetched(root, monkeypatch):
    monkeypatch.delattr(sfin_dataset, "get_datasets_path_from_url")
    assert len(SFINDataset(str(root), download=True)) == 18


def test_cache_options_are_answered_in_the_log(root, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(logger, "message", said.append)
    SFINDataset(str(root))
    assert not said
    SFINDataset(str(root), cache_path=str(tmp_path / "cache"))
    SFINDataset(str(root), overwrite=True)
    assert len(said) == 2 and "has no cache" in said[0]
    assert not (tmp_path / "cache").exists()
    before = sorted(path for path in tmp_path.rglob("*"))
    SFINDataset(str(root))[0]
    assert sorted(path for path in tmp_path.rglob("*")) == before
