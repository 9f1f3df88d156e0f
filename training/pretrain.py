"""Pretrain the compact encoder by masked-language modelling on raw text.

    python -m training.pretrain --config configs/pretrain.yaml [--data FILE ...] [--heldout FILE ...]
                                [--output DIR] [--resume] [--set key=value]

The text is turned into token numbers once, on disk; batch number n is then a pure function of the seed and n, so an
interrupted run goes on exactly where it stopped. The run ends when its minutes or its steps are used up, and the
learning rate reaches zero at that moment, whichever comes first.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import CamembertForMaskedLM

from training.errors import UserError, command
from training.pretrain_config import PretrainConfig, read_arguments
from training.pretrain_model import build_model, choose_bf16, export_encoder, load_model, masked_loss, start_from_counts
from training.pretrain_text import (
    Ids,
    Sampler,
    heldout_texts,
    mask_batch,
    read_texts,
    sample_for_tokenizer,
    tokenize_source,
)
from training.tokenizer import BOS, EOS, MASK, SPECIAL_TOKENS, save_tokenizer, special_id, train_tokenizer


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


def get_tokenizer(config: PretrainConfig, folder: Path) -> Tokenizer:
    """The configured tokenizer, the one an earlier run left in `folder`, or a new one, kept in `folder`."""
    brought = config.encoder or config.tokenizer
    given = None if brought is None else Path(brought) / "tokenizer.json"
    kept = folder / "tokenizer" / "tokenizer.json"
    if given is not None and not given.exists():
        raise UserError(f"{given}: no such file (key {'encoder' if config.encoder else 'tokenizer'})")
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
    model = (load_model if config.encoder else build_model)(config, tokenizer).to(device)
    if config.train == "head":
        model.base_model.requires_grad_(False)
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
    elif not config.encoder:
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


@command
def main() -> int:
    config, resume = read_arguments(sys.argv[1:])
    pretrain(config, resume=resume, log=lambda line: print(line, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
