"""The encoder to pretrain: its shape, where its weights start, its loss and its export."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import CamembertConfig, CamembertForMaskedLM

from training.errors import UserError
from training.pretrain_config import PretrainConfig
from training.pretrain_text import Batch, Ids, Sampler
from training.tokenizer import BOS, EOS, PAD, save_tokenizer, special_id


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


def load_model(config: PretrainConfig, tokenizer: Tokenizer) -> CamembertForMaskedLM:
    """The encoder that the run goes on from, in single precision and with the run's dropout.

    Raises:
        UserError: no such encoder, or one whose pieces or positions are not those of the run.
    """
    folder = Path(str(config.encoder))
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no encoder here (key encoder)")
    rates = {"hidden_dropout_prob": config.dropout, "attention_probs_dropout_prob": config.dropout}
    model = CamembertForMaskedLM.from_pretrained(folder, **rates).float()
    pieces, positions = model.config.vocab_size, model.config.max_position_embeddings
    if pieces != tokenizer.get_vocab_size():
        raise UserError(f"{folder}: {pieces} pieces, but its tokenizer has {tokenizer.get_vocab_size()}")
    if positions != config.shape.max_tokens + special_id(tokenizer, PAD) + 1:
        raise UserError(f"{folder}: {positions} positions do not fit shape.max_tokens {config.shape.max_tokens}")
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


def export_encoder(model: CamembertForMaskedLM, tokenizer: Tokenizer, folder: Path, *, max_tokens: int) -> None:
    """Write the encoder in half precision with its tokenizer, in Hugging Face's layout."""
    settings = CamembertConfig.from_dict(model.config.to_dict())
    settings.hidden_dropout_prob = settings.attention_probs_dropout_prob = 0.1
    copy = CamembertForMaskedLM(settings)
    copy.load_state_dict(model.state_dict())
    copy.half().save_pretrained(str(folder))
    save_tokenizer(tokenizer, folder, max_length=max_tokens)
