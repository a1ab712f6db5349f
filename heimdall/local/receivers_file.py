"""Points a receivers.toml at other addresses."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping


def receiver_ids(document: str) -> list[str]:
    """Returns the ids of the receivers of a receivers.toml, in its order.

    Args:
        document: Text of a receivers.toml.
    """
    return [str(entry["receiver_id"]) for entry in tomllib.loads(document).get("receiver", [])]


def with_urls(document: str, urls: Mapping[str, str]) -> str:
    """Returns a receivers.toml that holds only the receivers with a new address.

    Args:
        document: Text of a receivers.toml.
        urls: New url of each receiver to keep, by receiver_id.

    Returns:
        The text of the new file.

    Raises:
        ValueError: If the document is no receivers.toml or lacks one of the receivers.
    """
    receivers = {entry["receiver_id"]: entry for entry in tomllib.loads(document).get("receiver", [])}
    missing = sorted(urls.keys() - receivers.keys())
    if missing:
        raise ValueError(f"no receiver is called {', '.join(missing)}; there are {', '.join(sorted(receivers))}")
    tables = ({**receivers[receiver_id], "url": url} for receiver_id, url in urls.items())
    return "\n".join(_table(entry) for entry in tables)


def _table(entry: Mapping[str, object]) -> str:
    # Strings, numbers and booleans, all that a receiver has, read the same in JSON and in TOML.
    lines = (f"{key} = {json.dumps(value)}" for key, value in entry.items())
    return "\n".join(("[[receiver]]", *lines, ""))
