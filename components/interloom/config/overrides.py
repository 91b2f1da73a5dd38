"""Change a recipe from outside, and say in one line what is wrong with one.

TOML has no null: the word ``"none"`` stands for it, in files and in overrides.
"""

import difflib
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from interloom.core.errors import ConfigError

NONE = "none"
_WORD = re.compile(r"(?=.*\w)[\w./@:-]+")  # a name, a path, a reference such as name@2 or kind:id


def apply_overrides(
    values: Mapping[str, Any], assignments: Iterable[str], model: type[BaseModel] | None = None
) -> dict[str, Any]:
    """A copy of nested ``values`` in which each ``a.b=c`` is done, in their order.

    Args:
        values: What is changed.
        assignments: ``c`` is a TOML value; a bare word is taken as a string.
        model: Of the values. A ``kind`` clears its section, since another one has other keys,
            unless the model says that all kinds have the same.

    Raises:
        ConfigError: An assignment has no ``=``, no key, a value that is not TOML, or a key that
            goes through something that is not a section.
    """
    changed = _copy(values)
    for assignment in assignments:
        path, value = parse_assignment(assignment)
        section = changed
        for part in path[:-1]:
            inner = section.setdefault(part, {})
            if inner is None:
                inner = section[part] = {}
            if not isinstance(inner, dict):
                raise ConfigError(
                    f"--set {assignment}: {part!r} is a value, not a section; "
                    f"shorten the key to {'.'.join(path[: path.index(part) + 1])}"
                )
            section = inner
        has_own_keys = model is None or len(_walk(model, path[:-1])[1]) > 1
        if path[-1] == "kind" and section.get("kind") != value and has_own_keys:
            section.clear()
        section[path[-1]] = value
    return changed


def parse_assignment(assignment: str) -> tuple[tuple[str, ...], Any]:
    """The path and the value of ``a.b=c``.

    Raises:
        ConfigError: It is not of that form.
    """
    key, equals, raw = assignment.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path) or not raw.strip():
        raise ConfigError(
            f"--set needs section.key=value, got {assignment!r}; "
            "for example --set pretrain.train.num_steps=100"
        )
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        if not _WORD.fullmatch(raw.strip()):
            raise ConfigError(
                f"--set {assignment}: {raw!r} is not a TOML value; numbers and true/false go bare, "
                "text in double quotes, lists in [ ]"
            ) from None
        value = raw.strip()
    return path, with_nulls(value)


def with_nulls(value: Any) -> Any:
    """``value`` with every string ``"none"`` as None, however deep."""
    if isinstance(value, dict):
        return {key: with_nulls(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_nulls(inner) for inner in value]
    return None if value == NONE else value


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem in one line: which key, what was expected, what it got, what is near."""
    problems = error.errors(include_url=False)
    first = problems[0]
    key = ".".join(_keys(model, first["loc"]))
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        last = str(first["loc"][-1])
        return f"unknown key {key}{nearest(last, _siblings(model, first['loc']))}{more}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    got = "" if isinstance(first["input"], Mapping | BaseModel) else f", got {first['input']!r}"
    return f"{key}: {message}{got}{more}" if key else f"{message}{more}"


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean a, b?`` or, when nothing is near, ``; there are: a, b, c``."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {', '.join(close)}?"
    return f"; there are: {', '.join(names)}" if names else ""


def _siblings(model: type[BaseModel], path: Sequence[int | str]) -> set[str]:
    """The keys that could stand where ``path`` ends."""
    return {name for held in _walk(model, path[:-1])[1] for name in held.model_fields}


def _keys(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """``path`` as a user writes it: without the tags of unions."""
    return _walk(model, path)[0]


def _walk(
    model: type[BaseModel], path: Sequence[int | str]
) -> tuple[list[str], list[type[BaseModel]]]:
    """Follow ``path``; gives its keys and the record types that can stand at its end."""
    keys, held, is_tag = [], [model], False
    for part in path:
        if is_tag:
            is_tag = False
            continue
        fields = [record.model_fields[str(part)] for record in held if part in record.model_fields]
        is_tag = any(field.discriminator is not None for field in fields)
        keys.append(str(part))
        held = [inner for field in fields for inner in _models(field.annotation)] or held
    return keys, held


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The record types that an annotation allows."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in {typing.Annotated, typing.Union, types.UnionType, tuple}:
        return [model for inner in typing.get_args(annotation) for model in _models(inner)]
    return []


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _copy(value) if isinstance(value, Mapping) else value for key, value in values.items()
    }
