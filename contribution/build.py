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

"""Make the pull requests of ``series.yaml`` on the released source of upstream.

``python contribution/build.py OUT`` fetches the source with pip, ``--source PATH``
takes a folder or an archive instead. Written are ``OUT/source``, a git repository with
the released source as its first commit and one commit and branch for each pull request
in their order, and one patch a pull request. Nothing of upstream's source is stored in
this tree: an edit quotes the one line it changes.

A file of this tree is copied, with the edits that name it. Of the others only
:class:`~ppmat.utils.ranges.Range` changes, which only this tree's registry reads:
``Annotated[int, Range(1, 9)]`` becomes ``int``.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import zipfile
import zlib
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "contribution"
sys.path.insert(0, str(ROOT))

from ppmat.utils.errors import InputError  # noqa: E402
from ppmat.utils.errors import check_choice  # noqa: E402

# RuntimeError: of a ZIP file with a password
BAD_ARCHIVE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, RuntimeError)
PLACES = ("replace", "before", "after", "remove", "column")
BASE = "upstream"  # branch of the released source
PAGE = ROOT / "docs" / "core" / "contribution.md"
RESULT = ROOT / "docs" / "results" / "upstream_check.yaml"
MARKS = ("<!-- series -->\n", "<!-- /series -->\n")
CONFIGS = {
    "SFINEnergy": "property_prediction/configs/sfin/sfin_oc20_is2re_{}.yaml",
    "SFINFlow": "structure_generation/configs/sfin/oc20_{}.yaml",
}
_LISTS = re.compile(r"__init__\.py$|README")
ESTIMATE = ROOT / "docs" / "results" / "gpu_estimate.yaml"
# git, without the configuration and the variables of the user
GIT = ("git", "-c", "user.name=ppmat", "-c", "user.email=ppmat@localhost")
GIT += ("-c", f"core.attributesFile={os.devnull}")
ALONE = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
ALONE["GIT_ATTR_NOSYSTEM"] = "1"


@dataclass(frozen=True)
class Edit:
    """A change of one file of upstream.

    Args:
        file: Its path.
        find: Text that occurs once in it, within one line.
        place: ``replace`` puts ``text`` in the place of ``find``; ``before`` and
            ``after`` put it as lines of their own before or after the line of ``find``;
            ``remove`` takes that line away: of a statement of Python all lines and the
            comment above, else also the lines below that are indented more;
            ``column`` puts a column at the right of the table whose head is that line.
        text: The new text. Its lines get the indentation of the line of ``find``. Of a
            column: the cells of rows by a part of their first cell; ``head`` is the
            title, ``others`` the cell of rows that are not named.
        optional: The file is in upstream's repository but not in its release: without
            it, the edit is left out and reported.
    """

    file: str
    find: str
    place: str
    text: str | dict[str, str]
    optional: bool = False


@dataclass(frozen=True)
class Pull:
    """One pull request: its name, limits, edits, and upstream path -> our path."""

    name: str
    files: dict[str, str]
    edits: list[Edit]
    limits: dict[str, int]  # of files, lines of code, lines of tests
    note: str = ""  # what the page says of its limits

    @property
    def text(self) -> str:
        """The text of the pull request; its first line is the title.

        A line ``[numbers of energy]`` becomes the table of what ``check.py`` found, a
        line ``[time of SFINFlow]`` an estimate of the time of its training.
        """
        text = (HERE / f"{self.name}.md").read_text(encoding="utf-8")
        text = re.sub(r"^\[numbers of (\w+)\]$", alignment, text, flags=re.MULTILINE)
        return re.sub(r"^\[time of (\w+)\]$", training_time, text, flags=re.MULTILINE)

    @property
    def title(self) -> str:
        return self.text.splitlines()[0].removeprefix("# ")

    @property
    def rows(self) -> set[str]:
        """Files of upstream that only list: exports of packages, tables of READMEs."""
        changed = {edit.file for edit in self.edits} - set(self.files)
        return {name for name in changed if _LISTS.match(Path(name).name)}


@dataclass(frozen=True)
class Size:
    """What a pull request adds: files, lines of code, tests and text.

    Files that only list what others hold, :attr:`Pull.rows`, are not in ``files``.
    """

    pull: Pull
    files: int
    rows: int
    code: int
    tests: int
    rest: int
    left_out: list[str]

    @property
    def exceeded(self) -> list[str]:
        """The limits that it exceeds: ``files``, ``code``, ``tests``."""
        limits = self.pull.limits
        return [name for name in limits if getattr(self, name) > limits[name]]


@dataclass(frozen=True)
class Series:
    package: str
    version: str
    pulls: list[Pull]


def alignment(match: re.Match) -> str:
    """Return the table of the numbers of a network that were compared."""
    if not RESULT.is_file():
        return "Not compared yet: `make upstream-check`."
    result = yaml.safe_load(RESULT.read_text(encoding="utf-8"))
    rows = [row for row in result["rows"] if row["name"].startswith(f"{match[1]}, ")]
    lines = ["| what was compared | result |", "| --- | --- |"]
    lines += [f"| {row['name']} | {row['found']} |" for row in rows]
    return "\n".join([*lines, "", f"{result['machine']}; {result['date']}."])


def training_time(match: re.Match) -> str:
    """Return the estimated time of the largest training of a network."""
    if not ESTIMATE.is_file():
        return "Not estimated yet: `python -m benchmarks.gpu_estimate`."
    result = yaml.safe_load(ESTIMATE.read_text(encoding="utf-8"))
    network = match[1]
    (row,) = (row for row in result["rows"] if row["network"] == network)
    work = row["training on OC20 [PFLOP]"]
    hours = 1000.0 * work / 3600.0
    return (
        f"The configuration for all of OC20 needs about {work} PFLOP, counted from\n"
        "products of matrices for structures of 80 atoms. **Estimate**, not measured:\n"
        f"{hours:.0f} hours on one GPU that sustains 1 TFLOP/s, and at best "
        f"{hours / 8:.0f} on eight. The 10k\n"
        f"configuration sees 1/{all_over_10k(network):.0f} of the structures with a "
        "smaller network."
    )


def all_over_10k(network: str) -> float:
    """Return how many more structures the configuration of all sees in its training."""
    epochs = {}
    for subset in ("10k", "all"):
        path = ROOT / CONFIGS[network].format(subset)
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        epochs[subset] = config["Trainer"]["max_epochs"]
    return 460_328 * epochs["all"] / (10_000 * epochs["10k"])


def taken(block: Any, where: str, needed: Mapping, optional: Mapping = {}) -> dict:  # noqa: B006
    """Return a mapping of the series whose keys and types are checked."""
    if not isinstance(block, dict):
        raise InputError(f"{block!r}", where=where, wanted="a mapping")
    legal = {**needed, **optional}
    for key, value in block.items():
        check_choice(f"{where}: key", key, legal)
        if not isinstance(value, legal[key]) or isinstance(value, bool) != (
            legal[key] is bool
        ):
            wanted = legal[key].__name__
            raise InputError(f"{value!r}", where=f"{where}.{key}", wanted=wanted)
    if missing := [key for key in needed if key not in block]:
        raise InputError(f"no '{missing[0]}'", where=where)
    return block


def read_series(path: Path = HERE / "series.yaml") -> Series:
    """Read and check the series.

    Raises:
        InputError: An unknown key, a wrong type, a file that this tree lacks, a file
            that two pull requests add, or a pull request without text.
    """
    where = path.name
    try:
        block = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise InputError(str(error), where=where) from error
    block = taken(block, where, {"package": str, "version": str, "pulls": list})
    pulls: list[Pull] = []
    for number, entry in enumerate(block["pulls"]):
        pulls.append(_pull(entry, f"{where}: pulls[{number}]"))
    added: dict[str, str] = {}
    for pull in pulls:
        if not (HERE / f"{pull.name}.md").is_file():
            raise InputError(f"contribution/{pull.name}.md is missing", where=pull.name)
        for name in pull.files:
            if name in added:
                raise InputError(f"{name} is added twice", where=pull.name)
            added[name] = pull.name
    return Series(block["package"], block["version"], pulls)


def _pull(entry: Any, where: str) -> Pull:
    needed = {"name": str, "limits": dict}
    entry = taken(entry, where, needed, {"files": list, "edits": list, "note": str})
    limits = dict.fromkeys(("files", "code", "tests"), int)
    limits = taken(entry["limits"], f"{where}.limits", limits)
    files: dict[str, str] = {}
    for item in entry.get("files", []):
        pair = item if isinstance(item, dict) else {item: item}
        if len(pair) != 1:
            raise InputError(f"{item!r}", where=where, wanted="upstream's path: ours")
        ((place, ours),) = pair.items()
        if not (_is_inside(ours) and (ROOT / ours).is_file()):
            raise InputError(f"{ours!r} is no file of this tree", where=where)
        if not _is_inside(place):
            raise InputError(f"{place!r} leaves the tree of upstream", where=where)
        files[place] = ours
    edits: list[Edit] = []
    for number, item in enumerate(entry.get("edits", [])):
        edits += _edits(item, f"{where}.edits[{number}]")
    return Pull(entry["name"], files, edits, limits, entry.get("note", ""))


def _is_inside(place: Any) -> bool:
    """Whether a path is relative and does not leave its tree."""
    if not isinstance(place, str):
        return False
    return not Path(place).is_absolute() and ".." not in Path(place).parts


def _edits(item: Any, where: str) -> list[Edit]:
    """Return the edits of an entry; ``remove`` may list what stands in each line."""
    if isinstance(item, dict) and isinstance(item.get("remove"), list):
        item = taken(item, where, {"file": str, "remove": list})
        lines = [{"file": item["file"], "find": find} for find in item["remove"]]
        return [_edit({**line, "remove": True}, where) for line in lines]
    return [_edit(item, where)]


def _edit(item: Any, where: str) -> Edit:
    places = dict.fromkeys(PLACES, str) | {"remove": bool, "column": dict}
    needed = {"file": str, "find": str}
    item = dict(taken(item, where, needed, {**places, "optional": bool}))
    if not _is_inside(item["file"]):
        found = f"{item['file']!r} leaves the tree of upstream"
        raise InputError(found, where=f"{where}.file")
    found = [place for place in PLACES if place in item]
    if len(found) != 1:
        raise InputError(f"{found}", where=where, wanted=f"one of {', '.join(PLACES)}")
    if "\n" in item["find"].strip("\n") or not item["find"].strip():
        wanted = "a part of one line, as upstream's text is not copied"
        raise InputError(repr(item["find"]), where=f"{where}.find", wanted=wanted)
    text = item.pop(found[0]) if found[0] != "remove" else ""
    if found[0] == "column" and not {"head", "others"} <= set(text):
        raise InputError(f"{text}", where=f"{where}.column", wanted="head and others")
    return Edit(item["file"], item["find"], found[0], text, item.get("optional", False))


def edited(text: str, edit: Edit) -> str:
    """Return the text of a file of upstream after an edit.

    Raises:
        InputError: The line of the edit is not there, or there are several.

    Example:
        >>> edited("a = 1\\nb = 2\\n", Edit("x.py", "a = 1", "after", "c = 3\\n"))
        'a = 1\\nc = 3\\nb = 2\\n'
    """
    if text.count(edit.find) != 1:
        raise InputError(
            f"{edit.find!r} occurs {text.count(edit.find)} times",
            where=edit.file,
            wanted="once",
            hint="The source is another release, or the series has to be adapted.",
        )
    at = text.index(edit.find)
    start = text.rfind("\n", 0, at) + 1
    line = text[start:].splitlines(keepends=True)[0]
    indent = line[: len(line) - len(line.lstrip())]
    if edit.place == "column":
        return text[:start] + _with_column(text[start:], edit)
    if edit.place == "remove":
        if edit.file.endswith(".py"):
            span = _statement(text, text.count("\n", 0, start) + 1)
            if span is not None:
                return _without_statement(text, *span)
        kept = text[start + len(line) :].splitlines(keepends=True)
        below = itertools.dropwhile(lambda row: row.startswith(indent + " "), kept)
        return text[:start] + "".join(below)
    new = textwrap.indent(edit.text, indent)
    if edit.place == "replace":
        return text[:at] + new.removeprefix(indent) + text[at + len(edit.find) :]
    at = start if edit.place == "before" else start + len(line)
    return text[:at] + new.removesuffix("\n") + "\n" + text[at:]


def _statement(text: str, number: int) -> tuple[int, int] | None:
    """Return first and last line of the statement that begins in a line of Python.

    The first may be a decorator. None if no statement begins there.
    """
    nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.stmt)]
    nodes = [node for node in nodes if node.lineno == number]
    if not nodes:
        return None
    decorators = [d.lineno for n in nodes for d in getattr(n, "decorator_list", ())]
    return min([number, *decorators]), max(node.end_lineno for node in nodes)


def _without_statement(text: str, first: int, last: int) -> str:
    """Return Python source without the lines of a statement and its comment."""
    lines = text.splitlines(keepends=True)
    above, below = lines[: first - 1], lines[last:]
    while above and above[-1].lstrip().startswith("#"):
        above.pop()
    # of the empty lines above and below, the more stay
    top = list(itertools.takewhile(lambda row: not row.strip(), reversed(above)))
    bottom = list(itertools.takewhile(lambda row: not row.strip(), below))
    above, below = above[: len(above) - len(top)], below[len(bottom) :]
    above += max(top, bottom, key=len)
    return "".join(above + below).rstrip("\n") + "\n"


def _with_column(text: str, edit: Edit) -> str:
    """Return text that begins with a Markdown table, with one more column in it."""
    cells = dict(edit.text)
    title, others = cells.pop("head"), cells.pop("others")
    lines = text.splitlines(keepends=True)
    table = list(itertools.takewhile(lambda row: row.lstrip().startswith("|"), lines))
    width = table[0].rstrip().count("|")
    for number, row in enumerate(table):
        first = row.split("|")[1]
        named = [key for key in cells if key in first]
        cell = cells.pop(named[0]) if named else others
        if number < 2:
            cell = (title, "---")[number]
        elif first.strip().startswith("**"):
            cell = ""  # heading of a group of rows
        # upstream's tables have rows that lack cells
        missing = " |" * (width - row.rstrip().count("|"))
        table[number] = f"{row.rstrip()}{missing} {cell} |\n"
    if cells:
        raise InputError(f"no row '{next(iter(cells))}'", where=edit.file)
    return "".join(table + lines[len(table) :])


def without_ranges(source: str) -> str:
    """Return Python source without ``Annotated[..., Range(...)]`` and its imports.

    Example:
        >>> without_ranges("def f(n: Annotated[int, Range(1, 9)] | None = 1): pass\\n")
        'def f(n: int | None = 1): pass\\n'
    """
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    raw = source.encode()

    def span(node: ast.AST) -> tuple[int, int]:
        first = starts[node.lineno - 1] + node.col_offset
        return first, starts[node.end_lineno - 1] + node.end_col_offset

    cuts: list[tuple[int, int, bytes]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Annotated":
            first, last = span(node.slice.elts[0])
            cuts.append((*span(node), raw[first:last]))
        elif isinstance(node, ast.ImportFrom):
            if {name.name for name in node.names} & {"Annotated", "Range"}:
                first, last = span(node)
                cuts.append((first, last + 1, b""))
    for first, last, text in sorted(cuts, reverse=True):
        raw = raw[:first] + text + raw[last:]
    return re.sub(r"\n{4,}", "\n\n\n", raw.decode())


def copied(ours: str) -> bytes:
    """Return what upstream gets of a file of this tree."""
    raw = (ROOT / ours).read_bytes()
    return without_ranges(raw.decode()).encode() if ours.endswith(".py") else raw


def finished(pull: Pull, place: str) -> bytes:
    """Return a file that a pull request adds, with the edits that concern it."""
    raw = copied(pull.files[place])
    edits = [edit for edit in pull.edits if edit.file == place]
    if not edits:
        return raw
    text = raw.decode()
    for edit in edits:
        text = edited(text, edit)
    return text.encode()


def fetch(series: Series, folder: Path) -> Path:
    """Download the released source with pip; return the archive."""
    name = f"{series.package}=={series.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", series.package, name, "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    archives = list(folder.glob(f"{series.package}-{series.version}.*"))
    if done.returncode or not archives:
        raise InputError(
            f"pip cannot fetch {name}: {done.stderr.strip()[-500:]}",
            hint="Fetch it elsewhere and give the archive as --source.",
        )
    return archives[0]


def unpack(source: Path, folder: Path) -> Path:
    """Return the folder of the source, which an archive is unpacked to."""
    if source.is_dir():
        root = source
    elif not source.is_file():
        raise InputError(f"{source} does not exist", where="--source")
    else:
        try:
            if zipfile.is_zipfile(source):
                zipfile.ZipFile(source).extractall(folder)
            else:
                with tarfile.open(source) as archive:
                    archive.extractall(folder, filter="data")
        except (*BAD_ARCHIVE, EOFError, OSError) as error:
            raise InputError(f"{source}: {error}", where="--source") from error
        inside = [path for path in folder.iterdir() if path.is_dir()]
        root = inside[0] if len(inside) == 1 else folder
    if not (root / "ppmat" / "__init__.py").is_file():
        raise InputError(f"{source} has no ppmat/__init__.py", where="--source")
    return root


def git(repository: Path, *arguments: str, stdin: bytes | None = None) -> str:
    """Run git in a repository; return what it prints."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(
            [*GIT, "-C", str(repository), *arguments],
            input=stdin,
            capture_output=True,
            env=variables | ALONE,
        )
    except FileNotFoundError as error:
        raise InputError("git is not installed") from error
    if done.returncode:
        raise InputError(f"git {arguments[0]}: {done.stderr.decode().strip()}")
    return done.stdout.decode()


def build(series: Series, source: Path, out: Path) -> list[Size]:
    """Write the repository and the patches into ``out``; return the sizes.

    Raises:
        InputError: ``out`` is not empty, or an edit does not fit the source.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file", wanted="a new folder")
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty", wanted="a new folder")
    try:
        return _build(series, source, out)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)  # nothing is half done
        raise


def _build(series: Series, source: Path, out: Path) -> list[Size]:
    repository = out / "source"
    repository.mkdir(parents=True)
    git(repository, "init", "--quiet", f"--initial-branch={BASE}")
    _copy_tree(source, repository)
    git(repository, "add", "--all", "--force")
    released = f"{series.package} {series.version} as released"
    git(repository, "commit", "--quiet", "--message", released)
    return [
        _commit(repository, pull, number, out)
        for number, pull in enumerate(series.pulls, start=1)
    ]


def _copy_tree(source: Path, repository: Path) -> None:
    for path in sorted(source.rglob("*")):
        inner = path.relative_to(source)
        if path.is_file() and ".git" not in inner.parts:
            target = repository / inner
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())


def _commit(repository: Path, pull: Pull, number: int, out: Path) -> Size:
    for place in pull.files:
        path = repository / place
        if path.exists():
            raise InputError(f"{place} is upstream's own file", where=pull.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(finished(pull, place))
    left_out = []
    for edit in pull.edits:
        if edit.file in pull.files:
            continue
        path = repository / edit.file
        if not path.is_file():
            if not edit.optional:
                raise InputError(f"{edit.file} is not in the source", where=pull.name)
            left_out.append(edit.file)
            continue
        text = path.read_bytes().decode("utf-8")
        path.write_bytes(edited(text, edit).encode("utf-8"))
    git(repository, "switch", "--quiet", "--create", f"{number:02d}-{pull.name}")
    git(repository, "add", "--all", "--force")
    text = pull.text.removeprefix("# ").encode()
    git(repository, "commit", "--quiet", "--file", "-", stdin=text)
    (out / f"{number:04d}-{pull.name}.md").write_text(pull.text, encoding="utf-8")
    patch = git(repository, "format-patch", "-1", "--stdout", "--binary")
    (out / f"{number:04d}-{pull.name}.patch").write_text(patch, encoding="utf-8")
    return _size(repository, pull, left_out)


def _size(repository: Path, pull: Pull, left_out: list[str]) -> Size:
    counts = {"files": 0, "rows": 0, "code": 0, "tests": 0, "rest": 0}
    for line in git(repository, "show", "--numstat", "--format=").splitlines():
        added, _, name = line.split("\t")
        kind = "rest" if not name.endswith(".py") else "code"
        kind = "tests" if name.startswith("test/") else kind
        counts[kind] += 0 if added == "-" else int(added)
        counts["rows" if name in pull.rows else "files"] += 1
    return Size(pull, **counts, left_out=sorted(set(left_out)))


def page_block(series: Series) -> str:
    """Return the part of the page that lists the files of all pull requests."""
    lines = []
    for number, pull in enumerate(series.pulls, start=1):
        lines += [f"**{number}. {pull.title}**", ""]
        if pull.note:
            lines += [textwrap.fill(" ".join(pull.note.split()), 100), ""]
        lines.append("```text")
        for place, ours in sorted(pull.files.items()):
            lines.append(place if place == ours else f"{place}  <-  {ours}")
        changed = {edit.file for edit in pull.edits} - set(pull.files)
        lines += [f"{name}  (changed)" for name in sorted(changed)]
        lines += ["```", ""]
    return "\n" + "\n".join(lines)


def with_block(page: str, block: str) -> str:
    """Return the text of the page with its list of files written anew."""
    start, rest = page.split(MARKS[0])
    _, end = rest.split(MARKS[1])
    return start + MARKS[0] + block + MARKS[1] + end


def table(sizes: list[Size]) -> Iterator[str]:
    """Yield the rows of the table of sizes."""
    head = ("pull request", "files", "lists", "code", "tests", "text", "exceeded")
    rows = [head] + [
        (
            f"{number} {size.pull.name}",
            f"{size.files}",
            f"{size.rows}",
            f"{size.code}",
            f"{size.tests}",
            f"{size.rest}",
            ", ".join(f"{name} > {size.pull.limits[name]}" for name in size.exceeded),
        )
        for number, size in enumerate(sizes, start=1)
    ]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths)]
        yield "  ".join(cells).rstrip()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "out", type=Path, nargs="?", help="new folder for repository and patches"
    )
    parser.add_argument("--page", action="store_true", help=f"rewrite {PAGE.name} only")
    parser.add_argument("--source", type=Path, help="released source: folder, archive")
    options = parser.parse_args(argv)
    try:
        series = read_series()
        if options.page:
            fresh = with_block(PAGE.read_text(encoding="utf-8"), page_block(series))
            PAGE.write_text(fresh, encoding="utf-8")
            return 0
        if options.out is None:
            parser.error("OUT is missing")
        with tempfile.TemporaryDirectory() as folder:
            source = options.source or fetch(series, Path(folder))
            unpacked = Path(folder) / "unpacked"
            sizes = build(series, unpack(source, unpacked), options.out)
    except InputError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    print("\n".join(table(sizes)))
    for size in sizes:
        for name in size.left_out:
            print(f"{size.pull.name}: {name} is not in this source: edit left out")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
