"""timescale.dsn: what can not be right is refused before asyncpg reads it, and no part of the password is shown."""

from __future__ import annotations

import random
import traceback
from typing import Any
from urllib.parse import quote, unquote

import pytest
from asyncpg import connect_utils
from pydantic import SecretStr

from heimdall.runtime.settings import SettingsError, TimescaleSettings
from storage_svc.measurements.timescale_failures import DatabaseAddress

PASSWORD_PARTS = ("Xq7", "vKw", "Zj9", "bYy")
"""What the passwords below are made of: three characters of either are in no message."""


def address(dsn: str) -> DatabaseAddress:
    return DatabaseAddress(TimescaleSettings(dsn=SecretStr(dsn)))


def as_asyncpg_reads(dsn: str) -> tuple[list[Any], Any]:
    """Returns the addresses and the parameters of a connection."""
    names = "host port user password passfile database ssl service servicefile direct_tls server_settings"
    unset = dict.fromkeys([*names.split(), "target_session_attrs", "krbsrvname", "gsslib"])
    # Private, and the one that a connection is made with.
    addresses, parameters = vars(connect_utils)["_parse_connect_dsn_and_args"](dsn=dsn, **unset)
    return list(addresses), parameters


@pytest.mark.parametrize(
    ("dsn", "problem"),
    [
        ("postgresql://u:Xq7/vKw@h:5432/db", "not percent-encoded"),
        ("postgresql://u:123/vKw@h/db", "not percent-encoded"),
        ("postgresql://u:123/Xq7/vKw", "a / in user, password or database"),
        ("postgresql://u:Xq7#vKw@h/db", "not percent-encoded"),
        ("postgresql://u:123#vKw", "not percent-encoded"),
        ("postgresql://u:Xq7?vKw@h/db", "not percent-encoded"),
        ("postgresql://u:123?Xq7=vKw@h/db", "not percent-encoded"),
        ("postgresql://u:Xq7@vKw@h/db", "not percent-encoded"),
        ("postgresql://u:Xq7@vKw@Zj9@h/db", "not percent-encoded"),
        ("postgresql://u:Xq7[vKw@h/db", "not percent-encoded"),
        ("postgresql://u:Xq7]vKw@h/db", "not percent-encoded"),
        ("postgresql://u:Xq7[vKw]Zj9@h/db", "not percent-encoded"),
        ("postgresql://u:Xq7%vKw@h/db", "a % in user or password"),
        ("postgresql://u:Xq7%2@h/db", "a % in user or password"),
        # The parser of the standard library drops these,
        ("postgresql://u:Xq7\tvKw@h/db", "a tab or the end of a line"),
        ("postgresql://u:Xq7\rvKw@h/db", "a tab or the end of a line"),
        ("postgresql://u:Xq7\nvKw@h/db", "a tab or the end of a line"),
        ("postgresql://u:Xq7@h/db\n", "a tab or the end of a line"),
        ("postgresql://u:Xq7@h\n", "a tab or the end of a line"),
        ("postgresql://h/db?password=Xq7\nvKw", "a tab or the end of a line"),
        ("post\tgresql://u:Xq7@h/db", "a tab or the end of a line"),
        # and puts these two into the text of its error.
        ("postgresql://u:Xq7\uff0fvKw@h/db", "is no URL"),
        ("postgresql://u:Xq7@[vKw]/db", "is no URL"),
        ("postgresql://u:Xq7@h:vKw/db", "a port that is no number"),
        ("postgresql://u:Xq7", "a port that is no number"),
        ("postgresql://u:Xq7@h:65536/db", "a port that is no number"),
        ("postgresql://u:Xq7@h:0/db", "a port that is no number"),
        ("postgresql://u:Xq7@h:1:2/db", "a port that is no number"),
        ("postgresql://u:Xq7@::1/db", "a port that is no number"),
        ("postgresql://u:Xq7@a:5432,b:vKw/db", "a port that is no number"),
        ("postgresql://u:Xq7@a,,b/db", "does not name a host"),
        ("postgresql://u:Xq7@/db", "does not name a host"),
        ("postgresql://u:Xq7@:5432/db", "does not name a host"),
        ("postgresql:///db?password=Xq7", "does not name a host"),
        ("postgresql://h/db?password=Xq7&vKw", "options behind the ?"),
        ("postgresql://h/db?password=Xq7&port=vKw", "an option port"),
        ("mysql://u:Xq7@h/db", "does not begin with"),
        ("Xq7vKw://u@h/db", "does not begin with"),
        ("u:Xq7@h/db", "does not begin with"),
        ("postgresql:u:Xq7@h/db", "does not begin with"),
        ("host=h password=Xq7", "does not begin with"),
        ("", "does not begin with"),
    ],
)
def test_what_can_not_be_right_is_refused_and_not_shown(dsn: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        address(dsn)
    error = caught.value
    assert str(error).startswith("timescale.dsn: ")
    assert problem in str(error)
    assert "%2F %3F %23 %40 %25" in str(error)
    assert "timescale.password_file" in str(error)
    shown = [str(error), repr(error), "".join(traceback.format_exception(error))]
    assert [part for part in PASSWORD_PARTS for text in shown if part in text] == []
    # Nor may one be behind it, for whoever prints more than a traceback does.
    assert (error.__cause__, error.__context__) == (None, None)


@pytest.mark.parametrize(
    ("dsn", "text", "connected_to"),
    [
        ("postgresql://u@h/db", "database db at h as u", [("h", 5432)]),
        ("postgres://u@h:6543/db", "database db at h:6543 as u", [("h", 6543)]),
        ("POSTGRESQL://u@h/db", "database db at h as u", [("h", 5432)]),
        ("postgresql://h", "database its default user at h as its default user", [("h", 5432)]),
        ("postgresql://u@h", "database u at h as u", [("h", 5432)]),
        ("postgresql://u@h:/db", "database db at h: as u", [("h", 5432)]),
        ("postgresql://u@127.0.0.1:1/", "database u at 127.0.0.1:1 as u", [("127.0.0.1", 1)]),
        ("postgresql://u@[::1]/db", "database db at [::1] as u", [("::1", 5432)]),
        ("postgresql://u:p@[fe80::1%25eth0]:65535/db", "database db at [fe80::1%25eth0]:65535 as u", None),
        ("postgresql://u@a:1,[::1]:2/db", "database db at a:1,[::1]:2 as u", [("a", 1), ("::1", 2)]),
        ("postgresql://u@%2Frun%2Fpg/db", "database db at %2Frun%2Fpg as u", ["/run/pg/.s.PGSQL.5432"]),
        ("postgresql:///db?host=/run/pg&user=u", "database db at /run/pg as u", ["/run/pg/.s.PGSQL.5432"]),
        ("postgresql://u@/db?host=/run/pg&port=6543", "database db at /run/pg as u", ["/run/pg/.s.PGSQL.6543"]),
        ("postgresql://u@?host=h:2&dbname=db", "database db at h:2 as u", [("h", 2)]),
        ("postgresql://u@h?database=db", "database db at h as u", [("h", 5432)]),
        ("postgresql://u@h/db?sslmode=verify-full", "database db at h as u", [("h", 5432)]),
        ("postgresql://u@h/db?sslmode=disable&application_name=x", "database db at h as u", [("h", 5432)]),
        ("postgresql://a%40b:p@h/d%2Fb", "database d/b at h as a@b", [("h", 5432)]),
        ("postgresql://u:p:q;r&s=t!$'()*+,~|^ü@h/db", "database db at h as u", [("h", 5432)]),
    ],
)
def test_what_asyncpg_can_use_is_taken(dsn: str, text: str, connected_to: list[Any] | None) -> None:
    assert str(address(dsn)) == text
    if "verify-full" in dsn:
        # It wants a file of certificates.
        dsn = dsn.partition("?")[0]
    addresses, parameters = as_asyncpg_reads(dsn)
    assert addresses == ([("fe80::1%eth0", 65535)] if connected_to is None else connected_to)
    if " as its" not in text:
        assert text.split()[-1] == parameters.user
        assert text.split()[1] == (parameters.database or parameters.user)


def test_asyncpg_gets_the_password_of_what_is_taken() -> None:
    """Whatever characters it has: either they are read as they were meant, or it is refused."""
    choice = random.Random(7)
    taken = refused = 0
    for _ in range(3000):
        password = "".join(choice.choices("ab1/?#@%[]:,=&;+ \t\r\nü", k=choice.randint(1, 6)))
        for written in (password, quote(password, safe="")):
            dsn = f"postgresql://u:{written}@h:1/db"
            try:
                place = address(dsn).place
            except SettingsError:
                assert written == password != quote(password, safe="")
                refused += 1
                continue
            addresses, parameters = as_asyncpg_reads(dsn)
            assert (place, addresses) == ("h:1", [("h", 1)])
            assert (parameters.user, parameters.password, parameters.database) == ("u", unquote(written), "db")
            taken += 1
    assert taken > 3000
    assert refused > 1000
