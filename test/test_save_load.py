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


import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from ppmat.models import SFIN
from ppmat.models import build_trained_model
from ppmat.utils import save_load
from ppmat.utils.ema import ExponentialMovingAverage
from ppmat.utils.save_load import CheckpointError

DATA = Path(__file__).parent / "data"


def setup_module():
    paddle.set_device("cpu")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Only a power cut needs it; the system keeps what a dead process wrote."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def make_model(seed=0, width=4):
    paddle.seed(seed)
    return nn.Sequential(
        nn.Linear(3, width), nn.BatchNorm1D(width), nn.Linear(width, 1)
    )


def make_optimizer(model, schedule=True):
    rate = paddle.optimizer.lr.CosineAnnealingDecay(0.1, 20) if schedule else 0.1
    return paddle.optimizer.AdamW(learning_rate=rate, parameters=model.parameters())


def take_step(model, optimizer, seed):
    paddle.seed(seed)
    model.train()
    model(paddle.randn([8, 3])).square().mean().backward()
    optimizer.step()
    optimizer.clear_grad()
    if "LR_Scheduler" in optimizer.state_dict():
        optimizer._learning_rate.step()


def trained(seed=0, steps=3):
    model = make_model(seed)
    optimizer = make_optimizer(model)
    for step in range(steps):
        take_step(model, optimizer, step)
    return model, optimizer


def weights_of(model):
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def save(model, optimizer, folder, prefix="latest", **kwargs):
    save_load.save_checkpoint(
        model, optimizer, kwargs.pop("metric", {"epoch": 1}), None, str(folder), prefix,
        False, **kwargs,
    )  # fmt: skip


def test_names_of_the_files(tmp_path):
    model, optimizer = trained()
    average = ExponentialMovingAverage(model, 0.9)
    save(model, optimizer, tmp_path, "epoch_3", ema_model=average)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == [
        "epoch_3.manifest.json",
        "epoch_3.pdopt",
        "epoch_3.pdparams",
        "epoch_3.pdstates",
        "epoch_3_ema.pdparams",
    ]


def test_resumed_optimizer_takes_the_same_steps_beside_another_model(tmp_path):
    model, optimizer = trained()
    save(model, optimizer, tmp_path)
    for step in range(3, 6):
        take_step(model, optimizer, step)

    make_model(5)  # shifts the automatic names of everything built after it
    again = make_model(6)
    assert again[0].weight.name != model[0].weight.name
    optimizer_again = make_optimizer(again)
    states = save_load.load_checkpoint(
        str(tmp_path / "checkpoints" / "latest"), again, optimizer_again
    )
    assert states == {"epoch": 1}
    for step in range(3, 6):
        take_step(again, optimizer_again, step)
    assert_same(weights_of(model), weights_of(again))
    assert optimizer.get_lr() == optimizer_again.get_lr()


def test_plain_set_of_upstream_loads(tmp_path):
    model, optimizer = trained()
    stem = str(tmp_path / "latest")
    paddle.save(model.state_dict(), f"{stem}.pdparams")
    paddle.save(optimizer.state_dict(), f"{stem}.pdopt")
    paddle.save({"epoch": 7, "best_metric": None}, f"{stem}.pdstates")
    take_step(model, optimizer, 3)

    again = make_model(1)
    optimizer_again = make_optimizer(again)
    states = save_load.load_checkpoint(stem, again, optimizer_again)
    assert states == {"epoch": 7, "best_metric": None}
    take_step(again, optimizer_again, 3)
    assert_same(weights_of(model), weights_of(again))


def test_files_load_with_paddle_itself(tmp_path):
    model, optimizer = trained()
    save(model, optimizer, tmp_path, metric={"epoch": 2, "rng": np.arange(3)})
    stem = str(tmp_path / "checkpoints" / "latest")
    loaded = paddle.load(f"{stem}.pdparams")
    assert_same({k: v.numpy() for k, v in loaded.items()}, weights_of(model))
    assert paddle.load(f"{stem}.pdstates")["epoch"] == 2
    make_optimizer(model).set_state_dict(paddle.load(f"{stem}.pdopt"))


def test_bfloat16_survives(tmp_path):
    model = make_model()
    for parameter in model.parameters():
        parameter.set_value(parameter.astype("bfloat16").astype("float32"))
    expected = weights_of(model)
    halves = {k: v.astype("bfloat16") for k, v in model.state_dict().items()}
    paddle.save(halves, str(tmp_path / "model.pdparams"))
    again = make_model(3)
    save_load.load_pretrain(again, str(tmp_path / "model"))
    assert_same(expected, weights_of(again))


# A death at any moment


class Death(BaseException):
    """Like kill -9: nothing that catches errors gets to clean up."""


def die_at_call(monkeypatch, number):
    """Make the ``number``-th call that changes the disk the last one."""
    calls = {"left": number}

    def watched(function):
        def wrapper(*args, **kwargs):
            if calls["left"] == 0:
                raise Death
            calls["left"] -= 1
            return function(*args, **kwargs)

        return wrapper

    for owner, name in (
        (paddle, "save"),
        (os, "fsync"),
        (os, "replace"),
        (os, "rename"),
        (save_load.shutil, "rmtree"),
    ):
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))


def test_death_at_any_call_leaves_the_old_or_the_new_set(tmp_path, monkeypatch):
    old, old_optimizer = trained(seed=0)
    new, new_optimizer = trained(seed=1)
    seen = set()
    for number in range(100):
        folder = tmp_path / str(number)
        save(old, old_optimizer, folder, metric={"epoch": 1})
        with monkeypatch.context() as patch:
            die_at_call(patch, number)
            try:
                save(new, new_optimizer, folder, metric={"epoch": 2})
                finished = True
            except Death:
                finished = False
        again = make_model(9)
        optimizer = make_optimizer(again)
        states = save_load.load_checkpoint(
            str(folder / "checkpoints" / "latest"), again, optimizer
        )
        seen.add(states["epoch"])
        assert_same(weights_of(again), weights_of(old if states["epoch"] == 1 else new))
        alone = make_model(8)
        save_load.load_pretrain(alone, str(folder))
        assert_same(weights_of(alone), weights_of(again))
        # The next save goes through whatever was left behind.
        save(old, old_optimizer, folder, metric={"epoch": 3})
        states = save_load.load_checkpoint(
            str(folder / "checkpoints" / "latest"), again, optimizer
        )
        assert states["epoch"] == 3
        if finished:
            break
    assert finished and number > 12
    assert seen == {1, 2}


def test_broken_twin_without_a_commit_mixes_sets(tmp_path, monkeypatch):
    """Files written straight to their names, as upstream does, mix; we notice."""
    old, old_optimizer = trained(seed=0)
    new, _ = trained(seed=1)
    save(old, old_optimizer, tmp_path)
    stem = str(tmp_path / "checkpoints" / "latest")
    paddle.save(new.state_dict(), f"{stem}.pdparams")
    model = make_model()
    with pytest.raises(CheckpointError, match="mixed or damaged.*latest.pdparams"):
        save_load.load_checkpoint(stem, model, make_optimizer(model))
    os.remove(f"{stem}.manifest.json")
    with pytest.raises(CheckpointError, match="parameters the weights do not list"):
        save_load.load_checkpoint(stem, model, make_optimizer(model))


@pytest.mark.parametrize("ending", [".pdparams", ".pdopt", ".pdstates"])
def test_missing_or_truncated_member_is_named(tmp_path, ending):
    model, optimizer = trained()
    save(model, optimizer, tmp_path)
    stem = str(tmp_path / "checkpoints" / "latest")
    whole = open(stem + ending, "rb").read()
    with open(stem + ending, "wb") as file:
        file.write(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=f"mixed or damaged.*latest{ending}"):
        save_load.load_checkpoint(stem, model, optimizer)
    os.remove(f"{stem}.manifest.json")
    with pytest.raises(CheckpointError, match=f"latest{ending} is damaged"):
        save_load.load_checkpoint(stem, model, optimizer)
    os.remove(stem + ending)
    with pytest.raises(CheckpointError, match=f"latest{ending} does not exist"):
        save_load.load_checkpoint(stem, model, optimizer)


def test_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    old, old_optimizer = trained(seed=0)
    save(old, old_optimizer, tmp_path)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for owner, name in ((paddle, "save"), (os, "fsync"), (os, "rename")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(CheckpointError, match="No space left.*is intact"):
                save(*trained(seed=1), tmp_path)
        again = make_model(4)
        save_load.load_checkpoint(
            str(tmp_path / "checkpoints" / "latest"), again, make_optimizer(again)
        )
        assert_same(weights_of(again), weights_of(old))
    assert not (tmp_path / "checkpoints" / ".latest.tmp").exists()


def test_file_size_limit_of_the_system(tmp_path):
    """A real limit: the kernel refuses to write on."""
    code = f"""
    import resource, paddle
    from ppmat.utils import save_load
    model = paddle.nn.Linear(100, 100)
    folder = {str(tmp_path)!r}
    save_load.save_checkpoint(model, None, {{"epoch": 1}}, None, folder, "latest")
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
    try:
        save_load.save_checkpoint(model, None, {{"epoch": 2}}, None, folder, "latest")
    except save_load.CheckpointError as error:
        assert "File too large" in str(error), error
        print("refused")
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    )
    assert "refused" in done.stdout, done.stdout + done.stderr
    stem = str(tmp_path / "checkpoints" / "latest")
    assert save_load.load_file(f"{stem}.pdstates") == {"epoch": 1}
    save_load.load_pretrain(nn.Linear(100, 100), stem)


# Files of other origin


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_nothing_in_a_file_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open("evil.pdparams", "wb") as file:
        pickle.dump({"weight": Evil()}, file)
    with pytest.raises(CheckpointError, match="evil.pdparams is damaged.*refused"):
        save_load.load_pretrain(nn.Linear(2, 2), "evil")
    assert not os.path.exists("pwned")
    paddle.load("evil.pdparams")  # what upstream calls
    assert os.path.exists("pwned")


def test_checkpoint_of_another_model_is_refused(tmp_path):
    model, optimizer = trained()
    save(model, optimizer, tmp_path)
    stem = str(tmp_path / "checkpoints" / "latest")
    with pytest.raises(CheckpointError, match=r"0\.weight: shape \[3, 4\].*\[3, 5\]"):
        save_load.load_pretrain(make_model(width=5), stem)
    other = nn.Linear(3, 4)
    before = weights_of(other)
    with pytest.raises(CheckpointError, match="missing weight.*unexpected 0.weight"):
        save_load.load_pretrain(other, stem)
    assert_same(before, weights_of(other))


def test_folder_takes_best_then_latest_then_last_epoch(tmp_path):
    def put(name, value, folder=tmp_path):
        layer = nn.Linear(1, 1)
        layer.weight.set_value(paddle.full([1, 1], value))
        os.makedirs(folder, exist_ok=True)
        paddle.save(layer.state_dict(), str(folder / name))

    def taken(**kwargs):
        layer = nn.Linear(1, 1)
        save_load.load_pretrain(layer, str(tmp_path), **kwargs)
        return layer.weight.item()

    with pytest.raises(CheckpointError, match="no weight file"):
        taken()
    put("own.pdparams", 1.0)
    assert taken() == 1.0
    put("epoch_9.pdparams", 2.0)
    put("epoch_10.pdparams", 3.0, tmp_path / "sub")
    assert taken() == 3.0
    put("latest.pdparams", 4.0)
    put("latest_ema.pdparams", 40.0)
    assert taken() == 4.0
    put("best.pdparams", 5.0, tmp_path / "sub")
    assert taken() == 5.0
    assert taken(weights_name="epoch_9.pdparams") == 2.0
    with pytest.raises(CheckpointError, match="no file named x.pdparams"):
        taken(weights_name="x.pdparams")
    put("best.pdparams", 6.0)
    with pytest.raises(CheckpointError, match="several files named best.pdparams"):
        taken()


def test_several_files_without_a_rule_are_an_error(tmp_path):
    for name in ("a", "b"):
        paddle.save(nn.Linear(1, 1).state_dict(), str(tmp_path / f"{name}.pdparams"))
    with pytest.raises(CheckpointError, match="a.pdparams, b.pdparams"):
        save_load.load_pretrain(nn.Linear(1, 1), str(tmp_path))


def test_address_of_an_archive(tmp_path, monkeypatch):
    model = make_model(2)
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        paddle.save(model.state_dict(), str(tmp_path / "best.pdparams"))
        archive.write(tmp_path / "best.pdparams", "m/checkpoints/best.pdparams")

    def fetch(url):
        assert url == "https://example.org/m.zip"
        with zipfile.ZipFile(tmp_path / "m.zip") as archive:
            archive.extractall(tmp_path / "out")
        return str(tmp_path / "out" / "m")

    monkeypatch.setattr(save_load.download, "get_weights_path_from_url", fetch)
    again = make_model(3)
    save_load.load_pretrain(again, "https://example.org/m.zip")
    assert_same(weights_of(model), weights_of(again))


def test_missing_file_says_so(tmp_path):
    def fails(name, message):
        with pytest.raises(CheckpointError, match=f"{name}.* do not exist; {message}"):
            save_load.load_pretrain(nn.Linear(1, 1), str(tmp_path / name))

    fails("nothing", "weight files in .*: none")
    (tmp_path / "best.pdparams").touch()
    fails("bst", "weight files in .*: best.pdparams")
    fails("none/best", "there is no folder .*none. A training .*/best.pdparams")


def test_best_holds_the_average_and_resumes_from_the_trained_weights(tmp_path):
    model, optimizer = trained()
    average = ExponentialMovingAverage(model, 0.5)
    take_step(model, optimizer, 3)
    average.update()
    online = weights_of(model)
    average.apply_shadow()
    averaged = weights_of(model)
    average.restore()
    save(model, optimizer, tmp_path, "best", ema_model=average, params_from_ema=True)
    assert_same(online, weights_of(model))
    stem = str(tmp_path / "checkpoints" / "best")

    again = make_model(3)
    save_load.load_pretrain(again, str(tmp_path))
    assert_same(weights_of(again), averaged)
    save_load.load_pretrain(again, f"{stem}_ema.pdparams")
    assert_same(weights_of(again), averaged)

    resumed = make_model(4)
    average_again = ExponentialMovingAverage(resumed, 0.5)
    save_load.load_checkpoint(
        stem, resumed, make_optimizer(resumed), None, average_again
    )
    assert_same(weights_of(resumed), online)
    assert average_again.n_avg == 1
    average_again.apply_shadow()
    assert_same(weights_of(resumed), averaged)


def test_members_of_an_earlier_set_do_not_linger(tmp_path):
    model, optimizer = trained()
    average = ExponentialMovingAverage(model, 0.5)
    save(model, optimizer, tmp_path, ema_model=average)
    save(model, optimizer, tmp_path)
    folder = tmp_path / "checkpoints"
    listed = json.loads((folder / "latest.manifest.json").read_text())["files"]
    assert sorted(listed) == ["latest.pdopt", "latest.pdparams", "latest.pdstates"]
    assert not (folder / "latest_ema.pdparams").exists()


@pytest.mark.parametrize("saved, wanted", [(True, False), (False, True)])
def test_schedule_of_one_run_does_not_reach_the_other(tmp_path, saved, wanted):
    model = make_model()
    optimizer = make_optimizer(model, schedule=saved)
    for step in range(3):
        take_step(model, optimizer, step)
    save(model, optimizer, tmp_path)
    again = make_model(1)
    optimizer = make_optimizer(again, schedule=wanted)
    save_load.load_checkpoint(
        str(tmp_path / "checkpoints" / "latest"), again, optimizer
    )
    assert optimizer.get_lr() == 0.1
    take_step(again, optimizer, 3)


# Files of PyTorch


def torch_twin():
    """Return the Paddle layers of the network in torch_run.pth."""
    return nn.Sequential(
        nn.Conv2D(1, 2, 3), nn.BatchNorm2D(2), nn.Flatten(), nn.Linear(2, 3)
    )


@pytest.mark.parametrize("form", ["torch_run", "torch_run_legacy"])
def test_weights_of_a_pytorch_run(form):
    model = torch_twin()
    save_load.load_pretrain(model, str(DATA / f"{form}.pth"))
    got, truth = weights_of(model), np.load(DATA / "torch_run_truth.npz")
    np.testing.assert_array_equal(got["1._mean"], truth["1.running_mean"])
    np.testing.assert_array_equal(got["1._variance"], truth["1.running_var"])
    np.testing.assert_array_equal(got["3.weight"], truth["3.weight"].T)
    np.testing.assert_array_equal(got["0.weight"], truth["0.weight"])


def test_square_linear_is_transposed_and_an_embedding_is_not(tmp_path, monkeypatch):
    square = np.arange(9, dtype=np.float32).reshape(3, 3)
    file = {"0.weight": square, "1.weight": square, "1.bias": square[0]}
    monkeypatch.setattr(save_load.torch_checkpoint, "load", lambda *_: file)
    model = nn.Sequential(nn.Embedding(3, 3), nn.Linear(3, 3))
    save_load.load_pretrain(model, "x.pt")
    x = np.ones(3, np.float32) * [1, 2, 3]
    np.testing.assert_array_equal(model[0](paddle.to_tensor([1])).numpy()[0], square[1])
    got = model[1](paddle.to_tensor(x.astype("float32"))).numpy()
    np.testing.assert_array_equal(got, square @ x + square[0])


def test_shared_linear_is_transposed_under_each_name(monkeypatch):
    """A layer that has two names, of which a walk over layers gives one."""
    flat = np.arange(9, dtype=np.float32).reshape(3, 3)
    shared = nn.Linear(3, 3, bias_attr=False)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    file = {"0.weight": flat, "2.weight": flat}
    monkeypatch.setattr(save_load.torch_checkpoint, "load", lambda *_: file)
    save_load.load_pretrain(model, "x.pth")
    np.testing.assert_array_equal(shared.weight.numpy(), flat.T)


def test_authors_network_gives_the_authors_image():
    model = SFIN(base_channels=4, num_blocks=1)
    truth = np.load(DATA / "torch_sfin_truth.npz")
    model.eval()
    save_load.load_pretrain(model, str(DATA / "torch_sfin.pth"))
    got = model(truth["image"]).numpy()
    assert got.shape == (1, 1, 17, 24)
    assert np.abs(got - truth["output"]).max() < 1e-3
    # The twin: without its statistics the network gives another image.
    for name, value in model.state_dict().items():
        if name.endswith("_variance"):
            value.set_value(value * 1.1)
    assert np.abs(model(truth["image"]).numpy() - truth["output"]).max() > 0.01


@pytest.mark.parametrize(
    "settings, match",
    [
        (
            {"base_channels": 8, "num_blocks": 1},
            r"shape \[\d.*the model has \[\d.*more",
        ),
        ({"base_channels": 4, "num_blocks": 2}, "missing body.1.*more"),
    ],
)
def test_authors_network_of_another_size(settings, match):
    model = SFIN(**settings)
    before = weights_of(model)
    with pytest.raises(
        CheckpointError, match=f"torch_sfin.pth belongs .*SFIN.*{match}"
    ):
        save_load.load_pretrain(model, str(DATA / "torch_sfin.pth"))
    assert_same(before, weights_of(model))


def test_pytorch_file_that_cannot_be_used(tmp_path):
    with pytest.raises(CheckpointError, match="none.pth: cannot be read: No such file"):
        save_load.load_pretrain(nn.Linear(1, 1), str(tmp_path / "none.pth"))
    (tmp_path / "page.pth.tar").write_text("<html>")
    with pytest.raises(CheckpointError, match="page.pth.tar: a web page"):
        save_load.load_pretrain(nn.Linear(1, 1), str(tmp_path / "page.pth.tar"))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pth.tar", ".bin"])
def test_folder_prefers_paddle_files_and_takes_the_only_pytorch_file(tmp_path, suffix):
    os.makedirs(tmp_path / "sub")
    shutil.copy(DATA / "torch_run.pth", tmp_path / "sub" / f"authors{suffix}")
    wanted = torch_twin()
    save_load.load_pretrain(wanted, str(DATA / "torch_run.pth"))
    model = torch_twin()
    save_load.load_pretrain(model, str(tmp_path))
    assert_same(weights_of(model), weights_of(wanted))
    shutil.copy(DATA / "torch_run.pth", tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="several PyTorch files and no .pdparams"):
        save_load.load_pretrain(torch_twin(), str(tmp_path))
    model = torch_twin()
    save_load.load_pretrain(model, str(tmp_path), f"authors{suffix}")
    assert_same(weights_of(model), weights_of(wanted))
    own = torch_twin()
    paddle.save(own.state_dict(), str(tmp_path / "mine.pdparams"))
    save_load.load_pretrain(model, str(tmp_path))
    assert_same(weights_of(model), weights_of(own))


def test_address_of_a_pytorch_file_is_not_unpacked(tmp_path, monkeypatch):
    def fetch(url, root_dir, md5sum=None, check_exist=True, decompress=True):
        assert url == "https://example.org/authors.pth.tar" and not decompress
        return shutil.copy(DATA / "torch_run.pth", tmp_path / "authors.pth.tar")

    monkeypatch.setattr(save_load.download, "get_path_from_url", fetch)
    model = torch_twin()
    save_load.load_pretrain(model, "https://example.org/authors.pth.tar")
    truth = np.load(DATA / "torch_run_truth.npz")
    np.testing.assert_array_equal(model[0].weight.numpy(), truth["0.weight"])


def test_checkpoint_path_of_a_trained_model_may_be_the_authors_file(tmp_path):
    config = tmp_path / "sfin.yaml"
    config.write_text(
        "Model:\n  __class_name__: SFIN\n  __init_params__: "
        "{base_channels: 4, num_blocks: 1}\n"
    )
    model, _ = build_trained_model(
        config_path=str(config), checkpoint_path=str(DATA / "torch_sfin.pth")
    )
    truth = np.load(DATA / "torch_sfin_truth.npz")
    assert np.abs(model(truth["image"]).numpy() - truth["output"]).max() < 1e-3
