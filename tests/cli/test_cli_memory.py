"""Memory that was freed is used again."""

import platform
import re
import subprocess
import sys

import pytest

_ROUNDS = 50
_PROGRAM = """
import resource
from mvc.cli.memory import keep_freed_memory
%s
def use():
    blocks = [bytearray(4 << 20) for _ in range(6)]
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(%d):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(preparation: str) -> int:
    """Return how many pages a program got from the kernel after the first of many equal rounds of work."""
    program = _PROGRAM % (preparation, _ROUNDS)
    return int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="sets parameters of glibc's allocator")
def test_blocks_of_the_size_of_a_frame_are_used_again():
    """Every round but the first needs no new page; by default all of them do."""
    assert page_faults("keep_freed_memory()") < _ROUNDS <= page_faults("")


_COUNTED = """
import atexit
import gc
def tell():
    searches = sum(generation["collections"] for generation in gc.get_stats())
    print("searches", searches - before, "left alone", gc.get_freeze_count())
atexit.register(tell)
from mvc.cli.main import main
before = sum(generation["collections"] for generation in gc.get_stats())
main()
"""


def test_modules_are_not_searched_for_garbage(lab):
    """A command that imports most of them makes no search for cycles, and leaves none to the end of the process."""
    lab.committed(lab.model())
    command = [sys.executable, "-c", _COUNTED, "-C", str(lab.root), "log", "--json"]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    found = re.search(r"searches (\d+) left alone (\d+)", output)
    assert found is not None
    assert int(found[1]) == 0
    assert int(found[2]) > 10_000, "SQLAlchemy alone makes more objects"
