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


"""Periodic graphs: reference by brute force, invariances, broken twins."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from pymatgen.core import Lattice
from pymatgen.core import Structure

from ppmat.datasets.graph_utils.periodic_graph import PeriodicGraphConverter
from ppmat.datasets.graph_utils.periodic_graph import reciprocal_indices

UNIMODULAR = np.array([[1, 2, 0], [0, 1, 0], [1, 0, 1]])


def random_structure(seed, num_atoms=7, scale=4.0):
    """A skewed cell whose atoms keep a distance of 0.3 Å."""
    rng = np.random.default_rng(seed)
    while True:
        cell = scale * (np.eye(3) + 0.4 * rng.uniform(-1, 1, (3, 3)))
        structure = Structure(
            Lattice(cell), ["Cu"] * num_atoms, rng.uniform(-0.5, 1.5, (num_atoms, 3))
        )
        apart = structure.distance_matrix + 9 * np.eye(num_atoms)
        if np.linalg.det(cell) > 0.2 * scale**3 and apart.min() > 0.3:
            return structure


def arrays(graph):
    return {name: field.data for name, field in graph.items()}


def vectors(structure, graph):
    """Edge vectors [E, 3] by the rule of the docstring."""
    graph = arrays(graph)
    i, j = graph["edge_index"].T
    coords = structure.cart_coords
    return coords[j] + graph["pbc_offset"] @ structure.lattice.matrix - coords[i]


def edge_set(structure, graph, digits=6):
    """Edges as (centre, neighbour, vector): what must not depend on the cell."""
    rows = np.round(vectors(structure, graph), digits) + 0.0
    index = graph["edge_index"].data
    return sorted((int(i), int(j), *v) for (i, j), v in zip(index, rows.tolist()))


def brute_force(structure, cutoff):
    """All edges by looping over a generous box of images."""
    cell = structure.lattice.matrix
    coords = structure.cart_coords
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    spread = np.ptp(structure.frac_coords, axis=0)
    reach = np.ceil(cutoff / heights + spread).astype(int)
    found = set()
    for image in itertools.product(*(range(-n, n + 1) for n in reach)):
        shift = np.array(image) @ cell
        for i, j in itertools.product(range(len(coords)), repeat=2):
            vector = coords[j] + shift - coords[i]
            if (i != j or any(image)) and np.linalg.norm(vector) < cutoff:
                found.add((i, j, *image))
    return found


def as_set(graph):
    graph = arrays(graph)
    return set(
        map(tuple, np.hstack([graph["edge_index"], graph["pbc_offset"]]).tolist())
    )


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6), cutoff=st.floats(1.0, 6.0), scale=st.floats(3.0, 9.0)
)
def test_edges_equal_brute_force(seed, cutoff, scale):
    structure = random_structure(seed, num_atoms=4, scale=scale)
    graph = PeriodicGraphConverter(cutoff, max_neighbors=None)(structure)
    assert as_set(graph) == brute_force(structure, cutoff)


def test_one_atom_cell_sees_its_own_images():
    structure = Structure(Lattice.cubic(2.0), ["Cu"], [[0.3, 0.2, 0.1]])
    graph = arrays(PeriodicGraphConverter(4.1, None, k_cut=0.0)(structure))
    # Simple cubic shells at 1, sqrt 2, sqrt 3 and 2 lattice constants.
    assert graph["num_edges"].tolist() == [6 + 12 + 8 + 6]
    assert not graph["edge_index"].any()


def test_isolated_atom_gives_an_empty_graph():
    structure = Structure(Lattice.cubic(30.0), ["H"], [[0, 0, 0]])
    graph = arrays(PeriodicGraphConverter(5.0, k_cut=0.1)(structure))
    shapes = {name: array.shape for name, array in graph.items()}
    assert shapes == {
        "edge_index": (0, 2),
        "pbc_offset": (0, 3),
        "num_edges": (1,),
        "k_index": (0, 3),
        "num_k": (1,),
    }
    assert graph["num_edges"].tolist() == graph["num_k"].tolist() == [0]
    assert all(array.dtype == np.int64 for array in graph.values())


def test_edges_are_sorted_by_centre_then_distance():
    structure = random_structure(3)
    graph = PeriodicGraphConverter(5.0)(structure)
    centre = graph["edge_index"].data[:, 0]
    length = np.linalg.norm(vectors(structure, graph), axis=1)
    assert (np.diff(centre) >= 0).all()
    assert (np.diff(length)[np.diff(centre) == 0] > -1e-6).all()


@pytest.mark.parametrize("limit", [1, 5, 24])
def test_limit_keeps_the_nearest_and_their_ties(limit):
    structure = random_structure(11)
    everything = PeriodicGraphConverter(5.0, None)(structure)
    limited = PeriodicGraphConverter(5.0, limit)(structure)
    length = np.linalg.norm(vectors(structure, everything), axis=1)
    kept = as_set(limited)
    for atom in range(len(structure)):
        mine = everything["edge_index"].data[:, 0] == atom
        reach = np.sort(length[mine])[limit - 1] + 0.01
        rows = np.hstack(
            [everything["edge_index"].data, everything["pbc_offset"].data]
        )[mine & (length <= reach)]
        assert {row for row in kept if row[0] == atom} == set(map(tuple, rows.tolist()))


def test_limit_does_not_split_a_shell():
    fcc = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.6), ["Cu"], [[0, 0, 0]])
    for limit in (1, 7, 12):
        graph = arrays(PeriodicGraphConverter(5.0, limit)(fcc))
        assert np.bincount(graph["edge_index"][:, 0]).tolist() == [12] * 4
    graph = arrays(PeriodicGraphConverter(5.0, 13)(fcc))
    assert np.bincount(graph["edge_index"][:, 0]).tolist() == [18] * 4


def test_permutation_relabels_the_edges():
    structure = random_structure(5)
    order = np.random.default_rng(0).permutation(len(structure))
    shuffled = Structure.from_sites([structure[int(i)] for i in order])
    convert = PeriodicGraphConverter(5.0, 10)
    relabelled = sorted(
        (int(order[i]), int(order[j]), *rest)
        for i, j, *rest in edge_set(shuffled, convert(shuffled))
    )
    assert relabelled == edge_set(structure, convert(structure))
    assert edge_set(shuffled, convert(shuffled)) != edge_set(
        structure, convert(structure)
    )


def test_moving_atoms_by_lattice_vectors_keeps_the_edges():
    structure = random_structure(6)
    shift = np.random.default_rng(1).integers(-3, 4, (len(structure), 3))
    moved = Structure(
        structure.lattice, structure.species, structure.frac_coords + shift
    )
    convert = PeriodicGraphConverter(5.0, 10)
    assert edge_set(moved, convert(moved)) == edge_set(structure, convert(structure))


def test_the_choice_of_basis_does_not_matter():
    structure = random_structure(7)
    other = Structure(
        Lattice(UNIMODULAR @ structure.lattice.matrix),
        structure.species,
        structure.cart_coords,
        coords_are_cartesian=True,
    )
    convert = PeriodicGraphConverter(5.0, 10, k_cut=4.0)
    first, second = convert(structure), convert(other)
    assert edge_set(structure, first) == edge_set(other, second)
    assert k_set(structure, first) == k_set(other, second)


def k_set(structure, graph):
    """Reciprocal vectors with both signs, since the half chosen follows the basis."""
    cell = structure.lattice.matrix
    k = 2 * np.pi * graph["k_index"].data @ np.linalg.inv(cell).T
    return sorted(map(tuple, (np.round(np.vstack([k, -k]), 6) + 0.0).tolist()))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), k_cut=st.floats(0.3, 5.0), skew=st.integers(-4, 4))
def test_reciprocal_vectors_fill_the_sphere(seed, k_cut, skew):
    """A far larger index box finds no further vector, and each pair is there once."""
    cell = random_structure(seed, 1).lattice.matrix.copy()
    cell[1] += skew * cell[0]
    index = reciprocal_indices(cell, k_cut)
    bound = int(np.abs(index).max(initial=0)) + 6
    box = np.mgrid[[slice(-bound, bound + 1)] * 3].reshape(3, -1).T
    length = 2 * np.pi * np.linalg.norm(box @ np.linalg.inv(cell).T, axis=1)
    inside = {tuple(m) for m in box[(length <= k_cut) & box.any(axis=1)].tolist()}
    half = {tuple(m) for m in index.tolist()}
    mirrored = {tuple(-m for m in row) for row in half}
    assert len(half) == len(index)
    assert not half & mirrored
    assert half | mirrored == inside


def test_an_index_box_fails_the_basis_test():
    """Broken twin: a fixed index box is what the sphere replaces."""
    structure = random_structure(7)
    box = np.mgrid[-1:2, -1:2, -1:2].reshape(3, -1).T
    cells = structure.lattice.matrix, UNIMODULAR @ structure.lattice.matrix
    first, second = (
        sorted(map(tuple, np.round(box @ np.linalg.inv(c).T, 6).tolist()))
        for c in cells
    )
    assert first != second


def test_a_single_layer_of_images_is_not_enough():
    """Broken twin: 27 images miss edges of a small cell that the search finds."""
    structure = random_structure(8, num_atoms=2, scale=2.5)
    found = as_set(PeriodicGraphConverter(6.0, None)(structure))
    assert {row for row in found if max(map(abs, row[2:])) <= 1} < found


def test_stored_edges_give_the_searched_graph():
    """OC20 order (row 0 neighbour, row 1 centre), wider cut-off, shuffled."""
    structure = random_structure(9)
    wide = arrays(PeriodicGraphConverter(6.0, None)(structure))
    order = np.random.default_rng(2).permutation(len(wide["edge_index"]))
    stored = wide["edge_index"][order].T[::-1]
    offsets = wide["pbc_offset"][order]
    convert = PeriodicGraphConverter(5.0, 12)
    searched = convert(structure)
    reused = convert.from_edges(structure, stored, offsets)
    assert as_set(reused) == as_set(searched)
    np.testing.assert_array_equal(reused["k_index"].data, searched["k_index"].data)
    swapped = convert.from_edges(structure, stored[::-1], offsets)
    assert as_set(swapped) != as_set(searched)


def test_list_in_list_out():
    structures = [random_structure(s) for s in (1, 2)]
    convert = PeriodicGraphConverter()
    for graph, structure in zip(convert(structures), structures):
        assert as_set(graph) == as_set(convert(structure))


@pytest.mark.parametrize(
    "bad, name",
    [
        ({"cutoff": 0.0}, "cutoff"),
        ({"cutoff": float("nan")}, "cutoff"),
        ({"max_neighbors": 0}, "max_neighbors"),
        ({"k_cut": -1.0}, "k_cut"),
    ],
)
def test_parameters_out_of_range(bad, name):
    with pytest.raises(ValueError, match=name):
        PeriodicGraphConverter(**bad)
