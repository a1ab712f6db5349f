"""Names in the contracts say what a number is."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

from tests.contract.contracts import contract_files, fields, methods

_INTEGERS = {Field.TYPE_INT32, Field.TYPE_INT64}
_REALS = {Field.TYPE_DOUBLE, Field.TYPE_FLOAT}
_UNSIGNED = {Field.TYPE_UINT32, Field.TYPE_UINT64, Field.TYPE_FIXED32, Field.TYPE_FIXED64}

_UNITS = ("_hz", "_db", "_dbm", "_dbfs", "_per_hz", "_db_hz", "_deg", "_m", "_s", "_ns", "_bytes", "_ratio", "_count")
_PLACES = ("_index", "_epoch", "_size")
"""A place in a stream, an ordinal, and the size of a page or batch, as the API guidelines name it."""

_WITHOUT_UNIT = {
    "heimdall.common.v1.Estimate.value": "has the unit of the field that holds it",
    "heimdall.common.v1.Estimate.sigma": "has the unit of the field that holds it",
    "heimdall.storage.v1.AggregatedQuantity.mean": "has the unit of the field that holds it",
    "heimdall.storage.v1.AggregatedQuantity.standard_deviation": "has the unit of the field that holds it",
    "heimdall.storage.v1.AggregatedQuantity.min": "has the unit of the field that holds it",
    "heimdall.storage.v1.AggregatedQuantity.max": "has the unit of the field that holds it",
    "heimdall.common.v1.Measurement.kurtosis": "is a pure number",
    "heimdall.common.v1.SpectralKurtosis.kurtosis": "is a pure number",
    "heimdall.common.v1.SpectralKurtosis.sigma": "has the unit of the kurtosis beside it",
    "heimdall.common.v1.Segment.full_scale": "is in the units of the samples",
    "heimdall.common.v1.Segment.zero_offset": "is in the units of the samples",
    "heimdall.dsp.v1.ComputeSpectrumRequest.full_scale": "is in the units of the samples",
    "heimdall.dsp.v1.ComputeSpectrumRequest.zero_offset": "is in the units of the samples",
    "heimdall.common.v1.ErrorDetail.code": "is a google.rpc.Code",
    "heimdall.common.v1.Acquisition.revision": "is an ordinal",
    "heimdall.storage.v1.PutAcquisitionRequest.expected_revision": "is an ordinal",
    "heimdall.common.v1.AcquisitionSpec.min_receivers": "counts receivers, and says so by the name of what it counts",
}

_NUMBERS = [
    (f"{message}.{field.name}", field)
    for message, field in fields()
    if field.type in _INTEGERS | _REALS | _UNSIGNED or field.type_name == ".heimdall.common.v1.Estimate"
]


@pytest.mark.parametrize(("name", "field"), _NUMBERS, ids=[name for name, _ in _NUMBERS])
def test_a_number_says_its_unit(name: str, field: Field) -> None:
    if name in _WITHOUT_UNIT:
        return
    assert name.endswith(_UNITS + (_PLACES if field.type in _INTEGERS else ())), f"{name} has no unit in its name"


def test_every_exception_still_exists() -> None:
    assert set(_WITHOUT_UNIT) <= {name for name, _ in _NUMBERS}


def test_numbers_are_signed_and_never_called_num() -> None:
    for name, field in _NUMBERS:
        assert field.type not in _UNSIGNED, name
        assert not field.name.startswith(("num_", "n_")), name


def test_times_and_lengths_are_what_their_names_say() -> None:
    for message, field in fields():
        if field.type_name == ".google.protobuf.Timestamp":
            assert field.name.endswith("_time"), f"{message}.{field.name}"
        if field.name.endswith("_time"):
            assert field.type_name == ".google.protobuf.Timestamp", f"{message}.{field.name}"
        if field.name.endswith("_unix_ns") or field.name == "unix_ns":
            assert field.type == Field.TYPE_INT64, f"{message}.{field.name}"
        if field.name.endswith(("_duration", "_delay")) or field.name == "duration":
            assert field.type_name == ".google.protobuf.Duration", f"{message}.{field.name}"


def test_ids_are_strings() -> None:
    for message, field in fields():
        if field.name.endswith(("_id", "_ids")):
            assert field.type == Field.TYPE_STRING, f"{message}.{field.name}"


def test_package_directory_and_go_package_agree() -> None:
    for file in contract_files():
        folder = file.package.replace(".", "/")
        assert file.name.rpartition("/")[0] == folder
        _, domain, version = file.package.split(".")
        assert file.options.go_package == f"github.com/heimdall-radio/heimdall/gen/{folder};{domain}{version}"


def test_one_service_a_file_and_every_stream_of_requests_is_answered_by_a_stream() -> None:
    for file in contract_files():
        assert len(file.service) <= 1
    for service, method in methods():
        # The call guard of the runtime knows the three other kinds only.
        assert method.server_streaming or not method.client_streaming, f"{service}/{method.name}"
