"""The shop: reads an artifact directory and answers. Never imports `training`, torch or transformers."""

from serving.artifact import Artifact, ArtifactError
from serving.classifier import Classifier

__all__ = ["Artifact", "ArtifactError", "Classifier"]
