"""Configuration of a pretraining run: typed, closed, defaults in the classes. No torch here."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from training.config import read_settings
from training.errors import UserError


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Source(_Closed):
    """One body of text: UTF-8, a paragraph or message a line, plain, `.xz`, or a column of a `.csv`."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    path: str
    """Relative to `data_root`."""
    weight: float = Field(1.0, gt=0)
    """Share of the training windows, before the weights are scaled to sum to one."""
    column: str | None = None
    """The column that holds the text; for `.csv` files."""
    documents: str | None = None
    """A file whose line i names the origin of document i (documents are parted by blank lines)."""
    only: list[str] | None = None
    """Origins to keep; all when null."""


class Shape(_Closed):
    """Size of the encoder."""

    layers: int = Field(4, ge=1)
    hidden_size: int = Field(256, ge=16)
    heads: int = Field(4, ge=1)
    intermediate_size: int = Field(1024, ge=16)
    max_tokens: int = Field(256, ge=16)
    """Longest window in tokens, the two special tokens included."""


class Phase(_Closed):
    """A stretch of the run with windows of one length: short windows first, since they are cheap."""

    until: float = Field(gt=0, le=1)
    """Share of the run at which it ends."""
    tokens: int = Field(ge=8)
    """Window length, the two special tokens included."""


class PretrainConfig(_Closed):
    """A pretraining run. Every key can be set on the command line: `--set max_minutes=30`."""

    output: str = "runs/pretrain"
    seed: int = Field(1, ge=0)
    data_root: str = "."
    data: list[Source] = []
    heldout: list[Source] = []
    """Texts for perplexity; never trained on. Every 100th text of the sources where none are given."""
    encoder: str | None = None
    """Folder of an encoder to go on from, with its weights, tokenizer and layers; random weights when null. Only
    `shape.max_tokens` of the shape is still looked at, and must be the encoder's own."""
    train: Literal["all", "head"] = "all"
    """`head` leaves the encoder as it is and fits the head of masked-language modelling alone."""
    tokenizer: str | None = None
    """Folder of a trained tokenizer; one is trained on the same sources when null."""
    vocab_size: int = Field(8192, ge=311, le=65_536)
    tokenizer_megabytes: float = Field(20.0, gt=0)
    """Text the tokenizer is trained on, shared out by weight."""
    shape: Shape = Shape()
    phases: list[Phase] = [Phase(until=0.75, tokens=64), Phase(until=0.93, tokens=128), Phase(until=1.0, tokens=256)]
    batch_tokens: int = Field(2048, ge=8)
    max_minutes: float | None = Field(None, gt=0)
    max_steps: int | None = Field(None, ge=1)
    warmup_steps: int = Field(200, ge=0)
    learning_rate: float = Field(1e-3, gt=0)
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon` orthogonalises the updates of the layers' matrices; embeddings and vectors stay with AdamW."""
    muon_learning_rate: float = Field(4e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    """During pretraining; the exported configuration asks for 0.1, for fine-tuning."""
    mask_rate: float = Field(0.2, gt=0, lt=1)
    keep_share: float = Field(0.1, ge=0, lt=1)
    """Share of the positions to predict that stay readable, so that ordinary pieces are represented too."""
    initial_embeddings: Literal["cooccurrence", "random"] = "cooccurrence"
    """`cooccurrence` starts from a factorised table of which pieces stand near each other, which saves millions of
    tokens of predicting frequencies only."""
    initial_positions: Literal["sinusoidal", "random"] = "sinusoidal"
    """`sinusoidal` lets attention find its neighbours at once, and at positions that only long windows reach."""
    shifted_share: float = Field(0.3, ge=0, le=1)
    """Share of the windows whose positions begin anywhere up to `shape.max_tokens`. Without them the positions that
    short windows do not reach fall out of step with the model: the first longer windows then cost it a full nat."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` is bf16 on a GPU that has it, and on a processor whichever multiplies faster."""
    log_steps: int = Field(100, ge=1)
    checkpoint_minutes: float = Field(5.0, gt=0)
    heldout_tokens: int = Field(40_000, ge=64)
    """Tokens scored per held-out source, at most."""


def load_config(path: Path | None, settings: Sequence[str] = ()) -> PretrainConfig:
    """Read a configuration file and apply dotted `key=value` settings; UserError names what is wrong."""
    config = read_settings(PretrainConfig, path, settings)
    _check(config)
    return config


def _check(config: PretrainConfig) -> None:
    """Conditions between keys."""
    if config.max_minutes is None and config.max_steps is None:
        raise UserError("give max_minutes, max_steps or both: the learning rate decays towards that end")
    if config.shape.hidden_size % config.shape.heads:
        raise UserError(f"shape.hidden_size {config.shape.hidden_size} is not a multiple of heads {config.shape.heads}")
    ends = [phase.until for phase in config.phases]
    if not ends or ends != sorted(ends) or ends[-1] != 1:
        raise UserError(f"phases: `until` must rise to 1.0 (got {ends})")
    longest = max(phase.tokens for phase in config.phases)
    if longest > min(config.shape.max_tokens, config.batch_tokens):
        raise UserError(f"phases: {longest} tokens do not fit shape.max_tokens and batch_tokens")
    if config.encoder is not None and config.tokenizer is not None:
        raise UserError("tokenizer: an encoder to go on from brings its own; leave one of the two out")
    names = [source.name for source in config.data]
    if len(set(names)) < len(names):
        raise UserError("data: two sources have the same name")


def read_arguments(arguments: Sequence[str]) -> tuple[PretrainConfig, bool]:
    """Configuration and whether to resume, from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.pretrain", description="Pretrain the compact encoder on raw text."
    )
    parser.add_argument("--config", type=Path, help="YAML file; the defaults without one")
    parser.add_argument("--data", nargs="+", metavar="FILE", help="text files instead of the configured sources")
    parser.add_argument("--heldout", nargs="+", metavar="FILE", help="texts for perplexity that go with --data")
    parser.add_argument("--output", help="folder for tokens, checkpoint and encoder")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the output folder")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one key")
    options = parser.parse_args(arguments)
    config = load_config(options.config, options.set)
    if options.heldout and not options.data:
        raise UserError("--heldout goes with --data; for the configured sources, list files under `heldout`")
    if options.data:
        update = {"data": _own_sources(options.data), "heldout": _own_sources(options.heldout or [])}
        config = config.model_copy(update=update)
    if options.output:
        config = config.model_copy(update={"output": options.output})
    return config, options.resume


def _own_sources(names: Sequence[str]) -> list[Source]:
    """A source of weight 1 for each file, called by its number and name."""
    files = [Path(name).resolve() for name in names]
    plain = [re.sub(r"\W+", "_", file.name.split(".")[0], flags=re.ASCII) for file in files]
    return [Source(name=f"{i}_{name}", path=str(file)) for i, (file, name) in enumerate(zip(files, plain, strict=True))]
