"""The file receivers.toml."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from fetcher_svc.inventory import MAX_RECEIVER_COUNT, CalibrationConfig, ReceiverConfig, parse_receivers
from heimdall.ids import is_id
from heimdall.runtime.settings import SettingsError
from tests.conftest import REPO_ROOT
from tests.fuzz.mutation import words
from tests.fuzz.target import Target

_PATH: Final = Path("/nowhere/receivers.toml")
_MAX_LINE_CHARACTERS: Final = 1000


def fuzz_receivers_toml(data: bytes) -> None:
    """A file: SettingsError, or right receivers and readable lines about the others."""
    try:
        receivers, problems = parse_receivers(data, _PATH)
    except SettingsError as error:
        receivers, problems = [], [str(error)]
        assert problems != [""]
    assert receivers or problems
    for problem in problems:
        assert problem.startswith(f"{_PATH}: ")
        assert len(problem) <= _MAX_LINE_CHARACTERS, f"{len(problem)} characters"
    if not problems:
        assert len({receiver.receiver_id for receiver in receivers}) == len(receivers) <= MAX_RECEIVER_COUNT
    for receiver in receivers:
        _check(receiver)


def _check(receiver: ReceiverConfig) -> None:
    assert is_id(receiver.receiver_id)
    assert 0 <= receiver.min_frequency_hz < receiver.max_frequency_hz <= 6e9
    assert abs(receiver.latitude_deg) <= 90
    assert abs(receiver.longitude_deg) <= 180
    assert -500 <= receiver.altitude_m <= 9000
    assert math.isfinite(receiver.converter_offset_hz)
    assert 1 <= receiver.slots <= 64
    assert receiver.url.startswith(("http", "HTTP"))
    assert not any(character.isspace() for character in receiver.url)
    assert "@" not in receiver.url
    (urlsplit(receiver.url).hostname or "").encode("idna")
    assert receiver.password_env is None or receiver.password_file is None
    if receiver.calibration is not None:
        assert math.isfinite(receiver.calibration.offset_db)
        assert 0 < receiver.calibration.uncertainty_db <= 30
        assert receiver.calibration.source


_PLAIN: Final = rb"""
[[receiver]] [receiver] receiver [ ] [[ ]] { } = . , # " ' \" \u0000 \n \t \U0001F4E1 \uD800 a.a.a {a=1} [1,[2]]
true nan -inf 1e400 0b1 0o7 -0 1_0 99999999999999999999 45.0 91 -90 144e6 50
1979-05-27T07:32:00+24:00 1979-05-27 07:32:00.999999999 0000-00-00
"http://u:p@h:1" "http://[::1" "https://h:70000" "http://h\n:1" "http://a..b" "kiwisdr" "a-1"
""".split()
_WORDS: Final = (
    *_PLAIN,
    *(key.encode() for key in (*ReceiverConfig.model_fields, *CalibrationConfig.model_fields)),
    *(b"\n", b"\r", b'"""', b"'''", b"\xff", b"\0", b"\xef\xbb\xbf", b"0x" + b"f" * 600, b"9" * 5000),
)


def _seeds() -> list[bytes]:
    shipped = (REPO_ROOT / "config" / "receivers.toml").read_bytes()
    first = shipped[: shipped.index(b"[[receiver]]", shipped.index(b"[[receiver]]") + 1)]
    return [
        first,
        first + b'slots = 2\ngain_db = 37\npassword_file = "secrets/kiwi.txt"\n',
        first.partition(b"\n\n")[2] + b'password_env = "KIWI_PASSWORD"\n\n[[receiver]]\nreceiver_id = "b"\n',
        first + b'[receiver.calibration]\noffset_db = -41.3\ngain_db = 50\nuncertainty_db = 1.5\nsource = "me"\n'
        b"date = 2026-05-01\n",
        b'receiver = [{receiver_id = "a", name = "A"}, {}]\n',
    ]


TARGETS: Final = (Target("receivers-toml", fuzz_receivers_toml, _seeds, max_bytes=8192, mutate=words(_WORDS)),)
