"""What a run is to do: options checked, files found, and nothing written yet."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from serving.artifact import Artifact, read_artifact
from serving.bulk.answer import Layout
from serving.bulk.read import guess_format
from serving.bulk.resume import Paths, State, beside, describe_artifact, describe_input, read_state
from serving.bulk.rows import UsageError, Wanted, import_pyarrow

CHUNK_ROWS = 256
CHUNK_CHARACTERS = 2**16


@dataclass(frozen=True)
class Plan:
    """A run whose options have been checked. `source` and `paths` are None for standard input and output."""

    artifact: Artifact
    source: Path | None
    source_format: str
    wanted: Wanted
    paths: Paths | None
    rejects: Path | None
    output_format: str
    layout: Layout
    workers: int

    @property
    def run(self) -> dict[str, str | int | bool | None] | None:
        """All that the output depends on; None where the run cannot be resumed."""
        if not self.source or not self.paths:
            return None
        return {
            **describe_input(self.source),
            **describe_artifact(self.artifact),
            "--format": self.source_format,
            "--text-column": self.wanted.text,
            "--id-column": self.wanted.id,
            "--max-characters": self.wanted.max_characters,
            "--output-format": self.output_format,
            "--full": self.layout.full,
            "--operating-point": self.layout.operating_point,
            "--rejects": os.path.relpath(self.paths.rejects, self.paths.output.parent),
            "chunk": f"{CHUNK_ROWS} rows, {CHUNK_CHARACTERS} characters",
        }


def make_plan(arguments: argparse.Namespace) -> Plan:
    """Check the options, as far as they can be without writing.

    Raises:
        UsageError, ArtifactError: what is wrong, in one line.
    """
    source = None if arguments.input == "-" else Path(arguments.input)
    output = None if arguments.output == "-" else Path(arguments.output)
    source_format, output_format = _formats(arguments, source, output)
    if source and not source.is_file():
        raise UsageError(f"{source}: {'not a regular file; pipe it into `-`' if source.exists() else 'no such file'}")
    for written in (output, arguments.rejects):
        if written and written.exists() and not written.is_file():
            raise UsageError(f"{written}: not a regular file; a run replaces what it writes to")
        if written and not written.parent.is_dir():
            raise UsageError(f"{written.parent}: no such folder")
    wanted = Wanted(arguments.text_column, arguments.id_column, arguments.max_characters)
    if wanted.text == (wanted.id or "id"):
        raise UsageError("the texts cannot be the ids: ids are written, and texts never are")
    artifact = read_artifact(arguments.artifact, precision=arguments.precision)
    point = arguments.operating_point or artifact.default_operating_point
    if point not in artifact.thresholds:
        raise UsageError(f"--operating-point must be one of: {', '.join(artifact.thresholds)}")
    paths = Paths(output, arguments.rejects or beside(output, ".rejects.jsonl")) if output else None
    return Plan(
        artifact=artifact,
        source=source,
        source_format=source_format,
        wanted=wanted,
        paths=paths,
        rejects=paths.rejects if paths else arguments.rejects,
        output_format=output_format,
        layout=Layout(csv=output_format == "csv", full=arguments.full, operating_point=point),
        workers=arguments.workers,
    )


def _formats(arguments: argparse.Namespace, source: Path | None, output: Path | None) -> tuple[str, str]:
    read = arguments.format or (guess_format(source, "--format") if source else "jsonl")
    written = arguments.output_format or (guess_format(output, "--output-format") if output else "jsonl")
    if output and output.suffix.lower() == ".gz":
        raise UsageError(f"{output}: the output is not compressed; leave .gz away")
    if read == "parquet" and not source:
        raise UsageError("Parquet cannot be read from standard input: its index stands at the end; name a file")
    if written == "parquet" and not output:
        raise UsageError("Parquet cannot be written to standard output; name a file")
    if arguments.full and written != "jsonl":
        raise UsageError("--full nests its answers, which only JSONL can hold")
    if "parquet" in (read, written):
        import_pyarrow("pyarrow.parquet")
    return read, written


def check_files(plan: Plan, *, resume: bool, overwrite: bool) -> State | None:
    """Where to go on from, if anywhere; what would be lost or mixed up is refused."""
    if resume and not plan.source:
        raise UsageError("--resume: standard input cannot be read a second time; name a file")
    if resume and not plan.paths:
        raise UsageError("--resume: what went to standard output cannot be taken back; name a file")
    files = [plan.source, plan.rejects]
    if plan.paths:
        files += [plan.paths.output, plan.paths.partial, plan.paths.progress]
    places = [file.resolve() for file in files if file]
    if len(set(places)) < len(places):
        raise UsageError("IN, OUT and --rejects must be different files")
    state = read_state(plan.paths, plan.run or {}) if resume and plan.paths else None
    if not overwrite and not state:
        _check_nothing_is_lost(plan, resume=resume)
    return state


def _check_nothing_is_lost(plan: Plan, *, resume: bool) -> None:
    kept = [plan.rejects]
    if plan.paths and plan.paths.partial.exists():
        if not resume:
            raise UsageError(
                f"{plan.paths.partial}: left by a run that did not end; --resume goes on, --overwrite starts again"
            )
        kept = []
    for file in [plan.paths.output if plan.paths else None, *kept]:
        if file and file.exists():
            raise UsageError(f"{file}: exists already; --overwrite replaces it")
