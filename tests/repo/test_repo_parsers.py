"""Hostile bytes for every parser: refused with an error of ours, or parsed, in bounded memory.

Here are some; ``python -m benchmarks.durability fuzz`` gives a million to each.
"""

import pytest

from mvc.testing.parsers import Parser, fuzz_parser, parsers

SOME = 4_000

NAMES = (
    *("blob envelope", "pack", "damaged pack", "pack index", "metadata body", "head", "canonical value", "commit"),
    *("manifest", "tag", "operation", "work tree cache", "safetensors", "torch archive", "pickle", "shard index"),
)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Return all parsers."""
    return parsers(tmp_path_factory.mktemp("parsers"))


def test_all_parsers_are_tested(known):
    """The list here is complete."""
    assert set(known) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_hostile_bytes(known, name):
    """Good inputs are parsed; of hostile ones some are refused, and some get behind the first check."""
    parser = known[name]
    assert all(parser.parse(sample) is not None for sample in parser.samples)
    assert all(parser.parse(parser.seal(sample)) is not None for sample in parser.samples)
    tally = fuzz_parser(parser, seed=1, inputs=SOME)
    assert tally.refused > SOME // 10 or name == "damaged pack"
    assert tally.refused < SOME


def test_other_errors_are_found():
    """The fuzzer can fail: a parser that raises something else, or takes too much memory, does not pass."""
    for parse in (lambda data: data[100], lambda data: bytearray(1 << 40)):
        with pytest.raises(AssertionError, match="careless, seed 1, input 0"):
            fuzz_parser(Parser("careless", (b"short",), parse), seed=1, inputs=1)
