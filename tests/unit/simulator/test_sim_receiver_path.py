"""Samples against formulas: densities, levels, passband, Doppler, delay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator import EmitterSpec, StationSpec, ToneSpec
from simulator.emission import Arrival, Modulation
from simulator.frame import s_meter_raw
from simulator.receiver_path import Agc, AntennaSignal, Passband, SMeter, fixed_gain, to_int16

RATE_HZ = 12_000.0
SAMPLE_COUNT = 1 << 16


def station(**changes: Any) -> StationSpec:
    values = {"id": "a", "latitude_deg": 45.0, "longitude_deg": 7.0, "altitude_m": 0.0, "sample_rate_hz": RATE_HZ}
    return StationSpec.model_validate(values | changes)


def emitter(**changes: Any) -> EmitterSpec:
    values = {
        "id": "e",
        "latitude_deg": 45.0,
        "longitude_deg": 8.0,
        "altitude_m": 0.0,
        "frequency_hz": 145.5e6,
        "power_dbm": 40.0,
    }
    return EmitterSpec.model_validate(values | changes)


def antenna(spec: StationSpec, *emitters: EmitterSpec) -> AntennaSignal:
    return AntennaSignal(spec, [Arrival(e, spec, Modulation(e, seed=1)) for e in emitters], seed=1)


def frequency_hz(samples: np.ndarray[Any, Any]) -> float:
    phase = np.unwrap(np.angle(samples))
    return float(np.polyfit(np.arange(samples.size) / RATE_HZ, phase, 1)[0] / (2 * np.pi))


def test_noise_has_the_stated_density_and_is_white() -> None:
    samples = antenna(station(noise_dbm_per_hz=-140)).samples(0, SAMPLE_COUNT, 7e6)
    # Chi-square: the relative deviation of a mean of 65536 powers is 0.004, of 4096 powers 0.016.
    assert np.mean(np.abs(samples) ** 2) / RATE_HZ == pytest.approx(1e-14, rel=0.02)
    bands = np.mean(np.abs(np.fft.fft(samples).reshape(16, -1)) ** 2, axis=1)
    np.testing.assert_allclose(bands / bands.mean(), 1, atol=0.07)


def test_samples_depend_on_the_number_alone() -> None:
    whole = antenna(station(tone=[ToneSpec(offset_hz=700, dbm=-90)]), emitter(frequency_hz=7e6))
    again = antenna(station(tone=[ToneSpec(offset_hz=700, dbm=-90)]), emitter(frequency_hz=7e6))
    run = whole.samples(-300, 4000, 7e6)
    again.samples(50_000, 512, 7e6)
    np.testing.assert_array_equal(again.samples(1000, 777, 7e6), run[1300:2077])


def test_stations_and_seeds_have_different_noise() -> None:
    one, other = (antenna(station(id=name)).samples(0, 4096, 7e6) for name in ("a", "b"))
    assert abs(np.vdot(one, other)) / np.vdot(one, one).real < 0.06


def test_passband_keeps_what_is_inside() -> None:
    tones = [ToneSpec(offset_hz=offset, dbm=-60) for offset in (-3000, 400, 2000)]
    signal = antenna(station(noise_dbm_per_hz=-170, tone=tones))
    band = Passband(-1000, 1000, RATE_HZ)
    samples = np.concatenate([band.frame(signal, 512 * n, 7e6) for n in range(64)])
    spectrum = np.abs(np.fft.fft(samples * np.blackman(samples.size))) ** 2
    level = {f: 10 * np.log10(spectrum[round(f / RATE_HZ * samples.size)]) for f in (-3000, 400, 2000)}
    # Blackman taps: more than 70 dB down outside, 512 / 513 bins of transition inside.
    assert level[400] - level[-3000] > 70
    assert level[400] - level[2000] > 70


def test_passband_has_no_delay() -> None:
    signal = antenna(station(noise_dbm_per_hz=-170, tone=[ToneSpec(offset_hz=400, dbm=-60)]))
    passed = Passband(-1000, 1000, RATE_HZ).frame(signal, 10_000, 7e6)
    np.testing.assert_allclose(passed, signal.samples(10_000, 512, 7e6), atol=2e-3 * 1e-3)


def test_gain_of_the_notes() -> None:
    # -60 dBm at manGain 50 gives -18.73 dBFS; full scale is -41.27 dBm.
    samples = np.full(8, 1e-3, dtype=np.complex128) * fixed_gain(50)
    assert 20 * np.log10(abs(samples[0])) == pytest.approx(-18.73, abs=0.005)
    assert to_int16(samples)[0] == round(32767 * 10 ** (-18.73 / 20))


def test_too_much_gain_wraps() -> None:
    assert list(to_int16(np.array([1.1 - 1.1j]))) == [36044 - 65536, -36044 + 65536]


def test_s_meter_reads_carriers_right_and_noise_2_5_db_low() -> None:
    meter = SMeter(RATE_HZ)
    carrier = np.exp(2j * np.pi * 0.1 * np.arange(512)) * 10 ** (-60 / 20)
    assert [s_meter_raw(meter.update(carrier)) for _ in range(5)][3:] == [669, 669]
    generator = np.random.default_rng(5)
    noise = 1e-4 * generator.standard_normal((200, 512, 2)).view(np.complex128)[..., 0] / np.sqrt(2)
    readings = [meter.update(frame) for frame in noise]
    # The mean of ln of an exponential variable is -0.5772: 2.507 dB.
    assert np.mean(readings[5:]) == pytest.approx(-80 - 2.507, abs=0.15)


@pytest.mark.parametrize("level_dbm", [-99, -70, -20])
def test_agc_brings_peaks_near_6_db_below_full_scale(level_dbm: float) -> None:
    agc = Agc(RATE_HZ)
    carrier = np.full(512, 10 ** (level_dbm / 20), dtype=np.complex128)
    peak = np.abs(carrier * agc.gains(carrier, -100, 1.0)).max()
    assert 20 * np.log10(peak) == pytest.approx(-6, abs=0.01)


def test_agc_leaves_weak_signals_weak_and_never_overshoots() -> None:
    agc = Agc(RATE_HZ)
    # 40 dB below the threshold of -100, so 40 dB below the target of -6 dBFS.
    weak = np.full(512, 10 ** (-140 / 20), dtype=np.complex128)
    strong = np.full(512, 10 ** (-40 / 20), dtype=np.complex128)
    assert 20 * np.log10(np.abs(weak * agc.gains(weak, -100, 1.0)).max()) == pytest.approx(-46, abs=0.01)
    assert np.abs(strong * agc.gains(strong, -100, 1.0)).max() < 0.51
    after = np.abs(weak * agc.gains(weak, -100, 1.0)).max()
    assert after < 0.01


def test_level_and_frequency_of_a_carrier() -> None:
    spec = station(noise_dbm_per_hz=-190, converter_offset_hz=100e6, freq_offset_khz=16_000.0)
    samples = antenna(spec, emitter(frequency_hz=145_501_000.0)).samples(0, 12_000, 29.5e6)
    assert frequency_hz(samples) == pytest.approx(1000, abs=1e-3)
    # One degree of longitude at 45 degrees north is 78.85 km.
    loss_db = 20 * np.log10(4 * np.pi * 78.85e3 * 145.501e6 / 299_792_458)
    assert 10 * np.log10(np.mean(np.abs(samples) ** 2)) == pytest.approx(40 - loss_db, abs=0.02)


def test_doppler_of_a_departing_emitter() -> None:
    spec = station(noise_dbm_per_hz=-190)
    samples = antenna(spec, emitter(velocity_east_m_s=200.0)).samples(0, 12_000, 145.5e6)
    # The chord rises by half a degree at each end, so all but 4e-5 of the speed is along it.
    assert frequency_hz(samples) == pytest.approx(-145.5e6 * 200 / 299_792_458, abs=0.01)


def test_emitter_outside_the_sampled_band_is_not_heard() -> None:
    spec = station(noise_dbm_per_hz=-190)
    samples = antenna(spec, emitter(frequency_hz=145.5e6 + 6001)).samples(0, 4096, 145.5e6)
    assert 10 * np.log10(np.mean(np.abs(samples) ** 2)) < -145


def test_am_and_fm_follow_their_parameters() -> None:
    spec = station(noise_dbm_per_hz=-190)
    am = np.abs(antenna(spec, emitter(modulation="am", tone_hz=500, depth=0.8)).samples(0, 4800, 145.5e6))
    assert (am.max() - am.min()) / (am.max() + am.min()) == pytest.approx(0.8, abs=0.002)
    fm = antenna(spec, emitter(modulation="fm", tone_hz=500, deviation_hz=2000)).samples(0, 4800, 145.5e6)
    phase = np.unwrap(np.angle(fm))
    swing = 2 * abs(np.mean(phase * np.exp(-2j * np.pi * 500 * np.arange(4800) / RATE_HZ)))
    # The modulation index is deviation / tone.
    assert swing == pytest.approx(4.0, rel=0.002)


def test_noise_emitter_has_its_power_and_bandwidth() -> None:
    spec = station(noise_dbm_per_hz=-190)
    wide = emitter(modulation="noise", bandwidth_hz=3000)
    samples = antenna(spec, wide).samples(0, SAMPLE_COUNT, 145.5e6)
    expected_dbm = Arrival(wide, spec, Modulation(wide, seed=1)).level_dbm(0.0)
    assert 10 * np.log10(np.mean(np.abs(samples) ** 2)) == pytest.approx(expected_dbm, abs=0.1)
    power = np.abs(np.fft.fft(samples * np.hanning(SAMPLE_COUNT))) ** 2
    inside = np.abs(np.fft.fftfreq(SAMPLE_COUNT, 1 / RATE_HZ)) < 1510
    assert power[~inside].sum() / power.sum() < 1e-5


def test_delay_between_stations_is_that_of_the_geometry() -> None:
    near = station(noise_dbm_per_hz=-190, longitude_deg=7.9)
    far = station(noise_dbm_per_hz=-190, longitude_deg=7.0)
    wide = emitter(modulation="noise", bandwidth_hz=4000)
    one, other = (antenna(spec, wide).samples(0, 1 << 15, 145.5e6) for spec in (near, far))
    cross = np.fft.fft(one) * np.conj(np.fft.fft(other))
    bins = np.fft.fftfreq(cross.size, 1 / RATE_HZ)
    used = np.abs(bins) < 1800
    delays_s = np.arange(230e-6, 243e-6, 0.02e-6)
    peak = [abs(np.sum(cross[used] * np.exp(-2j * np.pi * bins[used] * delay_s))) for delay_s in delays_s]
    # The radius of the parallel is N cos(lat) = 4517.59 km, so 0.9 degrees are 70.962 km.
    assert delays_s[np.argmax(peak)] == pytest.approx(70.962e3 / 299_792_458, abs=0.2e-6)
