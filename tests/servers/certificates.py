"""Certificates for servers of tests that speak TLS."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_certificate(folder: Path) -> Path:
    """Makes an authority and a certificate for 127.0.0.1, in public.crt and private.key where MinIO looks for them.

    Returns:
        The file of the authority.
    """
    authority, authority_key = folder / "authority.pem", folder / "authority.key"
    key_options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _openssl(
        "req", "-x509", *key_options, "-keyout", authority_key, "-out", authority, "-days", "2",
        "-subj", "/CN=Authority of a test",
    )  # fmt: skip
    _openssl(
        "req", "-x509", *key_options, "-keyout", folder / "private.key", "-out", folder / "public.crt", "-days", "2",
        "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE",
        "-CA", authority, "-CAkey", authority_key,
    )  # fmt: skip
    return authority


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)
