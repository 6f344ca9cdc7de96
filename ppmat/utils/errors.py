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

"""The base of all errors that a user of ``ppmat`` can correct.

A command catches :class:`InputError` by its class, prints it without a traceback and
exits with status 2. Every other exception is a fault of the program.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 300  # characters of a library's error; some libraries quote whole files


class InputError(ValueError):
    """Wrong input: a file, a key of a configuration, an option, a value.

    Args:
        found: What was found, or the whole message.
        where: File, key or YAML path that holds it.
        wanted: What is legal there.
        hint: What the user can do, a sentence.

    Example:
        >>> raise InputError("-3", where="Trainer.max_epochs", wanted="an integer >= 0")
        Traceback (most recent call last):
        ...
        ppmat.utils.errors.InputError: Trainer.max_epochs: -3; wanted an integer >= 0
    """

    def __init__(
        self, found: str = "", *, where: str = "", wanted: str = "", hint: str = ""
    ) -> None:
        self.found, self.where, self.wanted, self.hint = found, where, wanted, hint
        text = f"{where}: {found}" if where else found
        text += f"; wanted {wanted}" if wanted else ""
        super().__init__(f"{text}. {hint}" if hint else text)

    def __reduce__(self) -> tuple:
        fields = {"where": self.where, "wanted": self.wanted, "hint": self.hint}
        return type(self), (self.found,), {**fields, "args": self.args}


def text_of(error: BaseException) -> str:
    """Return class and text of a library's error on one line, shortened if it is long.

    Example:
        >>> text_of(ValueError("no number:\\n" + 1000 * "x"))[:30]
        'ValueError: no number: xxxxxxx'
    """
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def nearest(word: str, legal: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest legal word, or ``""``."""
    match = difflib.get_close_matches(str(word), list(legal), n=1, cutoff=0.5)
    return f" Did you mean '{match[0]}'?" if match else ""


def check_choice(what: str, found: object, legal: Iterable) -> None:
    """Check that a value is one of the legal ones.

    Args:
        what: Name of the option or key.
        found: Its value.
        legal: The legal values, in the order of the message.

    Raises:
        InputError: It is not.
    """
    if found not in legal:
        names = ", ".join(map(str, legal))
        hint = nearest(found, map(str, legal)).strip()
        raise InputError(f"{what} is {found!r}", wanted=f"one of {names}", hint=hint)
