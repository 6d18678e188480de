"""Running models that commits hold in ways which `transformers` cannot express: smaller modules, and modules beside.

Needs torch, and for `load` transformers, which are imported when they are first used. Imports nothing of a repository:
a machine that serves a model needs this package, `mvc.errors` and the files that ``mvc checkout`` wrote.
"""

from mvc.runtime.attaching import attach, merge
from mvc.runtime.loading import load

__all__ = ["attach", "load", "merge"]
