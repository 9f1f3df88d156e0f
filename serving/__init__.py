"""The shop: reads an artifact directory and answers. Never imports `training`, torch or transformers.

What it offers is loaded when it is asked for, so that `serving.client` needs httpx alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.artifact import Artifact, ArtifactError
    from serving.classifier import Classifier
else:
    _MODULES = {
        "Artifact": "serving.artifact",
        "ArtifactError": "serving.artifact",
        "Classifier": "serving.classifier",
    }

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)


__all__ = ["Artifact", "ArtifactError", "Classifier"]
