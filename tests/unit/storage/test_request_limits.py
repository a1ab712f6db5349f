"""What no database could store, or sum up, is refused before it gets there."""

from __future__ import annotations

from typing import Any

import pytest

from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.measurement_pb2 import Estimate
from heimdall.errors import InvalidFieldsError
from heimdall.storage.v1.storage_pb2 import PutAcquisitionRequest, WriteMeasurementsRequest
from storage_svc.requests import check_measurements, check_put_acquisition
from tests.contract.storage.messages import full_measurement


@pytest.mark.parametrize(
    ("name", "values", "field"),
    [
        ("snr_db", {"reason": "A\0B"}, "snr_db.reason"),
        ("image_ratio_db", {"method": "\0"}, "image_ratio_db.method"),
        ("power_dbfs", {"value": 1000.5}, "power_dbfs"),
        ("noise_dbfs_per_hz", {"value": -1e300}, "noise_dbfs_per_hz"),
        ("frequency_offset_hz", {"value": -1.5e12}, "frequency_offset_hz"),
        ("occupied_bandwidth_hz", {"value": 1e200}, "occupied_bandwidth_hz"),
    ],
)
def test_estimates(name: str, values: dict[str, Any], field: str) -> None:
    made = full_measurement()
    check_measurements(WriteMeasurementsRequest(measurements=[made]))
    getattr(made, name).MergeFrom(Estimate(**values))
    with pytest.raises(InvalidFieldsError) as caught:
        check_measurements(WriteMeasurementsRequest(measurements=[full_measurement(), made]))
    assert [violation.field for violation in caught.value.violations] == [f"measurements[1].{field}"]


@pytest.mark.parametrize("name", ["sample_count", "lost_sample_count", "first_sample_index"])
def test_counts(name: str) -> None:
    made = full_measurement()
    setattr(made, name, 10**15)
    check_measurements(WriteMeasurementsRequest(measurements=[made]))
    setattr(made, name, 10**15 + 1)
    with pytest.raises(InvalidFieldsError, match="must be 0 to 1000000000000000"):
        check_measurements(WriteMeasurementsRequest(measurements=[made]))


def test_request_id() -> None:
    made = Acquisition(acquisition_id="task-1", request_id="a\0", revision=1, state=Acquisition.State.STATE_ACCEPTED)
    made.create_time.FromSeconds(1)
    with pytest.raises(InvalidFieldsError) as caught:
        check_put_acquisition(PutAcquisitionRequest(acquisition=made))
    assert [violation.field for violation in caught.value.violations] == ["acquisition.request_id"]
