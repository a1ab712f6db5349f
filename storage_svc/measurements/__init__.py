"""Where rows go: measurements, recordings and acquisitions, in an embedded or a served database."""

from __future__ import annotations

from storage_svc.measurements.base import Cursor, MeasurementStore, RowFilter, WriteCounts

__all__ = ["Cursor", "MeasurementStore", "RowFilter", "WriteCounts"]
