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

"""Imports go down the floors of docs/architecture.md, and ``import ppmat`` is quick."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TASKS = (
    "structure_generation",
    "property_prediction",
    "interatomic_potentials",
    "spectrum_enhancement",
)
FLOORS = {
    **dict.fromkeys((*TASKS, "benchmarks"), 8),
    "ppmat.commands": 7,
    "ppmat.distillation": 6,
    **dict.fromkeys(("ppmat.predictor", "ppmat.sampler", "ppmat.calculator"), 5),
    **dict.fromkeys(("ppmat.models", "ppmat.trainer"), 4),
    "ppmat.datasets": 3,
    "ppmat.metrics": 3,
    "ppmat.schedulers": 3,
    "ppmat.losses": 3,
    "ppmat.optimizer": 3,
    "ppmat.stem": 2,
    "ppmat.utils": 1,
    "ppmat": 0,
}
# Import name -> where it comes from: dependencies of setup.py, Paddle, and what is
# used only if the user has installed it.
THIRD_PARTIES = {
    *("numpy", "pymatgen", "lmdb", "omegaconf", "tqdm", "ase", "matplotlib"),
    *("PIL", "tifffile", "mrcfile"),
    "yaml",  # omegaconf needs it
    *("scipy", "spglib"),  # pymatgen needs them
    "paddle",
}
OPTIONAL = {"visualdl", "tensorboardX", "wandb", "fairchem", "pandas", "rsciio"}
OPTIONAL |= {"onnx", "onnxruntime", "abtem", "h5py"}
OPTIONAL |= {"dask", "chgnet", "sevenn", "diep", "tblite", "rdkit"}


def package_of(module: str) -> str:
    """Return the room of a dotted name, ``ppmat.models`` of ``ppmat.models.sfin``."""
    return ".".join(module.split(".")[: 2 if module.startswith("ppmat.") else 1])


def imports(source: str) -> list[tuple[str, bool]]:
    """Return each imported dotted name, and whether the import is at module level."""
    tree = ast.parse(source)
    top = set(map(id, tree.body))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}"
            names = [node.module]
            if node.module == "ppmat":
                names = [f"ppmat.{alias.name}" for alias in node.names]
            found += [(name, id(node) in top) for name in names]
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", None))
            if name in ("import_module", "__import__"):
                text = node.args[0]
                if isinstance(text, ast.Constant):
                    found.append((text.value, False))
    return found


def sources() -> list[Path]:
    """Return the source files of all floors."""
    files = [
        path
        for top in ("ppmat", "benchmarks", *TASKS)
        for path in (ROOT / top).rglob("*.py")
    ]
    assert len(files) > 30
    return sorted(files)


def module_of(path: Path) -> str:
    """Return the dotted name of a source file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(
        ".__init__"
    )


def wrong_way(module: str, source: str) -> list[str]:
    """Return the imports of a module that do not go down."""
    room = package_of(module)
    wrong = []
    for name, _ in imports(source):
        target = package_of(name)
        if target.split(".")[0] not in ("ppmat", "benchmarks", *TASKS):
            continue
        assert target in FLOORS, f"{module} imports {name}, which is on no floor"
        if target != room and FLOORS[target] >= FLOORS[room]:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_imports_go_down(path):
    module = module_of(path)
    assert package_of(module) in FLOORS, f"{module} is on no floor"
    assert wrong_way(module, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "module, source",
    [
        ("ppmat.utils.x", "from ppmat.datasets import y"),
        ("ppmat.datasets.x", "def f():\n    import ppmat.models.sfin"),
        ("ppmat.datasets.x", "import ppmat.metrics"),
        ("ppmat.models.x", "from ppmat import trainer"),
        (
            "ppmat.models.x",
            "import importlib\nimportlib.import_module('ppmat.sampler')",
        ),
        ("ppmat.trainer.x", "import structure_generation.train"),
    ],
)
def test_an_import_that_goes_up_is_found(module, source):
    assert len(wrong_way(module, source)) == 1


def test_imports_that_go_down_are_let_through():
    source = (
        "from ppmat.models.sfin import x\nimport ppmat.utils.logger\nfrom ppmat import "
        "datasets\nfrom ppmat.trainer.config import y\nimport numpy\n"
    )
    assert wrong_way("ppmat.predictor.base", source) == []


def test_floors_are_those_of_the_page():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    told = {}
    for floor, rooms in re.findall(r"^\| (\d) \| ([^|]+) \|", page, re.MULTILINE):
        for room in re.findall(r"`([^`]+)`", rooms):
            told[room.strip("/").replace("/", ".")] = int(floor)
    rooms = {package_of(module_of(path)) for path in sources()} | set(TASKS)
    assert told == {room: FLOORS[room] for room in rooms - {"ppmat"}}


@pytest.mark.parametrize(
    "path", [p for p in sources() if "benchmarks" not in p.parts], ids=module_of
)
def test_only_declared_third_parties_are_imported(path):
    for name, at_top in imports(path.read_text(encoding="utf-8")):
        top = name.split(".")[0]
        if top in sys.stdlib_module_names or top == "ppmat":
            continue
        allowed = THIRD_PARTIES if at_top else THIRD_PARTIES | OPTIONAL
        assert top in allowed, f"{module_of(path)} imports {name}"


def circles(needs: dict[str, set[str]]) -> list[set[str]]:
    """Return the groups of modules that need each other, directly or through others."""

    def reachable(start: str) -> set[str]:
        found, ahead = set(), [start]
        while ahead:
            new = needs.get(ahead.pop(), set()) - found
            found |= new
            ahead += new
        return found

    below = {module: reachable(module) for module in needs}
    groups = []
    for module in needs:
        if module in below[module] and not any(module in group for group in groups):
            groups.append({m for m in below[module] if module in below.get(m, ())})
    return groups


def needed_modules(module: str, source: str, modules: set[str]) -> set[str]:
    """Return the files of ``modules`` that a source imports, functions included."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in modules else node.module)
    return (found & modules) - {module}


def test_no_modules_import_each_other():
    """Packages are left out: their ``__init__`` lists names, looked up when used."""
    texts = {
        module_of(path): path.read_text(encoding="utf-8")
        for path in sources()
        if path.name != "__init__.py"
    }
    needs = {m: needed_modules(m, text, set(texts)) for m, text in texts.items()}
    assert circles(needs) == []


def test_a_circle_is_found():
    texts = {
        "p.a": "def f():\n    from p import b",
        "p.b": "from p.c import x",
        "p.c": "import p.a",
        "p.d": "import p.a",
    }
    needs = {m: needed_modules(m, text, set(texts)) for m, text in texts.items()}
    assert needs["p.d"] == {"p.a"}
    assert circles(needs) == [{"p.a", "p.b", "p.c"}]


def test_import_of_the_package_is_quick():
    code = (
        "import time; start = time.process_time(); import ppmat; "
        "print(time.process_time() - start)"
    )
    command = [sys.executable, "-c", code]
    seconds = min(
        float(subprocess.check_output(command, cwd=ROOT, text=True)) for _ in range(3)
    )
    assert seconds < 0.3
