"""How small tensors can get: the entropy of models that any static coder of words could use.

L1, standalone: n [H(sign) + H(exponent) + H(leading mantissa bits | exponent) + H(each lower byte)]. L2, delta: the
conditional entropy of the change given what the decoder knows, the sort key of spec-v1 6.4, with the cost of its tables
and row bytes. Both are taken tensor by tensor and are of order 0: repeats and adaptation within a tensor may go below.
"""

from __future__ import annotations

import numpy as np

from benchmarks.tensors import RawTensor, Tensors

FIELDS = {"F64": (11, 52), "F32": (8, 23), "F16": (5, 10), "BF16": (8, 7), "F8_E4M3": (4, 3), "F8_E5M2": (5, 2)}
LEADING = 7  # mantissa bits looked at together with the exponent: what fills the top bytes of bf16 and fp32
SAMPLES = 16  # words for each symbol and context at least: with fewer, chance looks like order
EXACT = 16  # magnitudes below it are symbols of their own; above, bit length and two leading bits are
TABLE_BITS = 12  # for each used symbol of each used context
MIN_ROW_WORDS = 64  # shorter rows have no row byte
FIRST_ROW_BYTE, MAX_ROW_BYTE = 48, 255  # of rows that changed


def alone(tensors: Tensors) -> float:
    """Return L1 in bytes."""
    return sum(alone_bits(tensor) for tensor in tensors.values()) / 8


def delta(tensors: Tensors, base: Tensors) -> float:
    """Return L2 in bytes; for each tensor L1 if that is less, and nothing for one that did not change."""
    return (
        sum(
            min(alone_bits(tensor), delta_bits(tensor, base[name]))
            for name, tensor in tensors.items()
            if tensor.data != base[name].data
        )
        / 8
    )


def alone_bits(tensor: RawTensor) -> float:
    """Return L1 of one tensor; for dtypes without exponents the sum of the entropies of its byte planes."""
    words = tensor.words()
    if tensor.dtype not in FIELDS:
        return _low_bytes(words, 8 * tensor.itemsize)
    exponent_bits, mantissa_bits = FIELDS[tensor.dtype]
    exponent = words >> mantissa_bits & ((1 << exponent_bits) - 1)
    lower = mantissa_bits - min(mantissa_bits, _leading_bits(exponent))
    leading = words >> lower & ((1 << mantissa_bits - lower) - 1)
    sign = words >> (exponent_bits + mantissa_bits)
    joint = exponent.astype(np.int64) << (mantissa_bits - lower) | leading.astype(np.int64)
    top = entropy_bits(np.bincount(exponent.astype(np.int64)), 1 << exponent_bits)
    given = conditional_bits(np.bincount(joint), 1 << (mantissa_bits - lower))
    return entropy_bits(np.bincount(sign.astype(np.int64)), 2) + top + given + _low_bytes(words, lower)


def _leading_bits(exponent: np.ndarray) -> int:
    """Return how many mantissa bits have enough samples for their distribution to be told from chance."""
    if not len(exponent):
        return 0
    samples = len(exponent) / len(np.unique(exponent)) / SAMPLES
    return int(np.clip(np.log2(samples), 0, LEADING))


def _low_bytes(words: np.ndarray, bits: int) -> float:
    """Return the entropies of the lowest `bits` bits, byte by byte."""
    total = 0.0
    for shift in range(0, bits, 8):
        width = min(8, bits - shift)
        part = words >> words.dtype.type(shift) & words.dtype.type((1 << width) - 1)
        total += entropy_bits(np.bincount(part.astype(np.int64)), 1 << width)
    return total


def entropy_bits(counts: np.ndarray, symbols: int) -> float:
    """Return n times the entropy of a distribution over `symbols` symbols that was drawn n times.

    With the correction of Miller and Madow, (used symbols - 1) / (2 ln 2) bits, for small tensors would otherwise seem
    to hold less than they do; at most the bits of equal lengths.

    >>> entropy_bits(np.array([4, 4]), 2)
    8.0
    >>> entropy_bits(np.array([8, 0]), 2)
    0.0
    """
    used = counts[counts > 0].astype(np.float64)
    n = used.sum()
    bits = n * np.log2(n) - (used * np.log2(used)).sum() + (len(used) - 1) / (2 * np.log(2)) if n else 0.0
    return float(min(bits, n * np.log2(symbols)))


def conditional_bits(joint: np.ndarray, symbols: int) -> float:
    """Return the entropy of a symbol given its context; `joint` counts context * symbols + symbol."""
    contexts = np.pad(joint, (0, -len(joint) % symbols)).reshape(-1, symbols)
    return sum(entropy_bits(counts, symbols) for counts in contexts if counts.any())


def delta_bits(tensor: RawTensor, base: RawTensor) -> float:
    """Return L2 of one tensor."""
    change = signed_change(tensor, base)  # (n,), int64
    magnitude = np.abs(change).astype(np.uint64)
    length = bit_length(magnitude, 8 * tensor.itemsize)
    rows = row_bytes(bit_length(zigzag(change), 8 * tensor.itemsize), base)
    keys = rows[np.arange(len(change)) // _row_words(tensor)] + 2 * _distance(base)  # (n,)
    large = magnitude >= EXACT
    leading = magnitude >> np.maximum(length - 3, 0).astype(np.uint64) & np.uint64(3)
    symbols = np.where(large, EXACT + 4 * (length - 5) + leading.astype(np.int64), magnitude.astype(np.int64))
    width = EXACT + 4 * 8 * tensor.itemsize
    counts = np.bincount(keys * width + symbols)
    used = counts[counts > 0]
    contexts = np.bincount(keys)
    contexts = contexts[contexts > 0]
    coded = (contexts * np.log2(contexts)).sum() - (used * np.log2(used)).sum()
    raw = (length - 3)[large].sum() + np.count_nonzero(magnitude)  # low bits and signs
    row_cost = entropy_bits(np.bincount(rows), 256) if rows.any() else 0.0
    return float(coded + raw + TABLE_BITS * len(used) + row_cost)


def signed_change(tensor: RawTensor, base: RawTensor) -> np.ndarray:
    """Return the steps between neighbouring values from `base` to `tensor`, growth of the magnitude positive."""
    bits = 8 * tensor.itemsize
    target, origin = (_ordered(part) for part in (tensor, base))
    change = target - origin  # modulo 2^64
    if bits < 64:
        half = np.uint64(1 << bits - 1)
        change = ((change + half) & np.uint64((1 << bits) - 1)) - half
    signed: np.ndarray = change.view(np.int64)
    negative = base.words() >> (bits - 1) > 0 if tensor.dtype in FIELDS else np.zeros(len(signed), bool)
    signed[negative] *= -1
    return signed


def zigzag(change: np.ndarray) -> np.ndarray:
    """Return 0, -1, 1, -2, ... as 0, 1, 2, 3, ..., uint64."""
    return ((change << 1) ^ (change >> 63)).view(np.uint64)


def bit_length(values: np.ndarray, most: int) -> np.ndarray:
    """Return how many bits each value needs, up to `most`, int64."""
    length = np.zeros(len(values), np.int64)
    for bit in range(most):
        length += values >> np.uint64(bit) > 0
    return length


def _ordered(tensor: RawTensor) -> np.ndarray:
    """Return words as integers that are ordered like their values, uint64."""
    words, top = tensor.words().astype(np.uint64), np.uint64(1 << 8 * tensor.itemsize - 1)
    everything = np.uint64((1 << 8 * tensor.itemsize) - 1)
    if tensor.dtype in FIELDS:
        return np.where(words & top, ~words & everything, words | top)
    return words ^ top if tensor.dtype.startswith("I") else words


def _row_words(tensor: RawTensor) -> int:
    return max(1, len(tensor.words()) // tensor.shape[0]) if len(tensor.shape) > 1 else max(1, len(tensor.words()))


def _exponent(tensor: RawTensor) -> np.ndarray:
    if tensor.dtype not in FIELDS:
        return np.zeros(len(tensor.words()), np.int64)
    exponent_bits, mantissa_bits = FIELDS[tensor.dtype]
    return (tensor.words() >> mantissa_bits & ((1 << exponent_bits) - 1)).astype(np.int64)


def _distance(base: RawTensor) -> np.ndarray:
    exponent = _exponent(base)
    return int(exponent.max()) - exponent


def row_bytes(length: np.ndarray, base: RawTensor) -> np.ndarray:
    """Return the row bytes that spec-v1 6.4 recommends, int64, with the tensor as one frame.

    `length` is the bit length of the zigzag form of each change.
    """
    width = _row_words(base)
    rows = -(-len(length) // width)
    if width < MIN_ROW_WORDS or rows < 2 or base.dtype not in FIELDS:
        return np.zeros(rows, np.int64)
    changes = np.where(length > 0, np.exp2((length + _exponent(base)) / 2 - 128), 0).reshape(rows, width).mean(axis=1)
    changed = changes > 0
    if not changed.any():
        return np.zeros(rows, np.int64)
    scale = np.round(4 * np.log2(np.where(changed, changes, 1))).astype(np.int64)
    return np.where(changed, np.minimum(scale - scale[changed].min() + FIRST_ROW_BYTE, MAX_ROW_BYTE), 0)
