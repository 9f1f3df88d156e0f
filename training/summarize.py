"""Second pretraining stage: the first token learns to sum up a text, which is what the classifier will read.

    python -m training.summarize --config configs/summarize.yaml --encoder FOLDER --output FOLDER [--set key=value]

Masked-language modelling leaves `<s>` almost unused. Here a quarter of the pieces is masked as before, and from the
state of `<s>` alone the model also has to say which pieces the whole text holds, rare ones counting more. To begin
with, a layer is added whose attention is a plain mean over the text, so that every piece reaches `<s>` from the first
step. The files are those of the encoder before, with one layer more in the configuration.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import CamembertConfig, CamembertForMaskedLM

from training.config import read_settings
from training.errors import UserError, command
from training.pretrain_config import Source
from training.pretrain_text import read_texts
from training.readers import read_records
from training.tokenizer import BOS, EOS, MASK, PAD, copy_tokenizer, special_id


class SummarizeConfig(BaseModel):
    """A run of the second stage. `--set minutes=5` changes a key."""

    model_config = ConfigDict(extra="forbid")

    data_root: str = "."
    data: list[Source] = Field(min_length=1)
    """Texts, one a line or a row; a weight is the share of the batches."""
    seed: int = Field(1, ge=0)
    minutes: float = Field(10.0, gt=0)
    """The rate decays to zero over this time."""
    learning_rate: float = Field(5e-4, gt=0)
    warmup_steps: int = Field(50, ge=1)
    batch_texts: int = Field(48, ge=3)
    max_tokens: int = Field(112, ge=8)
    mask_rate: float = Field(0.25, gt=0, lt=1)
    masked_weight: float = Field(0.5, ge=0)
    """Weight of the masked-piece loss beside the summary loss."""
    add_layer: bool = True
    """Whether to add the layer that starts as a mean; no, where the encoder has been through this stage before."""
    pooling_scale: float = Field(3.0, gt=0)
    """Weight of the mean beside a piece's own state, where the added layer starts."""
    idf_sample: int = Field(2000, ge=1)
    """Texts of each source from which the rarity of pieces is counted."""


def load_config(path: Path, settings: Sequence[str] = ()) -> SummarizeConfig:
    """Read a configuration and apply `key=value` settings; UserError names what is wrong."""
    return read_settings(SummarizeConfig, path, settings)


class Summarizer:
    """The model with the bias of its summary head, and the step that trains both."""

    def __init__(self, model: CamembertForMaskedLM, tokenizer: Tokenizer, rarity: torch.Tensor, config: Any) -> None:
        self.model, self.config, self.rarity = model, config, rarity
        self.bias = torch.nn.Parameter(torch.zeros(tokenizer.get_vocab_size()))
        self.ids = {token: special_id(tokenizer, token) for token in (BOS, EOS, MASK, PAD)}
        matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
        vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.01}, {"params": [*vectors, self.bias], "weight_decay": 0.0}],
            lr=config.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )

    def step(self, texts: Sequence[list[int]], rate: float) -> tuple[float, float]:
        """One update on token lists without control tokens, in three parts of similar length.

        Returns:
            The masked-piece loss and the summary loss, in nats.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        ordered, totals = sorted(texts, key=len), np.zeros(2)
        for part in np.array_split(np.arange(len(ordered)), 3):
            masked, summary = self.losses([ordered[index] for index in part])
            share = len(part) / len(ordered)
            ((self.config.masked_weight * masked + summary) * share).backward()  # type: ignore[no-untyped-call]
            totals += share * np.array([masked.item(), summary.item()])
        torch.nn.utils.clip_grad_norm_([*self.model.parameters(), self.bias], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(totals[0]), float(totals[1])

    def losses(self, texts: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Masked-piece cross-entropy, and -Σ w log softmax over the pieces that a text holds, w their rarity."""
        ids, inside = self._pad(texts)
        chosen = inside & (torch.rand(ids.shape) < self.config.mask_rate)
        # At least one piece is masked, or the mean over none would be undefined.
        chosen[0, 1] = True
        hidden = self.model.roberta(
            input_ids=ids.masked_fill(chosen, self.ids[MASK]), attention_mask=(ids != self.ids[PAD]).long()
        ).last_hidden_state
        masked = F.cross_entropy(self.model.lm_head(hidden[chosen]), ids[chosen])
        words = self.model.roberta.embeddings.word_embeddings.weight
        said = torch.log_softmax(hidden[:, 0] @ words.T / words.shape[1] ** 0.375 + self.bias, dim=-1)
        held = torch.zeros(len(texts), len(words)).scatter_(1, ids, 1.0)
        held[:, list(self.ids.values())] = 0
        weight = held * self.rarity
        return masked, -((weight * said).sum(1) / weight.sum(1).clamp(min=1e-6)).mean()

    def _pad(self, texts: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        length = max(map(len, texts)) + 2
        ids = torch.full((len(texts), length), self.ids[PAD])
        for row, text in enumerate(texts):
            ids[row, : len(text) + 2] = torch.tensor([self.ids[BOS], *text, self.ids[EOS]])
        special = torch.tensor([self.ids[BOS], self.ids[EOS], self.ids[PAD]])
        return ids, ~torch.isin(ids, special)


def add_pooling_layer(model: CamembertForMaskedLM, scale: float) -> CamembertForMaskedLM:
    """A copy with one layer more, which starts as LayerNorm(state + scale · mean of all states).

    Its queries are zero, so that attention is uniform, and learn from there; values and output are the identity.
    """
    shape = CamembertConfig.from_dict(model.config.to_dict())
    shape.num_hidden_layers += 1
    deeper = CamembertForMaskedLM(shape)
    deeper.load_state_dict(model.state_dict(), strict=False)
    layer = deeper.roberta.encoder.layer[-1]
    identity = torch.eye(shape.hidden_size)
    with torch.no_grad():
        layer.attention.self.query.weight.zero_()
        layer.attention.self.value.weight.copy_(identity * scale)
        layer.attention.output.dense.weight.copy_(identity)
        layer.output.dense.weight.zero_()
    return deeper


def rarity(texts: Sequence[Sequence[list[int]]], vocabulary: int, sample: int) -> torch.Tensor:
    """Weight of each piece, log(texts / texts that hold it), kept between 0.3 and 6; float32 of shape (vocabulary,)."""
    holding, total = np.ones(vocabulary), 0
    for source in texts:
        for ids in source[:sample]:
            holding[list(set(ids))] += 1
            total += 1
    return torch.tensor(np.clip(np.log(total / holding), 0.3, 6.0), dtype=torch.float32)


def read_all(config: SummarizeConfig, tokenizer: Tokenizer) -> list[list[list[int]]]:
    """Token lists of every source, shuffled by the seed, none longer than `max_tokens` with its control tokens."""
    sources = []
    for source in config.data:
        encoded = tokenizer.encode_batch_fast(list(_texts(source, Path(config.data_root))), add_special_tokens=False)
        ids = [item.ids[: config.max_tokens - 2] for item in encoded if len(item.ids) > 2]
        if not ids:
            raise UserError(f"source {source.name!r} ({source.path}) holds no text")
        random.Random(config.seed).shuffle(ids)
        sources.append(ids)
    return sources


def _texts(source: Source, root: Path) -> Iterator[str]:
    if not source.path.endswith(".jsonl"):
        yield from (text for _, text in read_texts(source, root))
        return
    for record in read_records(root / source.path):
        if record.values is None or not isinstance(record.values.get(source.column or "text"), str):
            raise UserError(f"{source.path}:{record.line}: {record.problem or 'no text'}")
        yield record.values[source.column or "text"]


def summarize(config: SummarizeConfig, encoder: Path, output: Path) -> None:
    """Train for the configured minutes and write the encoder, in half precision, to `output`."""
    if output.exists():
        raise UserError(f"{output}: stands already; choose another --output")
    if not (encoder / "tokenizer.json").is_file():
        raise UserError(f"{encoder}: no encoder here; python -m training.pretrain makes one")
    torch.manual_seed(config.seed)
    chance = random.Random(config.seed)
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    model = CamembertForMaskedLM.from_pretrained(encoder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = model.float()
    model = add_pooling_layer(model, config.pooling_scale) if config.add_layer else model
    model.train()
    sources = read_all(config, tokenizer)
    run = Summarizer(model, tokenizer, rarity(sources, tokenizer.get_vocab_size(), config.idf_sample), config)
    weights = [source.weight for source in config.data]
    start, step, shown = time.monotonic(), 0, np.zeros(2)
    while (spent := (time.monotonic() - start) / 60 / config.minutes) < 1:
        drawn = chance.choices(sources, weights, k=config.batch_texts)
        rate = config.learning_rate * min(1.0, (step + 1) / config.warmup_steps) * (1 - spent)
        shown += run.step([chance.choice(source) for source in drawn], rate)
        step += 1
        if step % 50 == 0:
            print(
                f"step {step}  {spent:.0%}  masked loss {shown[0] / 50:.3f}  summary loss {shown[1] / 50:.3f}",
                flush=True,
            )
            shown[:] = 0
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.1
    model.eval().half().save_pretrained(output)
    copy_tokenizer(encoder, output)


@command
def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m training.summarize", description="Second pretraining stage.")
    parser.add_argument("--config", type=Path, default=Path("configs/summarize.yaml"))
    parser.add_argument("--encoder", type=Path, required=True, help="folder of a pretrained encoder")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="key=value")
    arguments = parser.parse_args()
    summarize(load_config(arguments.config, arguments.set), arguments.encoder, arguments.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
