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

"""The pages: links, commands and tables match the tree."""

import dataclasses
import doctest
import importlib.util
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import yaml

from ppmat.trainer.config import TrainerConfig

ROOT = Path(__file__).resolve().parents[1]
TASKS = (
    "structure_generation",
    "property_prediction",
    "interatomic_potentials",
    "spectrum_enhancement",
)


def load_tables():
    """Return docs/tables.py as a module."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables = load_tables()


def pages() -> list[str]:
    """Return the tracked Markdown pages, without those written for upstream."""
    listing = subprocess.run(
        ["git", "ls-files", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [n for n in listing.stdout.split() if not n.startswith("contribution/")]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found = set()
    for title in re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE):
        title = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower()
        found.add(re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-"))
    return found


def without_code(text: str) -> str:
    """Return the text with fenced blocks and inline code taken out."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def broken_links(text: str, page: Path) -> list[str]:
    """Return the links of a page that lead nowhere within the tree."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        if re.match(r"https?://|mailto:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or ROOT not in (path, *path.parents):
            broken.append(link)
        elif anchor and anchor not in anchors(path.read_text(encoding="utf-8")):
            broken.append(link)
    return broken


@pytest.mark.parametrize("name", pages())
def test_links_resolve(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert broken_links(text, ROOT / name) == []


def test_a_broken_link_is_found():
    text = (
        "[a](docs/gone.md) [b](docs/oc20/conventions.md#no-such-title) "
        "[c](../outside.md) "
        "[d](docs/oc20/conventions.md#minimum-image) [e](https://example.org) `[f](g)`"
    )
    found = broken_links(text, ROOT / "README.md")
    assert found == [
        "docs/gone.md",
        "docs/oc20/conventions.md#no-such-title",
        "../outside.md",
    ]


def commands(text: str) -> list[list[str]]:
    """Return the shell commands of a page's bash blocks, split into words."""
    found = []
    for block in re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                found.append(words)
    return found


def make_targets() -> set[str]:
    """Return the targets of the Makefile that may be typed."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*):(?!=)", text, re.MULTILINE))
    phony = set(re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)[1].split())
    assert targets == phony, "every target is phony and every phony name has a rule"
    return targets


@cache
def help_of(*command: str) -> str:
    """Return the --help text of a Python command, run in this process to save time.

    Tests of the commands start them as processes.
    """
    module, words = command[0] == "-m", [*command, "--help"]
    shown, known = io.StringIO(), set(sys.modules)
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(shown),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
        patch.setattr(sys, "argv", words[1:] if module else words)
        with mock.patch.dict(os.environ), pytest.raises(SystemExit) as stop:
            if module:
                runpy.run_module(command[1], run_name="__main__", alter_sys=True)
            else:
                patch.syspath_prepend((ROOT / command[0]).parent)
                runpy.run_path(str(ROOT / command[0]), run_name="__main__")
    for name in set(sys.modules) - known:  # those beside a script have short names
        if "." not in name and name not in sys.stdlib_module_names:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).parent == (ROOT / command[0]).parent:
                del sys.modules[name]
    assert not stop.value.code, f"{command} --help failed: {shown.getvalue()}"
    return shown.getvalue()


def faults_of_python(words: list[str]) -> list[str]:
    """Return what is wrong with a ``python ...`` command of a page."""
    faults = []
    if words[:2] == ["-m", "paddle.distributed.launch"]:
        words = words[2:]
        while words and words[0].startswith("-"):
            words = words[1:]
    if words[:1] == ["-m"]:
        command, rest = tuple(words[:2]), words[2:]
        path = ROOT / f"{words[1].replace('.', '/')}.py"
        if words[1].startswith("ppmat.") and not path.is_file():
            return [f"no module {words[1]}"]
        if not words[1].startswith("ppmat."):
            return []
    else:
        command, rest = (words[0],), words[1:]
        if not (ROOT / words[0]).is_file():
            return [f"no file {words[0]}"]
    if rest and re.fullmatch(r"[a-z]+|--mode=place", rest[0]):
        command, rest = (*command, rest[0]), rest[1:]
    flags = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", help_of(*command)))
    config = {}
    for i, word in enumerate(rest):
        flag, _, value = word.partition("=")
        if flag.startswith("-") and flag not in flags:
            faults.append(f"{' '.join(command)} has no flag {flag}")
        if flag in ("-c", "--config", "--config_path"):
            value = value or rest[i + 1]
            places = [ROOT / value, *(ROOT / task / value for task in TASKS)]
            found = [place for place in places if place.is_file()]
            if not found:
                faults.append(f"no configuration {value}")
            else:
                config = yaml.safe_load(found[0].read_text(encoding="utf-8"))
        if re.fullmatch(r"[A-Z]\w*\.[\w.]+", flag):
            section, *keys = flag.split(".")
            node = config.get(section)
            if node is None:
                faults.append(f"{flag}: the configuration has no section {section}")
            for key in keys if section != "Trainer" else ():
                node = node.get(key) if isinstance(node, dict) else None
            if node is None:
                faults.append(f"{flag}: the configuration has no such key")
            if section == "Trainer" and keys[0] not in trainer_keys():
                faults.append(f"{flag}: the trainer knows no such key")
    return faults


def trainer_keys() -> set[str]:
    """Return the legal keys of the Trainer section."""
    return {field.name for field in dataclasses.fields(TrainerConfig)}


def faults(text: str) -> list[str]:
    """Return what is wrong with the commands of a page."""
    found = []
    for words in commands(text):
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words[:1] == ["make"]:
            names = [w for w in words[1:] if "=" not in w]
            found += [f"no target {n}" for n in names if n not in make_targets()]
        elif words[:1] == ["python"]:
            found += faults_of_python(words[1:])
        elif words and "/" in words[0] and not words[0].startswith(".venv/"):
            found += [] if (ROOT / words[0]).is_file() else [f"no file {words[0]}"]
    return found


@pytest.mark.parametrize("name", pages())
def test_commands_name_what_exists(name):
    assert faults((ROOT / name).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "command, fault",
    [
        ("make dmeo", "no target dmeo"),
        ("python structure_generation/trian.py", "no file"),
        ("python structure_generation/train.py -c configs/no.yaml", "no configuration"),
        ("python structure_generation/sample.py --mood=x", "no flag --mood"),
        ("python -m ppmat.datasets.no_such check x", "no module"),
        (
            "python structure_generation/train.py -c configs/sfin/oc20.yaml "
            "Trainer.max_epoch=1",
            "no such key",
        ),
        (".ci/rum", "no file .ci/rum"),
    ],
)
def test_a_wrong_command_is_found(command, fault):
    (found,) = faults(f"```bash\n{command}\n```\n")
    assert fault in found


def test_targets_named_in_running_text_exist():
    for name in pages():
        text = (ROOT / name).read_text(encoding="utf-8")
        for target in re.findall(r"`make (?:[A-Z]+=\S+ )?([a-z-]+)", text):
            assert target in make_targets(), f"{name}: make {target}"


def examples(text: str) -> str:
    """Return the Python sessions of a page; a later one may use names of an earlier."""
    return "".join(re.findall(r"^```pycon\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def failed_examples(text: str, name: str) -> str:
    """Run the Python sessions of a page; return the report of what differs."""
    report = []
    test = doctest.DocTestParser().get_doctest(examples(text), {}, name, name, 0)
    assert test.examples
    doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    return "".join(report)


@pytest.mark.parametrize(
    "name", [n for n in pages() if examples((ROOT / n).read_text(encoding="utf-8"))]
)
def test_examples_of_pages_run(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    with np.printoptions():  # an example may set them
        assert failed_examples((ROOT / name).read_text(encoding="utf-8"), name) == ""


def test_a_wrong_example_is_found():
    page = "text\n```pycon\n>>> x = 2\n```\n\n```pycon\n>>> x + 1\n3\n```\n"
    assert failed_examples(page, "page") == ""
    assert "Got:\n    3" in failed_examples(page.replace("3\n", "4\n"), "page")


@pytest.mark.parametrize(
    "names",
    [
        ("README.md", "README_zh.md"),
        ("docs/oc20/questions.md", "docs/oc20/questions_zh.md"),
        ("docs/oc20/placement.md", "docs/oc20/placement_zh.md"),
    ],
)
def test_both_languages_show_the_same(names):
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in names)
    assert commands(english) == commands(chinese)
    assert examples(english) == examples(chinese)
    assert without_code(english).count("\n## ") == without_code(chinese).count("\n## ")


def dead_files(text: str) -> list[str]:
    """Return the names of Python files in backticks that no file of the tree has."""
    listing = subprocess.run(
        ["git", "ls-files", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [f"/{name}" for name in listing.stdout.split()]
    named = re.findall(r"`([\w/]+\.py)(?:::\w+)?`", text)
    return [n for n in named if not any(file.endswith(f"/{n}") for file in files)]


@pytest.mark.parametrize("name", [p for p in pages() if p != "CHANGELOG.md"])
def test_named_files_exist(name):
    assert dead_files((ROOT / name).read_text(encoding="utf-8")) == []


def test_a_dead_file_is_found():
    assert dead_files("`utils/files.py` `stem/gone.py` `les.py`") == [
        *("stem/gone.py", "les.py"),
    ]


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 700


@pytest.mark.parametrize("name", pages())
def test_prose_is_wrapped(name):
    """Rows of tables and code may be longer."""
    text = (ROOT / name).read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in prose.splitlines() if not line.startswith("|")]
    assert [line for line in lines if len(line) > 100] == []


@pytest.mark.parametrize(
    "page", tables.pages(), ids=lambda path: str(path.relative_to(ROOT))
)
def test_tables_equal_their_results(page):
    assert tables.rewrite(page) == page.read_text(encoding="utf-8"), "run: make tables"


def test_a_table_is_written_from_its_result(tmp_path):
    (tmp_path / "docs/results").mkdir(parents=True)
    result = {
        "command": "python x.py",
        "machine": "2 cores",
        "date": "2026-01-02",
        "rows": [
            {"name": "b", "val_id": {"adwt": [0.25]}},
            {"name": "a", "parameters": 12345, "val_id": {"adwt": [0.3, 0.4, 0.5]}},
        ],
        "epochs": 8,
        "memory": {"one_pass_mb": 1.5},
    }
    path = tmp_path / "docs/results/x.yaml"
    path.write_text(yaml.safe_dump(result, sort_keys=False))
    page = tmp_path / "docs/page.md"
    page.write_text("before\n<!-- table:x -->\nold\n<!-- /table:x -->\nafter\n")
    fresh = tables.rewrite(page, tmp_path)
    assert "| | parameters | val_id ADwT |\n" in fresh
    assert "| b | - | 0.250 |\n| a | 12,345 | 0.400 ± 0.100 |\n" in fresh
    assert "Source: [x.yaml](results/x.yaml); `python x.py`; 2 cores;" in fresh
    assert "2026-01-02; epochs 8; memory one pass mb\n1.50.\n" in fresh
    assert "old" not in fresh and fresh.startswith("before\n<!-- table:x -->\n")
    page.write_text(fresh)
    assert tables.rewrite(page, tmp_path) == fresh

    result["rows"][1]["parameters"] = [1, "two"]
    path.write_text(yaml.safe_dump(result, sort_keys=False))
    with pytest.raises(ValueError, match=r"x\.yaml: rows\[1\]: \[1, 'two'\] is not"):
        tables.rewrite(page, tmp_path)
    path.write_text(yaml.safe_dump({"rows": [{"a": 1}]}))
    with pytest.raises(ValueError, match=r"x\.yaml: wanted a mapping with rows, comm"):
        tables.rewrite(page, tmp_path)
    page.write_text("<!-- table:y -->\n<!-- /table:y -->\n")
    with pytest.raises(FileNotFoundError, match=r"y\.yaml"):
        tables.rewrite(page, tmp_path)
    page.write_text("<!-- table:x -->\n")
    with pytest.raises(ValueError, match="opened: \\['x'\\], closed: \\[\\]"):
        tables.rewrite(page, tmp_path)


def test_small_numbers_show_their_digits():
    assert tables.cell(0.0012) == "0.001"
    assert tables.cell(0.00099) == "9.9e-04" and tables.cell(-1.44e-10) == "-1.4e-10"
    assert tables.cell(0.0) == "0.000" and tables.cell(0) == "0"


def test_energies_are_averaged_over_splits_for_each_seed(tmp_path):
    """Spread of the mean is that over seeds; the twin over splits is another number."""

    def split(*mae):
        return {"energy_mae": list(mae), "ewt": [value / 10 for value in mae]}

    full = {
        "name": "full",
        "parameters": 1234,
        "learning_rate": 0.003,
        "train_minutes": [1.0, 2.0],
        "train_structures_per_s": 50.25,
        "infer_structures_per_s": 120,
        "val_id": split(0.1, 0.2),
        "val_ood_ads": split(0.3, 0.4),
        "val_ood_cat": split(0.5, 0.6),
    }
    result = {
        "command": "python x.py",
        "machine": "2 cores",
        "date": "2026-01-02",
        "epochs": 8,
        "rows": [{"name": "mean", "val_id": split(0.75)}, full],
    }
    path = tmp_path / "docs/results/is2re.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(result, sort_keys=False))
    page = tmp_path / "docs/page.md"
    page.write_text("<!-- table:is2re -->\n<!-- /table:is2re -->\n")
    lines = tables.rewrite(page, tmp_path).splitlines()
    assert lines[2] == (
        "| | val_id MAE [eV] | val_ood_ads MAE [eV] | val_ood_cat MAE [eV] | mean MAE "
        "[eV] | mean EwT | parameters | training [structures/s] | inference "
        "[structures/s] |"
    )
    assert lines[4] == "| mean | 0.750 | - | - | 0.750 | 0.075 | - | - | - |"
    assert lines[5] == (
        "| full | 0.150 ± 0.071 | 0.350 ± 0.071 | 0.550 ± 0.071 | 0.350 ± 0.071 | "
        "0.035 ± 0.007 | 1,234 | 50.2 | 120 |"
    )
    full["val_id"] = split(0.1)
    path.write_text(yaml.safe_dump(result, sort_keys=False))
    with pytest.raises(ValueError, match=r"is2re\.yaml.*full: energy_mae has other"):
        tables.rewrite(page, tmp_path)
    del full["val_id"]["energy_mae"]
    path.write_text(yaml.safe_dump(result, sort_keys=False))
    with pytest.raises(ValueError, match=r"is2re\.yaml: KeyError 'energy_mae'"):
        tables.rewrite(page, tmp_path)


def test_rows_may_have_relaxed_positions_alone():
    copied = {"name": "copy", "val_id": {"adwt": [0.5]}, "val_ood_ads": {"adwt": [0.7]}}
    assert tables.flatten(tables.energy_row(copied)) == {
        "": "copy",
        "val_id ADwT": [0.5],
        "val_ood_ads ADwT": [0.7],
        "mean ADwT": [0.6],
    }


def test_the_scores_of_each_fold_are_not_in_the_table():
    scores = {"seen": {"adwt": [0.9]}, "folds": {"Pt": {"seen": {"adwt": 0.9}}}}
    row = tables.fold_row({"name": "net", "metal left out": scores})
    assert tables.flatten(row) == {"": "net", "metal left out seen ADwT": [0.9]}


def test_image_scores_come_as_psnr_and_ssim():
    row = {
        "name": "net",
        "val": {"author": {"psnr": [30.0, 32.0], "ssim": [0.5, 0.7]}},
        "test": {"author": {"psnr": 20.123, "ssim": [0.56789]}},
        "parameters": 5,
    }
    assert tables.image_row(row) == {
        "name": "net",
        "val, author": "31.00 ± 1.41 / 0.6000 ± 0.1414",
        "test, author": "20.12 / 0.5679",
        "parameters": 5,
    }
    row["val"]["author"]["ssim"] = "high"
    with pytest.raises(ValueError, match="'high' is not a number"):
        tables.image_row(row)
