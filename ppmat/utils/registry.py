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

"""Build objects from configuration blocks, with a table of known classes.

A block is ``{"__class_name__": str, "__init_params__": {...}}``. The name must be in a
table, which the packages fill; no text of a file is evaluated or imported. Everything
else raises :class:`ConfigError` with the YAML path, the value found, the legal values
and the nearest one.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
import types
import typing
from collections import UserDict
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from ppmat.utils.errors import InputError
from ppmat.utils.errors import nearest
from ppmat.utils.ranges import Range

CLASS_KEY = "__class_name__"
PARAMS_KEY = "__init_params__"


class ConfigError(InputError):
    """A configuration that is not valid: unknown name or key, or wrong type."""


def check_keys(cfg: Mapping, legal: Iterable[str], where: str) -> None:
    """Raise :class:`ConfigError` for the first key of ``cfg`` outside ``legal``."""
    legal = list(legal)
    for key in cfg:
        if key not in legal:
            names = ", ".join(sorted(map(str, legal))) or "none"
            raise ConfigError(
                f"{where}: unknown key '{key}'. Legal keys: {names}."
                f"{nearest(key, legal)}"
            )


class Registry(UserDict):
    """Classes by name, with the checks of a configuration block.

    Args:
        kind: What the classes are ("model", ...), for errors.
        classes: The classes that the package exports; each is listed by its name.

    Example:
        >>> registry = Registry("meter", [dict])
        >>> registry.build({"__class_name__": "dict"}, "Meter")
        {}
    """

    def __init__(self, kind: str, classes: Iterable[type] = ()) -> None:
        super().__init__({cls.__name__: cls for cls in classes})
        self.kind = kind

    def register(self, cls: type, name: str | None = None) -> type:
        """Make ``cls`` legal in YAML, by its bare name and by its dotted path.

        Third parties can use it as a decorator.

        Raises:
            ConfigError: The name belongs to another class.
        """
        for key in (name or cls.__name__, f"{cls.__module__}.{cls.__qualname__}"):
            if (known := self.get(key, cls)) is not cls:
                raise ConfigError(
                    f"{self.kind} '{key}' is already registered as "
                    f"{known.__module__}.{known.__qualname__}"
                )
            self[key] = cls
        return cls

    def lookup(self, name: Any, where: str) -> type:
        """Return the class ``name``, or raise an error with the legal names."""
        if isinstance(name, str) and name in self:
            return self[name]
        found = f"{where}.{CLASS_KEY}: unknown {self.kind} {name!r}"
        raise ConfigError(f"{found}. {self._legal()}{nearest(name, self)}")

    def _legal(self) -> str:
        return f"Legal names: {', '.join(sorted(self))}."

    def build(
        self, cfg: Mapping, where: str, extra_keys: Iterable[str] = (), **runtime: Any
    ) -> Any:
        """Build the object that a block describes.

        Args:
            cfg: The block; it is not changed.
            where: YAML path of the block, for errors (``"Model"``).
            extra_keys: Legal keys beside the class name, which the caller reads
                (``clip_norm_global`` of an optimizer).
            **runtime: Arguments of the program; they replace YAML values of the same
                name.

        Raises:
            ConfigError: The block is not valid, or the class refuses a value.
        """
        cls, params = self.parse(cfg, where, extra_keys)
        params = {**params, **runtime}
        where = f"{where}.{PARAMS_KEY}"
        check_call(cls, params, where, from_yaml=set(params) - set(runtime))
        try:
            return cls(**params)
        except ValueError as error:
            # Errors of other classes (a record, an inner block) name their place.
            if type(error) not in (ValueError, InputError):
                raise
            raise ConfigError(f"{where} of {cls.__name__}: {error}") from error

    def build_all(self, cfg: Mapping | None, where: str) -> Any:
        """Build one block, a mapping of blocks to a dict, or None to None."""
        if cfg is None:
            return None
        if not isinstance(cfg, Mapping):
            raise ConfigError(
                f"{where}: expected a block or a mapping of blocks, got "
                f"{type(cfg).__name__} {cfg!r}"
            )
        if CLASS_KEY in cfg:
            return self.build(cfg, where)
        return {k: self.build_all(block, f"{where}.{k}") for k, block in cfg.items()}

    def check(
        self,
        cfg: Any,
        where: str,
        extra_keys: Iterable[str] = (),
        runtime: Iterable[str] = (),
    ) -> None:
        """Check a block as :meth:`build` does, without building anything.

        Args:
            cfg: The block.
            where: YAML path of the block, for errors.
            extra_keys: As in :meth:`build`.
            runtime: Names of the arguments that the program gives.

        Raises:
            ConfigError: The block is not valid.
        """
        cls, params = self.parse(cfg, where, extra_keys)
        given = {**params, **dict.fromkeys(runtime)}
        check_call(cls, given, f"{where}.{PARAMS_KEY}", set(params) - set(runtime))

    def check_all(self, cfg: Any, where: str) -> None:
        """Check what :meth:`build_all` builds."""
        if isinstance(cfg, Mapping) and CLASS_KEY not in cfg:
            for key, block in cfg.items():
                self.check_all(block, f"{where}.{key}")
        elif cfg is not None:
            self.check(cfg, where)

    def parse(
        self, cfg: Mapping, where: str, extra_keys: Iterable[str] = ()
    ) -> tuple[type, dict[str, Any]]:
        """Return ``(class, init_params)`` of a block after checking its shape."""
        if not isinstance(cfg, Mapping):
            raise ConfigError(
                f"{where}: expected a block with {CLASS_KEY} and {PARAMS_KEY}, "
                f"got {type(cfg).__name__} {cfg!r}"
            )
        check_keys(cfg, (CLASS_KEY, PARAMS_KEY, *extra_keys), where)
        if CLASS_KEY not in cfg:
            raise ConfigError(f"{where}: {CLASS_KEY} is missing. {self._legal()}")
        cls = self.lookup(cfg[CLASS_KEY], where)
        params = cfg.get(PARAMS_KEY)
        params = {} if params is None else params
        if not isinstance(params, Mapping):
            raise ConfigError(
                f"{where}.{PARAMS_KEY}: expected a mapping, got {params!r}"
            )
        return cls, dict(params)


def check_call(
    cls: type, params: Mapping, where: str, from_yaml: set | None = None
) -> None:
    """Check ``params`` against a constructor: names, presence, types, ranges.

    A class may list parameters that are arguments of another class, as
    ``nested_params = {"backbone_cfg": Backbone}``, or a block of a registry or of a
    list of classes, as ``{"scheduler_cfg": SCHEDULERS}``; these are checked too.

    Args:
        cls: The class, or a function.
        params: Arguments by name.
        where: YAML path of the arguments, for errors.
        from_yaml: Names whose values are checked; None checks all.

    Raises:
        ConfigError: An argument is unknown, missing, of a wrong type or out of range.
    """
    # The signature of object.__init__ accepts any argument.
    plain = not isinstance(cls, type) or cls.__init__ is object.__init__
    signature = inspect.signature(cls if plain else cls.__init__)
    named = {
        name: p
        for name, p in signature.parameters.items()
        if name != "self" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    if not open_ended:
        check_keys(params, named, f"{where} of {cls.__name__}")
    missing = [
        name for name, p in named.items() if p.default is p.empty and name not in params
    ]
    if missing:
        names = ", ".join(missing) + f", which {'are' if missing[1:] else 'is'}"
        raise ConfigError(f"{where}: {cls.__name__} needs {names} missing")
    hints = _type_hints(cls)
    for name in params if from_yaml is None else from_yaml:
        if name not in named or name not in hints:
            continue
        value = params[name]
        optional = value is None and named[name].default is None
        if not optional and not fits(value, hints[name]):
            raise _misfit(value, hints[name], f"{where}.{name}", cls.__name__)
    for name, part in getattr(cls, "nested_params", {}).items():
        value, place = params.get(name), f"{where}.{name}"
        if value is None:  # the default, or refused above
            continue
        if isinstance(part, list):
            part = Registry("class", part)
        if isinstance(part, Registry):
            part.check(value, place)
        else:
            check_call(part, value, place)


@functools.cache
def _type_hints(cls: type) -> dict[str, Any]:
    try:
        function = cls.__init__ if isinstance(cls, type) else cls
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # a name that exists for type checkers only
        return {}


def _misfit(value: Any, hint: Any, where: str, owner: str) -> ConfigError:
    """Return the error for a value of a wrong type, or outside its range."""
    plain, ranges = _without_ranges(hint)
    union = typing.get_origin(plain) in (typing.Union, types.UnionType)
    for part in typing.get_args(plain) if union else [plain]:
        if typing.get_origin(part) is Mapping and isinstance(value, Mapping):
            key = next(k for k, item in value.items() if not fits({k: item}, hint))
            # None, because there may be no range
            item_hint = typing.Annotated[(typing.get_args(part)[1], None, *ranges)]
            return _misfit(value[key], item_hint, f"{where}.{key}", owner)
    limits = " or ".join(map(str, ranges))
    if fits(value, plain) and limits:
        return ConfigError(f"{where}: {owner} wants {limits}, got {value!r}")
    wanted = _type_name(plain)
    if limits and isinstance(value, float):
        wanted = f"{wanted}, {limits}"
    found = f"{type(value).__name__} {value!r}"
    return ConfigError(f"{where}: {owner} wants {wanted}, got {found}")


def _without_ranges(hint: Any) -> tuple[Any, list[Range]]:
    """Return a hint without its ranges, and the ranges."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        plain, ranges = _without_ranges(args[0])
        return plain, ranges + [extra for extra in args[1:] if isinstance(extra, Range)]
    if origin in (typing.Union, types.UnionType) or origin is list:
        parts = [_without_ranges(arg) for arg in args]
        plain = functools.reduce(operator.or_, (part for part, _ in parts))
        ranges = [found for _, more in parts for found in more]
        return (list[plain] if origin is list else plain), ranges
    return hint, []


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " | ".join(map(_type_name, typing.get_args(hint)))
    if isinstance(hint, type) and not typing.get_args(hint):
        return "None" if hint is type(None) else hint.__name__
    return str(hint).replace("typing.", "")


def fits(value: Any, hint: Any) -> bool:
    """Return whether a YAML value has the type of a hint, and is in its ranges.

    An int is legal for a float, a list for a tuple or sequence; a bool is not a number,
    and neither are NaN and infinity. Other hints (arrays, callables, classes) accept
    all values; the constructor checks them.

    Example:
        >>> fits(1, float), fits(True, int), fits(None, str | None)
        (True, False, True)
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        ranges = [extra for extra in args[1:] if isinstance(extra, Range)]
        return fits(value, args[0]) and all(r.holds(value) for r in ranges)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is typing.Literal:
        return value in args
    plain = origin or hint
    if plain in (int, float):
        is_number = isinstance(value, (int, plain)) and not isinstance(value, bool)
        return is_number and (isinstance(value, int) or math.isfinite(value))
    if plain in (type(None), bool, str):
        return isinstance(value, plain)
    if isinstance(plain, type) and issubclass(plain, Mapping):
        if not isinstance(value, Mapping):
            return False
        return not args or all(fits(item, args[1]) for item in value.values())
    if plain in (list, tuple, Sequence, Iterable):
        if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
            return False
        if args and (plain is not tuple or args[1:] == (...,)):
            return all(fits(item, args[0]) for item in value)
    return True
