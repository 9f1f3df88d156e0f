"""Fine-tuning over the same texts, once: ours without padding, and the plain `transformers.Trainer`."""

from __future__ import annotations

import contextlib
import io
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.models import ENCODER
from tests.benchmarks.report import Section, Table, log
from tests.benchmarks.rounds import alternate, ratio
from tests.benchmarks.texts import Drawer
from training.config import RunConfig, load_config
from training.labels import Labels, load_labels
from training.rows import Example
from training.train import DEFAULT_CONFIG

STEP, _ROUNDS, _MOST_TEXTS, _WARM_TEXTS, _VALIDATION = 32, 3, 512, 64, 8
_OURS, _DYNAMIC, _FIXED = "Vigie", "Trainer, dynamic padding", "Trainer, padded to 128"
# What changes the texts of an epoch is off, so that all read the same.
_SETTINGS = (
    "optim.epochs=1", f"optim.batch_size={STEP}", "optim.join=0", "optim.augment=0", "optim.teacher=0",
    "optim.recombine=0", "optim.probe=false", "optim.temperature=1", "optim.average=0",
)  # fmt: skip

Epoch = Callable[[Sequence[Example]], None]


def finetuning(drawer: Drawer, *, deadline: float, seed: int) -> Section:
    """CPU milliseconds a text of one epoch, tokenising and loading of batches included, one thread."""
    import torch

    torch.set_num_threads(1)
    labels = load_labels()
    config = load_config(DEFAULT_CONFIG, [*_SETTINGS, f"model.base={ENCODER}", f"seed={seed}"])
    epochs = contestants(config, labels)
    examples = _examples(drawer, labels, _texts(epochs, drawer, labels, deadline, seed), seed)
    texts = sum(example.split == "train" for example in examples)
    log(f"fine-tuning: {texts} texts an epoch")
    runs = {name: _timer(epoch, examples) for name, epoch in epochs.items()}
    found = alternate(runs, until=deadline, most=_ROUNDS, say=lambda line: log(f"fine-tuning, {line}"))
    figures = {
        name: {
            "cpu_ms": 1000 * statistics.median(values) / texts,
            "times_dynamic": ratio(found[_DYNAMIC], values),
        }
        for name, values in found.items()
    }
    notes = [
        f"rounds: {len(found[_OURS])}, of one epoch over {texts} texts, {STEP} a step, one thread, the compact "
        "encoder; the Trainer in fp32 with random batches, Vigie as configs/default.yaml has it (packed steps, bf16 "
        "where the processor multiplies in it)",
        "loading the encoder and saving a checkpoint count for all; padding to 128 also cuts longer texts to 128",
    ]
    table = Table(
        "Fine-tuning", ("how", "CPU ms a text", f"× {_DYNAMIC}"), [[n, *v.values()] for n, v in figures.items()], notes
    )
    return Section({"engines": figures, "cpu_seconds_by_round": found, "texts": texts}, [table])


def contestants(config: RunConfig, labels: Labels) -> dict[str, Epoch]:
    """Name → one epoch from the same encoder over given examples."""
    return {
        _OURS: lambda examples: _ours(config, labels, examples),
        _DYNAMIC: lambda examples: _trainer(config, labels, examples, padding="longest"),
        _FIXED: lambda examples: _trainer(config, labels, examples, padding="max_length"),
    }


def _timer(epoch: Epoch, examples: Sequence[Example]) -> Callable[[int], float]:
    def run(_: int) -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            start = time.process_time()
            epoch(examples)
            return time.process_time() - start

    return run


def _texts(epochs: dict[str, Epoch], drawer: Drawer, labels: Labels, deadline: float, seed: int) -> int:
    """As many as let two rounds end in time, from a small one that also warms everything up."""
    examples = _examples(drawer, labels, _WARM_TEXTS, seed + 1)
    start = time.monotonic()
    for epoch in epochs.values():
        _timer(epoch, examples)(0)
    cost = (time.monotonic() - start) / _WARM_TEXTS
    wanted = int((deadline - time.monotonic()) / 2 / cost)
    return max(_WARM_TEXTS, min(_MOST_TEXTS, wanted // STEP * STEP))


def _examples(drawer: Drawer, labels: Labels, count: int, seed: int) -> list[Example]:
    """`count` texts to train on and a few more, of the usual mix; labels, which do not matter for speed, at random."""
    chance, known = random.Random(seed), frozenset(labels.ids)
    return [
        Example(
            text=text, positive=frozenset(chance.sample(labels.ids, 2)), known=known, id=f"text{number}",
            group=None, split="validation" if number < _VALIDATION else "train", source="drawn", line=number,
        )
        for number, text in enumerate(drawer.draw(count + _VALIDATION, seed=seed))
    ]  # fmt: skip


def _ours(config: RunConfig, labels: Labels, examples: Sequence[Example]) -> None:
    from training.data import Corpus
    from training.fit import fit, seed_everything
    from training.model import load_base, windows_of

    seed_everything(config.seed)
    base = load_base(config.model, labels)
    windows = windows_of(config.model, base.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        fit(base, windows, config, Corpus(tuple(examples), ()), labels, Path(folder), resume=False)


def _trainer(config: RunConfig, labels: Labels, examples: Sequence[Example], *, padding: str) -> None:
    """As the documentation has it; it saves its checkpoint and looks at the same few validation texts, as ours does."""
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    from training.fit import seed_everything
    from training.model import load_base

    seed_everything(config.seed)
    base = load_base(config.model, labels)
    limit = 128 if padding == "max_length" else config.model.max_tokens

    def rows(split: str) -> list[dict[str, Any]]:
        chosen = [example for example in examples if example.split == split]
        encoded = base.tokenizer([example.text for example in chosen], truncation=True, max_length=limit)["input_ids"]
        return [
            {"input_ids": ids, "labels": [float(label in example.positive) for label in labels.ids]}
            for ids, example in zip(encoded, chosen, strict=True)
        ]

    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model=base.model,
            args=TrainingArguments(
                output_dir=folder, seed=config.seed, num_train_epochs=1, per_device_train_batch_size=STEP,
                learning_rate=config.optim.learning_rate, use_cpu=True, eval_strategy="epoch", save_strategy="epoch",
                report_to="none", disable_tqdm=True,
            ),
            train_dataset=rows("train"),
            eval_dataset=rows("validation"),
            data_collator=DataCollatorWithPadding(base.tokenizer, padding=padding, max_length=limit),
        ).train()  # fmt: skip
