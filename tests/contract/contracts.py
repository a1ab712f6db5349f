"""The contracts as the protos state them, for tests that hold the rest of the project against them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)

REPO_ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("fetcher", "dsp", "storage", "coordinator")


def contract_files() -> list[FileDescriptorProto]:
    """Returns the descriptors of our own proto files."""
    content = Path(REPO_ROOT, "heimdall", "heimdall.protoset").read_bytes()
    return [file for file in FileDescriptorSet.FromString(content).file if file.package.startswith("heimdall.")]


def methods() -> Iterator[tuple[str, MethodDescriptorProto]]:
    """Yields every method with the full name of its service."""
    for file in contract_files():
        for service in file.service:
            for method in service.method:
                yield f"{file.package}.{service.name}", method


def fields() -> Iterator[tuple[str, FieldDescriptorProto]]:
    """Yields every field with the full name of its message, nested messages included, map entries not."""
    for file in contract_files():
        for message in file.message_type:
            yield from _fields(f"{file.package}.{message.name}", message)


def _fields(name: str, message: DescriptorProto) -> Iterator[tuple[str, FieldDescriptorProto]]:
    for field in message.field:
        yield name, field
    for nested in message.nested_type:
        if not nested.options.map_entry:
            yield from _fields(f"{name}.{nested.name}", nested)


def service_config(service: str) -> dict[str, Any]:
    """Returns the client policy that lies beside the proto of a service."""
    path = REPO_ROOT / "protos" / "heimdall" / service / "v1" / f"{service}_service_config.json"
    config: dict[str, Any] = json.loads(path.read_text())
    return config
