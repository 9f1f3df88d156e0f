"""Base model and tokenizer, the masked loss, and scoring of texts of any length."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from training.config import ModelConfig
from training.data import UNKNOWN
from training.errors import UserError
from training.labels import Labels

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HUB_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class BaseModel:
    """What fine-tuning starts from: a classifier with a fresh head, its tokenizer, and where they came from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str | None
    pretrained: bool


@dataclass(frozen=True)
class Windows:
    """How a text of any length becomes windows; serving does the same from the figures in artifact.json."""

    max_tokens: int
    overlap: int
    bos_id: int
    eos_id: int
    pad_id: int
    unk_id: int
    special_ids: tuple[int, ...]

    def split(self, ids: Sequence[int]) -> list[list[int]]:
        """Cut token ids (without control tokens) into overlapping windows of at most `max_tokens`, each `<s> … </s>`.

        Whatever a user types, it never becomes a control token: such ids turn into the unknown piece.
        """
        special = set(self.special_ids)
        body = [self.unk_id if token in special else token for token in ids]
        size = self.max_tokens - 2
        step = size - self.overlap
        starts = range(0, max(1, len(body) - self.overlap), step)
        return [[self.bos_id, *body[start : start + size], self.eos_id] for start in starts]


def load_base(config: ModelConfig, labels: Labels, texts: Sequence[str] = ()) -> BaseModel:
    """Load the encoder to fine-tune, with a new head of one output per label.

    Args:
        texts: training texts, from which `base: random` builds its tokenizer.

    Raises:
        UserError: the folder or hub model cannot be had, or its windows are shorter than `model.max_tokens`.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    # That the head is new and the encoder's own is left out is meant so; bars are for training.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if config.base == "random":
        return _random_base(config, labels, texts)
    source, revision = _locate(config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        model = AutoModelForSequenceClassification.from_pretrained(
            source, revision=revision, **_head(labels), **_dropout(config)
        )
    except (OSError, ValueError) as error:
        raise UserError(f"model.base {config.base!r} cannot be loaded: {str(error).splitlines()[0]}") from None
    _check_length(model.config, config.max_tokens)
    model = model.float()
    _start_head(model)
    return BaseModel(model, tokenizer, config.base, revision or getattr(model.config, "_commit_hash", None), True)


def windows_of(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> Windows:
    """The windowing of a run, control-token ids read from the tokenizer."""
    return Windows(
        max_tokens=config.max_tokens,
        overlap=config.overlap,
        bos_id=tokenizer.bos_token_id,
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
        unk_id=tokenizer.unk_token_id,
        special_ids=tuple(sorted(set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})),
    )


def encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, windows: Windows) -> list[list[list[int]]]:
    """Windows of token ids for each text. Halves of surrogate pairs, which no tokenizer takes, become U+FFFD."""
    clean = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
    if not clean:
        return []
    encoded = tokenizer(clean, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    return [windows.split(ids) for ids in encoded]


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    windows: Windows,
    labels: Labels,
    token_budget: int = 2048,
) -> np.ndarray:
    """Raw scores (logits) of texts, in order, float32 of shape (texts, labels).

    A long text is read in overlapping windows: categories and context take the highest window, voices the mean.
    """
    pieces = encode(texts, tokenizer, windows)
    flat = [window for text_windows in pieces for window in text_windows]
    owner = np.repeat(np.arange(len(texts)), [len(text_windows) for text_windows in pieces])
    logits = np.empty((len(flat), len(labels.ids)), dtype=np.float32)
    model.eval()
    with torch.inference_mode():
        for batch in _by_length(flat, token_budget):
            ids, mask = _pad([flat[index] for index in batch], windows.pad_id, model.device)
            logits[batch] = model(input_ids=ids, attention_mask=mask).logits.float().cpu().numpy()
    return join_windows(logits, owner, len(texts), voices=len(labels.voice_ids))


def join_windows(logits: np.ndarray, owner: np.ndarray, texts: int, voices: int) -> np.ndarray:
    """One row a text from one row a window: the maximum, and for the last `voices` columns the mean."""
    highest = np.full((texts, logits.shape[1]), -np.inf, dtype=np.float32)
    np.maximum.at(highest, owner, logits)
    total = np.zeros((texts, voices), dtype=np.float32)
    np.add.at(total, owner, logits[:, -voices:])
    highest[:, -voices:] = total / np.bincount(owner, minlength=texts)[:, None]
    return highest


def positive_weights(targets: np.ndarray, scheme: str, ceiling: float) -> torch.Tensor:
    """Weight of each label's positives in the loss: (negatives / positives), its square root, or 1."""
    positives = np.maximum((targets == 1).sum(axis=0), 1)
    ratio = (targets == 0).sum(axis=0) / positives
    weights = {"none": np.ones_like(ratio), "sqrt_inverse": np.sqrt(ratio), "inverse": ratio}[scheme]
    return torch.tensor(np.clip(weights, 1.0, ceiling), dtype=torch.float32)


_NEARLY_SURE = 1 / (1 + math.exp(7.0))
"""The probability at log-odds of -7."""


class MaskedLoss:
    """Binary cross-entropy over decided labels only, averaged over the whole step.

    The average runs over the decided labels of all accumulated batches and processes (`num_items_in_batch`, which the
    Trainer counts over targets other than -100): the model's own loss would be multiplied by their number. With
    `smoothing` s, a target y becomes y(1 - s) + s/2 (Szegedy et al., CVPR 2016, for two classes).

    With a `temperature` T, logits and the targets' log-odds are divided by T, and the loss is multiplied by T²: how far
    from certain a target is counts for more, which is what a teacher's targets have to say (Hinton, Vinyals and Dean
    2015). A target of 0 or 1 then stands for log-odds of ±7.
    """

    def __init__(self, weights: torch.Tensor, smoothing: float = 0.0, temperature: float = 1.0) -> None:
        self.weights, self.smoothing, self.temperature = weights, smoothing, temperature

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        decided = labels.ne(UNKNOWN)
        targets = labels.clamp(min=0).float() * (1 - self.smoothing) + self.smoothing / 2
        if self.temperature != 1:
            targets = torch.sigmoid(torch.logit(targets, eps=_NEARLY_SURE) / self.temperature)
        losses = binary_cross_entropy_with_logits(
            outputs["logits"].float() / self.temperature,
            targets,
            pos_weight=self.weights.to(labels.device),
            reduction="none",
        )
        count = decided.sum() if num_items_in_batch is None else num_items_in_batch
        total = (losses * decided).sum() * self.temperature**2
        return total / torch.as_tensor(count, device=losses.device).clamp(min=1)


def _head(labels: Labels) -> dict[str, Any]:
    return {
        "num_labels": len(labels.ids),
        "id2label": dict(enumerate(labels.ids)),
        "label2id": {label: index for index, label in enumerate(labels.ids)},
        "problem_type": "multi_label_classification",
    }


def _dropout(config: ModelConfig) -> dict[str, float]:
    rates = dict.fromkeys(("hidden_dropout_prob", "classifier_dropout"), config.dropout)
    attention = config.dropout if config.attention_dropout is None else config.attention_dropout
    return {**rates, "attention_probs_dropout_prob": attention}


def _start_head(model: PreTrainedModel) -> None:
    """Draw the new head's weights at a scale that fits the encoder's width.

    The configured 0.02 suits a width of 768; in a narrow encoder the head would spend its first epochs growing.
    """
    for module in model.classifier.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=module.in_features**-0.5)
            torch.nn.init.zeros_(module.bias)


def _locate(config: ModelConfig) -> tuple[str, str | None]:
    """A local folder as it stands; a hub model with the commit its revision resolves to."""
    if (Path(config.base) / "config.json").is_file():
        return config.base, None
    if config.base.startswith((".", "/")) or Path(config.base).is_dir() or config.base.count("/") != 1:
        raise UserError(
            f"model.base {config.base!r}: no such model folder (it needs a config.json); give a folder, a model id "
            "on the hub such as almanach/camembert-base, or `random`"
        )
    return config.base, _resolve_commit(config.base, config.revision)


def _resolve_commit(name: str, revision: str | None) -> str | None:
    """Ask the hub once, with a short time-out; without an answer, what an earlier download left in the cache."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT_S).sha
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403, 404):
            raise UserError(
                f"model.base {name!r}, revision {revision or 'main'!r}: not on the hub, or not public"
            ) from None
    except Exception:  # noqa: BLE001 - whatever kept the hub from answering, the cache is asked next
        pass
    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True)).name
    except (LocalEntryNotFoundError, OSError, ValueError):
        raise UserError(
            f"model.base {name!r}: the model hub does not answer; point at a local copy with "
            "--set model.base=FOLDER, or leave out --config to train the embedded default"
        ) from None


def _random_base(config: ModelConfig, labels: Labels, texts: Sequence[str]) -> BaseModel:
    from transformers import AutoTokenizer, CamembertConfig, CamembertForSequenceClassification

    from training.tokenizer import save_tokenizer, train_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        trained = train_tokenizer(texts, vocab_size=config.compact.vocabulary)
        save_tokenizer(trained, Path(folder), max_length=config.max_tokens)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    shape = CamembertConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.compact.hidden_size,
        num_hidden_layers=config.compact.layers,
        num_attention_heads=config.compact.heads,
        intermediate_size=config.compact.intermediate_size,
        max_position_embeddings=config.max_tokens + tokenizer.pad_token_id + 1,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        # 0.02 suits a width of 768; a narrow encoder would hardly let the text reach its first token.
        initializer_range=config.compact.hidden_size**-0.5,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **_dropout(config),
        **_head(labels),
    )
    return BaseModel(CamembertForSequenceClassification(shape), tokenizer, "random", None, False)


def _check_length(config: Any, max_tokens: int) -> None:
    room = config.max_position_embeddings - config.pad_token_id - 1
    if max_tokens > room:
        raise UserError(f"model.max_tokens is {max_tokens}, but this encoder reads at most {room} tokens")


def _by_length(windows: Sequence[Sequence[int]], token_budget: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, at most `token_budget` tokens a batch, padding counted."""
    batch: list[int] = []
    for index in sorted(range(len(windows)), key=lambda index: -len(windows[index])):
        if batch and (len(batch) + 1) * len(windows[batch[0]]) > token_budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _pad(windows: Sequence[Sequence[int]], pad_id: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(window) for window in windows)
    ids = torch.full((len(windows), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(windows), longest), dtype=torch.long)
    for row, window in enumerate(windows):
        ids[row, : len(window)] = torch.tensor(window)
        mask[row, : len(window)] = 1
    return ids.to(device), mask.to(device)
