"""What encoding consists of: pure functions of tasks that can be pickled, so that any executor may run them.

A task holds bytes, not the place of a file: what is encoded is what was hashed, whatever becomes of the file meanwhile,
and a worker on another machine needs none of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from xxhash import xxh3_64_intdigest

from mvc.codecs import Codec, Sample, estimate
from mvc.repo.plan import Option, Side, choose
from mvc.settings import Delta
from mvc.types import TensorSpec

__all__ = [
    "EncodeContent",
    "EncodeFrame",
    "EncodedContent",
    "EncodedFrame",
    "Range",
    "Way",
    "encode_contents",
    "encode_frames",
    "judged",
    "sample_places",
]

_SAMPLES: Final = 4
"""Places of a tensor at which options are compared."""
_SAMPLE_WORDS: Final = 32 << 10
"""Words at each place: enough for the tables of the entropy coder, so that the estimate does not favour short ones."""

Way = tuple[Codec, Side | None]
"""A codec, and the side tensor that it is to take."""
Range = dict[Side | None, Sample]
"""A range of a content, alone and with the same range of each side tensor that may help to store it."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodeContent:
    """Choose how to store a content and, if it is one frame, encode it.

    Parameters
    ----------
    spec : TensorSpec
        Of the content.
    ways : tuple of Way
        What to choose from; at least one without a side tensor.
    ranges : tuple of Range
        The content, if it is one frame; else the samples of it by which the ways are judged, none for a single way.
    bounds : Delta
        Bounds of the delta policy.
    one_frame : bool
        Whether the content is one frame, which is then encoded.
    """

    spec: TensorSpec
    ways: tuple[Way, ...]
    ranges: tuple[Range, ...]
    bounds: Delta
    one_frame: bool


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """A frame as it is stored.

    Parameters
    ----------
    stored : bytes
        What the codec made of it.
    checksum : int
        Its XXH3-64, for the frame table.
    """

    stored: bytes
    checksum: int

    @classmethod
    def of(cls, stored: bytes) -> EncodedFrame:
        """Return a frame with its checksum."""
        return cls(stored, xxh3_64_intdigest(stored))


@dataclass(frozen=True, slots=True)
class EncodedContent:
    """What was chosen for a content.

    Parameters
    ----------
    option : Option
        Codec, side tensor and size.
    frame : EncodedFrame or None
        The content, if it is one frame.
    """

    option: Option
    frame: EncodedFrame | None


@dataclass(frozen=True, slots=True, eq=False)
class EncodeFrame:
    """Encode one frame of a content of several.

    Parameters
    ----------
    codec : Codec
        How.
    sample : Sample
        Its bytes, those of the side tensors, and its spec.
    """

    codec: Codec
    sample: Sample


def encode_contents(tasks: Sequence[EncodeContent]) -> list[EncodedContent]:
    """Choose for each of several contents."""
    return [_encode_content(task) for task in tasks]


def encode_frames(tasks: Sequence[EncodeFrame]) -> list[EncodedFrame]:
    """Encode each of several frames."""
    return [EncodedFrame.of(task.codec.encode(*task.sample)) for task in tasks]


def judged(spec: TensorSpec, ways: Sequence[Way], samples: Sequence[Range]) -> list[Option]:
    """Return every one of `ways` to store a content, with the size of the blob as samples let expect it."""
    return [
        Option(codec, side, estimate(codec, [sample[side] for sample in samples]) * spec.nbytes) for codec, side in ways
    ]


def sample_places(spec: TensorSpec) -> tuple[Sequence[int], int]:
    """Return the words at which to sample a tensor, and how many to take at each place; all of it if it is small."""
    words = (
        max(1, _SAMPLE_WORDS // spec.row_words) * spec.row_words if spec.row_words < _SAMPLE_WORDS else _SAMPLE_WORDS
    )
    if spec.words <= _SAMPLES * words:
        return [0], spec.words
    last = spec.words - words
    unit = spec.row_words if spec.row_words < _SAMPLE_WORDS else 1
    return [last * place // (_SAMPLES - 1) // unit * unit for place in range(_SAMPLES)], words


def _encode_content(task: EncodeContent) -> EncodedContent:
    if not task.one_frame:
        return EncodedContent(_compared(task, task.ranges), None)
    (whole,) = task.ranges
    starts, words = sample_places(task.spec)
    if len(starts) == 1:
        return _tried(task, whole)
    option = _compared(task, [_cut(whole, start, words) for start in starts])
    return EncodedContent(option, EncodedFrame.of(option.codec.encode(*whole[option.side])))


def _compared(task: EncodeContent, samples: Sequence[Range]) -> Option:
    """Return the best way to store a content, judged by samples unless it is the only one."""
    if len(task.ways) == 1:
        return Option(*task.ways[0], task.spec.nbytes)
    return choose(judged(task.spec, task.ways, samples), task.spec.nbytes, task.bounds)


def _tried(task: EncodeContent, whole: Range) -> EncodedContent:
    """Encode a small content in every way, and keep the best."""
    frames = {(codec, side): codec.encode(*whole[side]) for codec, side in task.ways}
    options = [Option(codec, side, len(stored)) for (codec, side), stored in frames.items()]
    option = choose(options, task.spec.nbytes, task.bounds)
    return EncodedContent(option, EncodedFrame.of(frames[option.codec, option.side]))


def _cut(whole: Range, start: int, words: int) -> Range:
    """Return a range of words of what was loaded whole."""
    result: Range = {}
    for key, (target, sides, spec) in whole.items():
        place = slice(start * spec.dtype.word_bytes, (start + words) * spec.dtype.word_bytes)
        result[key] = (
            target[place],
            tuple(side[place] for side in sides),
            replace(spec, words=words, start=spec.start + start),
        )
    return result
