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


"""Samplers that can be entered anywhere, and loaders built from blocks."""

import copy
import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from paddle import io

import ppmat.datasets
from ppmat.datasets import BatchSampler
from ppmat.datasets import DistributedBatchSampler
from ppmat.datasets import build_dataloader
from ppmat.datasets import factory
from ppmat.datasets import set_build_sample
from ppmat.datasets.batch_sampler import DistributedBatchSampler as Sampler
from ppmat.datasets.loader import WorkerError
from ppmat.utils.registry import ConfigError


class Toy(io.Dataset):
    """Numbers 0 .. size - 1; counts what is loaded in this process."""

    def __init__(self, size: int = 10, width: int = 2, edges: bool = True):
        super().__init__()
        self.size = size
        self.width = width
        self.edges = edges
        self.loaded = []

    def __len__(self):
        return self.size

    def __getitem__(self, idx):
        if idx >= self.size:
            raise IndexError(idx)
        self.loaded.append(idx)
        return {
            "x": np.full(self.width, idx, dtype="float32"),
            "edges": ppmat.datasets.collate_fn.ConcatData(
                np.zeros((idx if self.edges else 0, 2), dtype="int64")
            ),
            "draw": np.random.rand(1),
            "id": str(idx),
        }


@pytest.fixture(autouse=True)
def toy_is_legal(monkeypatch):
    monkeypatch.setitem(ppmat.datasets.DATASETS, "Toy", Toy)


def block(sampler=True, loader=None, **params):
    cfg = {"dataset": {"__class_name__": "Toy", "__init_params__": params}}
    if sampler:
        cfg["sampler"] = {
            "__class_name__": "BatchSampler",
            "__init_params__": {"batch_size": 4, "shuffle": True},
        }
    if loader is not None:
        cfg["loader"] = loader
    return cfg


def ids(loader):
    return [batch["id"] for batch in loader]


# Samplers ----------------------------------------------------------------------------


def all_ranks(size, batch_size, nranks, epoch=0, **kwargs):
    samplers = [
        Sampler(range(size), batch_size, nranks, rank, **kwargs)
        for rank in range(nranks)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return samplers, [list(sampler) for sampler in samplers]


sizes = {
    "size": st.integers(1, 60),
    "batch_size": st.integers(1, 7),
    "nranks": st.integers(1, 5),
    "shuffle": st.booleans(),
    "epoch": st.integers(0, 3),
}


@settings(max_examples=150, deadline=None)
@given(**sizes)
def test_evaluation_sees_every_sample_once(size, batch_size, nranks, shuffle, epoch):
    samplers, batches = all_ranks(
        size, batch_size, nranks, epoch, shuffle=shuffle, even=False
    )
    seen = [i for rank in batches for batch in rank for i in batch]
    assert sorted(seen) == list(range(size))
    assert [len(s) for s in samplers] == [len(b) for b in batches]


@settings(max_examples=150, deadline=None)
@given(**sizes)
def test_training_gives_each_process_the_same_steps(
    size, batch_size, nranks, shuffle, epoch
):
    samplers, batches = all_ranks(size, batch_size, nranks, epoch, shuffle=shuffle)
    steps = {len(rank) for rank in batches}
    assert len(steps) == 1 and {len(s) for s in samplers} == steps
    seen = [i for rank in batches for batch in rank for i in batch]
    assert set(seen) == set(range(size))
    assert len(seen) - size <= nranks - 1
    assert all(0 < len(batch) <= batch_size for rank in batches for batch in rank)


@settings(max_examples=100, deadline=None)
@given(**sizes)
def test_a_step_of_all_processes_is_a_step_of_one(
    size, batch_size, nranks, shuffle, epoch
):
    _, batches = all_ranks(size, batch_size, nranks, epoch, shuffle=shuffle)
    _, (single,) = all_ranks(size, batch_size * nranks, 1, epoch, shuffle=shuffle)
    for step, wanted in enumerate(single):
        together = [i for rank in batches for i in rank[step]]
        assert together[: len(wanted)] == wanted
        assert len(together) == max(len(wanted), nranks)


@settings(max_examples=100, deadline=None)
@given(**sizes, start=st.integers(0, 3))
def test_processes_share_a_batch(size, batch_size, nranks, shuffle, epoch, start):
    """Also if it cannot be divided evenly: 7 samples are 3 + 2 + 2."""
    total = batch_size + nranks - 1
    options = {"shuffle": shuffle, "shared": True}
    samplers, batches = all_ranks(size, total, nranks, epoch, **options)
    _, (single,) = all_ranks(size, total, 1, epoch, shuffle=shuffle)
    assert {len(sampler) for sampler in samplers} == {len(single)}
    for step, wanted in enumerate(single):
        parts = [rank[step] for rank in batches]
        together = [i for part in parts for i in part]
        assert together[: len(wanted)] == wanted
        assert len(together) == max(len(wanted), nranks)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    if start <= len(single):  # a resumed epoch
        for sampler, whole in zip(samplers, batches, strict=True):
            sampler.start_batch = start
            assert list(sampler) == whole[start:]


def test_a_shared_batch_has_a_sample_for_each_process():
    with pytest.raises(ConfigError, match="batch_size is 2.*at least 1 for each of 3"):
        Sampler(range(9), 2, 3, 0, shared=True)


def test_workers_run_on_cores_that_are_free(monkeypatch):
    monkeypatch.setattr(factory.dist, "get_world_size", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = {}
    for cores in (1, 2, 3, 4, 8):
        monkeypatch.setattr(factory, "available_cores", lambda: cores)  # noqa: B023
        found[cores] = factory._workers_of_rank(3)
    assert found == {1: 0, 2: 0, 3: 0, 4: 1, 8: 2}


@settings(max_examples=50, deadline=None)
@given(**sizes)
def test_drop_last_leaves_whole_batches(size, batch_size, nranks, shuffle, epoch):
    _, batches = all_ranks(
        size, batch_size, nranks, epoch, shuffle=shuffle, drop_last=True
    )
    for rank in batches:
        assert [len(b) for b in rank] == [batch_size] * (size // (batch_size * nranks))


@settings(max_examples=50, deadline=None)
@given(**sizes, start=st.integers(0, 60))
def test_an_epoch_can_be_entered_at_any_batch(
    size, batch_size, nranks, shuffle, epoch, start
):
    samplers, batches = all_ranks(size, batch_size, nranks, epoch, shuffle=shuffle)
    for sampler, whole in zip(samplers, batches):
        start = min(start, len(whole))
        sampler.start_batch = start
        assert len(sampler) == len(whole)
        assert list(sampler) == whole[start:]
        assert list(sampler) == whole


def test_the_order_depends_on_seed_and_epoch_only():
    def order(seed, epoch):
        sampler = BatchSampler(range(50), shuffle=True, batch_size=8, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    np.random.seed(1)
    first = order(3, 5)
    np.random.seed(2)
    assert order(3, 5) == first
    assert order(3, 6) != first
    assert order(4, 5) != first
    # Pinned: a checkpoint of one machine has to resume on another one.
    assert order(0, 0)[0] == [14, 17, 29, 44, 10, 48, 40, 4]


def test_paddles_sampler_is_not_reproducible():
    """Broken twin of the test above: the order follows numpy's global generator."""
    orders = []
    for seed in (1, 2):
        np.random.seed(seed)
        orders.append(list(io.BatchSampler(Toy(50), shuffle=True, batch_size=8)))
    assert orders[0] != orders[1]


def test_set_epoch_forgets_the_start():
    sampler = BatchSampler(range(10), batch_size=3)
    sampler.start_batch = 2
    sampler.set_epoch(1)
    assert len(list(sampler)) == 4
    with pytest.raises(ValueError, match="start_batch is 5.*4 batches"):
        sampler.start_batch = 5


@pytest.mark.parametrize(
    "bad, match",
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 2, "num_replicas": 2, "rank": 2}, "rank is 2"),
        ({"batch_size": 2, "seed": -1}, "seed is -1"),
    ],
)
def test_sampler_parameters_out_of_range(bad, match):
    with pytest.raises(ConfigError, match=match):
        DistributedBatchSampler(range(4), **bad)


def test_batch_sampler_becomes_distributed():
    cfg = block()["sampler"]
    before = copy.deepcopy(cfg)
    sampler = set_build_sample(cfg, 2, Toy(), seed=7, even=False)
    assert type(sampler) is DistributedBatchSampler
    assert (sampler.seed, sampler.even, sampler.batch_size) == (7, False, 4)
    assert cfg == before
    assert type(set_build_sample(cfg, 1, Toy())) is BatchSampler


# Loaders -----------------------------------------------------------------------------


def test_nothing_for_nothing():
    assert build_dataloader(None) is None


def test_a_loader_from_the_smallest_block():
    loader = build_dataloader(block(sampler=False, size=3))
    assert isinstance(loader, io.DataLoader)
    assert ids(loader) == [["0"], ["1"], ["2"]]
    batch = next(iter(loader))
    assert isinstance(batch["x"], paddle.Tensor) and batch["x"].shape == [1, 2]


def test_the_block_is_not_changed():
    cfg = block(loader={"num_workers": 0, "collate_fn": "DefaultCollator"}, size=6)
    before = copy.deepcopy(cfg)
    build_dataloader(cfg)
    assert cfg == before


def test_the_seed_decides_the_order():
    first, same, other = (
        ids(build_dataloader(block(size=40), seed=seed)) for seed in (1, 1, 2)
    )
    assert first == same != other


def test_skipped_batches_are_not_loaded():
    loader = build_dataloader(block(size=10))
    whole = ids(loader)
    loader.dataset.loaded.clear()
    loader.batch_sampler.set_epoch(0)
    loader.batch_sampler.start_batch = 2
    assert ids(loader) == whole[2:]
    assert len(loader.dataset.loaded) == 2


@pytest.mark.parametrize("shared", [True, False])
def test_workers_change_nothing(shared):
    plain = build_dataloader(block(size=9))
    workers = build_dataloader(
        block(size=9, loader={"num_workers": 2, "use_shared_memory": shared})
    )
    for epoch in range(2):
        for loader in (plain, workers):
            loader.batch_sampler.set_epoch(epoch)
        for a, b in zip(plain, workers, strict=True):
            assert a["id"] == b["id"]
            np.testing.assert_array_equal(a["x"].numpy(), b["x"].numpy())
            assert a["edges"].shape == b["edges"].shape


@pytest.mark.parametrize("num_workers", [0, 2])
def test_arrays_without_elements_pass_through_workers(num_workers):
    loader = build_dataloader(
        block(size=5, edges=False, loader={"num_workers": num_workers})
    )
    for batch in loader:
        assert batch["edges"].shape == [0, 2]
        assert batch["edges"].dtype == paddle.int64


class Fault(ValueError):
    """An error that cannot be rebuilt from its text alone."""

    def __init__(self, index, kind):
        super().__init__(f"record {index} is {kind}")


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("error", [KeyError("no label in record 5"), Fault(5, "bad")])
def test_errors_come_through_workers_as_what_they_are(monkeypatch, num_workers, error):
    """Batches before the bad one are given; none is left out without a word."""

    def load(self, idx, good=Toy.__getitem__):
        if idx == 5:
            raise error
        return good(self, idx)

    monkeypatch.setattr(Toy, "__getitem__", load)
    cfg = block(size=12, loader={"num_workers": num_workers})
    cfg["sampler"]["__init_params__"] = {"batch_size": 2, "shuffle": False}
    loader = build_dataloader(cfg)
    # A pickle of Fault has one argument for a constructor of two.
    rebuilt = num_workers and isinstance(error, Fault)
    kind = RuntimeError if rebuilt else type(error)
    seen = []
    with pytest.raises(kind, match="record 5"):
        for batch in loader:
            seen.append(batch["id"])
    assert seen == [["0", "1"], ["2", "3"]]
    assert isinstance(loader.dataset, Toy)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_errors_of_the_collator_come_through_workers(monkeypatch, num_workers):
    def load(self, idx, good=Toy.__getitem__):
        return {**good(self, idx), "x": np.zeros(1 + idx, dtype="float32")}

    monkeypatch.setattr(Toy, "__getitem__", load)
    loader = build_dataloader(block(loader={"num_workers": num_workers}))
    with pytest.raises(ValueError, match="shape"):
        list(loader)


def draws(seed, epoch, rank=0):
    """Random numbers of the workers, one tuple per batch."""
    loader = build_dataloader(block(size=8, loader={"num_workers": 2}), seed=seed)
    loader.batch_sampler.set_epoch(epoch)
    loader.batch_sampler.nranks, loader.batch_sampler.local_rank = rank + 1, rank
    return [tuple(batch["draw"].numpy().ravel().tolist()) for batch in loader]


def test_workers_draw_by_seed_epoch_rank_and_worker():
    first = draws(seed=1, epoch=0)
    assert draws(seed=1, epoch=0) == first
    runs = [first, draws(2, 0), draws(1, 1), draws(1, 0, rank=1)]
    values = [value for run in runs for batch in run for value in batch]
    assert len(set(values)) == len(values) > 24


def test_signals_to_the_group_leave_the_workers_alive():
    loader = build_dataloader(block(size=40, loader={"num_workers": 2}))
    before = set(multiprocessing.active_children())
    batches = iter(loader)
    next(batches)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    for name in ("TERM", "INT"):  # sent by another process, like a batch system does
        pids = [str(worker.pid) for worker in workers]
        subprocess.run(["kill", f"-{name}", *pids], check=True)
    assert len(list(batches)) == 9


def test_workers_leave_no_trace_in_the_parent():
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    np.random.seed(3)
    list(build_dataloader(block(size=4, loader={"num_workers": 1})))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    drawn = np.random.rand()
    np.random.seed(3)
    assert drawn == np.random.rand()


ORPHANS = """
import multiprocessing, os, signal
import numpy as np
from paddle import io
from ppmat.datasets import BatchSampler
from ppmat.datasets.collate_fn import DefaultCollator
from ppmat.datasets.loader import Loader

class Numbers(io.Dataset):
    def __len__(self):
        return 9
    def __getitem__(self, idx):
        return np.ones(1)

data = Numbers()
sampler = BatchSampler(data)
loader = Loader(data, batch_sampler=sampler, collate_fn=DefaultCollator(),
                num_workers=2)
for batch in loader:
    pids = [child.pid for child in multiprocessing.active_children()]
    print(*pids, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_do_not_outlive_a_killed_parent():
    run = subprocess.run(
        [sys.executable, "-c", ORPHANS],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=300,
    )
    assert run.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in run.stdout.split()]
    assert len(pids) == 2
    assert are_gone(pids)


LATE = """
import multiprocessing, os, signal, time
from ppmat.datasets.loader import _WorkerStart

def begin_late(parent):
    while os.getppid() == parent:
        time.sleep(0.01)
    _WorkerStart(None)(0)
    time.sleep(600)

worker = multiprocessing.get_context("fork").Process(
    target=begin_late, args=[os.getpid()]
)
worker.start()
print(worker.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_that_begins_after_its_parents_death_ends():
    run = subprocess.run(
        [sys.executable, "-c", LATE],
        stdout=subprocess.PIPE,  # read to its end, which is the worker's
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=300,
    )
    assert run.returncode == -signal.SIGKILL
    assert are_gone([int(run.stdout)])


def are_gone(pids):
    """Return whether processes end within a minute, or two on a busy machine."""
    deadline = time.monotonic() + 120
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not any(map(is_running, pids))


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_without_workers_nothing_is_loaded_ahead():
    loader = build_dataloader(block(size=12))
    batches = iter(loader)
    next(batches)
    time.sleep(0.1)
    assert len(loader.dataset.loaded) == 4
    with pytest.raises(IndexError):  # errors arrive as they are
        loader.batch_sampler.dataset = range(30)
        list(loader)


@pytest.mark.parametrize(
    "number, cause",
    [(signal.SIGKILL, "memory is full"), (signal.SIGSEGV, "a library failed")],
)
def test_a_worker_that_dies_is_one_error(monkeypatch, number, cause):
    def load(self, idx, good=Toy.__getitem__):
        if idx == 5:
            faulthandler.disable()
            os.kill(os.getpid(), number)
        return good(self, idx)

    monkeypatch.setattr(Toy, "__getitem__", load)
    loader = build_dataloader(block(size=12, loader={"num_workers": 2}))
    start = time.monotonic()
    with pytest.raises(WorkerError, match=cause) as caught:
        list(loader)
    assert caught.value.code == -number and "\n" not in str(caught.value)
    assert time.monotonic() - start < 60  # Paddle looks every 5 s


def test_the_parent_can_end_its_workers():
    loader = build_dataloader(
        block(size=8, loader={"num_workers": 1, "persistent_workers": True})
    )
    before = set(multiprocessing.active_children())
    list(loader)
    (worker,) = set(multiprocessing.active_children()) - before
    core = paddle.base.core
    core._erase_process_pids(id(loader._iterator))
    worker.terminate()
    worker.join(120)
    assert worker.exitcode == 0


def test_ratios_split_one_data_set():
    cfg = {
        "dataset": {"__class_name__": "Toy", "__init_params__": {"size": 11}},
        "split_dataset_ratio": {"train": 0.7, "val": 0.3, "test": None},
        "train_sampler": {
            "__class_name__": "BatchSampler",
            "__init_params__": {"batch_size": 3, "shuffle": True},
        },
    }
    loaders = build_dataloader(cfg, seed=4)
    assert loaders["test"] is None
    train, val = (
        sorted(int(i) for b in ids(loaders[k]) for i in b) for k in ("train", "val")
    )
    assert len(train) == 7 and sorted(train + val) == list(range(11))
    assert train != list(range(7))
    again = build_dataloader(cfg, seed=4)
    assert sorted(int(i) for b in ids(again["val"]) for i in b) == val


@pytest.mark.parametrize(
    "change, match",
    [
        ({"dataset": None}, r"Dataset\.train\.dataset: expected a block"),
        (
            {"dataset": {"__class_name__": "Tyo", "__init_params__": {}}},
            r"Dataset\.train\.dataset\.__class_name__.*'Tyo'.*Did you mean 'Toy'",
        ),
        (
            {"dataset": {"__class_name__": "__import__('os').system('true')"}},
            r"unknown data set",
        ),
        (
            {"dataset": {"__class_name__": "Toy", "__init_params__": {"sise": 3}}},
            r"Dataset\.train\.dataset\.__init_params__.*'sise'.*Did you mean 'size'",
        ),
        (
            {"dataset": {"__class_name__": "Toy", "__init_params__": {"size": "3"}}},
            r"__init_params__\.size.*int.*'3'",
        ),
        (
            {"dataset": {"__class_name__": "Toy", "__init_params__": {"size": 0}}},
            r"Dataset\.train\.dataset.*empty",
        ),
        ({"sampels": {}}, r"Dataset\.train: unknown key 'sampels'.*'sampler'"),
        (
            {"loader": {"num_worker": 2}},
            r"Dataset\.train\.loader: unknown key 'num_worker'.*'num_workers'",
        ),
        ({"loader": {"num_workers": True}}, r"loader\.num_workers: .*wanted int"),
        ({"loader": {"num_workers": -1}}, r"loader\.num_workers is -1"),
        ({"loader": {"prefetch_factor": 0}}, r"loader\.prefetch_factor is 0"),
        ({"loader": {"use_shared_memory": 1}}, r"use_shared_memory: .*wanted bool"),
        ({"loader": {"batch_size": 4}}, r"loader: unknown key 'batch_size'"),
        (
            {"loader": {"collate_fn": "Default"}},
            r"loader\.collate_fn: unknown.*Did you",
        ),
        ({"loader": {"collate_params": {"pad": 1}}}, r"collate_params.*'pad'"),
        (
            {"sampler": {"__class_name__": "RandomSampler"}},
            r"Dataset\.train\.sampler\.__class_name__: unknown batch sampler",
        ),
        (
            {
                "sampler": {
                    "__class_name__": "BatchSampler",
                    "__init_params__": {"batch_size": 40, "drop_last": True},
                }
            },
            r"Dataset\.train\.sampler: drop_last leaves no batch: 10 samples",
        ),
        (
            {"split_dataset_ratio": {"train": 0.5}},
            r"Dataset\.train.*unknown key 'sampler'.*train_sampler",
        ),
    ],
)
def test_what_cannot_be_meant_is_named(change, match):
    cfg = {**block(), **change}
    with pytest.raises(ConfigError, match=match):
        build_dataloader(cfg, where="Dataset.train")


@pytest.mark.parametrize(
    "ratios, match",
    [
        ({"train": 0.5, "val": 0.2}, "add up to 0.7"),
        ({"train": 1.5, "val": -0.5}, "split_dataset_ratio.train is 1.5"),
        ({"trian": 1.0}, "unknown key 'trian'.*'train'"),
        ([0.5, 0.5], "expected train, val, test"),
    ],
)
def test_ratios_that_make_no_split(ratios, match):
    cfg = block(sampler=False)
    with pytest.raises(ConfigError, match=match):
        build_dataloader({**cfg, "split_dataset_ratio": ratios})


def test_a_training_whose_worker_is_killed_ends_with_one_line(tmp_path):
    root = Path(__file__).parents[1]
    command = f"""structure_generation/train.py --processes=1
    -c structure_generation/configs/sfin/oc20_smoke.yaml Global.num_workers=1
    Global.batch_size=1 Dataset.train.dataset.__init_params__.max_samples=200
    Trainer.output_dir={tmp_path}""".split()
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        while "Step" not in process.stdout.readline():
            assert process.poll() is None
        for worker in children_of(process.pid):
            os.kill(worker, signal.SIGKILL)
        rest = process.stdout.read().splitlines()
    assert process.returncode == 2, rest[-5:]
    assert "a data worker was killed (SIGKILL)" in rest[-1]
    assert not any("Traceback" in line for line in rest)


def children_of(pid):
    """Return the processes that a process has started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]
