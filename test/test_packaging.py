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

"""The tree as a package: metadata, wheel, licence headers, the two sets of files."""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "contribution"))

import build  # noqa: E402

HEADER_LINES = 13


def tracked(*suffixes: str) -> list[str]:
    """Return the tracked files with these suffixes, as posix paths."""
    listing = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = [name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]
    assert len(names) > 20, "git lists almost nothing; is this a clone?"
    return [name for name in names if name.endswith(suffixes)]


# A package of weights as ppmat/models/packages holds them.
STAND_IN = {
    f"ppmat/models/packages/stand_in/{name}"
    for name in (
        "stand_in.yaml",
        "results.yaml",
        "train.log",
        "checkpoints/best.pdparams",
    )
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build the wheel and the sdist from a copy, so that no build/ is left behind."""
    tree, out = (tmp_path_factory.mktemp(name) for name in ("tree", "out"))
    for name in tracked(""):
        if not name.endswith((".mdb", ".lmdb")):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    for name in [*STAND_IN, "ppmat/models/packages/stand_in/checkpoints/latest.pdopt"]:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    build = (
        "import sys; from setuptools import build_meta as b; out = sys.argv[1]; "
        "b.build_wheel(out); b.build_sdist(out)"
    )
    subprocess.run(
        [sys.executable, "-c", build, str(out)], cwd=tree, check=True, timeout=600
    )
    return {"wheel": next(out.glob("*.whl")), "sdist": next(out.glob("*.tar.gz"))}


def wheel_metadata(wheel: Path):
    """Return the METADATA of a wheel as a message."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith("/METADATA"))
        return Parser().parsestr(archive.read(name).decode("utf-8"))


def test_metadata(built):
    meta = wheel_metadata(built["wheel"])
    source = (ROOT / "ppmat" / "__init__.py").read_text(encoding="utf-8")
    assert meta["Name"] == "ppmat"
    assert f'__version__ = "{meta["Version"]}"' in source
    assert set(meta["Requires-Python"].split(",")) == {">=3.10", "<3.14"}
    requirements = meta.get_all("Requires-Dist")
    core = {re.match(r"[\w-]+", r)[0] for r in requirements if "extra ==" not in r}
    assert core == {
        "numpy",
        "scipy",
        "pymatgen",
        "lmdb",
        "omegaconf",
        "tqdm",
        "ase",
        "matplotlib",
        "pillow",
        "tifffile",
        "mrcfile",
    }
    assert all(">=" in r for r in requirements if "extra ==" not in r)
    extras = {"abtem", "cpu", "test", "dev", "generator", "onnx", "stem"}
    extras |= {"cluster", "chgnet", "sevenn", "diep", "tblite", "smiles"}
    assert extras == set(meta.get_all("Provides-Extra"))


def in_ppmat() -> set[str]:
    """Return the modules and the trained models."""
    modules = {name for name in tracked(".py") if name.startswith("ppmat/")}
    weights = {n for n in tracked("") if n.startswith("ppmat/models/packages/")}
    return modules | weights | STAND_IN


def test_wheel_holds_modules_and_trained_models_of_ppmat_and_nothing_else(built):
    with zipfile.ZipFile(built["wheel"]) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
    assert names == in_ppmat()


def test_sdist_is_enough_to_build_from_and_holds_no_task_folder(built):
    with tarfile.open(built["sdist"]) as archive:
        names = {n.partition("/")[2] for n in archive.getnames() if "." in n}
    assert in_ppmat() <= names
    assert {"setup.py", "pyproject.toml", "LICENSE", "README.md"} <= names
    folders = {n.split("/")[0] for n in names if "/" in n}
    assert folders <= {"ppmat", "ppmat.egg-info"}


def test_changelog_names_the_version():
    source = (ROOT / "ppmat" / "__init__.py").read_text(encoding="utf-8")
    version = re.search(r'__version__ = "(.+)"', source)[1]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(version)}\b", changelog, re.MULTILINE)
    assert "\n## Unreleased\n" in changelog


def has_header(text: str) -> bool:
    """Return whether a source file starts with the licence header."""
    header = (ROOT / "setup.py").read_text(encoding="utf-8").splitlines()[:HEADER_LINES]
    first, *rest = text.splitlines()[:HEADER_LINES] or [""]
    pattern = r"# Copyright \(c\) 20\d\d PaddlePaddle Authors\. All Rights Reserved\."
    return re.fullmatch(pattern, first) is not None and rest == header[1:]


def test_every_source_file_has_the_licence_header():
    assert "Apache License, Version 2.0" in (ROOT / "setup.py").read_text()[:400]
    bare = [
        name
        for name in tracked(".py")
        if not has_header((ROOT / name).read_text(encoding="utf-8"))
    ]
    assert not bare, f"without the licence header: {bare}"


def test_header_check_refuses_other_texts():
    good = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert has_header(good)
    assert not has_header("")
    assert not has_header("# Copyright (c) 2026 PaddlePaddle Authors.\n")
    assert not has_header(good.replace("WITHOUT WARRANTIES", "WITH WARRANTIES"))


# The modules of upstream 0.3.0 that a contribution may lean on.
UPSTREAM = {
    "ppmat",
    "ppmat.datasets",
    "ppmat.datasets.build_structure",
    "ppmat.datasets.collate_fn",
    "ppmat.datasets.custom_data_type",
    "ppmat.losses",
    "ppmat.metrics",
    "ppmat.metrics.streaming_base",
    "ppmat.models",
    "ppmat.optimizer",
    "ppmat.schedulers",
    "ppmat.utils",
    "ppmat.utils.download",
    "ppmat.utils.logger",
}


def imported(source: str) -> set[str]:
    """Return the ppmat modules a source imports, functions' imports included."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                path = ROOT / full.replace(".", "/")
                is_module = path.is_dir() or path.with_suffix(".py").is_file()
                found.add(full if is_module else node.module)
    return {name for name in found if name.split(".")[0] == "ppmat"}


def test_imports_are_found_wherever_they_stand():
    source = (
        "import ppmat.utils.logger\nfrom ppmat.utils import config\n"
        "def f():\n    from ppmat.utils.registry import Registry\n    import numpy\n"
    )
    wanted = {"ppmat.utils.logger", "ppmat.utils.config", "ppmat.utils.registry"}
    assert imported(source) == wanted


def test_pull_requests_lean_on_upstream_and_those_before_only():
    before, wrong = set(UPSTREAM), {}
    for pull in build.read_series().pulls:
        files = [name for name in pull.files if name.startswith("ppmat/")]
        before |= {name.removesuffix(".py").replace("/", ".") for name in files}
        for name in files:
            if foreign := imported(build.finished(pull, name).decode()) - before:
                wrong[name] = sorted(foreign)
    assert len(before) > len(UPSTREAM) + 10 and not wrong


def test_every_file_for_upstream_is_used_once():
    used = [
        ours
        for pull in build.read_series().pulls
        for ours in pull.files.values()
        if ours.startswith("contribution/files/")
    ]
    files = [name for name in tracked("") if name.startswith("contribution/files/")]
    of_the_check = ["contribution/files/sfin_sample.yaml"]
    assert sorted(used + of_the_check) == sorted(files)
