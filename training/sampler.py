"""Random steps whose parts hold texts of similar length.

Batches grouped by length over the whole epoch save padding but make every step a step on short or on long texts. Here a
step is a random one, and only inside it are the texts sorted, so that its accumulated parts need little padding. The
masked loss is averaged over the step, hence the gradient is exactly that of the unsorted step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler


class StepSampler(Sampler[int]):
    """Indices of an epoch: a random order from seed and epoch, each run of `step` sorted by length."""

    def __init__(self, lengths: Sequence[int], *, step: int, seed: int) -> None:
        self._lengths, self._step, self._seed = list(lengths), step, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer, also when it resumes: the order depends on nothing else."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        for start in range(0, len(order), self._step):
            yield from sorted(order[start : start + self._step], key=lambda index: self._lengths[index])

    def __len__(self) -> int:
        return len(self._lengths)


class Collator:
    """Pads a batch, and while the model is training hides a share of its pieces: no single word may carry a label."""

    def __init__(self, tokenizer: Any, model: torch.nn.Module, token_dropout: float) -> None:
        from transformers import DataCollatorWithPadding

        self._pad, self._model, self._share = DataCollatorWithPadding(tokenizer), model, token_dropout
        self._mask = tokenizer.mask_token_id
        self._special = torch.tensor(sorted(tokenizer.all_special_ids))

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch: dict[str, torch.Tensor] = self._pad(features)
        if self._share and self._model.training:
            ids = batch["input_ids"]
            hidden = (torch.rand(ids.shape) < self._share) & ~torch.isin(ids, self._special)
            batch["input_ids"] = ids.masked_fill(hidden, self._mask)
        return batch


def make_trainer(**arguments: Any) -> Any:
    """A `transformers.Trainer` that draws its training batches with a `StepSampler` from the `length` column."""
    from transformers import Trainer

    class StepTrainer(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> StepSampler:
            # The dataset handed in has lost the columns that the model does not read.
            lengths = self.train_dataset["length"]
            step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
            return StepSampler(lengths, step=step, seed=self.args.seed)

    return StepTrainer(**arguments)
