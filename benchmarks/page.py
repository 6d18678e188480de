"""Write docs/benchmarks.md from the results in docs/benchmarks/: a pure function of them and of how peers are set up.

Run ``python -m benchmarks.page --take benchmarks/results`` to take over new results first.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import PEERS
from benchmarks.report import RESULTS, columns_of

DOCUMENTS = Path("docs/benchmarks")
PAGE = Path("docs/benchmarks.md")
Document = Mapping[str, Any]
SECTIONS = {
    "epochs": (
        "Epochs of a fine-tune",
        """Each epoch is committed with the command line and checked out again. % of the raw tensors; the first row is a
full commit, beside L1, the others are deltas, beside L2 and the peers against the epoch before. The key of L2 has no
mantissa bits, which tell much of a change in fp32: codecs that use them go below it.""",
    ),
    "training": (
        "Whole training checkpoints",
        "Weights and Adam's state in fp32, the next epoch against the one before. % of raw.",
    ),
    "sparse": (
        "Sparse changes",
        "One bf16 word in a hundred changes, as in a step of reinforcement learning. % of raw.",
    ),
    "standalone": (
        "Tensors on their own",
        """% of the raw tensors. *mvc commit* counts everything that the repository grows by; *never larger* compares it
with the file, allowing 0.1 %. Corpora that are held out were not looked at while codecs were made.""",
    ),
    "codec_speed": (
        "Codecs in memory, one core",
        "Raw bytes by wall time; each coder in a process of its own, each run on a fresh copy.",
    ),
    "pipeline": (
        "Whole commands on large files",
        """Each step is a process, from start to exit; *x cp* compares with `cp` and fsync of the same file, which is in
the page cache. Private memory is sampled.""",
    ),
    "remotes": (
        "Remotes",
        """An epoch is pushed after the history before it; what is sent is compared with what the commit stored. A clone
without checkout, which decodes and verifies everything, is timed beside the engine's own client that copies the same
files (`cp -r`, rclone, `scp -r`, curl), on one machine.""",
    ),
    "remotes-link": (
        "Remotes over a network of 1 Gbit/s",
        """The same with optimizer state, which is most of a training run's bytes, and everything but the directory
behind a loopback device that lets 1 Gbit/s through. Client, server and network share two cores.""",
    ),
    "lossy-precision": (
        "Rounding to binary places",
        """% of the raw tensors of MiniLM in fp32 after 400 steps: on their own, against the epoch before and the
base, which are rounded alike. *Same method* is that of the paper on our model (byte planes, each by zstd). Accuracy is
the share of 640 held-out texts put into the right class, the mean over fine-tunes with other seeds, with the lowest and
highest in brackets; its standard error is that of one of them (binomial).""",
    ),
    "lossy-gptq": (
        "Deltas in whole steps",
        """Linear layers of MiniLM after 400 steps, as whole steps from the base; the rest is exact. *Stored bits*
count whole blobs, *gain* is what the layers add to the accuracy of those of the base, *logit error* is squared and by
the squares of the logits. Means over fine-tunes with other seeds, with the lowest and highest in brackets. Each is
scored on 640 held-out texts of its own, so its accuracy has the standard error given (binomial); rows of one fine-tune
share their texts, and differ by less chance than that. *Equal quality* interpolates, in the logarithm of the size,
between the settings that no other of their mode beats; above 1 in the last column *ec* is smaller.

![Size against accuracy and against the error of the logits](benchmarks/lossy-size-accuracy.svg)""",
    ),
    "lossy-others": (
        "Deltas in other ways",
        """The same fine-tunes, layers and texts, with the deltas as other methods keep them. *Bits* are what a method
says that it needs, at the entropy of what it keeps, and not stored bytes. BitDelta's scales are not trained.""",
    ),
    "lossy-embeddings": (
        "Embeddings in whole steps",
        """Fine-tunes of MiniLM, head beside, as whole commits sent to who has the base, against a checkpoint in fp16:
with the embeddings of words and positions as steps, and with all of them exact. Gains are of accuracy, over the tuned
model with the linear layers of the base, and over one with all of its encoder. 640 held-out texts, as above.""",
    ),
    "lossy-budgets": (
        "One step for all layers, or one for each",
        """Linear layers of MiniLM after 400 steps, as whole steps from the base. *Biased* steps are those that were
quantized with, the others grow until layers keep all of what the deltas add to their outputs. *Predicted* and *measured
before* are errors on 160 training texts; the rest is measured on 640 held-out ones.""",
    ),
    "derive-heal": (
        "Healing",
        """A fine-tune of MiniLM whose linear layers are whole steps from the base, embeddings and head exact, and the
same healed by `mvc recover`: 80 steps of 32 training texts, without labels. Bits are stored ones that are not the
base's, by the parameters of the linear layers. *Agreement* and *logit error* (squared, by the squares of the logits)
are against the exact fine-tune, on 640 texts that neither calibration nor healing has seen.""",
    ),
    "derive-cpet": (
        "Adapters on a compressed model",
        """Three layers of MiniLM with all linear layers rounded to 2 bits; *PET* is LoRA from nothing, *I* begins with
the adapter and head of the exact model, *R* adds recovery modules beside every linear layer, *D* learns from the exact
model's answers, too. All arms share one teacher, which had 300 steps on the exact model, and 9,600 training texts:
*PET, three times the steps* tells how much of a gain is faster learning.""",
    ),
    "derive-ziplm": (
        "Faster models",
        """Fine-tunes of MiniLM after 400 steps, 29 classes, with heads and neurons taken away until a forward pass of 8
texts of 64 tokens in one thread is so much faster; *distilled* ones were then trained for 120 steps of 32 texts,
without labels. The other ways may take as long by the same table of times, or have fewer layers: the best of all
subsets of them on the texts of the search. Answers to 640 held-out texts, with a standard error of 2 points of accuracy
(binomial); *KL* is from the answers of the dense model. Means over fine-tunes with other seeds, with the lowest and
highest in brackets. *Derived tensors* are what is stored beside those of the dense model, *small encoder raw* is plain
fp32. *Chain* goes on from the distilled models that are twice as fast: each step is a commit made from the one above;
the last trains biases and norms to answer as the dense model does. *Encoder stored* counts what is stored of it itself,
also what it shares with the dense model, which slices do not hold; *all tensors* embeddings and head, too.

![Speed and bytes against accuracy](benchmarks/derive-speed-accuracy.svg)""",
    ),
    "thinning": (
        "Letting go of old epochs",
        """Weights and optimizer state of a run: the newest two epochs and every fifth stay. Bytes of the whole store;
*freed*, *base* and *stored* are what `mvc thin` says that `mvc gc` will free, what then stays only as bases of deltas,
and what stand-ins take.""",
    ),
    "repack": (
        "Repacking a family",
        """A base, two fine-tunes of four epochs each on branches of their own, and a sibling under other names. Bytes
of the whole store, as commits left it and repacked; what it takes to rebuild every tensor; files compared by
SHA-256.""",
    ),
    "scale": ("Long histories", "Whole commands on histories of 200 tiny tensors, of which 8 change with each commit."),
    "durability-crashes": (
        "Durability: crashes",
        "Every scenario stopped at every step, in five modes; *points* are crashes, each checked.",
    ),
    "durability-full-disk": ("Durability: failing disks", "Calls at which the disk was full, or failed, one by one."),
    "durability-kills": ("Durability: kills", "Processes killed by SIGKILL at random moments."),
    "durability-flips": ("Durability: changed bytes", "What readers got, and what `fsck` found."),
    "durability-crowd": (
        "Durability: a crowd",
        "Twenty processes on one branch, one of which collects and one repacks.",
    ),
    "durability-model": ("Durability: random histories", "The repository beside a model in plain dicts."),
    "durability-fuzz": ("Durability: hostile inputs", "Inputs of each parser, half of them with right checksums."),
    "startup": ("Start-up", "Wall time of short commands beside an empty Python."),
    "formats": ("One model in three formats", "Stored once, whatever file it is in."),
}  # in the order of the page
HEAD = """# Benchmarks

Generated by `python -m benchmarks.page` from the JSON files in [benchmarks/](benchmarks/); do not edit. `make bench`
takes the measurements again; [decision 007](decisions/007-benchmark-peers.md) says why these peers, set up like this.

Times are medians with the smallest and largest run in brackets. Every coder's round trip is verified; one that fails is
said to have failed. **L1** is the order-0 entropy of sign, exponent and leading mantissa bits given the exponent, of a
tensor on its own; **L2** is the conditional entropy of a delta given the sort key of the specification, tables counted
(per tensor, or L1 where that is less). Both are what a static coder of words could reach: repeats and adaptation may go
below.
"""


def render(documents: Mapping[str, Document]) -> str:
    """Return the page for results by claim; a claim without results is said to have none."""
    parts = [HEAD, _peers()]
    for claim, (title, text) in SECTIONS.items():
        parts.append(f"## {title}\n\n{text}\n")
        parts.extend(_section(documents[claim]) if claim in documents else [_missing(claim)])
    return "\n".join(parts)


def _missing(claim: str) -> str:
    return f"**No result yet**: `python -m benchmarks.{claim.replace('-', ' ', 1)}` has not been run for this page.\n"


def _section(document: Document) -> Iterable[str]:
    yield _provenance(document)
    for title, rows in document["results"].items():
        yield f"**{title}**\n\n{table(rows)}\n"


def _provenance(document: Document) -> str:
    found = document["environment"]
    libraries = ", ".join(f"{name} {version}" for name, version in found["libraries"].items())
    machine = f"{found['processor']}, {found['cores']} cores, {found['memory GB']} GB, load {found['load']} at the end"
    return (
        f"*{found['date']}, `{document['command']}` at {found['commit']}; {machine}; {found['system']}; Python "
        f"{found['python']}, {found['kernels']} kernels; {libraries}.*\n"
    )


def _peers() -> str:
    rows = [{"coder": peer.name, "package": peer.package, "set up as": peer.configuration} for peer in PEERS]
    return f"## Peers\n\n{table(rows)}\n"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a table of Markdown, numbers to the right.

    >>> print(table([{"a": "x", "b": 1.5}, {"a": "y"}]))
    | a | b |
    |---|--:|
    | x | 1.500 |
    | y |  |
    """
    columns = columns_of(rows)
    right = [any(_is_number(row.get(key)) for row in rows) for key in columns]
    lines = [columns, ["--:" if number else "---" for number in right]]
    lines += [[cell(row.get(key, "")) for key in columns] for row in rows]
    head, rule, *body = lines
    return "\n".join([f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(line)} |" for line in body)])


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, Mapping)) and not isinstance(value, bool)


def cell(value: object) -> str:
    """Return a value as text: three decimals below 2, two below 100, none above; a spread with its extremes.

    >>> cell(0.5), cell(20.123), cell(12345.6), cell({"median": 3.0, "min": 2.0, "max": 4.0, "runs": 5}), cell(False)
    ('0.500', '20.12', '12,346', '3.00 (2.00-4.00)', '**NO**')
    >>> cell({"mean": 0.5, "min": 0.4, "max": 0.7, "runs": 3}), cell({"mean": 0.5, "min": 0.5, "max": 0.5, "runs": 1})
    ('0.500 (0.400-0.700)', '0.500')
    """
    if isinstance(value, bool):
        return "yes" if value else "**NO**"
    if isinstance(value, Mapping):
        middle = value["median"] if "median" in value else value["mean"]
        if value["runs"] == 1:
            return cell(middle)
        return f"{cell(middle)} ({cell(value['min'])}-{cell(value['max'])})"
    if isinstance(value, float):
        size = abs(value)
        return f"{value:.3f}" if size < 2 else f"{value:.2f}" if size < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")


def load(directory: Path) -> dict[str, Document]:
    """Return the results in a directory by claim."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(directory.glob("*.json"))}


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--take", type=Path, nargs="?", const=RESULTS, help="copy results from here first")
    options = parser.parse_args()
    DOCUMENTS.mkdir(parents=True, exist_ok=True)
    for claim in SECTIONS if options.take else ():
        if (source := options.take / f"{claim}.json").exists():
            shutil.copyfile(source, DOCUMENTS / source.name)
    PAGE.write_text(render(load(DOCUMENTS)), encoding="utf-8")


if __name__ == "__main__":
    main()
