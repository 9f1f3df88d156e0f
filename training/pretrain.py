"""Pretrain the compact encoder by masked-language modelling on raw text.

    python -m training.pretrain --config configs/pretrain.yaml [--data FILE ...] [--heldout FILE ...]
                                [--output DIR] [--resume] [--set key=value]

The text is turned into token numbers once, on disk; batch number n is then a pure function of the seed and n, so an
interrupted run goes on exactly where it stopped. The run ends when its minutes or its steps are used up, and the
learning rate reaches zero at that moment, whichever comes first.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import lzma
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F
from transformers import CamembertConfig, CamembertForMaskedLM

from training.errors import UserError, command
from training.tokenizer import BOS, EOS, MASK, PAD, SPECIAL_TOKENS, save_tokenizer, special_id, train_tokenizer

Ids = NDArray[np.int64]
KEPT_OUT_EVERY = 100

# ---------------------------------------------------------------------------------------------------- configuration


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
    tree: Any = {}
    if path is not None:
        try:
            tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except FileNotFoundError:
            raise UserError(f"{path}: no such configuration") from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise UserError(f"{path}: not valid YAML") from None
        if not isinstance(tree, dict):
            raise UserError(f"{path}: must hold keys and values, not a {type(tree).__name__}")
    for setting in settings:
        _apply(tree, setting)
    try:
        config = PretrainConfig.model_validate(tree)
    except ValidationError as error:
        raise UserError("; ".join(_explain(item) for item in error.errors())) from None
    _check(config)
    return config


def _apply(tree: dict[str, Any], setting: str) -> None:
    key, separator, value = setting.partition("=")
    if not separator or not key:
        raise UserError(f"--set {setting}: write it as key=value, for example --set max_minutes=30")
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise UserError(f"--set {key}: {parent!r} is not a section")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"--set {key}: the value is not valid YAML") from None


def _explain(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] != "extra_forbidden":
        return f"{where}: {item['msg']} (got {item['input']!r})"
    known: dict[str, type[BaseModel]] = {"shape": Shape, "phases": Phase, "data": Source, "heldout": Source}
    owner = known.get(str(item["loc"][0]), PretrainConfig) if len(item["loc"]) > 1 else PretrainConfig
    return f"unknown key {where!r}; allowed here: {', '.join(owner.model_fields)}"


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
    names = [source.name for source in config.data]
    if len(set(names)) < len(names):
        raise UserError("data: two sources have the same name")


# ----------------------------------------------------------------------------------------------------------- corpus


def read_texts(source: Source, root: Path) -> Iterator[tuple[str, str]]:
    """Yield (origin, text) for every non-empty line or row, without holding the file in memory.

    The origin is the document's where `documents` is given, else the source's name.
    """
    path = root / source.path
    origins = None if source.documents is None else iter((root / source.documents).read_text("utf-8").splitlines())
    origin, in_document = source.name, False
    try:
        with _open(path) as lines:
            for line in _column(lines, source, path) if source.column else lines:
                text = line.strip()
                if text and not in_document and origins is not None:
                    origin = next(origins, source.name)
                in_document = bool(text)
                if text and (source.only is None or origin in source.only):
                    yield origin, text
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such file (source {source.name!r}; paths are relative to data_root)") from None
    except (UnicodeDecodeError, lzma.LZMAError, EOFError):
        raise UserError(f"{path}: not UTF-8 text, plain or .xz (source {source.name!r})") from None


def _open(path: Path) -> TextIO:
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8", newline="" if path.suffix == ".csv" else None)


def _column(lines: TextIO, source: Source, path: Path) -> Iterator[str]:
    for row in csv.DictReader(lines):
        if source.column not in row:
            raise UserError(f"{path}: no column {source.column!r}; it has {', '.join(map(str, row))}")
        yield " ".join((row[source.column] or "").split())


def training_texts(config: PretrainConfig, source: Source) -> Iterator[str]:
    """Texts of a source to train on: all, or all but every 100th where no held-out files are configured."""
    for number, (_, text) in enumerate(read_texts(source, Path(config.data_root)), start=1):
        if config.heldout or number % KEPT_OUT_EVERY:
            yield text


def heldout_texts(config: PretrainConfig) -> Iterator[tuple[str, str]]:
    """(origin, text) for perplexity: the configured files, or every 100th text of each source."""
    for source in config.heldout or config.data:
        texts = read_texts(source, Path(config.data_root))
        yield from texts if config.heldout else islice(texts, KEPT_OUT_EVERY - 1, None, KEPT_OUT_EVERY)


def sample_for_tokenizer(config: PretrainConfig) -> Iterator[str]:
    """Texts of every source up to its share of `tokenizer_megabytes`; a small source comes back up to three times."""
    total = sum(source.weight for source in config.data)
    for source in config.data:
        room = config.tokenizer_megabytes * 1e6 * source.weight / total
        size = sum(len(text.encode()) for text in training_texts(config, source))
        random = np.random.default_rng(config.seed)
        for share in np.clip(room / max(size, 1) - np.arange(3), 0, 1):
            yield from (text for text in training_texts(config, source) if share and random.random() < share)


@dataclass(frozen=True)
class Tokens:
    """A source as token numbers: texts one after the other, each closed by the end token."""

    ids: NDArray[np.uint16]
    starts: NDArray[np.int64]
    """Where each text begins."""


def tokenize_source(config: PretrainConfig, source: Source, *, tokenizer: Tokenizer, folder: Path) -> Tokens:
    """Encode a source into `folder` (once: later calls with the same file and tokenizer map what is there)."""
    stamp = _stamp(config, source, tokenizer)
    ids_file, starts_file = folder / f"{source.name}-{stamp}.u16", folder / f"{source.name}-{stamp}.npy"
    if not starts_file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(starts_file, _encode_to_file(training_texts(config, source), tokenizer=tokenizer, path=ids_file))
    starts = np.load(starts_file)
    if not len(starts):
        raise UserError(f"source {source.name!r} ({source.path}) holds no text")
    return Tokens(ids=np.memmap(ids_file, dtype=np.uint16, mode="r"), starts=starts)


def _stamp(config: PretrainConfig, source: Source, tokenizer: Tokenizer) -> str:
    path = Path(config.data_root) / source.path
    size = path.stat().st_size if path.exists() else -1
    key = [source.model_dump(exclude={"weight"}), size, bool(config.heldout), tokenizer.to_str()]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]


def _encode_to_file(texts: Iterator[str], *, tokenizer: Tokenizer, path: Path) -> NDArray[np.int64]:
    """Write the token numbers; returns where each text begins."""
    end = special_id(tokenizer, EOS)
    lengths: list[int] = []
    with path.open("wb") as out:
        for group in _in_groups(texts, 1000):
            rows = [[*encoding.ids, end] for encoding in tokenizer.encode_batch_fast(group, add_special_tokens=False)]
            lengths += [len(row) for row in rows]
            np.concatenate([np.asarray(row, dtype=np.uint16) for row in rows]).tofile(out)
    return np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64) if lengths else np.empty(0, np.int64)


def _in_groups(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    group: list[str] = []
    for text in texts:
        group.append(text)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


@dataclass(frozen=True)
class Batch:
    """What one step sees."""

    input_ids: Ids
    """(windows, tokens), masked."""
    positions: Ids
    """(n,) places to predict, in the flattened windows."""
    offsets: Ids
    """(windows,) the position at which each window begins; 0 as in use, or further on."""
    targets: Ids
    """(n,) the pieces that stood there."""


@dataclass(frozen=True)
class Sampler:
    """Packed windows drawn by weight; batch n depends on the seed and n alone."""

    sources: list[Tokens]
    weights: NDArray[np.float64]
    bos: int
    eos: int
    mask: int
    mask_rate: float
    keep_share: float
    max_tokens: int
    shifted_share: float
    seed: int

    def batch(self, step: int, *, windows: int, tokens: int) -> Batch:
        """The masked batch of a step: (windows, tokens)."""
        random = np.random.default_rng((self.seed, step))
        chosen = random.choice(len(self.sources), size=windows, p=self.weights)
        rows = [self.window(self.sources[index], tokens - 2, random) for index in chosen]
        shifted = random.random(windows) < self.shifted_share
        offsets = shifted * random.integers(self.max_tokens - tokens + 1, size=windows)
        batch = mask_batch(
            np.stack(rows), random=random, mask=self.mask, special=(self.bos, self.eos), rate=self.mask_rate,
            keep_share=self.keep_share,
        )  # fmt: skip
        return replace(batch, offsets=offsets)

    def window(self, source: Tokens, length: int, random: np.random.Generator) -> Ids:
        """`length` neighbouring tokens of a source, framed by the special tokens: (length + 2,)."""
        # Half of the windows begin where a text begins, as every text will when the encoder is used; the other half
        # begin anywhere, or the later parts of long paragraphs would never be seen.
        at = int(source.starts[random.integers(len(source.starts))])
        if random.random() < 0.5:
            at = int(random.integers(len(source.ids)))
        ids = np.take(source.ids, np.arange(at, at + length), mode="wrap").astype(np.int64)
        return np.concatenate([[self.bos], ids, [self.eos]])


def mask_batch(
    ids: Ids, *, random: np.random.Generator, mask: int, special: tuple[int, ...], rate: float, keep_share: float
) -> Batch:
    """Choose `rate` of the ordinary positions to predict; all of them but `keep_share` become the mask token."""
    flat = ids.reshape(-1).copy()
    ordinary = np.flatnonzero(~np.isin(flat, special))
    count = max(1, round(rate * len(ordinary)))
    positions = np.sort(random.choice(ordinary, size=count, replace=False))
    targets = flat[positions]
    flat[positions[random.random(count) >= keep_share]] = mask
    offsets = np.zeros(len(ids), dtype=np.int64)
    return Batch(input_ids=flat.reshape(ids.shape), positions=positions, offsets=offsets, targets=targets)


# ------------------------------------------------------------------------------------------------------------ model


def build_model(config: PretrainConfig, tokenizer: Tokenizer) -> CamembertForMaskedLM:
    """A CamemBERT of the configured shape with random weights."""
    shape = config.shape
    pad = special_id(tokenizer, PAD)
    settings = CamembertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.intermediate_size,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        # RoBERTa's positions begin after the padding number.
        max_position_embeddings=shape.max_tokens + pad + 1,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=pad,
        bos_token_id=special_id(tokenizer, BOS),
        eos_token_id=special_id(tokenizer, EOS),
    )
    torch.manual_seed(config.seed)
    model = CamembertForMaskedLM(settings)
    if config.initial_positions == "sinusoidal":
        table = model.roberta.embeddings.position_embeddings.weight
        with torch.no_grad():
            table.copy_(torch.from_numpy(sinusoids(*table.shape)))
            table[pad] = 0
    return model


def sinusoids(positions: int, size: int) -> NDArray[np.float64]:
    """Sines and cosines of the position, (positions, size), at the scale of the pieces' vectors.

    Vaswani et al. (2017), with wavelengths from 6 to 6,000 positions: ours are hundreds, not ten thousand.
    """
    rates = 1000.0 ** (-np.arange((size + 1) // 2) / ((size + 1) // 2))
    angles = np.arange(positions)[:, None] * rates
    return 0.05 * math.sqrt(2) * np.concatenate([np.sin(angles), np.cos(angles)], axis=1)[:, :size]


def cooccurrence_embeddings(ids: Ids, *, vocab_size: int, size: int, window: int = 4, seed: int = 0) -> NDArray[Any]:
    """Vectors of the pieces from a text, (vocab_size, size), mean 0 and standard deviation 0.05.

    The singular vectors of the positive pointwise mutual information of neighbouring pieces, contexts smoothed by the
    power 0.75: what skip-gram with negative sampling approaches (Levy and Goldberg, 2014), in seconds instead of
    minutes. Needs 12 bytes x vocab_size^2 of memory.
    """
    from sklearn.utils.extmath import randomized_svd

    counts = np.zeros((vocab_size, vocab_size), dtype=np.float32)
    for distance in range(1, window + 1):
        pairs = ids[:-distance] * vocab_size + ids[distance:]
        counts += np.bincount(pairs, minlength=vocab_size**2).reshape(vocab_size, vocab_size) / distance
    counts += counts.T.copy()
    rows = counts.sum(axis=1, keepdims=True)
    contexts = rows.T**0.75 / max((rows**0.75).sum(), 1e-9)
    with np.errstate(divide="ignore", invalid="ignore"):
        association = np.nan_to_num(np.log(counts / (rows * contexts)), nan=0.0, neginf=0.0)
    left, strength, _ = randomized_svd(np.maximum(association, 0), size, n_iter=3, random_state=seed)
    vectors = left * np.sqrt(strength)
    # A piece the text does not hold gets noise of the same size rather than the same point as every other such piece.
    unseen = rows[:, 0] == 0
    vectors[unseen] = np.random.default_rng(seed).normal(
        0, max(vectors.std(), 1e-6), (int(unseen.sum()), vectors.shape[1])
    )
    vectors = vectors - vectors.mean(axis=0)
    scaled: NDArray[Any] = vectors * (0.05 / max(vectors.std(), 1e-9))
    return scaled


def start_from_counts(
    model: CamembertForMaskedLM, sampler: Sampler, *, embeddings: bool, tokens: int = 6_000_000
) -> None:
    """Set the output bias to the pieces' log-frequencies and, if asked, the embeddings to their co-occurrences."""
    random = np.random.default_rng(sampler.seed)
    length = 512
    drawn = random.choice(len(sampler.sources), size=max(1, tokens // length), p=sampler.weights)
    ids = np.concatenate([sampler.window(sampler.sources[index], length, random) for index in drawn])
    vocab_size, size = model.config.vocab_size, model.config.hidden_size
    frequency = np.bincount(ids, minlength=vocab_size) + 0.1
    with torch.no_grad():
        model.lm_head.bias.copy_(torch.from_numpy(np.log(frequency / frequency.sum())))
        if embeddings:
            vectors = cooccurrence_embeddings(ids, vocab_size=vocab_size, size=size, seed=sampler.seed)
            model.roberta.embeddings.word_embeddings.weight[:, : vectors.shape[1]].copy_(torch.from_numpy(vectors))


def masked_loss(model: CamembertForMaskedLM, batch: Batch, *, device: torch.device, bf16: bool) -> torch.Tensor:
    """Mean cross-entropy in nats over the positions to predict; the head runs on those positions only."""
    ids, positions, offsets, targets = (
        torch.from_numpy(array).to(device) for array in (batch.input_ids, batch.positions, batch.offsets, batch.targets)
    )
    # As RoBERTa counts them in a window without padding: from the padding number on.
    places = offsets[:, None] + torch.arange(ids.shape[1], device=device) + model.config.pad_token_id + 1
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        hidden = model.roberta(input_ids=ids, position_ids=places).last_hidden_state
        logits = model.lm_head(hidden.reshape(-1, hidden.shape[-1])[positions])
    return F.cross_entropy(logits.float(), targets)


def choose_bf16(precision: str, device: torch.device) -> bool:
    """Whether to multiply in bf16; on a processor `auto` times both, since many are faster in fp32."""
    if precision != "auto":
        return precision == "bf16"
    if device.type != "cpu":
        return bool(torch.cuda.is_bf16_supported())
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.randn(2048, 256, dtype=dtype), torch.randn(1024, 256, dtype=dtype)
        F.linear(left, right)
        begun = time.perf_counter()
        for _ in range(20):
            F.linear(left, right)
        seconds[dtype] = time.perf_counter() - begun
    # Casting costs too: a small gain in the products alone is a loss.
    return seconds[torch.bfloat16] < 0.7 * seconds[torch.float32]


# --------------------------------------------------------------------------------------------------------- training


def build_optimizers(model: nn.Module, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the layers' matrices and AdamW for the rest."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layer." in name]
    other = [p for name, p in model.named_parameters() if not (p.ndim == 2 and ".layer." in name)]
    decay, rate = config.weight_decay, config.learning_rate
    optimizers: list[torch.optim.Optimizer] = []
    if config.optimizer == "muon":
        optimizers.append(torch.optim.Muon(matrices, lr=config.muon_learning_rate, weight_decay=decay))
        matrices = []
    plain = [p for p in other if p.ndim < 2]
    groups = [{"params": matrices + [p for p in other if p.ndim == 2], "weight_decay": decay}]
    groups.append({"params": plain, "weight_decay": 0.0})
    optimizers.append(torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-6, fused=True))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


@dataclass
class Run:
    """A run in progress: what a checkpoint holds."""

    config: PretrainConfig
    model: CamembertForMaskedLM
    sampler: Sampler
    optimizers: list[torch.optim.Optimizer]
    device: torch.device
    bf16: bool
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def progress(self) -> float:
        """Share of the budget used, by steps or by time, whichever is further."""
        steps = self.step / self.config.max_steps if self.config.max_steps else 0.0
        minutes = self.seconds / 60 / self.config.max_minutes if self.config.max_minutes else 0.0
        return min(1.0, max(steps, minutes))

    def train_step(self) -> float:
        """One update; returns its loss in nats."""
        done = self.progress()
        length = next(phase.tokens for phase in self.config.phases if done < phase.until or phase.until == 1)
        windows = self.config.batch_tokens // length
        batch = self.sampler.batch(self.step, windows=windows, tokens=length)
        rate = min(1.0, (self.step + 1) / (self.config.warmup_steps + 1)) * (1 - done)
        torch.manual_seed(self.config.seed + self.step)
        loss = masked_loss(self.model, batch, device=self.device, bf16=self.bf16)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += windows * length
        return loss.item()

    def save(self, path: Path) -> None:
        """Write a checkpoint, all or nothing."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step, "tokens": self.tokens, "seconds": self.seconds, "bf16": self.bf16,
        }  # fmt: skip
        beside = path.with_suffix(".part")
        torch.save(state, beside)
        beside.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of the same configuration."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        try:
            self.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        except (RuntimeError, ValueError, KeyError):
            raise UserError(f"{path}: the checkpoint has another shape or optimizer than the configuration") from None
        self.step, self.tokens, self.seconds, self.bf16 = (state[k] for k in ("step", "tokens", "seconds", "bf16"))


def train(run: Run, *, folder: Path, log: Callable[[str], None] = print, stop_at: int | None = None) -> list[float]:
    """Train until the budget is used (or to step `stop_at`), with checkpoints; returns the losses of its steps."""
    losses: list[float] = []
    run.model.train()
    last, saved, shown, shown_tokens = time.perf_counter(), run.seconds, run.seconds, run.tokens
    try:
        while run.progress() < 1 and run.step != stop_at:
            losses.append(run.train_step())
            now = time.perf_counter()
            run.seconds, last = run.seconds + now - last, now
            if run.step % run.config.log_steps == 0:
                speed = (run.tokens - shown_tokens) / max(run.seconds - shown, 1e-9)
                mean = float(np.mean(losses[-run.config.log_steps :]))
                log(
                    f"step {run.step}  {run.progress():.1%}  {run.tokens / 1e6:.2f} M tokens  "
                    f"{run.seconds / 60:.1f} min  loss {mean:.3f}  {speed:.0f} tokens/s"
                )
                shown, shown_tokens = run.seconds, run.tokens
            if run.seconds - saved > 60 * run.config.checkpoint_minutes:
                run.save(folder / "checkpoint.pt")
                saved = run.seconds
    finally:
        run.save(folder / "checkpoint.pt")
    return losses


# ------------------------------------------------------------------------------------------------- held-out, export


@torch.no_grad()
def heldout_perplexity(run: Run, tokenizer: Tokenizer) -> dict[str, dict[str, float]]:
    """Per origin: perplexity of masked pieces (exp of the mean loss in nats) and how many pieces it rests on.

    Windows of 128 tokens, masked at the training rate with a fixed seed.
    """
    run.model.eval()
    results = {}
    for origin, ids in sorted(_heldout_tokens(run.config, tokenizer).items()):
        random = np.random.default_rng(run.config.seed)
        length = min(128, run.config.shape.max_tokens) - 2
        rows = len(ids) // length
        body = ids[: rows * length].reshape(rows, length) if rows else ids[None, :]
        ends = [np.full((len(body), 1), end) for end in (run.sampler.bos, run.sampler.eos)]
        windows = np.concatenate([ends[0], body, ends[1]], axis=1)
        total, pieces = 0.0, 0
        for at in range(0, len(windows), 16):
            batch = mask_batch(
                windows[at : at + 16], random=random, mask=run.sampler.mask, special=(run.sampler.bos, run.sampler.eos),
                rate=run.config.mask_rate, keep_share=0.0,
            )  # fmt: skip
            loss = masked_loss(run.model, batch, device=run.device, bf16=run.bf16).item()
            total, pieces = total + loss * len(batch.targets), pieces + len(batch.targets)
        results[origin] = {"perplexity": round(math.exp(total / pieces), 2), "pieces": pieces}
    return results


def _heldout_tokens(config: PretrainConfig, tokenizer: Tokenizer) -> dict[str, Ids]:
    end = special_id(tokenizer, EOS)
    by_origin: dict[str, list[int]] = {}
    for origin, text in heldout_texts(config):
        ids = by_origin.setdefault(origin, [])
        if len(ids) < config.heldout_tokens:
            ids += [*tokenizer.encode(text, add_special_tokens=False).ids, end]
    return {origin: np.asarray(ids, dtype=np.int64) for origin, ids in by_origin.items()}


def export_encoder(model: CamembertForMaskedLM, tokenizer: Tokenizer, folder: Path, *, max_tokens: int) -> None:
    """Write the encoder in half precision with its tokenizer, in Hugging Face's layout."""
    settings = CamembertConfig.from_dict(model.config.to_dict())
    settings.hidden_dropout_prob = settings.attention_probs_dropout_prob = 0.1
    copy = CamembertForMaskedLM(settings)
    copy.load_state_dict(model.state_dict())
    copy.half().save_pretrained(str(folder))
    save_tokenizer(tokenizer, folder, max_length=max_tokens)


# ---------------------------------------------------------------------------------------------------------- command


def get_tokenizer(config: PretrainConfig, folder: Path) -> Tokenizer:
    """The configured tokenizer, the one an earlier run left in `folder`, or a new one, kept in `folder`."""
    given = None if config.tokenizer is None else Path(config.tokenizer) / "tokenizer.json"
    kept = folder / "tokenizer" / "tokenizer.json"
    if given is not None and not given.exists():
        raise UserError(f"{given}: no such file (key tokenizer)")
    try:
        if given is None and not kept.exists():
            made = train_tokenizer(sample_for_tokenizer(config), vocab_size=config.vocab_size)
            save_tokenizer(made, kept.parent, max_length=config.shape.max_tokens)
        tokenizer = Tokenizer.from_file(str(given or kept))
        for token in SPECIAL_TOKENS:
            special_id(tokenizer, token)
    except ValueError as error:
        raise UserError(str(error)) from None
    return tokenizer


def prepare(config: PretrainConfig, *, folder: Path) -> tuple[Run, Tokenizer]:
    """Tokenizer, token files, model and optimizers, ready for the first step."""
    if not config.data:
        raise UserError("no text to train on: give --data FILE or list sources under `data`")
    for source in config.heldout:
        # A missing file should be said now, not after the hours of training.
        next(read_texts(source, Path(config.data_root)), None)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = get_tokenizer(config, folder)
    sources = [tokenize_source(config, s, tokenizer=tokenizer, folder=folder / "tokens") for s in config.data]
    weights = np.asarray([source.weight for source in config.data])
    bos, eos, mask = (special_id(tokenizer, token) for token in (BOS, EOS, MASK))
    sampler = Sampler(
        sources=sources, weights=weights / weights.sum(), bos=bos, eos=eos, mask=mask, mask_rate=config.mask_rate,
        keep_share=config.keep_share, max_tokens=config.shape.max_tokens, shifted_share=config.shifted_share,
        seed=config.seed,
    )  # fmt: skip
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(config, tokenizer).to(device)
    run = Run(config, model, sampler, build_optimizers(model, config), device, choose_bf16(config.precision, device))
    return run, tokenizer


def pretrain(config: PretrainConfig, *, resume: bool, log: Callable[[str], None] = print) -> dict[str, Any]:
    """The whole run; returns and writes its summary (no text in it)."""
    folder = Path(config.output)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists() and not resume:
        raise UserError(f"{checkpoint} exists: go on from it with --resume, or choose another --output")
    if resume and not checkpoint.exists():
        raise UserError(f"--resume: there is no {checkpoint}")
    run, tokenizer = prepare(config, folder=folder)
    if resume:
        run.load(checkpoint)
    else:
        start_from_counts(run.model, run.sampler, embeddings=config.initial_embeddings == "cooccurrence")
    parameters = sum(p.numel() for p in run.model.parameters())
    read = sum(len(source.ids) for source in run.sampler.sources)
    log(f"{parameters / 1e6:.2f} M parameters, {read / 1e6:.1f} M tokens of text, {'bf16' if run.bf16 else 'fp32'}")
    losses = train(run, folder=folder, log=log)
    export_encoder(run.model, tokenizer, folder / "encoder", max_tokens=config.shape.max_tokens)
    summary: dict[str, Any] = {
        "parameters": parameters, "tokens_seen": run.tokens, "steps": run.step, "minutes": round(run.seconds / 60, 1),
        "final_loss": round(float(np.mean(losses[-config.log_steps :])), 4) if losses else None,
        "heldout": heldout_perplexity(run, tokenizer),
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    for origin, row in summary["heldout"].items():
        log(f"{origin:28s} perplexity {row['perplexity']:9.2f}  on {row['pieces']} pieces")
    return summary


def read_arguments(arguments: Sequence[str]) -> tuple[PretrainConfig, bool]:
    """Configuration and whether to resume, from the command line."""
    parser = argparse.ArgumentParser(prog="python -m training.pretrain", description=(__doc__ or "").splitlines()[0])
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


@command
def main() -> int:
    config, resume = read_arguments(sys.argv[1:])
    pretrain(config, resume=resume, log=lambda line: print(line, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
