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


@pytest.mark.parametrize(
    "module",
    [
        "ppmat.utils",
        "ppmat.utils.registry",
        "ppmat.utils.config",
        "ppmat.utils.command_line",
        "ppmat.utils.download",
        "ppmat.utils.logger",
        "ppmat.utils.model_package",
        "ppmat.predictor",
        "ppmat.predictor.entry",
        "ppmat.sampler",
        "ppmat.sampler.entry",
        "ppmat.trainer",
        "ppmat.trainer.entry",
    ],
)
def test_light_modules_do_not_load_paddle(module):
    loaded = loaded_by(f"import {module}")
    assert module in loaded
    assert not {"paddle", "pymatgen", "matplotlib", "ase"} & loaded


def test_the_probe_sees_paddle():
    assert "paddle" in loaded_by("import ppmat; ppmat.metrics")


def test_sub_packages_and_names_are_found_at_first_use():
    code = (
        "import ppmat, ppmat.utils as u\n"
        "assert ppmat.__version__ == '0.4.0'\n"
        "for n in ppmat.__all__: getattr(ppmat, n)\n"
        "for n in u.__all__: getattr(u, n)\n"
        "for m in (ppmat, u): assert set(m.__all__) <= set(dir(m))\n"
        "for m in (ppmat, u, ppmat.sampler):\n"
        "    try: m.no_such\n"
        "    except AttributeError as e: assert 'no_such' in str(e)\n"
        "    else: raise SystemExit('no_such was found')\n"
    )
    assert "ppmat.utils.misc" in loaded_by(code)


def test_figures_are_loaded_only_to_draw():
    loaded = loaded_by("import ppmat.sampler.structure_sampler")
    assert "paddle" in loaded
    assert "matplotlib.figure" not in loaded
