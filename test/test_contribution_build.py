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

"""The series of pull requests: its description, and how it is applied to a source."""

import dataclasses
import importlib.util
import os
import random
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from ppmat.datasets import pyg_pickle
from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.record_checks import num_adsorbates

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "contribution"))

import build  # noqa: E402
import check  # noqa: E402

TRAINER = (
    "class Trainer:\n    def run(self):\n        if self.freq:\n            stop()\n"
)
TABLE = "# Task\n\n| what | A |\n|---|:--|\n| **Group** |\n| energy | yes |\n| band |\n"


@pytest.fixture
def source(tmp_path):
    """A tree with the few lines that the edits of these tests look for."""
    root = tmp_path / "released"
    for name, text in {
        "ppmat/__init__.py": "",
        "ppmat/trainer.py": TRAINER,
        "README.md": TABLE,
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def pull(**changes):
    entry = {
        "name": "save_freq",
        "limits": {"files": 9, "code": 9, "tests": 9},
        "files": [{"ppmat/utils/ranges.py": "ppmat/utils/ranges.py"}],
        "edits": [{"file": "ppmat/trainer.py", "find": "stop()", "replace": "go()"}],
    }
    return {**entry, **changes}


def series_of(tmp_path, *pulls):
    block = {"package": "ppmat", "version": "0.3.0", "pulls": list(pulls)}
    path = tmp_path / "series.yaml"
    path.write_text(yaml.safe_dump(block))
    return build.read_series(path)


def shown(repository, name):
    return build.git(repository, "show", f"HEAD:{name}")


def test_a_pull_request_is_a_branch_and_a_patch(tmp_path, source):
    series = series_of(tmp_path, pull())
    (size,) = build.build(series, source, tmp_path / "out")
    repository = tmp_path / "out" / "source"
    branches = build.git(repository, "branch", "--format=%(refname:short)").split()
    assert branches == ["01-save_freq", "upstream"]
    assert shown(repository, "ppmat/trainer.py") == TRAINER.replace("stop", "go")
    subject = build.git(repository, "log", "-1", "--format=%s").strip()
    assert subject == series.pulls[0].title
    # the patch is all a maintainer needs
    clone = tmp_path / "clone"
    build.git(tmp_path, "clone", "--quiet", "-b", "upstream", str(repository), "clone")
    build.git(clone, "am", "--quiet", str(tmp_path / "out" / "0001-save_freq.patch"))
    assert shown(clone, "ppmat/trainer.py") == TRAINER.replace("stop", "go")
    assert size.files == 2 and size.exceeded == ["code"] and size.tests == 0
    table = "\n".join(build.table([size]))
    assert "code > 9" in table and "1 save_freq" in table


def test_git_of_the_user_changes_nothing(tmp_path, source, monkeypatch):
    series = series_of(tmp_path, pull())
    build.build(series, source, tmp_path / "calm")
    home = tmp_path / "home"
    other = home / "other"
    other.mkdir(parents=True)
    build.git(other, "init", "--quiet")
    hooks = home / "hooks"
    hooks.mkdir()
    (hooks / "pre-commit").write_text("#!/bin/sh\nexit 1\n")
    (hooks / "pre-commit").chmod(0o755)
    (home / ".gitconfig").write_text(
        f"[core]\n\thooksPath = {hooks}\n\tautocrlf = true\n"
        "[diff]\n\tnoprefix = true\n[commit]\n\tgpgsign = true\n"
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "somebody")
    build.build(series, source, tmp_path / "out")
    assert not list((other / ".git" / "objects").glob("??"))
    name = "0001-save_freq.patch"
    patches = [(tmp_path / out / name).read_text() for out in ("calm", "out")]
    calm, patch = (re.sub(r"^(From|Date:) .*\n", "", p, flags=re.M) for p in patches)
    assert "a/ppmat/trainer.py" in patch and patch == calm


def test_the_source_may_be_an_archive(tmp_path, source):
    archive = tmp_path / "ppmat-0.3.0.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(source, "ppmat-0.3.0")
    root = build.unpack(archive, tmp_path / "unpacked")
    assert (root / "ppmat" / "trainer.py").read_text() == TRAINER
    (tmp_path / "bad.tar.gz").write_bytes(archive.read_bytes()[:50])
    with zipfile.ZipFile(tmp_path / "secret.zip", "w") as file:
        file.writestr("ppmat/__init__.py", "")
    raw = bytearray((tmp_path / "secret.zip").read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(mark) + at] |= 1  # says that it is encrypted
    (tmp_path / "secret.zip").write_bytes(raw)
    raw[raw.index(b"PK\x03\x04")] = 0
    (tmp_path / "bad.zip").write_bytes(raw)
    names = ("bad.tar.gz", "missing", "secret.zip", "bad.zip", ".")
    for bad in (tmp_path / name for name in names):
        with pytest.raises(build.InputError):
            build.unpack(bad, tmp_path / f"un_{bad.name}")


def edited(text, **edit):
    return build.edited(text, build._edit({"file": "x", **edit}, "here"))


def test_files_for_upstream_do_not_name_what_it_lacks():
    for pull in build.read_series().pulls:
        for place in pull.files:
            if place.endswith((".py", ".yaml")):
                text = build.finished(pull, place).decode()
                names = r"ppmat\.commands|docs/\w|OC20_ROOT|FORMER_WEIGHTS|best weights"
                assert not re.findall(names, text), place


@pytest.mark.parametrize(
    "edit, wanted",
    [
        ({"before": "# a\n# b"}, "        # a\n        # b\n        if self.freq:\n"),
        ({"after": "x = 1\n"}, "        if self.freq:\n        x = 1\n"),
        ({"replace": "y\nz"}, "        y\n        z\n"),
    ],
)
def test_text_gets_the_indentation_of_its_place(edit, wanted):
    text = edited(TRAINER, find="if self.freq:", **edit)
    assert wanted in text and text.endswith("            stop()\n")


def test_an_empty_line_after_a_text_is_kept():
    text = edited(TRAINER, find="def run", before="x = 1\n\n")
    assert "    x = 1\n\n    def run" in text


def test_a_block_is_removed_with_all_that_is_below_it():
    text = "a:\n  b: 1\n  c:\n    d: 2\n\n    e: 3\n  f: 4\n"
    assert edited(text, find="  b:", remove=True) == text.replace("  b: 1\n", "")
    assert edited("a:\n  c:\n    d: 2\n  f: 4\n", find="c:", remove=True) == (
        "a:\n  f: 4\n"
    )


def test_a_statement_of_python_is_removed_with_its_comment():
    text = "import a\nimport b\n\n# c\nC = {\n    1: 2,\n}\nD = 3\n\n\n"
    last = "def f(\n    x,\n):\n    return x\n\n\ndef g():\n    y = 1\n\n    return y\n"

    def without(find):
        return edited(text + last, find=find, remove=True, file="x.py")

    assert without("import b") == (text + last).replace("import b\n", "")
    assert without("C = {") == "import a\nimport b\n\nD = 3\n\n\n" + last
    assert without("def f(") == text + last[last.index("def g") :]
    assert without("def g(") == text + last[: last.index("\n\ndef g")]
    assert without("1: 2") == (text + last).replace("    1: 2,\n", "")
    assert without("    x,") == (text + last).replace("    x,\n", "")
    doc = 'def h():\n    """Do.\n\n    Args:\n        x: One,\n            two.\n'
    end = '        y: Three.\n    """\n'
    rest = doc.replace("        x: One,\n            two.\n", "") + end
    assert edited(doc + end, find="x: One", remove=True, file="x.py") == rest


def test_a_function_is_removed_with_its_decorator():
    text = (
        "class A:\n    x = 1\n\n    @property\n    def y(self):\n        return 2\n\n"
    )
    last = "    def z(self):\n        return 3\n"
    found = edited(text + last, find="def y", remove=True, file="x.py")
    assert found == "class A:\n    x = 1\n\n" + last


def test_the_larger_gap_stays():
    text = "import a\n\nB = 1\n\n\nclass C:\n    pass\n"
    found = edited(text, find="B = 1", remove=True, file="x.py")
    assert found == text.replace("\nB = 1\n", "")


def test_several_lines_are_removed(tmp_path):
    edits = [{"file": "x.py", "remove": ["a = 1", "b = 2"]}]
    (found,) = series_of(tmp_path, pull(edits=edits)).pulls
    wanted = [build.Edit("x.py", find, "remove", "") for find in edits[0]["remove"]]
    assert found.edits == wanted


def test_lists_of_packages_and_pages_count_apart(tmp_path, source):
    edits = [
        {"file": "README.md", "find": "# Task", "after": "new"},
        {"file": "ppmat/trainer.py", "find": "stop()", "replace": "go()"},
    ]
    series = series_of(tmp_path, pull(edits=edits))
    (size,) = build.build(series, source, tmp_path / "out")
    assert (size.files, size.rows) == (2, 1)


def test_the_series_keeps_its_limits():
    sizes = yaml.safe_load((ROOT / "docs/results/upstream_sizes.yaml").read_text())
    pulls = build.read_series().pulls
    for row, found in zip(sizes["rows"], pulls, strict=True):
        assert row["name"].endswith(found.title)
        assert all(row[kind] <= limit for kind, limit in found.limits.items())


def test_a_column_of_a_table():
    cells = {"head": "B", "others": "-", "energy": "no"}
    text = edited(TABLE + "\nEnd\n", find="| what", column=cells)
    assert text.splitlines()[2:8] == [
        *("| what | A | B |", "|---|:--| --- |", "| **Group** | |  |"),
        *("| energy | yes | no |", "| band | | - |", ""),
    ]
    assert text.endswith("\nEnd\n")
    with pytest.raises(build.InputError, match="no row 'entropy'"):
        edited(TABLE, find="| what", column={**cells, "entropy": "no"})


@pytest.mark.parametrize("find, count", [("start()", 0), ("self", 2)])
def test_a_line_that_is_not_there_once_is_refused(tmp_path, source, find, count):
    edit = {"file": "ppmat/trainer.py", "find": find, "replace": "x"}
    series = series_of(tmp_path, pull(edits=[edit]))
    with pytest.raises(build.InputError, match=f"trainer.py: .* {count} times"):
        build.build(series, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_of_upstream_are_not_replaced(tmp_path, source):
    files = [{"ppmat/trainer.py": "ppmat/utils/ranges.py"}]
    series = series_of(tmp_path, pull(files=files))
    with pytest.raises(build.InputError, match="trainer.py is upstream's own file"):
        build.build(series, source, tmp_path / "out")


def test_edits_of_files_that_a_release_lacks(tmp_path, source):
    edit = {"file": "task/train.py", "find": "x", "replace": "y"}
    series = series_of(tmp_path, pull(edits=[edit]))
    with pytest.raises(build.InputError, match="task/train.py is not in the source"):
        build.build(series, source, tmp_path / "out")
    series = series_of(tmp_path, pull(edits=[{**edit, "optional": True}]))
    (size,) = build.build(series, source, tmp_path / "again")
    assert size.left_out == ["task/train.py"]


def test_an_output_folder_is_not_overwritten(tmp_path, source):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(build.InputError, match="not empty"):
        build.build(series_of(tmp_path, pull()), source, tmp_path / "out")
    assert (tmp_path / "out" / "mine").is_file()
    with pytest.raises(build.InputError, match="mine is a file"):
        build.build(series_of(tmp_path, pull()), source, tmp_path / "out" / "mine")


EDIT = {"file": "a.py", "find": "x", "replace": "y"}


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"fles": []}, "Did you mean 'files'"),
        ({"name": 3}, "name: 3; wanted str"),
        ({"name": "nothing"}, "nothing.md is missing"),
        ({"limits": {"files": 2, "code": 3}}, "no 'tests'"),
        ({"limits": {"files": 2, "code": True, "tests": 1}}, "wanted int"),
        ({"files": ["ppmat/none.py"]}, "is no file of this tree"),
        ({"files": [{"../x.py": "setup.py"}]}, "leaves the tree"),
        ({"files": ["/etc/hostname"]}, "is no file of this tree"),
        ({"files": [{"x.py": "contribution/../setup.py"}]}, "is no file of this tree"),
        ({"files": [{}]}, "wanted upstream's path: ours"),
        ({"files": [{3: "setup.py"}]}, "leaves the tree"),
        ({"edits": [{**EDIT, "file": "../a.py"}]}, "file: '../a.py' leaves the tree"),
        ({"edits": [{**EDIT, "file": "/a.py"}]}, "leaves the tree"),
        ({"edits": [{**EDIT, "after": "z"}]}, "wanted one of replace"),
        ({"edits": [{"file": "a.py", "find": "x"}]}, "wanted one of replace"),
        ({"edits": [{**EDIT, "find": "two\nlines"}]}, "a part of one line"),
        ({"edits": [{**EDIT, "find": " "}]}, "a part of one line"),
        ({"edits": ["x"]}, "wanted a mapping"),
        ({"edits": [{"file": "a.py", "remove": ["x", 3]}]}, "find: 3; wanted str"),
        ({"edits": [{"remove": ["x"]}]}, "no 'file'"),
        ({"edits": [{**EDIT, "remove": ["x"]}]}, "key is 'find'"),
    ],
)
def test_wrong_descriptions_are_refused(tmp_path, changes, reason):
    with pytest.raises(build.InputError, match=reason):
        series_of(tmp_path, pull(**changes))


def test_a_file_belongs_to_one_pull_request(tmp_path):
    with pytest.raises(build.InputError, match="ranges.py is added twice"):
        series_of(tmp_path, pull(), pull(name="before_train"))
    path = tmp_path / "broken.yaml"
    path.write_text("pulls: [")
    for bad in (path, tmp_path / "missing.yaml"):
        with pytest.raises(build.InputError, match=bad.name):
            build.read_series(bad)


def test_ranges_are_left_out_and_nothing_else():
    source = (
        "from typing import Annotated\nfrom typing import Any\n\n"
        "from ppmat.utils.ranges import Range\n\n\n"
        "def f(\n    µ: Annotated[float, Range(0, 1)] = 1.0,  # µm\n"
        "    n: Annotated[int | list[int], Range(least=1)] | None = None,\n"
        ") -> Any: ...\n"
    )
    assert build.without_ranges(source) == (
        "from typing import Any\n\n\n"
        "def f(\n    µ: float = 1.0,  # µm\n    n: int | list[int] | None = None,\n"
        ") -> Any: ...\n"
    )
    for pull in build.read_series().pulls:
        for ours in pull.files.values():
            if ours.endswith(".py"):
                text = build.copied(ours).decode()
                assert "Annotated[" not in text and "ppmat.utils.ranges" not in text
                compile(text, ours, "exec")


def test_command_reports_errors_without_a_traceback(tmp_path, capsys):
    missing = str(tmp_path / "missing")
    assert build.main([str(tmp_path / "out"), "--source", missing]) == 2
    assert "missing does not exist" in capsys.readouterr().err


def test_quoted_lines_of_upstream_are_short():
    quoted = [edit.find for pull in build.read_series().pulls for edit in pull.edits]
    assert quoted and max(map(len, quoted)) < 100


def test_the_page_lists_what_the_series_holds():
    page = build.PAGE.read_text(encoding="utf-8")
    block = build.page_block(build.read_series())
    hint = "python contribution/build.py --page"
    assert build.with_block(page, block) == page, f"out of date: run {hint}"


def test_pages_for_upstream_link_to_what_the_series_adds():
    places: set[str] = set()
    for pull in build.read_series().pulls:
        places |= set(pull.files)
        pages = {name for name in pull.files if name.endswith(".md")}
        texts = {name: build.finished(pull, name).decode() for name in pages}
        for name, text in {**texts, f"{pull.name}.md": pull.text}.items():
            links = re.findall(r"(?:\]\(|src=\")([^)\s#\"]+)", text)
            inner = [link for link in links if "://" not in link]
            found = {os.path.normpath(Path(name).parent / link) for link in inner}
            assert found <= places, f"{name} links to {found - places}"
            rows = [row for row in text.splitlines() if not row.startswith("|")]
            assert max(map(len, rows)) <= 100


def smaller(name):
    """Return a module that upstream gets in place of a larger one of ours."""
    path = ROOT / "contribution" / "files" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"small_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # data classes look for it there
    spec.loader.exec_module(module)
    return module


def unpickler():
    return smaller("pyg_pickle")


@pytest.mark.parametrize("split", ["val_id", "val_ood_ads", "val_ood_cat"])
def test_both_readers_make_the_same_records(split):
    folder = ROOT / "structure_generation" / "example_data" / "oc20_emt" / split
    small = smaller("oc20_record")
    rows = OC20LMDB(folder)
    for row in range(0, len(rows), 5):
        record, found = rows[row], small.OC20Record.from_fields(rows.fields(row))
        for field in dataclasses.fields(found):
            value, wanted = getattr(found, field.name), getattr(record, field.name)
            wanted = np.float32(wanted) if field.name == "y_relaxed" else wanted
            np.testing.assert_array_equal(value, wanted)
        gap = np.abs(found.displacement - record.displacement).max()
        assert gap < 1e-5  # Å
        assert small.num_adsorbates(found) == num_adsorbates(record)


@pytest.mark.parametrize("generation", pyg_pickle.GENERATIONS)
def test_both_unpicklers_read_the_same(generation):
    rows = OC20LMDB(ROOT / "structure_generation/example_data/oc20_emt/val_ood_ads")
    for row in rows[:10]:
        raw = pyg_pickle.dumps(row.to_fields(), generation)
        ours, small = pyg_pickle.loads(raw), unpickler().loads(raw)
        assert list(ours) == list(small)
        for name, value in ours.items():
            np.testing.assert_array_equal(small[name], value, strict=True)
            if isinstance(value, np.ndarray):
                assert small[name].flags.owndata and small[name].flags.writeable


def test_the_smaller_unpickler_survives_what_is_cut_or_changed():
    small = unpickler()
    raw = pyg_pickle.dumps({"pos": np.ones((3, 3)), "sid": 7})
    rng, refused = random.Random(0), 0
    for _ in range(500):
        bad = bytearray(raw[: rng.choice([len(raw), rng.randrange(1, len(raw))])])
        for _ in range(2):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        record = bytes(bad)
        try:
            small.loads(record)
        except small.OC20FormatError:
            refused += 1
    assert refused > 250


def side(losses, **more):
    return {"flow": {"training": {"losses": losses}, **more}}


@pytest.mark.parametrize(
    "theirs, agrees",
    [
        ([{"loss": 2.0}, {"loss": 1.0}], True),
        ([{"loss": 2.0}, {"loss": 1.0 + 1e-5}], True),
        ([{"loss": 2.0}, {"loss": 1.0001}], False),
        ([{"loss": 2.0}, {"loss": float("nan")}], False),
    ],
)
def test_numbers_are_compared(theirs, agrees):
    ours = side([{"loss": 2.0}, {"loss": 1.0}])
    ((_, count, worst, limit),) = check.differences(ours, side(theirs))
    assert count == 2 and (worst <= limit) == agrees


def test_numbers_that_are_missing_are_an_error():
    ours = side([{"loss": 2.0}, {"loss": 1.0}])
    with pytest.raises(check.StepFailed, match="not the same"):
        list(check.differences(ours, side([{"loss": 2.0}])))


def test_a_changed_file_that_was_fine_must_stay_so(tmp_path):
    """With a compiler in place of the formatters."""
    trees = {when: tmp_path / when for when in ("before", "after")}
    for tree, text in zip(trees.values(), ("a = 1\n", "a = = 1\n")):
        (tree / "ppmat").mkdir(parents=True)
        (tree / "ppmat" / "fine.py").write_text(text)
        (tree / "ppmat" / "bad.py").write_text("b = = 1\n")
    limits = {"files": 9, "code": 9, "tests": 9}
    edits = [build.Edit(f"ppmat/{n}.py", "x", "after", "y") for n in ("fine", "bad")]
    series = build.Series("ppmat", "0", [build.Pull("save_freq", {}, edits, limits)])
    python = tmp_path / "python"  # every tool is the compiler
    python.write_text(
        f'#!/bin/sh\nfor last; do :; done\n{sys.executable} -m py_compile "$last"\n'
    )
    python.chmod(0o755)
    for row in check.check_style(python, series, trees):
        assert not row.passed and row.found == "ppmat/fine.py"
    trees["after"] = trees["before"]
    for row in check.check_style(python, series, trees):
        assert row.passed and row.found == "0 new files, 1 of 2 changed ones"


def test_a_program_that_fails_shows_the_end_of_its_log(tmp_path):
    code = "print('the reason'); raise SystemExit(3)"
    with pytest.raises(check.StepFailed, match="the reason"):
        check.run([sys.executable, "-c", code], tmp_path / "log")
    with pytest.raises(subprocess.TimeoutExpired):
        slow = [sys.executable, "-c", "import time; time.sleep(60)"]
        check.run(slow, tmp_path / "log", timeout=0.1)
