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


"""The data set of synthetic images: what its samples depend on, and its range."""

import signal

import numpy as np
import paddle
import pytest

from ppmat.datasets import SFINSyntheticDataset
from ppmat.datasets import build_dataloader
from ppmat.stem.images.background import slow_variation
from ppmat.stem.images.grey_scaling import GREY
from ppmat.stem.images.grey_scaling import PERCENTILES
from ppmat.stem.noise.noise_model import NoiseFormatError
from ppmat.stem.noise.noise_model import NoiseModel

KINDS = ("noisy", "gt_enhance", "gt_detect", "gt_superresolution")


def dataset(**options):
    return SFINSyntheticDataset(**{"count": 4, "size": 32, **options})


def same(first, second):
    return all(np.array_equal(first[kind], second[kind]) for kind in KINDS)


def test_a_sample_is_that_of_sfin_dataset():
    sample = dataset(size=[32, 48])[1]
    assert set(sample) == {*KINDS, "name", "id"} and sample["id"] == 1
    for kind in KINDS:
        assert sample[kind].shape == (1, 32, 48) and sample[kind].dtype == np.float32
    with pytest.raises(IndexError):
        dataset()[4]


def test_samples_are_a_function_of_seed_split_epoch_and_number():
    data = dataset()
    assert same(data[2], data[2]) and same(data[2], dataset()[2])
    assert not same(data[2], data[3])
    assert not same(data[2], dataset(seed=1)[2])
    assert not same(data[2], dataset(split="test")[2])


def test_endless_data_are_new_in_each_epoch_and_fixed_ones_are_not():
    for endless in (True, False):
        data = dataset(endless=endless)
        data.set_epoch(1)
        first = data[0]
        data.set_epoch(2)
        assert same(first, data[0]) != endless
        data.set_epoch(1)
        assert same(first, data[0])


@pytest.fixture
def handler():
    """Take away the signal handler that Paddle's loader leaves."""
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("workers", [0, 2])
def test_endless_data_are_new_in_each_epoch_of_a_loader_that_tells_none(
    workers, handler
):
    def epochs(seed, **options):
        data = dataset(count=6, **options)
        loader = paddle.io.DataLoader(data, batch_size=2, num_workers=workers)
        np.random.seed(seed)
        passes = [[batch["noisy"].numpy() for batch in loader] for _ in range(3)]
        return np.concatenate(passes, axis=1).reshape(3 * len(data), -1)

    found = epochs(1, endless=True)
    assert len(np.unique(found, axis=0)) == len(found)  # no image is seen twice
    assert np.array_equal(found, epochs(1, endless=True))
    assert not np.array_equal(found, epochs(2, endless=True))
    assert len(np.unique(epochs(1), axis=0)) == 6


def test_endless_data_can_be_split():
    parts = {"train": 0.5, "val": 0.5}
    sampler = {"__class_name__": "BatchSampler", "__init_params__": {"batch_size": 2}}
    block = {
        "dataset": {
            "__class_name__": "SFINSyntheticDataset",
            "__init_params__": {"count": 4, "size": 32, "endless": True},
        },
        "split_dataset_ratio": parts,
        **{f"{part}_sampler": sampler for part in parts},
    }
    loaders = build_dataloader(block)
    names = []
    for epoch in range(2):
        loaders["train"].batch_sampler.set_epoch(epoch)
        names.append([next(iter(loaders[part]))["name"] for part in parts])
    assert names[0][0] != names[1][0] and names[0][1] == names[1][1]


@pytest.mark.parametrize("mode", ["haadf", "bf"])
def test_noisy_images_lie_where_prediction_puts_them(mode):
    data = dataset(mode=mode, size=64)
    for i in range(4):
        sample = data[i]
        found = np.percentile(sample["noisy"], PERCENTILES)
        np.testing.assert_allclose(found, GREY, atol=0.01)


def test_the_clean_image_is_scaled_like_the_noisy_one(tmp_path):
    path = tmp_path / "noise.json"
    # Slight noise: the pair differ by noise only, so one affine map takes both.
    NoiseModel(0, 24, 0, 0, 4, 0, 1.0, low=0.01, high=500.0).save(path)
    for i in range(3):
        sample = dataset(noise=str(path), size=64)[i]
        slope, _ = np.polyfit(sample["gt_enhance"].ravel(), sample["noisy"].ravel(), 1)
        assert slope == pytest.approx(1, abs=0.01)


def test_super_resolution_has_the_scale_of_the_image_and_no_offset():
    slopes = []
    for i in range(3):
        options = {"size": 64, "count": 3, "pair_share": 1.0}
        grey = dataset(scaling="grey", **options)[i]
        robust = dataset(scaling="robust", **options)[i]
        slope, _ = np.polyfit(grey["noisy"].ravel(), robust["noisy"].ravel(), 1)
        wanted = slope * grey["gt_superresolution"]
        np.testing.assert_allclose(
            robust["gt_superresolution"], wanted, rtol=1e-4, atol=1e-4
        )
        slopes.append(slope)
    assert max(slopes) > 1.1 * min(slopes)  # else the test says nothing


def test_bright_field_has_no_super_resolution():
    assert "gt_superresolution" not in dataset(mode="bf", count=1)[0]
    with pytest.raises(ValueError, match="wanted mode 'haadf'"):
        dataset(mode="bf", target_subdir="gt_superresolution")


def test_noise_models_of_files_are_used_with_their_own_range(tmp_path):
    paths = []
    for number, high in enumerate((1.0, 5.0)):
        paths.append(str(tmp_path / f"{number}.json"))
        NoiseModel().scaled(high / 180, 0).save(paths[-1])
    data = dataset(count=20, noise=paths, scaling="grey")
    brightest = [data[i]["gt_enhance"].max() for i in range(20)]
    assert min(brightest) < 1.5 and max(brightest) > 3


def test_the_background_of_a_noise_model_stays_in_the_clean_image_if_kept(tmp_path):
    path = tmp_path / "noise.json"
    # A strong background and nearly no other noise.
    NoiseModel(40.0, 12, 0, 0, 4, 0, 0.01, low=30.0, high=180.0).save(path)
    for background, most in (("keep", 1.0), ("remove", np.inf)):
        data = dataset(noise=str(path), size=64, scaling="grey", background=background)
        difference = data[0]["noisy"] - data[0]["gt_enhance"]
        assert difference.std() < most
    assert difference.std() == pytest.approx(40.0, rel=0.05)


def test_the_slow_variation_is_subtracted_from_both_images_of_a_pair():
    options = {"size": 96, "uneven_share": 1.0, "background": "keep"}
    for i in range(4):
        sample = dataset(flat_share=1.0, **options)[i]
        noisy, clean = sample["noisy"][0], sample["gt_enhance"][0]
        spread = np.std(slow_variation(noisy)) / np.std(noisy)
        assert spread < 0.12
        assert np.std(slow_variation(noisy - clean)) < 0.2 * np.std(noisy - clean)
    # The broken twin keeps it in some images.
    kept = [dataset(**options)[i]["noisy"][0] for i in range(4)]
    assert max(np.std(slow_variation(x)) / np.std(x) for x in kept) > 0.3


def test_workers_and_batches_change_nothing():
    def images(workers):
        block = {
            "dataset": {
                "__class_name__": "SFINSyntheticDataset",
                "__init_params__": {"count": 4, "size": 32, "endless": True},
            },
            "loader": {"num_workers": workers},
            "sampler": {
                "__class_name__": "BatchSampler",
                "__init_params__": {"batch_size": 2},
            },
        }
        loader = build_dataloader(block)
        loader.batch_sampler.set_epoch(3)
        return np.concatenate([batch["noisy"].numpy() for batch in loader])

    assert np.array_equal(images(0), images(2))


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"split": "dev"}, "split is 'dev'"),
        ({"mode": "adf"}, "mode is 'adf'"),
        ({"count": 0}, "at least 1"),
        ({"seed": -1}, "seed is -1, wanted"),
        ({"size": 4}, "size is 4"),
        ({"size": [32]}, "size is"),
        ({"scaling": "log"}, "scaling is 'log'"),
        ({"noise": "nowhere.json"}, "'nowhere.json' is no file"),
        ({"noise": []}, "empty list"),
        ({"endless": True, "split": "val"}, "could not be compared"),
        ({"spacing": [9]}, "spacing is"),
        ({"spacing": [20, 10]}, "spacing is"),
        ({"background": "drop"}, "background is 'drop'"),
        ({"flat_share": 2}, "flat_share is 2"),
        ({"flat_share": 0.5, "scaling": "grey"}, "no grey levels"),
        ({"uneven_share": -0.1}, "uneven_share is -0.1"),
    ],
)
def test_arguments_that_cannot_be_meant(wrong, message):
    with pytest.raises(ValueError, match=message):
        dataset(**wrong)


def test_noise_of_the_other_mode_or_of_another_version_is_refused(tmp_path):
    path = tmp_path / "noise.json"
    NoiseModel(mode="bf").save(path)
    with pytest.raises(ValueError, match="calibrated on bf images"):
        dataset(noise=str(path))
    NoiseModel(low=9.0, high=9.0).save(path)
    with pytest.raises(ValueError, match=f"{path}: low is 9 and high is 9"):
        dataset(noise=str(path))
    path.write_text(path.read_text().replace('"version": 1', '"version": 7'))
    with pytest.raises(NoiseFormatError, match="version 7"):
        dataset(noise=str(path), mode="bf")
