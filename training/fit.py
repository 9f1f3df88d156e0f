"""Fine-tuning with the `transformers.Trainer`: the part of a run that takes minutes."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training.config import OptimConfig, RunConfig
from training.data import Corpus, label_matrix
from training.errors import UserError
from training.labels import Labels

if TYPE_CHECKING:
    from training.model import BaseModel, Windows


_PROBE_ROWS = 2000
"""Recombined rows from which the head starts."""


def fit(
    base: BaseModel,
    windows: Windows,
    config: RunConfig,
    corpus: Corpus,
    labels: Labels,
    checkpoints: Path,
    *,
    resume: bool,
) -> None:
    """Fine-tune `base.model` in place; afterwards it holds the weights that were best on validation."""
    from transformers import EarlyStoppingCallback

    from training.augment import training_texts
    from training.averaging import WeightAverage
    from training.evidence import evidence_forward, with_evidence
    from training.model import MaskedLoss, positive_weights
    from training.packed import packed_forward
    from training.probe import start_head
    from training.sampler import Collator, PackingCollator, make_trainer

    optim, packed = config.optim, _packed(config.optim)
    weights = positive_weights(label_matrix(corpus.split("train"), labels), optim.class_weight, optim.max_class_weight)
    train_texts = training_texts(base, windows, config, corpus.split("train"), labels)
    shares = train_texts.shares if optim.evidence else None
    collator = (PackingCollator if packed else Collator)(base.tokenizer, optim.token_dropout, shares)
    loss = with_evidence(MaskedLoss(weights, optim.label_smoothing, optim.temperature), optim.evidence)
    if optim.probe:
        start_head(base.model, train_texts.told(_PROBE_ROWS), pad_id=windows.pad_id)
    with ExitStack() as stack:
        if packed:
            stack.enter_context(packed_forward(base.model))
        if shares is not None:
            stack.enter_context(evidence_forward(base.model, len(labels.ids)))
        trainer = make_trainer(
            model=base.model,
            args=_arguments(config, checkpoints, packed=packed),
            train_dataset=train_texts,
            eval_dataset=_validation_rows(base, windows, corpus, labels),
            processing_class=base.tokenizer,
            data_collator=Collator(base.tokenizer, 0.0),
            training_collator=collator,
            compute_loss_func=loss,
            compute_metrics=lambda prediction: _validation_metrics(prediction, labels),
            optimizers=(_optimizer(base, config), None),
            callbacks=[
                *([WeightAverage(optim.average)] if optim.average else []),
                EarlyStoppingCallback(early_stopping_patience=optim.patience),
                _epoch_printer(),
            ],
        )
        _quiet(trainer)
        _check_processes(trainer.args.world_size)
        trainer.train(resume_from_checkpoint=resume)


def _validation_rows(base: BaseModel, windows: Windows, corpus: Corpus, labels: Labels) -> list[dict[str, Any]]:
    """Windows of the validation texts, of similar length side by side, so that little padding is scored."""
    from training.model import encode

    examples = corpus.split("validation")
    pieces = encode([example.text for example in examples], base.tokenizer, windows)
    targets = label_matrix(examples, labels).tolist()
    rows = [
        {"input_ids": ids, "labels": target} for ids_of, target in zip(pieces, targets, strict=True) for ids in ids_of
    ]
    return sorted(rows, key=lambda row: len(row["input_ids"]))


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch: the same seed gives the same head, order and dropout."""
    from transformers import set_seed

    set_seed(seed)


def _arguments(config: RunConfig, checkpoints: Path, *, packed: bool) -> Any:
    import torch
    from transformers import TrainingArguments

    gpu = torch.cuda.is_available()
    optim = config.optim
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    batch_size, accumulation = optim.batch_size, 1 if packed else optim.accumulation
    if gpu:
        batch_size, accumulation = optim.gpu_batch_size or batch_size, 1
    share, rest = divmod(batch_size, processes * accumulation)
    if rest or not share:
        raise UserError(
            f"a step of {batch_size} examples cannot be dealt out evenly to {processes} processes in {accumulation} "
            "parts; change optim.batch_size or optim.accumulation"
        )
    return TrainingArguments(
        output_dir=str(checkpoints),
        seed=config.seed,
        num_train_epochs=optim.epochs,
        per_device_train_batch_size=share,
        per_device_eval_batch_size=64,
        gradient_accumulation_steps=accumulation,
        learning_rate=optim.learning_rate,
        warmup_steps=optim.warmup,
        lr_scheduler_type="linear",
        max_grad_norm=optim.max_grad_norm,
        bf16=_bf16(optim.precision),
        use_cpu=not gpu,
        ddp_backend="gloo" if processes > 1 and not gpu else None,
        ddp_find_unused_parameters=False,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        logging_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="macro_average_precision",
        greater_is_better=True,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=not sys.stderr.isatty() and "VIGIE_PROGRESS" not in os.environ,
    )


def _packed(optim: OptimConfig) -> bool:
    import torch

    return optim.packed and not torch.cuda.is_available()


def _bf16(precision: str) -> bool:
    """`auto`: where the hardware multiplies in bfloat16; emulated, it would be slower than single precision."""
    import torch

    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


def _optimizer(base: BaseModel, config: RunConfig) -> Any:
    """AdamW with rates of their own for head and embeddings; biases and normalisation weights do not decay.

    Its second moment looks back 50 steps instead of 1,000, which is most of a run.
    """
    import torch

    from training.evidence import HEAD

    optim = config.optim
    rates = {
        "head": optim.head_learning_rate or optim.learning_rate,
        "embeddings": optim.embedding_learning_rate or optim.learning_rate,
        "encoder": optim.learning_rate,
    }
    groups: dict[tuple[str, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in base.model.named_parameters():
        new = name.startswith(("classifier.", f"{HEAD}."))
        part = "head" if new else "embeddings" if "word_embeddings" in name else "encoder"
        groups.setdefault((part, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rates[part], "weight_decay": optim.weight_decay if decays else 0.0}
            for (part, decays), parameters in groups.items()
        ],
        betas=(0.9, 0.98),
        fused=True,
    )


def _validation_metrics(prediction: Any, labels: Labels) -> dict[str, float]:
    from training.metrics import average_precision

    logits, truth = prediction.predictions, prediction.label_ids
    values = []
    for column in range(len(labels.category_ids)):
        decided = truth[:, column] >= 0
        value = average_precision(truth[decided, column], logits[decided, column])
        if value is not None:
            values.append(value)
    return {"macro_average_precision": float(np.mean(values)) if values else 0.0}


def _epoch_printer() -> Any:
    from tqdm.auto import tqdm
    from transformers import TrainerCallback

    class EpochPrinter(TrainerCallback):  # type: ignore[misc]
        """One line an epoch, whatever the width of the terminal."""

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
            if state.is_world_process_zero and metrics:
                loss = next((entry["loss"] for entry in reversed(state.log_history) if "loss" in entry), float("nan"))
                ap = metrics["eval_macro_average_precision"]
                tqdm.write(
                    f"epoch {state.epoch:.0f}: training loss {loss:.4f}, validation loss {metrics['eval_loss']:.4f}, "
                    f"macro average precision {ap:.4f}"
                )

    return EpochPrinter()


def _quiet(trainer: Any) -> None:
    """Keep the progress bars and leave out the dictionaries that the Trainer prints beside our line an epoch."""
    from transformers import PrinterCallback, ProgressCallback

    class Bars(ProgressCallback):  # type: ignore[misc]
        def on_log(self, *_: Any, **__: Any) -> None:
            pass

    trainer.remove_callback(PrinterCallback)
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(Bars())


def _check_processes(world_size: int) -> None:
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size != wanted:
        raise UserError(f"{wanted} processes were started but the Trainer joined {world_size}; use torchrun")
    if first_process() and world_size > 1:
        print(f"training on {world_size} processes")


def first_process() -> bool:
    """Whether this is the only process of the run, or the one among several that writes files and lines."""
    return int(os.environ.get("RANK", "0")) == 0
