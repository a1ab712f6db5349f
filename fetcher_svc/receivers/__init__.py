"""The drivers, one file a protocol."""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp

from fetcher_svc.gnss import StampRule
from fetcher_svc.inventory import ReceiverConfig
from fetcher_svc.receivers.base import Receiver
from fetcher_svc.receivers.kiwisdr import KiwiReceiver


@dataclass(frozen=True)
class DriverTools:
    """What drivers share."""

    session: aiohttp.ClientSession
    stamp_rule: StampRule
    user_name: str


def build_receiver(config: ReceiverConfig, password: str, tools: DriverTools) -> Receiver:
    """Returns the receiver behind its driver; connects to nothing.

    Args:
        config: The receiver's entry in receivers.toml.
        password: Its password, empty for none.
        tools: What drivers share.
    """
    match config.driver:
        case "kiwisdr":
            return KiwiReceiver(
                config,
                password,
                session=tools.session,
                stamp_rule=tools.stamp_rule,
                user_name=tools.user_name,
            )
