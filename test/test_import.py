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

"""What importing loads: a command must set threads before Paddle is there."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def loaded_by(statement):
    """Return the names of the modules that ``statement`` makes Python load."""
    code = (
        f"import sys; old = set(sys.modules)\n{statement}\n"
        "print(*(set(sys.modules) - old))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_package_loads_nothing_of_others():
    loaded = {name.split(".")[0] for name in loaded_by("import ppmat")}
    assert loaded - set(sys.stdlib_module_names) == {"ppmat"}


LIGHT = (
    "ppmat.datasets",
    "ppmat.stem.images.micrograph",
    "ppmat.utils",
    "ppmat.utils.registry",
    "ppmat.utils.config",
    "ppmat.commands.options",
    "ppmat.utils.download",
    "ppmat.utils.logger",
    "ppmat.utils.model_package",
    "ppmat.predictor",
    "ppmat.commands.predict",
    "ppmat.sampler",
    "ppmat.commands.sample",
    "ppmat.trainer",
    "ppmat.commands.train",
    "ppmat.commands.md",
)
HEAVY = {"paddle", "pymatgen", "matplotlib", "ase"}
WITH_ASE = ("ppmat.datasets.structure_reader", "ppmat.commands.synthesize")


def test_light_modules_do_not_load_paddle():
    """In one process: what one of them loaded would be there at the end."""
    loaded = loaded_by(
        f"import {', '.join(LIGHT)}\n"
        f"assert not {HEAVY} & set(sys.modules)\n"
        f"import {', '.join(WITH_ASE)}"
    )
    assert {*LIGHT, *WITH_ASE} <= loaded
    assert HEAVY & loaded == {"ase"}


STEM = sorted((ROOT / "ppmat" / "stem").rglob("*.py"))
# The package and what makes its names lazy.
BELOW_STEM = {"ppmat", "ppmat.utils", "ppmat.utils.files", "ppmat.utils.errors"}
BELOW_STEM |= {"ppmat.utils.lazy"}  # of the package ppmat.utils


def test_stem_stands_alone_and_is_quick():
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in STEM]
    names = [name.removesuffix(".__init__") for name in names]
    others = "numpy, PIL.Image, scipy.fft, scipy.ndimage, scipy.optimize, "
    others += "scipy.sparse.linalg, scipy.spatial, scipy.stats"
    clock = f"import time, {others}; start = time.process_time()"  # 0.14 s from here
    end = "assert time.process_time() - start < 1.5, time.process_time() - start"
    loaded = loaded_by(f"{clock}; import {', '.join(names)}; {end}")
    assert len(names) > 3 and set(names) <= loaded
    assert {n for n in loaded if n.split(".")[0] == "ppmat"} <= BELOW_STEM | set(names)
    foreign = {"paddle", "pymatgen", "matplotlib", "ase", "abtem", "hyperspy"}
    assert not foreign & loaded


ALLOWED = ("ppmat.stem.", "ppmat.utils.files", "ppmat.utils.errors")


@pytest.mark.parametrize("path", STEM, ids=lambda path: path.stem)
def test_no_function_of_stem_needs_the_toolkit(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = [node.module] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        for name in modules:
            assert name.split(".")[0] not in ("paddle", "torch")
            assert name.split(".")[0] != "ppmat" or name.startswith(ALLOWED)


def test_names_are_found_at_first_use_and_figures_loaded_only_to_draw():
    code = (
        "import ppmat, ppmat.datasets as d, ppmat.utils as u\n"
        "assert ppmat.__version__ == '0.4.0'\n"
        "for n in ppmat.__all__: getattr(ppmat, n)\n"
        "for m in (d, u):\n"
        "    for n in m.__all__: getattr(m, n)\n"
        "for m in (ppmat, d, u): assert set(m.__all__) <= set(dir(m))\n"
        "for m in (ppmat, d, u, ppmat.sampler):\n"
        "    try: m.no_such\n"
        "    except AttributeError as e: assert 'no_such' in str(e)\n"
        "    else: raise SystemExit('no_such was found')\n"
        "import ppmat.sampler.structure_sampler\n"
    )
    loaded = loaded_by(code)
    assert "ppmat.utils.misc" in loaded
    # So the tests above would see those.
    assert {"paddle", "pymatgen", "ase"} <= loaded
    assert "matplotlib.figure" not in loaded
