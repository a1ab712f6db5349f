"""The numbers of one bounded run of samples."""

from __future__ import annotations

from dsp_svc.estimate.measure import Plan
from dsp_svc.estimate.psd import Welch
from dsp_svc.estimate.result import Quantity, Reason
from dsp_svc.estimate.samples import BadSamplesError
from dsp_svc.estimate.snr import Band
from dsp_svc.messages import fill_numbers
from dsp_svc.meter import Meter
from dsp_svc.requests import SpectrumJob
from heimdall.common.v1 import measurement_pb2
from heimdall.errors import FieldViolation, InvalidFieldsError
from heimdall.samples import SampleCoding, SampleFormat

_WARM_UP_SAMPLES = 1 << 18


def compute_spectrum(job: SpectrumJob) -> measurement_pb2.Measurement:
    """Measures one run of samples.

    Args:
        job: The samples and how to measure them.

    Returns:
        The numbers with their spectrum.

    Raises:
        InvalidFieldsError: A float sample is not finite.
    """
    meter = Meter(Plan(job.coding, job.sample_rate_hz, job.welch, job.welch))
    try:
        meter.add(job.samples, 0, job.passband)
    except BadSamplesError as error:
        raise InvalidFieldsError([FieldViolation("samples", str(error))]) from error
    measurement = measurement_pb2.Measurement(
        scope=measurement_pb2.MEASUREMENT_SCOPE_WINDOW,
        center_frequency_hz=job.center_frequency_hz,
        sample_rate_hz=job.sample_rate_hz,
    )
    stretch = meter.window(job.passband, job.sample_rate_hz)
    measurement.sample_count = stretch.sample_count
    fill_numbers(measurement, stretch.numbers, stretch.products, Quantity.absent(Reason.NOT_MEASURED, ""))
    return measurement


def warm_up() -> None:
    """Measures a ramp once, so that the first stream finds the libraries loaded and the memory in place."""
    coding = SampleCoding(SampleFormat.CU8, 127.5, 127.5)
    data = bytes(range(256)) * (_WARM_UP_SAMPLES * coding.sample_size_bytes // 256)
    rate_hz = 48_000.0
    band = Band(-rate_hz / 2.0, rate_hz / 2.0)
    meter = Meter(Plan(coding, rate_hz, Welch(2048), None))
    meter.add(data, 0, band)
    meter.window(band, rate_hz)
    meter.summary(band, rate_hz)
