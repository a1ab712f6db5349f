"""The number of heaps that a process's threads allocate from, as glibc itself tells it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Eight threads allocate at once; glibc then describes its heaps as XML with one <heap> each.
_COUNT_HEAPS = """
import ctypes
import sys
import threading

from heimdall.runtime.heap import use_one_heap

if sys.argv[1] == "one":
    assert use_one_heap()
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


threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = libc.fopen(sys.argv[2].encode(), b"w")
assert libc.malloc_info(0, file) == 0
libc.fclose(file)
"""

_WITHOUT_MALLOPT = """
import ctypes

ctypes.CDLL = lambda name: object()

from heimdall.runtime.heap import use_one_heap

assert use_one_heap() is False
"""


def heap_count(how_many: str, file: str) -> int:
    subprocess.run([sys.executable, "-c", _COUNT_HEAPS, how_many, file], check=True, timeout=40)
    with open(file) as description:
        return description.read().count("<heap nr=")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has heaps to count")
def test_all_threads_share_one_heap(tmp_path: object) -> None:
    assert heap_count("many", f"{tmp_path}/many.xml") > 1
    assert heap_count("one", f"{tmp_path}/one.xml") == 1


def test_a_c_library_without_the_option_is_left_alone() -> None:
    subprocess.run([sys.executable, "-c", _WITHOUT_MALLOPT], check=True, timeout=40)
