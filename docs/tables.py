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

"""Write the result tables of the pages from docs/results: ``python docs/tables.py``.

A page holds ``<!-- table:NAME -->`` and ``<!-- /table:NAME -->``; what stands between
them is replaced by the table of ``docs/results/NAME.yaml``. That file is a mapping with
``rows``, a list of mappings, and whatever says how the numbers were made (``command``,
``machine``, ``date``, ``note``, others), which comes below the table. A key that a row
lacks is a dash. A nested mapping becomes one column a key; a list of numbers (one a
seed) becomes mean ± sample standard deviation. The rows of a result named in ``SHAPES``
are brought into another form before.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import textwrap
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path("docs/results")
PAGES = (
    "README.md",
    "README_zh.md",
    "docs/*.md",
    "docs/*/*.md",
    "*/README.md",
    "*/configs/*/README.md",
)
SMALL = 1e-3  # below it, three decimals do not show one digit
BLOCK = re.compile(
    r"(<!-- table:(?P<name>[\w-]+) -->\n)(?P<body>.*?)(<!-- /table:(?P=name) -->)",
    flags=re.DOTALL,
)
MADE = ("command", "machine", "date")
HEADINGS = {
    "adwt": "ADwT",
    "adwt_change": "ADwT change",
    "below_0.7": "below 0.7 Å",
    "closest": "closest [Å]",
    "energy_mae": "MAE [eV]",
    "ewt": "EwT",
    "infer_structures_per_s": "inference [structures/s]",
    "mae": "MAE [Å]",
    "records_per_s": "records/s",
    "ms_per_record": "ms a record",
    "train_minutes": "training [min]",
    "train_structures_per_s": "training [structures/s]",
    "sample_structures_per_s": "sampling [structures/s]",
    "name": "",
}


def energy_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of adsorption energies: scores of each split, means, then the rest.

    Args:
        row: With splits ``val_...``, each with lists ``energy_mae`` [eV], ``ewt`` and
            ``adwt``, or some of them, one number a seed. Means are taken over splits
            for each seed.

    Raises:
        ValueError: If the splits do not have the same number of seeds.
    """
    splits = {key: value for key, value in row.items() if key.startswith("val_")}
    shown = {score for scores in splits.values() for score in scores}
    shown = [score for score in ("energy_mae", "adwt", "ewt") if score in shown]
    fresh: dict[str, Any] = {"name": row["name"]}
    for split, scores in splits.items():
        fresh[split] = {score: scores[score] for score in shown if score != "ewt"}
    for score in shown:
        seeds = [scores[score] for scores in splits.values()]
        if len(set(map(len, seeds))) > 1:
            raise ValueError(f"{row['name']}: {score} has other seeds in each split")
        means = [statistics.mean(values) for values in zip(*seeds)]
        fresh.setdefault("mean", {})[score] = means
    last = ("parameters", "train_structures_per_s", "infer_structures_per_s")
    fresh.update({key: row[key] for key in last if key in row})
    return fresh


def fold_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of means over folds, without the scores of each fold."""
    return {
        key: {k: v for k, v in value.items() if k != "folds"}
        if isinstance(value, dict)
        else value
        for key, value in row.items()
    }


def image_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of image scores: ``PSNR / SSIM`` of each split and protocol.

    Args:
        row: With ``val`` and ``test``, each with protocols that hold ``psnr`` [dB] and
            ``ssim``, a number or a list with one a seed.

    Raises:
        ValueError: If one of them is something else.
    """
    fresh: dict[str, Any] = {"name": row["name"]}
    for split in ("val", "test"):
        for protocol, scores in row[split].items():
            both = (fixed(scores["psnr"], 2), fixed(scores["ssim"], 4))
            fresh[f"{split}, {protocol}"] = " / ".join(both)
    return {**fresh, **{k: v for k, v in row.items() if k not in ("val", "test")}}


def fixed(value: Any, digits: int) -> str:
    """Return a number, or mean ± sample standard deviation of a list, as text."""
    values = value if isinstance(value, list) else [value]
    if not values or not all(map(is_number, values)):
        raise ValueError(f"{value!r} is not a number or a list of numbers")
    text = f"{statistics.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{digits}f}"
    return text


SHAPES = {
    "is2re": energy_row,
    "real_dft": fold_row,
    "sfin_smoke": image_row,
}


def heading(key: str) -> str:
    """Return the column title of a key."""
    if key.startswith("val_"):
        return key
    return HEADINGS.get(key, key.replace("_", " "))


def cell(value: Any) -> str:
    """Return a value as the text of a table cell.

    Raises:
        ValueError: If it is neither text, a number, nor a list of numbers.
    """
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(map(is_number, value)):
        if len(value) == 1:
            return cell(value[0])
        mean, spread = statistics.mean(value), statistics.stdev(value)
        digits = decimals(mean)
        return f"{mean:.{digits}f} ± {spread:.{digits}f}"
    if not is_number(value):
        raise ValueError(f"{value!r} is not a number, a text or a list of numbers")
    if isinstance(value, float) and 0 < abs(value) < SMALL:
        return f"{value:.1e}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{decimals(value)}f}"


def is_number(value: Any) -> bool:
    """Return whether a YAML value is a number (a bool is not)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def decimals(value: float) -> int:
    """Return how many decimals a number of this size is shown with."""
    return next((d for limit, d in ((100, 0), (10, 1), (1, 2)) if value >= limit), 3)


def flatten(row: dict[str, Any], prefix: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the row with nested mappings spread out, keyed by column title."""
    flat = {}
    for key, value in row.items():
        path = (*prefix, heading(key))
        if isinstance(value, dict):
            flat.update(flatten(value, path))
        else:
            flat[" ".join(path)] = value
    return flat


def render(name: str, page: Path, root: Path = ROOT) -> str:
    """Return the table of ``docs/results/<name>.yaml`` as Markdown for a page.

    Raises:
        FileNotFoundError: If there is no such result.
        ValueError: If the file does not have the form of a result, naming the file.
    """
    path = root / RESULTS / f"{name}.yaml"
    result = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(result, dict) or not {"rows", *MADE} <= set(result):
        raise ValueError(f"{path}: wanted a mapping with rows, {', '.join(MADE)}")
    try:
        rows = [flatten(SHAPES.get(name, dict)(row)) for row in result["rows"]]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: {type(error).__name__} {error}") from error
    longest = max(rows, key=len)
    columns = list(dict.fromkeys(key for row in (longest, *rows) for key in row))
    lines = [columns, ["---"] * len(columns)]
    for number, row in enumerate(rows):
        try:
            lines.append([cell(row.get(column)) for column in columns])
        except ValueError as error:
            raise ValueError(f"{path}: rows[{number}]: {error}") from error
    table = "\n".join(
        f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines
    )
    source = Path(os.path.relpath(path, page.parent)).as_posix()
    made = [f"[{name}.yaml]({source})", f"`{' '.join(result['command'].split())}`"]
    made += [str(result["machine"]), str(result["date"])]
    others = {k: v for k, v in result.items() if k not in (*MADE, "rows", "note")}
    made += [f"{key} {cell(value)}" for key, value in flatten(others).items()]
    below = f"Source: {'; '.join(made)}."
    note = f"\n{wrap(result['note'])}\n" if "note" in result else ""
    return f"\n{table}\n{note}\n{wrap(below)}\n\n"


def wrap(text: str) -> str:
    """Return prose in lines of at most 100 characters."""
    return textwrap.fill(
        " ".join(text.split()), 100, break_long_words=False, break_on_hyphens=False
    )


def rewrite(page: Path, root: Path = ROOT) -> str:
    """Return a page's text with every table block written anew.

    Raises:
        FileNotFoundError: If a block has no result file.
        ValueError: If a marker is not closed, so that its block would be passed by.
    """
    text = page.read_text(encoding="utf-8")
    opened = re.findall(r"<!-- table:([\w-]+) -->", text)
    closed = [match["name"] for match in BLOCK.finditer(text)]
    if opened != closed:
        raise ValueError(f"{page}: table markers opened: {opened}, closed: {closed}")
    return BLOCK.sub(lambda m: m[1] + render(m["name"], page, root) + m[4], text)


def pages(root: Path = ROOT) -> list[Path]:
    """Return the pages that may hold tables."""
    return sorted({path for pattern in PAGES for path in root.glob(pattern)})


def main(argv: list[str] | None = None) -> int:
    """Rewrite all pages, or with ``--check`` only say which are out of date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if a page is old"
    )
    args = parser.parse_args(argv)
    old = 0
    for page in pages():
        fresh = rewrite(page)
        if fresh == page.read_text(encoding="utf-8"):
            continue
        old += 1
        print(f"{'out of date' if args.check else 'written'}: {page.relative_to(ROOT)}")
        if not args.check:
            page.write_text(fresh, encoding="utf-8")
    return int(args.check and old > 0)


if __name__ == "__main__":
    sys.exit(main())
