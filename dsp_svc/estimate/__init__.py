"""Pure functions that estimate one quantity each from arrays of complex samples."""

from __future__ import annotations
