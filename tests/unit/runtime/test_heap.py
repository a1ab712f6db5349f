"""The number of heaps that a process's threads allocate from, as glibc itself tells it."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

# Eight threads allocate at once; glibc then describes its heaps as XML with one <heap> each.
_COUNT_HEAPS = """
import ctypes
import sys
import threading

from heimdall.runtime.boot import main
from heimdall.runtime.settings import SettingsError

how, file_name = sys.argv[1:]
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.fopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes = (ctypes.c_int, ctypes.c_void_p)
libc.fclose.argtypes = (ctypes.c_void_p,)
together = threading.Barrier(8)


def allocate() -> None:
    together.wait(20)
    assert libc.malloc(ctypes.c_size_t(1000))
    together.wait(20)


def count_heaps(settings: object) -> None:
    threads = [threading.Thread(target=allocate) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file = libc.fopen(file_name.encode(), b"w")
    assert libc.malloc_info(0, file) == 0
    libc.fclose(file)
    raise SettingsError("counted")


if how == "service":
    sys.argv = ["dsp"]
    main("dsp", count_heaps)
try:
    count_heaps(None)
except SettingsError:
    sys.exit(2)
"""

_WITHOUT_MALLOPT = """
import ctypes

ctypes.CDLL = lambda name: object()

from heimdall.runtime.heap import use_one_heap

assert use_one_heap() is False
"""


def heap_count(how: str, folder: Path) -> int:
    """Counts the heaps of a process whose eight threads have allocated: a bare one, or a service before it serves."""
    file = folder / f"{how}.xml"
    ended = subprocess.run([sys.executable, "-c", _COUNT_HEAPS, how, str(file)], cwd=folder, timeout=40, check=False)
    assert ended.returncode == 2
    return file.read_text().count("<heap nr=")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has heaps to count")
def test_all_threads_of_a_service_share_one_heap(tmp_path: Path) -> None:
    assert heap_count("bare", tmp_path) > 1
    assert heap_count("service", tmp_path) == 1


def test_a_c_library_without_the_option_is_left_alone() -> None:
    subprocess.run([sys.executable, "-c", _WITHOUT_MALLOPT], check=True, timeout=40)
