"""Running models that commits hold in shapes which `transformers` cannot express: smaller modules, from plain files.

Needs torch and transformers, which are imported when they are first used. Imports nothing of a repository: a machine
that serves a model needs this package, `mvc.errors` and the files that ``mvc checkout`` wrote.
"""

from mvc.runtime.loading import load

__all__ = ["load"]
