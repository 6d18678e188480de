"""Every command, by section, with its summary: what ``mvc --help`` shows without importing one of them.

Adding a command is a file in `mvc.cli.commands` that defines ``command``, and a line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["ALIASES", "EXAMPLES", "SECTIONS", "SUMMARIES"]

SECTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "Main commands": {
        "init": "Make a repository.",
        "status": "Show what a commit would record.",
        "commit": "Record the work tree, or a directory, as the next commit.",
        "checkout": "Bring back the files of a commit, byte for byte.",
        "restore": "Bring files of the work tree back to what they were.",
        "import": "Bring in history: git-lfs, checkpoints, Hugging Face.",
    },
    "History": {
        "log": "Show commits, newest first.",
        "show": "Show a commit, its files and how its tensors are stored.",
        "diff": "Show what differs between commits or the work tree.",
        "cat": "Write one tensor of a commit to a file.",
        "undo": "Take back the last operation.",
        "op": "Show the operation log, which undo goes back on.",
    },
    "Branches": {
        "branch": "List, make, rename or delete branches.",
        "switch": "Bring the work tree to a branch.",
        "merge": "Join another line of history with the current branch.",
        "tag": "List, make or delete tags.",
    },
    "Lossy": {
        "evaluate": "Run a command on the files of a commit, and note its metrics.",
        "calibrate": "Note what enters the layers of a model, for compress.",
        "compress": "Make a commit that stands for another one, smaller and with a recorded loss.",
        "adapt": "Make the adapter of a model one of its compressed stand-in.",
        "recover": "Heal a commit that has lost something: it learns to answer as what it was made from.",
        "derive": "Make a commit of a smaller or faster model from that of another one.",
    },
    "Other machines": {
        "clone": "Make a repository with all that a remote has.",
        "remote": "Name other stores, which commits are pushed to and fetched from.",
        "push": "Bring commits to a remote.",
        "fetch": "Bring commits of a remote here.",
        "pull": "Fetch, and merge what is new.",
        "ls-remote": "List the refs of a remote.",
        "serve": "Serve repositories to others.",
    },
    "Maintenance": {
        "thin": "Let go of the contents of old epochs, and keep what they were.",
        "du": "Show what history takes on disk, and would take as copies.",
        "gc": "Remove what nothing reaches any more.",
        "repack": "Store the whole history in fewer bytes.",
        "fsck": "Check that everything stored is what its id promises.",
        "reindex": "Make the index again from the store.",
        "completion": "Print a completion script for a shell.",
    },
}

SUMMARIES: Final[Mapping[str, str]] = {name: line for section in SECTIONS.values() for name, line in section.items()}

ALIASES: Final[Mapping[str, tuple[str, str]]] = {"op-log": ("op", "log")}
"""Hidden spellings of a command of a group."""

EXAMPLES: Final = (
    "mvc init runs/exp7",
    "mvc commit --from out/checkpoint-500 -m 'epoch 1' --metric loss=0.41",
    "mvc log --where 'loss<0.3'",
    "mvc checkout main~2 --to /tmp/old",
)
