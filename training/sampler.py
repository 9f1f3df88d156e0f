"""Random steps whose parts hold texts of similar length.

Batches grouped by length over the whole epoch save padding but make every step a step on short or on long texts. Here a
step is a random one, and only inside it are the texts sorted, so that its accumulated parts need little padding. The
masked loss is averaged over the step, hence the gradient is exactly that of the unsorted step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from training.evidence import Shares, evidence_of


class StepSampler(Sampler[int]):
    """Indices of an epoch: a random order from seed and epoch, each run of `step` sorted by length.

    Where the texts change from epoch to epoch, `draw` makes those of an epoch and returns their lengths, as many.
    """

    def __init__(
        self, lengths: Sequence[int], *, step: int, seed: int, draw: Callable[[int], list[int]] | None = None
    ) -> None:
        self._lengths, self._step, self._seed, self._draw = list(lengths), step, seed, draw
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer, also when it resumes: the order depends on nothing else."""
        self._epoch = epoch
        if self._draw is not None:
            self._lengths = self._draw(epoch)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        for start in range(0, len(order), self._step):
            yield from sorted(order[start : start + self._step], key=lambda index: self._lengths[index])

    def __len__(self) -> int:
        return len(self._lengths)


class Collator:
    """Pads a batch, and hides a share of its pieces: no single word may carry a label."""

    def __init__(self, tokenizer: Any, token_dropout: float, shares: Shares | None = None) -> None:
        """With `shares`, a batch also holds what each token adds (`training.evidence`)."""
        from transformers import DataCollatorWithPadding

        self._pad, self._hide = DataCollatorWithPadding(tokenizer), _Hider(tokenizer, token_dropout)
        self._shares = shares

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        return self._finished(self._pad(features), features)

    def _finished(self, batch: dict[str, Any], features: list[dict[str, Any]]) -> dict[str, Any]:
        if self._shares is not None:
            windows = [feature["input_ids"] for feature in features]
            batch = {**batch, "evidence": evidence_of(self._shares, windows, batch["input_ids"])}
        return {**batch, "input_ids": self._hide(batch["input_ids"])}


class PackingCollator(Collator):
    """The same without padding: a batch in one row, as `training.packed` takes it."""

    def __init__(self, tokenizer: Any, token_dropout: float, shares: Shares | None = None) -> None:
        super().__init__(tokenizer, token_dropout, shares)
        self._pad_id = tokenizer.pad_token_id

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        from training.packed import pack

        batch = pack([feature["input_ids"] for feature in features], self._pad_id)
        targets = torch.tensor([feature["labels"] for feature in features])
        return self._finished({**batch, "labels": targets}, features)


class _Hider:
    def __init__(self, tokenizer: Any, share: float) -> None:
        self._share, self._mask = share, tokenizer.mask_token_id
        self._special = torch.tensor(sorted(tokenizer.all_special_ids))

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        if not self._share:
            return ids
        hidden = (torch.rand(ids.shape) < self._share) & ~torch.isin(ids, self._special)
        return ids.masked_fill(hidden, self._mask)


def make_trainer(*, training_collator: Any, **arguments: Any) -> Any:
    """A `transformers.Trainer` whose training set is a `VariedTexts`, drawn with a `StepSampler`."""
    from transformers import Trainer

    class StepTrainer(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> StepSampler:
            step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
            draw = self.train_dataset.draw
            return StepSampler(draw(0), step=step, seed=self.args.seed, draw=draw)

        def get_train_dataloader(self) -> Any:
            self.data_collator, validation = training_collator, self.data_collator
            try:
                return super().get_train_dataloader()
            finally:
                self.data_collator = validation

    return StepTrainer(**arguments)
