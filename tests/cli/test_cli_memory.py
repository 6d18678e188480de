"""Memory that was freed is used again."""

import platform
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
