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

"""The notebooks: committed with their pictures, and run from start to end."""

import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from test_docs import broken_links

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "notebooks"
STARTED_IN = {  # folder by notebook; both must do
    "relax_and_rank_adsorption_sites": ROOT,
    "stem_calibrate_enhance_detect": FOLDER,
    "train_a_potential": FOLDER,
    "train_on_your_own_trajectories": FOLDER,
}
CAVEAT = {  # what a reader must have been told before believing a number
    "relax_and_rank_adsorption_sites": "EMT is not DFT",
    "stem_calibrate_enhance_detect": "The images here are synthetic",
    "train_a_potential": "EMT is not DFT",
    "train_on_your_own_trajectories": "EMT is not DFT",
}
LARGEST = 300_000  # bytes of a committed notebook


def streams(notebook) -> list[tuple[str, str]]:
    """Return name and text of all that was printed."""
    return [
        (output.name, output.text)
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream"
    ]


def pictures(notebook) -> int:
    """Return how many pictures a notebook shows."""
    return sum(
        "image/png" in output.get("data", {})
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )


def faults(notebook) -> list[str]:
    """Return what a reader of a committed notebook should not see."""
    found = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("not run from start to end")
    if set(notebook.metadata) - {"kernelspec", "language_info"}:
        found.append(f"metadata {sorted(notebook.metadata)}")
    for cell in notebook.cells:
        if cell.metadata:
            found.append(f"metadata of cell {cell.id}")
    for output in (output for cell in code for output in cell.outputs):
        if output.output_type == "error" or output.get("name") == "stderr":
            found.append(f"{output.output_type}: {str(output)[:200]}")
    text = re.sub(r'"image/png": "[^"]*"', "", nbformat.writes(notebook))
    found += re.findall(r"(?:/home|/root|/tmp|/work|/Users|C:\\)[^\s\"]*", text)
    return found


def test_every_notebook_is_tested():
    notebooks = {path.stem for path in FOLDER.glob("*.ipynb")}
    assert notebooks == set(STARTED_IN) == set(CAVEAT)


@pytest.mark.parametrize("name", STARTED_IN)
def test_committed_notebook_is_fit_to_read(name):
    path = FOLDER / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert faults(notebook) == []
    assert pictures(notebook) >= 3
    assert path.stat().st_size < LARGEST
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    assert CAVEAT[name] in prose
    assert broken_links(prose, path) == []


def test_faults_are_found():
    cell = nbformat.v4.new_code_cell("1 / 0", execution_count=1)
    notebook = nbformat.v4.new_notebook(cells=[cell])
    assert faults(notebook) == []
    stream = nbformat.v4.new_output("stream", name="stdout", text="in /home/me/x.py\n")
    cell.outputs = [stream]
    assert faults(notebook) == ["/home/me/x.py\\n"]
    stream.text, stream.name = "Warning", "stderr"
    assert len(faults(notebook)) == 1
    cell.outputs = [nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]
    assert len(faults(notebook)) == 1
    cell.outputs, cell.execution_count = [], 2
    assert faults(notebook) == ["not run from start to end"]
    cell.execution_count, cell.metadata = 1, {"execution": {}}
    assert len(faults(notebook)) == 1


# Run before the first cell: Python commands in the kernel, which loads Paddle once.
COMMANDS_HERE = """
import contextlib, io, os, runpy, subprocess, sys

import ppmat, paddle  # so that commands stay in this process

def run(command, check=False, genuine=subprocess.run, **options):
    python, *words = map(str, command)
    if python != sys.executable:
        return genuine(command, check=check, **options)
    module = words[0] == "-m"
    argv, path, status, text = sys.argv, list(sys.path), 0, io.StringIO()
    # Workers of a command look for its file from where the kernel started
    sys.argv = words[1:] if module else [os.path.abspath(words[0]), *words[1:]]
    try:
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            runner = runpy.run_module if module else runpy.run_path
            runner(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        status = stop.code
    finally:
        sys.argv, sys.path[:] = argv, path
    if status and check:
        raise RuntimeError(text.getvalue())
    return subprocess.CompletedProcess(command, status, text.getvalue(), "")

subprocess.run = run
"""


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Return a function that runs a notebook in a folder, small, below tmp_path."""
    for name in ("IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))  # not the user's own kernels
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    monkeypatch.setenv("PPMAT_NOTEBOOK_FAST", "1")
    monkeypatch.setenv("PPMAT_NOTEBOOK_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    monkeypatch.delenv("OC20_ROOT", raising=False)
    (tmp_path / "home").mkdir()

    def run(notebook, folder):
        resources = {"metadata": {"path": str(folder)}}
        client = NotebookClient(
            notebook,
            timeout=600,
            startup_timeout=600,
            kernel_name="python3",
            resources=resources,
        )
        return client.execute()

    return run


@pytest.mark.parametrize("name", STARTED_IN)
def test_notebook_runs_from_start_to_end(name, tmp_path, execute):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    shown = pictures(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.cells.insert(0, nbformat.v4.new_code_cell(COMMANDS_HERE))
    notebook.cells.append(nbformat.v4.new_code_cell("sys.executable"))
    execute(notebook, STARTED_IN[name])
    assert pictures(notebook) == shown
    assert [text for name, text in streams(notebook) if name == "stderr"] == []
    (last,) = notebook.cells[-1].outputs
    assert last.data["text/plain"] == repr(sys.executable)
    weights = list((tmp_path / "output").glob("**/latest.pdparams"))
    assert weights, "the notebook wrote elsewhere"


def test_a_notebook_that_fails_is_noticed(tmp_path, execute):
    cells = [nbformat.v4.new_code_cell(source) for source in ("x = 1", "x / 0")]
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(nbformat.v4.new_notebook(cells=cells), tmp_path)
