"""Writes docs/configuration.md to standard output, from the settings themselves."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from heimdall.runtime.settings import Settings

_INTRODUCTION = """# Configuration

Generated from `heimdall/runtime/settings.py` by `tools/configuration_docs.py`; do not edit.

Every service and the command line read one TOML file, named by `--config` or `HEIMDALL_CONFIG`; without one the
defaults below hold. A variable `HEIMDALL_<SECTION>_<KEY>` wins over the file; lists are written as JSON there. Unknown
keys and bad values are refused at start, with the key, the value and what would be right. Relative paths start at the
folder of the file, or at the current one without a file. `config/heimdall.toml` is an example; receivers have a file of
their own, `config/receivers.toml`."""


def page() -> Iterator[str]:
    """Yields the lines of the page."""
    yield _INTRODUCTION
    for section, field in Settings.model_fields.items():
        model = field.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            yield from ("", f"## [{section}]", "", (model.__doc__ or "").strip().partition("\n")[0], "")
            yield from ("| key | value | default | variable | |", "|---|---|---|---|---|")
            for key, inner in model.model_fields.items():
                variable = f"HEIMDALL_{section.upper()}_{key.upper()}"
                yield f"| `{key}` | {_kind(inner)} | {_default(inner)} | `{variable}` | {inner.description} |"


def _kind(field: FieldInfo) -> str:
    """Names the type of a key and its limits."""
    limits = [text for rule in field.metadata if (text := _limit(rule))]
    return ", ".join([_type_name(field.annotation), *limits])


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"list of {_type_name(get_args(annotation)[0])}"
    if get_origin(annotation) is types.UnionType:
        return " or ".join(_type_name(part) for part in get_args(annotation) if part is not types.NoneType)
    names = {
        int: "integer",
        float: "number",
        str: "text",
        SecretStr: "secret text",
        Path: "path",
        bool: "true or false",
    }
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _limit(rule: object) -> str:
    match rule:
        case Ge(ge=low):
            return f"at least {low}"
        case Gt(gt=low):
            return f"above {low}"
        case Le(le=high):
            return f"at most {high}"
        case _:
            return ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(f"`{part}`" for part in value) or "none"
    if isinstance(value, SecretStr):
        return f"`{value.get_secret_value()}`"
    return f"`{value}`"


def main() -> None:
    """Prints the page."""
    print("\n".join(page()))


if __name__ == "__main__":
    main()
