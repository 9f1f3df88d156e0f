"""Training texts that change from epoch to epoch: written as people evade filters, or joined with another text.

Only the training split passes through here. What an epoch holds depends on the seed and the number of the epoch alone,
so an interrupted run that goes on, and every process of a run, draws the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from training.config import OptimConfig, RunConfig
from training.data import UNKNOWN, label_matrix
from training.evidence import Shares, spared, standardised
from training.labels import Labels
from training.model import BaseModel, Windows, encode
from training.panel import artifact_teacher
from training.perturb import PERTURBATIONS
from training.recombine import Recombiner
from training.rows import Example
from training.teacher import Ngrams, Teacher, View, Words, blended_targets

KINDS = tuple(PERTURBATIONS)


class VariedTexts(Dataset[dict[str, Any]]):
    """The windows of all training texts, drawn and tokenised anew for every epoch (about 0.3 ms a text).

    The number of rows never changes, since the steps of a run are counted before it: a variant that would need more or
    fewer windows than its text is not used.
    """

    def __init__(
        self,
        texts: Sequence[str],
        pieces: Sequence[list[list[int]]],
        targets: np.ndarray,
        *,
        tokenizer: Any,
        windows: Windows,
        optim: OptimConfig,
        voices: int,
        seed: int,
        recombiner: Recombiner | None = None,
        shares: Shares | None = None,
    ) -> None:
        """Pieces are the texts' windows as `training.model.encode` gives them, targets of shape (texts, labels) as
        `label_matrix` gives them, the last `voices` columns the voices.

        An epoch holds `optim.own` of the texts' rows and, with a recombiner, `optim.recombine` rows a text. `shares`
        are kept for the collator, brought to one scale by the texts.
        """
        self._texts, self._targets = list(texts), targets
        self._tokenizer, self._windows, self._optim = tokenizer, windows, optim
        self._voices, self._seed, self._recombiner = voices, seed, recombiner
        self._clean = pieces
        self._places = [(text, window) for text, ids in enumerate(self._clean) for window in range(len(ids))]
        self.shares = standardised(shares, [each[0] for each in self._clean]) if shares is not None else None
        self._short = [index for index, text in enumerate(texts) if len(text) <= optim.join_characters]
        self._rows: list[dict[str, Any]] = []
        self._epoch: int | None = None
        self.draw(0)

    def draw(self, epoch: int) -> list[int]:
        """Make the rows of an epoch (drawn once, however often it is asked for); returns their lengths in tokens."""
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, self._drawn(random.Random(self._seed * 1_000_003 + epoch))
        return [len(row["input_ids"]) for row in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._rows[index]

    def told(self, count: int) -> list[dict[str, Any]]:
        """`count` recombined rows beside those of the epochs; none without a recombiner."""
        return self._recombiner.rows(count, random.Random(self._seed)) if self._recombiner is not None else []

    def _drawn(self, chance: random.Random) -> list[dict[str, Any]]:
        chosen = self._places
        if self._optim.own < 1:
            chosen = sorted(chance.sample(chosen, max(1, round(self._optim.own * len(chosen)))))
        texts = sorted({text for text, _ in chosen})
        variants = [self._variant(text, chance) for text in texts]
        pieces = encode([text for text, _ in variants], self._tokenizer, self._windows)
        drawn = {
            text: self._row_windows(text, target, varied)
            for text, (_, target), varied in zip(texts, variants, pieces, strict=True)
        }
        rows = [drawn[text][window] for text, window in chosen]
        if self._recombiner is not None:
            rows += self._recombiner.rows(round(self._optim.recombine * len(self._texts)), chance)
        return rows

    def _row_windows(self, text: int, target: np.ndarray, varied: list[list[int]]) -> list[dict[str, Any]]:
        """A row for each window of a text, as it was rewritten if that left their number as it was."""
        clean = self._clean[text]
        fits = len(varied) == len(clean)
        labels = (target if fits else self._targets[text]).tolist()
        return [{"input_ids": ids, "labels": labels} for ids in (varied if fits else clean)]

    def _variant(self, index: int, chance: random.Random) -> tuple[str, np.ndarray]:
        text, target = self._texts[index], self._targets[index]
        if self._short and chance.random() < self._optim.join:
            other = chance.choice(self._short)
            if other != index:
                pair = [text, self._texts[other]]
                chance.shuffle(pair)
                text, target = " ".join(pair), joined_targets(target, self._targets[other], voices=self._voices)
        if chance.random() < self._optim.augment:
            kind = chance.choice(self._optim.augment_kinds or KINDS)
            text = PERTURBATIONS[kind].apply(text, chance)
        return text, target


def training_texts(
    base: BaseModel, windows: Windows, config: RunConfig, examples: Sequence[Example], labels: Labels
) -> VariedTexts:
    """The rows to train on: the examples' own, softened and added to by a linear teacher where the run has one."""
    optim, texts, recombiner, shares = config.optim, [example.text for example in examples], None, None
    targets, pieces = label_matrix(examples, labels), encode(texts, base.tokenizer, windows)
    if optim.teacher or optim.recombine:
        whole = [[token for window in one for token in window] for one in pieces]
        groups = [example.group or example.id for example in examples]
        teacher = Teacher(whole, targets, groups, _views(base, windows, optim), unseen=bool(optim.teacher))
        if teacher.unseen is not None:
            targets = blended_targets(targets, teacher.unseen, weight=optim.teacher)
        shares = spared(teacher.shares, base.tokenizer.all_special_ids) if optim.evidence else None
        if optim.recombine:
            panel = [artifact_teacher(Path(folder), labels) for folder in optim.teachers]
            recombiner = Recombiner(
                texts,
                # Recombined texts are short: what a second window would hold is left out.
                tokenize=lambda drawn: [each[0] for each in encode(drawn, base.tokenizer, windows)],
                teacher=lambda drawn, ids: np.mean([teacher(ids), *(told(drawn) for told in panel)], axis=0),
                rewritten=optim.augment,
                kinds=optim.augment_kinds or KINDS,
            )
    return VariedTexts(
        texts,
        pieces,
        targets,
        tokenizer=base.tokenizer,
        windows=windows,
        optim=optim,
        voices=len(labels.voice_ids),
        seed=config.seed,
        recombiner=recombiner,
        shares=shares,
    )


def _views(base: BaseModel, windows: Windows, optim: OptimConfig) -> list[View]:
    views: list[View] = [Ngrams()]
    if optim.words:
        views.append(Words(partial(base.tokenizer.batch_decode, skip_special_tokens=True)))
    if optim.probe:
        from training.probe import States

        views.append(States(base.model, pad_id=windows.pad_id, max_tokens=windows.max_tokens))
    return views


def joined_targets(first: np.ndarray, second: np.ndarray, *, voices: int) -> np.ndarray:
    """Targets of two texts read as one, of shape (labels,).

    A category or context holds as surely as in the text where it is surer, and is unknown where neither surely has it
    and one is unknown; the voice (the last `voices` columns) is kept where both have the same, and unknown otherwise.
    """
    unknown = ((first == UNKNOWN) | (second == UNKNOWN)) & (np.maximum(first, second) <= 0.5)
    joined = np.where(unknown, UNKNOWN, np.maximum(first, second)).astype(first.dtype)
    own, other = first[-voices:], second[-voices:]
    same = ((own > 0.5) == (other > 0.5)).all() and (own != UNKNOWN).all() and (other != UNKNOWN).all()
    joined[-voices:] = np.maximum(own, other) if same else UNKNOWN
    return joined
