"""Writes docs/contracts.md from the comments in the protos."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

_SCALARS = {
    FieldDescriptorProto.TYPE_DOUBLE: "double",
    FieldDescriptorProto.TYPE_FLOAT: "float",
    FieldDescriptorProto.TYPE_INT64: "int64",
    FieldDescriptorProto.TYPE_INT32: "int32",
    FieldDescriptorProto.TYPE_BOOL: "bool",
    FieldDescriptorProto.TYPE_STRING: "string",
    FieldDescriptorProto.TYPE_BYTES: "bytes",
}


class Page:
    """The documentation of one proto file."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._comments = {
            tuple(location.path): " ".join(location.leading_comments.split())
            for location in file.source_code_info.location
        }

    def lines(self) -> Iterator[str]:
        """Yields the page in Markdown."""
        yield f"## {self._file.package} ({Path(self._file.name).name})"
        for number, service in enumerate(self._file.service):
            yield from ("", f"### {service.name}", "", self._comments[6, number], "")
            yield from ("| method | request | response | |", "|---|---|---|---|")
            for index, method in enumerate(service.method):
                request = ("stream " if method.client_streaming else "") + _short(method.input_type)
                response = ("stream " if method.server_streaming else "") + _short(method.output_type)
                yield f"| `{method.name}` | {request} | {response} | {self._comments[6, number, 2, index]} |"
        for number, message in enumerate(self._file.message_type):
            yield from self._message(message, (4, number), message.name)
        for number, enum in enumerate(self._file.enum_type):
            yield from self._enum(enum, (5, number), enum.name)
        yield ""

    def _message(self, message: DescriptorProto, path: tuple[int, ...], name: str) -> Iterator[str]:
        if message.options.map_entry:
            return
        yield from ("", f"### {name}", "", self._comments[path])
        if message.field:
            yield from ("", "| field | type | |", "|---|---|---|")
        maps = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
        for number, field in enumerate(message.field):
            yield f"| `{field.name}` = {field.number} | {_type(field, maps)} | {self._comments[*path, 2, number]} |"
        for number, nested in enumerate(message.nested_type):
            yield from self._message(nested, (*path, 3, number), f"{name}.{nested.name}")
        for number, enum in enumerate(message.enum_type):
            yield from self._enum(enum, (*path, 4, number), f"{name}.{enum.name}")

    def _enum(self, enum: EnumDescriptorProto, path: tuple[int, ...], name: str) -> Iterator[str]:
        yield from ("", f"### {name}", "", self._comments[path], "", "| value | |", "|---|---|")
        for number, value in enumerate(enum.value):
            yield f"| `{value.name}` = {value.number} | {self._comments[*path, 2, number]} |"


def _short(type_name: str) -> str:
    return type_name.removeprefix(".").removeprefix("google.protobuf.").removeprefix("heimdall.common.v1.")


def _type(field: FieldDescriptorProto, maps: dict[str, DescriptorProto]) -> str:
    short = _short(field.type_name) if field.type_name else _SCALARS[field.type]
    entry = maps.get(short.rpartition(".")[2])
    if entry is not None:
        return f"map<{_type(entry.field[0], {})}, {_type(entry.field[1], {})}>"
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {short}"
    return f"optional {short}" if field.proto3_optional else short


def main() -> None:
    """Reads a descriptor set with comments from stdin and writes Markdown to stdout."""
    files = FileDescriptorSet.FromString(sys.stdin.buffer.read()).file
    print("# Contracts\n\nGenerated from `protos/` by `make gen`; do not edit.\n")
    for file in files:
        if file.package.startswith("heimdall."):
            print("\n".join(Page(file).lines()))


if __name__ == "__main__":
    main()
