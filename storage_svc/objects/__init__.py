"""Where finished recordings go: a bucket, or a folder laid out like one."""

from __future__ import annotations

from storage_svc.objects.base import ObjectNotFoundError, ObjectStore, Stretch

__all__ = ["ObjectNotFoundError", "ObjectStore", "Stretch"]
