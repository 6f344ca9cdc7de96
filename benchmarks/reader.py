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

"""Time and memory of reading OC20 records, compared with torch and PyG.

``--records`` records of official size are made from those of ``--source`` by small
random displacements, and written in both versions of the format. Stored edges are kept;
records without edges get those of the official files (6 Å, 50 neighbours).

Measured in one process: the decoder, the checked records of ``OC20LMDB``, the samples
of the data set with its neighbour search, the growth of memory, and the opening of a
file with as many rows as the largest official one. With ``--peer-python``, a Python
that has torch and torch_geometric unpickles the same files. Rates are per second of
processor time and thread; the files stay in the system's cache, and other load on the
machine disturbs less.

Usage::

    python -m benchmarks.reader --peer-python VENV/bin/python
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np
from pymatgen.optimization.neighbors import find_points_in_spheres

from benchmarks.runs import RESULTS
from benchmarks.runs import ROOT
from benchmarks.runs import result_of
from benchmarks.runs import write
from ppmat.datasets.oc20_is2re_dataset import OC20IS2REDataset
from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_lmdb import OC20Record
from ppmat.datasets.oc20_writer import write_lmdb

SAMPLE = ROOT / "structure_generation/example_data/oc20_emt/train"
LARGEST_SPLIT = 460_328
GRAPH = {"__class_name__": "PeriodicGraphConverter", "__init_params__": {}}

PEER = """
import json, pickle, sys, time, warnings
warnings.simplefilter("ignore")
import lmdb, torch, torch_geometric
torch.set_num_threads(1)
path, repeats = sys.argv[1], int(sys.argv[2])
env = lmdb.open(path, subdir=False, readonly=True, lock=False)
count = env.stat()["entries"]
def run():
    start = time.process_time()
    with env.begin() as txn:
        for row in range(count):
            pickle.loads(txn.get(str(row).encode()))
    return count / (time.process_time() - start)
run()
print(json.dumps({
    "torch": torch.__version__,
    "pyg": torch_geometric.__version__,
    "rates": [run() for _ in range(repeats)],
}))
"""


def with_edges(record: OC20Record) -> OC20Record:
    """Return the record with the graph an official file stores: 6 Å, 50 neighbours."""
    centre, neighbour, offsets, distances = find_points_in_spheres(
        *(np.ascontiguousarray(record.pos, dtype=np.float64),) * 2,
        r=6.0,
        pbc=np.array([1, 1, 1], dtype=np.int64),
        lattice=np.ascontiguousarray(record.cell, dtype=np.float64),
        tol=1e-8,
    )
    order = np.lexsort((distances, centre))
    order = order[distances[order] > 1e-8]
    starts = np.searchsorted(centre[order], np.arange(len(record.pos)))
    rank = np.arange(len(order)) - starts[centre[order]]
    kept = order[rank < 50]
    return dataclasses.replace(
        record,
        edge_index=np.stack([neighbour[kept], centre[kept]]),
        cell_offsets=offsets[kept].astype(np.int64),
        distances=distances[kept].astype(np.float32),
        force=np.zeros_like(record.pos),
    )


def displaced(source: OC20LMDB, count: int) -> Iterator[OC20Record]:
    """Yield ``count`` records: ``source`` in turn, randomly displaced."""
    rng = np.random.default_rng(0)
    originals = [source[i] for i in range(min(len(source), 200))]
    originals = [r if r.edge_index is not None else with_edges(r) for r in originals]
    for number in range(count):
        record = originals[number % len(originals)]
        noise = rng.normal(scale=0.02, size=record.pos.shape).astype(np.float32)
        yield dataclasses.replace(
            record, sid=str(number), pos=record.pos + noise * ~record.fixed[:, None]
        )


def rates(run: Callable[[], None], count: int, repeats: int) -> list[float]:
    """Return records per second of each repeat, after one unmeasured run."""
    result = []
    for _ in range(repeats + 1):
        start = time.process_time()
        run()
        result.append(count / (time.process_time() - start))
    return result[1:]


def private_memory() -> float:
    """Return the process's own memory in MB; pages of mapped files are not counted."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("RssAnon"):
                return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no RssAnon; memory is measured on Linux only")


def memory_growth(rows: OC20LMDB) -> float:
    """Return by how many MB one pass over all rows raises the process's memory."""
    rows[0]
    before = highest = private_memory()
    for index in range(len(rows)):
        rows[index]
        if index % 50 == 0:
            highest = max(highest, private_memory())
    return highest - before


def opening(folder: Path, repeats: int) -> dict:
    """Measure the opening of a file with as many rows as the largest split."""
    path = folder / "many.lmdb"
    with lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 28) as env:
        with env.begin(write=True) as txn:
            for row in range(LARGEST_SPLIT):
                txn.put(b"%d" % row, b"record")
    before = private_memory()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        rows = OC20LMDB(path)
        seconds.append(time.perf_counter() - start)
    assert len(rows) == LARGEST_SPLIT
    return {
        "rows": LARGEST_SPLIT,
        "milliseconds": round(1000 * statistics.median(seconds), 2),
        "memory_mb": round(private_memory() - before, 2),
    }


def measure(args: argparse.Namespace, folder: Path) -> dict:
    """Return the result, with temporary files in ``folder``."""
    source = OC20LMDB(args.source)
    table = []

    def add(name: str, generation: str, values: list[float]) -> float:
        median = statistics.median(values)
        table.append(
            {
                "name": name,
                "format": f"PyG {'1.x' if generation == 'old' else '>= 2'}",
                "records_per_s": round(median),
                "ms_per_record": round(1000 / median, 3),
                "all_repeats": " ".join(f"{value:.0f}" for value in values),
            }
        )
        print(f"{name}, {generation}: {values}")
        return median

    ratio = {}
    peer = None
    for generation in ("old", "new"):
        path = folder / generation / "data.lmdb"
        write_lmdb(path, displaced(source, args.records), generation)
        rows = OC20LMDB(path)
        count = len(rows)

        def decode(rows: OC20LMDB = rows) -> None:
            for index in range(len(rows)):
                rows.fields(index)

        def read(rows: OC20LMDB = rows) -> None:
            for index in range(len(rows)):
                rows[index]

        ours = add("decoder", generation, rates(decode, count, args.repeats))
        if args.peer_python:
            command = [args.peer_python, "-c", PEER, str(path), str(args.repeats)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peer = json.loads(done.stdout)
            name = f"torch {peer['torch']} + PyG {peer['pyg']}, unpickling"
            theirs = add(name, generation, peer["rates"])
            ratio[generation] = round(ours / theirs, 2)
        add("OC20LMDB, checked", generation, rates(read, count, args.repeats))

    size = path.stat().st_size / count / 1e3
    samples = OC20IS2REDataset(str(path), split="new", build_graph_cfg=GRAPH)
    some = np.linspace(0, count - 1, min(count, 300)).astype(int)

    def sample() -> None:
        for index in some:
            samples[int(index)]

    values = rates(sample, len(some), min(args.repeats, 3))
    add("data set with neighbours", "new", values)
    atoms = [len(rows[int(index)].pos) for index in some]
    return result_of(
        "python -m benchmarks.reader"
        + (" --source SOURCE" if args.source != SAMPLE else "")
        + (" --peer-python VENV/bin/python" if args.peer_python else "")
        + f" --records {args.records} --repeats {args.repeats}",
        f"{platform.machine()}, {os.cpu_count()} cores, one process, "
        f"Python {platform.python_version()}",
        note=args.note,
        records=count,
        kilobytes_per_record=round(size, 1),
        atoms_per_record=round(statistics.mean(atoms), 1),
        rate_over_torch_and_pyg=ratio,
        memory_growth_of_one_pass_mb=round(memory_growth(rows), 2),
        opening=opening(folder, 20),
        rows=table,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--source", type=Path, default=SAMPLE, help="OC20 file or split to start from"
    )
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer-python", help="Python with torch and torch_geometric")
    parser.add_argument("--note", default="", help="sentence for the result file")
    parser.add_argument(
        "--work", type=Path, help="folder for 0.5 GB of temporary files"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "reader.yaml")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        result = measure(args, Path(folder))
    write(result, args.out)


if __name__ == "__main__":
    main()
