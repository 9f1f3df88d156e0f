"""Options that all benchmarks share, and the environment they run in."""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from pathlib import Path

from serving.artifact import ArtifactError, read_artifact
from serving.options import DEFAULT_ARTIFACT
from tests.benchmarks.processes import QUIET
from training.errors import UserError
from training.labels import ROOT


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Which artifact, in which precision, on how many processes."""
    option = parser.add_argument
    option("--artifact", type=Path, default=DEFAULT_ARTIFACT, metavar="DIR", help="of the compact shape")
    option("--precision", help="to serve; default: the artifact's own choice")
    option("--workers", type=int, default=os.cpu_count() or 1, help="processes of a server; default: one a core")
    option("--cache", type=Path, default=ROOT / "runs" / "benchmarks", metavar="DIR", help="for what has to be built")


def check_model_options(options: argparse.Namespace) -> None:
    """Raises UserError for an artifact that cannot be served, in any of its precisions."""
    options.artifact, options.cache = options.artifact.resolve(), options.cache.resolve()
    try:
        for precision in read_artifact(options.artifact, precision=options.precision).described["precision"][
            "available"
        ]:
            read_artifact(options.artifact, precision=precision)
    except ArtifactError as error:
        raise UserError(str(error)) from None
    if not (options.artifact / "model.safetensors").is_file():
        raise UserError(f"{options.artifact}: model.safetensors is missing, which the others read")


def one_thread() -> None:
    """For this process and its children, and no chatter; to be called before torch or onnxruntime are loaded."""
    os.environ.update({**QUIET, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"})
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
