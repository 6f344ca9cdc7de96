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

"""ZeRO stage 1: each rank keeps the optimizer's state of a part of the parameters."""

from __future__ import annotations

from typing import Any

import paddle
import paddle.distributed as dist
from paddle import optimizer as optim

from ppmat.utils.misc import gather_objects
from ppmat.utils.registry import ConfigError

_MASTER = "master_weights"  # of mixed precision, a dictionary within the state


class Zero1:
    """Updates a part of the parameters on each rank, and sends it to the others.

    Rajbhandari et al., SC 2020, arXiv:1910.02054, stage 1. Gradients and weights are
    whole on all ranks, so a step is that of one process. The moments of Adam, twice the
    size of the weights, are shared out. Checkpoints hold all of them, and fit any
    number of ranks.

    Paddle's own ``group_sharded_parallel`` refuses CPUs, and its stage 1 clips by the
    gradients of its own part unless the whole of ``fleet`` is set up.

    Args:
        optimizer: Its parameters have their gradients summed over the ranks already.

    Raises:
        ConfigError: The optimizer has several groups of parameters.
    """

    def __init__(self, optimizer: optim.Optimizer) -> None:
        parameters = optimizer._parameter_list
        if isinstance(parameters[0], dict):
            raise ConfigError(
                "Trainer.strategy: Zero1 needs one group of parameters; "
                "no_weight_decay_name of this optimizer makes two"
            )
        self.optimizer = optimizer
        self.clip, optimizer._grad_clip = optimizer._grad_clip, None
        self.parameters = [p for p in parameters if not p.stop_gradient]
        sizes = [0] * dist.get_world_size()
        self.owner: dict[str, int] = {}  # rank by the name of the parameter
        # Parameters that are sent together, by rank and type
        self.parts: dict[tuple, list[paddle.Tensor]] = {}
        for parameter in sorted(self.parameters, key=lambda p: -p.size):
            rank = sizes.index(min(sizes))
            self.owner[parameter.name] = rank
            self.parts.setdefault((rank, parameter.dtype), []).append(parameter)
            sizes[rank] += int(parameter.size)

    @paddle.no_grad()
    def step(self) -> None:
        """Take the step of the optimizer; all ranks call this."""
        pairs = [(p, p.grad) for p in self.parameters if p.grad is not None]
        if self.clip is not None:
            pairs = self.clip(pairs)
        rank = dist.get_rank()
        for parameter, gradient in pairs:
            parameter.grad = gradient if self.owner[parameter.name] == rank else None
        self.optimizer.step()
        for (owner, _), part in self.parts.items():
            sent = paddle.concat([parameter.flatten() for parameter in part])
            dist.broadcast(sent, src=owner)
            if owner != rank:
                values = sent.split([int(parameter.size) for parameter in part])
                for parameter, value in zip(part, values):
                    parameter.set_value(value.reshape(parameter.shape))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all parameters on rank 0; all ranks call this."""
        state = self.optimizer.state_dict()
        master = state.pop(_MASTER, {})
        rank = dist.get_rank()
        for values in (state, master):
            tensors = {k: v for k, v in values.items() if isinstance(v, paddle.Tensor)}
            listed = [
                (name, value.shape, str(value.dtype).removeprefix("paddle."))
                for name, value in tensors.items()
            ]
            for owner, entries in enumerate(gather_objects(listed)):
                for name, shape, kind in entries:
                    own = owner == rank
                    value = tensors[name] if own else paddle.empty(shape, kind)
                    dist.broadcast(value, src=owner)
                    if rank == 0:
                        values[name] = value.cpu()
        return {**state, _MASTER: master} if master else state

    def set_state_dict(self, state: dict[str, Any]) -> None:
        """Take this rank's part of a state of all parameters."""
        rank = dist.get_rank()
        others = [name for name, owner in self.owner.items() if owner != rank]

        def own(values: dict[str, Any]) -> dict[str, Any]:
            return {
                key: value
                for key, value in values.items()
                if not any(key == n or key.startswith(f"{n}_") for n in others)
            }

        kept = own(state)
        if _MASTER in state:
            kept[_MASTER] = own(state[_MASTER])
        self.optimizer.set_state_dict(kept)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimizer, name)
