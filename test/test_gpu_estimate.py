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

"""The count of operations and the peak memory on which the estimate for GPUs stands."""

import paddle
from paddle import nn
from paddle.nn import functional

from benchmarks.gpu_estimate import counted_products
from benchmarks.runs import run_one


def test_products_are_counted_and_functions_put_back():
    before = paddle.matmul, functional.linear
    x = paddle.ones([5, 3])
    with counted_products() as count:
        nn.Linear(3, 7)(x)
        assert count["flop"] == 2 * 5 * 3 * 7
        count["flop"] = 0
        paddle.matmul(x, paddle.ones([5, 4]), transpose_x=True)
        assert count["flop"] == 2 * 3 * 5 * 4
    assert (paddle.matmul, functional.linear) == before


def test_more_structures_need_more():
    words = ("benchmarks.gpu_estimate", "--one", "SFINPotential")
    small, large = run_one(*words, 1), run_one(*words, 12)
    assert small["parameters"] == large["parameters"] > 10_000
    assert (small["structures"], large["structures"]) == (1, 12)
    atoms = large["atoms"] / small["atoms"]
    assert atoms > 5 and 0.5 * atoms < large["flop"] / small["flop"] < 2 * atoms
    assert large["memory_mib"] > small["memory_mib"] + 10
    weights = 16 * small["parameters"] / 2**20  # with two moments and the average
    assert weights < small["memory_mib"] < 10 * weights
