"""Raw text for pretraining: read as a stream, kept as token numbers on disk, drawn as masked windows."""

from __future__ import annotations

import csv
import hashlib
import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training.errors import UserError
from training.pretrain_config import PretrainConfig, Source
from training.tokenizer import EOS, special_id

Ids = NDArray[np.int64]
KEPT_OUT_EVERY = 100


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
