"""What a KiwiSDR has to say, in whatever order, before it can be tuned; and what follows from it."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from fetcher_svc.inventory import ReceiverConfig
from fetcher_svc.receivers import kiwisdr_wire as wire
from fetcher_svc.receivers.base import Facts, SampleFormat, Tuning
from fetcher_svc.receivers.http import RedirectError
from fetcher_svc.receivers.kiwisdr_calibration import CONFIG_KEY, calibration, s_meter_correction_db
from fetcher_svc.receivers.kiwisdr_refusals import REDIRECT_KEY, find_refusal
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import FieldViolation, HeimdallError, InvalidFieldsError, clip

_NEEDED: Final = ("badp", "sample_rate", "audio_rate", "freq_offset")
_USED: Final = (*_NEEDED, "bandwidth", "rf_attn", "version_maj", "version_min")
_MIN_RATE_HZ: Final = 1e3
_MAX_RATE_HZ: Final = 1e6
_MAX_OFFSET_HZ: Final = 6e9
_MAX_VERSION_BYTES: Final = 64
_MAX_URL_CHARACTERS: Final = 256
_OFFSET_TOLERANCE_HZ: Final = 0.5


class Setup:
    """Collects the messages of one connection until everything needed for tuning is known."""

    def __init__(self, config: ReceiverConfig, tuning: Tuning) -> None:
        """Begins with nothing known.

        Args:
            config: The station's entry in receivers.toml.
            tuning: What it is to be set to, checked and with defaults filled in.
        """
        self._config = config
        self._tuning = tuning
        self._pairs: dict[str, str | None] = {}
        self._correction_db: float | None = None

    @property
    def complete(self) -> bool:
        """Whether the station can be tuned now."""
        return all(key in self._pairs for key in _NEEDED)

    @property
    def missing_text(self) -> str:
        """The messages that have not come, for people; what to look at if none is missing."""
        return ", ".join(key for key in _NEEDED if key not in self._pairs) or "SND"

    def take(self, data: bytes) -> None:
        """Takes one message of the station.

        Raises:
            HeimdallError: If the station refuses, or sends what its protocol does not allow.
            RedirectError: If it sends its users elsewhere.
        """
        try:
            if data[:3] != b"MSG":
                if data[:3] in (b"W/F", b"EXT", b"DAT"):
                    return
                raise wire.WireError(f"a message starts with {data[:3]!r} before the set-up; MSG was expected")
            pairs = wire.parse_message(data)
        except wire.WireError as error:
            raise HeimdallError(ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR, str(error)) from error
        refusal = find_refusal(pairs, streaming=False)
        if refusal is not None:
            raise refusal
        if REDIRECT_KEY in pairs:
            raise RedirectError(_redirect_url(wire.decode(pairs[REDIRECT_KEY])))
        # The others are not kept: a station can think of any number of them.
        self._pairs.update((key, pairs[key]) for key in _USED if key in pairs)
        if CONFIG_KEY in pairs:
            self._correction_db = s_meter_correction_db(pairs[CONFIG_KEY])

    @property
    def frequency_offset_hz(self) -> float:
        """The offset that the station announced; 0 without one.

        Raises:
            HeimdallError: If no converter can have it.
        """
        offset_hz = self._number("freq_offset") * 1e3
        if abs(offset_hz) > _MAX_OFFSET_HZ:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR,
                f"the station announces a frequency offset of {offset_hz:g} Hz; "
                f"-{_MAX_OFFSET_HZ:g} to {_MAX_OFFSET_HZ:g} Hz was expected",
                metadata={"frequency_offset_hz": offset_hz},
            )
        return offset_hz

    @property
    def dial_hz(self) -> float:
        """Frequency on the station's own dial.

        Raises:
            HeimdallError: If receivers.toml and the station state different offsets, or the station can not tune there.
        """
        announced_hz, configured_hz = self.frequency_offset_hz, self._config.converter_offset_hz
        if announced_hz and configured_hz and abs(announced_hz - configured_hz) > _OFFSET_TOLERANCE_HZ:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_CONVERTER_OFFSET_MISMATCH,
                f"the station announces a frequency offset of {announced_hz:.0f} Hz and receivers.toml has "
                f"converter_offset_hz = {configured_hz:.0f}; make them equal, or remove the one that is wrong",
                metadata={"announced_offset_hz": announced_hz, "converter_offset_hz": configured_hz},
            )
        dial_hz = self._tuning.center_frequency_hz - (announced_hz or configured_hz)
        bandwidth_hz = self._number("bandwidth") if "bandwidth" in self._pairs else None
        if dial_hz < 0 or (bandwidth_hz is not None and dial_hz > bandwidth_hz):
            raise HeimdallError(
                ErrorReason.ERROR_REASON_FREQUENCY_OUT_OF_RANGE,
                f"{self._tuning.center_frequency_hz:.0f} Hz is {dial_hz:.0f} Hz on the station's dial; "
                f"it tunes from 0 to {'its bandwidth' if bandwidth_hz is None else f'{bandwidth_hz:.0f} Hz'}",
                metadata={"center_frequency_hz": self._tuning.center_frequency_hz, "dial_hz": dial_hz},
            )
        return dial_hz

    @property
    def sample_rate_hz(self) -> float:
        """The rate that the station announced.

        Raises:
            HeimdallError: If no KiwiSDR can have it.
        """
        return self._rate_hz("sample_rate")

    @property
    def passband_hz(self) -> tuple[float, float]:
        """Filter edges relative to the centre, as wide as the station can where the caller does not choose.

        Raises:
            InvalidFieldsError: If nothing of the wanted passband lies within what the station can do.
        """
        widest_hz = float(int(self.sample_rate_hz / 2) - 1)
        wanted_low_hz, wanted_high_hz = self._tuning.passband_low_hz, self._tuning.passband_high_hz
        low_hz = -widest_hz if wanted_low_hz is None else max(-widest_hz, round(wanted_low_hz))
        high_hz = widest_hz if wanted_high_hz is None else min(widest_hz, round(wanted_high_hz))
        if low_hz >= high_hz:
            raise InvalidFieldsError(
                [
                    FieldViolation(
                        "open.tuning.passband_low_hz",
                        f"the passband {wanted_low_hz} to {wanted_high_hz} Hz leaves nothing of the station's "
                        f"-{widest_hz:.0f} to {widest_hz:.0f} Hz",
                    )
                ]
            )
        return float(low_hz), float(high_hz)

    def commands(self, user_name: str) -> list[str]:
        """Returns what to send so that samples come."""
        low_hz, high_hz = self.passband_hz
        gain_db = self._tuning.gain_db
        return wire.setup_commands(
            user_name=user_name,
            audio_rate_hz=round(self._rate_hz("audio_rate")),
            dial_hz=self.dial_hz,
            passband_low_hz=low_hz,
            passband_high_hz=high_hz,
            automatic_gain=self._tuning.automatic_gain,
            # A manual gain has to be named even where the station controls the gain itself.
            gain_db=self._config.gain_db if gain_db is None else gain_db,
        )

    def facts(self) -> Facts:
        """Returns what the station does once the commands are sent."""
        low_hz, high_hz = self.passband_hz
        major, minor = self._pairs.get("version_maj"), self._pairs.get("version_min")
        attenuation_db = self._number("rf_attn") if "rf_attn" in self._pairs else None
        return Facts(
            center_frequency_hz=self._tuning.center_frequency_hz,
            sample_rate_hz=self.sample_rate_hz,
            sample_format=SampleFormat.CI16_LE,
            full_scale=32768.0,
            zero_offset=0.0,
            automatic_gain=self._tuning.automatic_gain,
            gain_db=self._tuning.gain_db,
            passband_low_hz=low_hz,
            passband_high_hz=high_hz,
            attenuation_db=attenuation_db,
            server_version=clip(f"KiwiSDR_v{major}.{minor}", _MAX_VERSION_BYTES) if major and minor else "",
            frame_sample_count=wire.FRAME_SAMPLE_COUNT,
            calibration=calibration(
                self._config,
                self._tuning.gain_db,
                attenuation_db,
                self._correction_db,
                has_converter=bool(self._config.converter_offset_hz or self.frequency_offset_hz),
            ),
        )

    def _rate_hz(self, key: str) -> float:
        rate_hz = self._number(key)
        if not _MIN_RATE_HZ <= rate_hz <= _MAX_RATE_HZ:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR,
                f"the station announces {key}={rate_hz:g} Hz; {_MIN_RATE_HZ:g} to {_MAX_RATE_HZ:g} Hz was expected",
                metadata={f"{key}_hz": rate_hz},
            )
        return rate_hz

    def _number(self, key: str) -> float:
        try:
            number = wire.parse_number(self._pairs, key)
        except wire.WireError as error:
            raise HeimdallError(ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR, str(error)) from error
        if number is None:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR, f"the station sent {key} without a value"
            )
        return number


def _redirect_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")
    except ValueError:
        usable = False
    if not usable or len(text) > _MAX_URL_CHARACTERS or " " in text or not text.isprintable():
        raise HeimdallError(
            ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR,
            f"the station redirects to {wire.shown(repr(text))}; http://host:port was expected",
            metadata={"redirect": wire.shown(text)},
        )
    return f"{parts.scheme}://{parts.netloc}"
