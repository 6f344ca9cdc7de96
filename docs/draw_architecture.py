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


"""Draw docs/images/architecture.png from the imports of the tree.

    python docs/draw_architecture.py

Each box is a room (a package of ``ppmat``, or a folder beside it) with its number of
lines; each arrow points from a room to one that it imports, wider for more imports.
Every room imports ``ppmat/utils``, so those arrows are left out, and benchmarks may
import all that is below them.
The floors are those of docs/architecture.md, which ``test/test_floors.py`` checks.
"""

import ast
import re
from collections import Counter
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
OUTPUT = ROOT / "docs" / "images" / "architecture.png"
WIDTH, HEIGHT = 13.0, 8.6  # inches; also the units of the drawing
COLOURS = ("#8c8c8c", "#2f6fa8", "#3f9a8a", "#c8792b", "#a84f6b", "#6b5aa8")
COLOURS += ("#7a8b3a", "#5a5a5a")


def floors() -> dict[str, int]:
    """Return the floor of each room, from the table of the page."""
    rooms = {}
    for floor, names in re.findall(
        r"^\| (\d) \| ([^|]+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    ):
        for name in re.findall(r"`([^`]+)`", names):
            rooms[name.strip("/")] = int(floor)
    return rooms


def room_of(path: str, rooms: dict[str, int]) -> str | None:
    """Return the room that holds a file or a module written as a path."""
    parts = path.split("/")
    names = ("/".join(parts[:size]) for size in (2, 1))
    return next((name for name in names if name in rooms), None)


def measure(rooms: dict[str, int]) -> tuple[Counter, Counter]:
    """Return the lines of each room, and the imports between each two."""
    lines, imports = Counter(), Counter()
    for top in sorted({room.split("/")[0] for room in rooms}):
        for path in sorted((ROOT / top).rglob("*.py")):
            room = room_of(path.relative_to(ROOT).as_posix(), rooms)
            if room is None:
                continue
            source = path.read_text(encoding="utf-8")
            lines[room] += source.count("\n")
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.ImportFrom):
                    names = [f"{node.module}.{alias.name}" for alias in node.names]
                elif isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                else:
                    continue
                for name in names:
                    target = room_of(name.replace(".", "/"), rooms)
                    if target not in (None, room):
                        imports[room, target] += 1
    return lines, imports


def draw(rooms: dict[str, int], lines: Counter, imports: Counter) -> Figure:
    """Return the picture."""
    figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.axis("off")
    step = (HEIGHT - 0.4) / max(rooms.values())
    places = {}
    for floor in range(1, max(rooms.values()) + 1):
        names = [name for name, level in rooms.items() if level == floor]
        y = 0.2 + step * (floor - 0.5)
        axes.axhspan(
            y - step / 2, y + step / 2, color=COLOURS[floor - 1], alpha=0.06, lw=0
        )
        axes.text(0.15, y, str(floor), va="center", fontsize=16, color="0.5")
        for column, name in enumerate(names):
            x = 0.5 + (WIDTH - 0.5) * (column + 0.5) / len(names)
            places[name] = (x, y)
    most = max(imports.values())
    for (room, target), number in sorted(imports.items()):
        if target == "ppmat/utils" or room == "benchmarks":
            continue
        (x0, y0), (x1, y1) = places[room], places[target]
        axes.add_patch(
            FancyArrowPatch(
                (x0, y0 - 0.3),
                (x1, y1 + 0.3),
                arrowstyle="-|>",
                mutation_scale=9,
                linewidth=0.5 + 3.5 * (number / most) ** 0.5,
                color=COLOURS[rooms[room] - 1],
                alpha=0.45,
                shrinkA=0,
                shrinkB=0,
            )
        )
    for name, (x, y) in places.items():
        size = (2.15, 0.6)
        axes.add_patch(
            FancyBboxPatch(
                (x - size[0] / 2, y - size[1] / 2),
                *size,
                boxstyle="round,pad=0,rounding_size=0.1",
                edgecolor=COLOURS[rooms[name] - 1],
                facecolor="white",
                linewidth=1.4,
                zorder=3,
            )
        )
        label = f"{name.removeprefix('ppmat/')}\n{lines[name]:,} lines"
        axes.text(x, y, label, ha="center", va="center", fontsize=10, zorder=4)
    return figure


if __name__ == "__main__":
    ROOMS = floors()
    FigureCanvasAgg(draw(ROOMS, *measure(ROOMS))).print_png(OUTPUT)
    print(f"wrote {OUTPUT.relative_to(ROOT)}")
