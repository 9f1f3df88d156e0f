"""Fine-tune, from cards to an artifact: `python -m training.train`.

The story: read the data, split it, fine-tune, calibrate, evaluate, export. On several processes it is the same command
behind `torchrun --nproc_per_node N -m`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training.cards import SPLITS
from training.config import RunConfig, dump_config, load_config
from training.data import Corpus, label_matrix, load_corpus, to_dataset
from training.errors import UserError, command
from training.labels import ROOT, Labels, load_labels

if TYPE_CHECKING:
    from training.model import BaseModel, Windows

DEFAULT_CONFIG = ROOT / "configs" / "default.yaml"


def train(config: RunConfig, corpus: Corpus, labels: Labels, *, overwrite: bool = False, resume: bool = False) -> Path:
    """Fine-tune, calibrate, evaluate and export.

    Returns:
        The artifact directory. Checkpoints lie beside it in `.<name>.checkpoints` until it is written.

    Raises:
        UserError: the base model cannot be had, the place is taken, or there is nothing to resume.
    """
    from training.export import Trained, refuse_existing, write_artifact
    from training.model import load_base, score, windows_of

    target = Path(config.output)
    refuse_existing(target, overwrite=overwrite)
    checkpoints = _checkpoints(config, target, resume=resume)
    seed_everything(config.seed)
    base = load_base(config.model, labels, [example.text for example in corpus.split("train")])
    if _is_first() and not base.pretrained:
        print("note: the encoder starts from random weights (model.base is 'random'): expect modest scores")
    windows = windows_of(config.model, base.tokenizer)
    fit(base, windows, config, corpus, labels, checkpoints, resume=resume)
    if not _is_first():
        return target
    logits = {
        split: score(base.model, base.tokenizer, [e.text for e in corpus.split(split)], windows, labels)
        for split in ("validation", "test")
    }
    calibration, thresholds, metrics = conclude(logits, corpus, labels)
    trained = Trained(base, windows, labels, config, corpus, calibration, thresholds, metrics)
    base.model.cpu()
    write_artifact(trained, target, overwrite=overwrite)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return target


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
    from datasets import disable_progress_bars
    from transformers import EarlyStoppingCallback
    from transformers.utils import logging as transformers_logging

    from training.model import MaskedLoss, encode, positive_weights
    from training.sampler import Collator, make_trainer

    disable_progress_bars()
    transformers_logging.set_verbosity_error()
    # Of loading and saving weights, not of training.
    transformers_logging.disable_progress_bar()

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        pieces = encode(batch["text"], base.tokenizer, windows)
        rows = [(ids, target) for ids_of, target in zip(pieces, batch["targets"], strict=True) for ids in ids_of]
        return {
            "input_ids": [ids for ids, _ in rows],
            "labels": [target for _, target in rows],
            "length": [len(ids) for ids, _ in rows],
        }

    dataset = to_dataset(corpus, labels)
    inputs = dataset.map(
        tokenize, batched=True, remove_columns=dataset["train"].column_names, load_from_cache_file=False
    )
    weights = positive_weights(
        label_matrix(corpus.split("train"), labels), config.optim.class_weight, config.optim.max_class_weight
    )
    trainer = make_trainer(
        model=base.model,
        args=_arguments(config, checkpoints),
        train_dataset=inputs["train"],
        # Of similar length side by side, so that little padding is scored.
        eval_dataset=inputs["validation"].select(np.argsort(inputs["validation"]["length"], kind="stable")),
        processing_class=base.tokenizer,
        data_collator=Collator(base.tokenizer, base.model, config.optim.token_dropout),
        compute_loss_func=MaskedLoss(weights),
        compute_metrics=lambda prediction: _validation_metrics(prediction, labels),
        optimizers=(_optimizer(base, config), None),  # type: ignore[arg-type]
        callbacks=[EarlyStoppingCallback(early_stopping_patience=config.optim.patience), _epoch_printer()],
    )
    _quiet(trainer)
    _check_processes(trainer.args.world_size)
    trainer.train(resume_from_checkpoint=resume)


def conclude(
    logits: dict[str, np.ndarray], corpus: Corpus, labels: Labels
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Calibration and thresholds from validation, and the figures of validation and test.

    Returns:
        calibration, thresholds, metrics as their files hold them.
    """
    from training.calibration import apply_calibration, fit_calibration
    from training.figures import evaluation
    from training.thresholds import DEFAULT, choose_thresholds

    truth = label_matrix(corpus.split("validation"), labels)
    calibration = fit_calibration(logits["validation"], truth, labels.ids)
    scores = {split: apply_calibration(values, calibration, labels.ids) for split, values in logits.items()}
    thresholds = choose_thresholds(truth, scores["validation"], labels.ids)
    metrics: dict[str, Any] = {"operating_point": DEFAULT, "counts": counts(corpus, labels)}
    for split in ("validation", "test"):
        examples = corpus.split(split)
        metrics[split] = evaluation(examples, scores[split], thresholds, labels) if examples else None
    return calibration, thresholds, metrics


def counts(corpus: Corpus, labels: Labels) -> dict[str, dict[str, int]]:
    """Texts and positives of every label, by split."""
    table = {}
    for split in SPLITS:
        examples = corpus.split(split)
        row = {"texts": len(examples)}
        row |= {label: sum(label in example.positive for example in examples) for label in labels.ids}
        row["no_category"] = sum(not example.positive & set(labels.category_ids) for example in examples)
        table[split] = row
    return table


def print_counts(corpus: Corpus, labels: Labels) -> None:
    """The counts as a table."""
    table = counts(corpus, labels)
    print(f"{'':22}" + "".join(f"{split:>12}" for split in SPLITS))
    for row in table["train"]:
        print(f"{row:22}" + "".join(f"{table[split][row]:>12}" for split in SPLITS))


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch: the same seed gives the same head, order and dropout."""
    from transformers import set_seed

    set_seed(seed)


def _arguments(config: RunConfig, checkpoints: Path) -> Any:
    import torch
    from transformers import TrainingArguments

    gpu = torch.cuda.is_available()
    optim = config.optim
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    batch_size, accumulation = optim.batch_size, optim.accumulation
    if gpu:
        batch_size, accumulation = optim.gpu_batch_size or batch_size, 1
    share, rest = divmod(batch_size, processes * accumulation)
    if rest or not share:
        raise UserError(
            f"a step of {batch_size} examples cannot be dealt out evenly to {processes} processes in {accumulation} "
            "parts; change optim.batch_size or optim.accumulation"
        )
    bf16 = optim.precision == "bf16" or (optim.precision == "auto" and gpu and torch.cuda.is_bf16_supported())
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
        bf16=bf16,
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
        report_to="none",
        disable_tqdm=not sys.stderr.isatty() and "VIGIE_PROGRESS" not in os.environ,
    )


def _optimizer(base: BaseModel, config: RunConfig) -> Any:
    """AdamW with rates of their own for head and embeddings; biases and normalisation weights do not decay."""
    import torch

    optim = config.optim
    rates = {
        "head": optim.head_learning_rate or optim.learning_rate,
        "embeddings": optim.embedding_learning_rate or optim.learning_rate,
        "encoder": optim.learning_rate,
    }
    groups: dict[tuple[str, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in base.model.named_parameters():
        part = "head" if name.startswith("classifier.") else "embeddings" if "word_embeddings" in name else "encoder"
        groups.setdefault((part, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rates[part], "weight_decay": optim.weight_decay if decays else 0.0}
            for (part, decays), parameters in groups.items()
        ],
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


def _checkpoints(config: RunConfig, target: Path, *, resume: bool) -> Path:
    """The checkpoint folder of a run: emptied for a new run, checked against the configuration for a resumed one."""
    folder = target.parent / f".{target.name}.checkpoints"
    saved = folder / "run.yaml"
    if resume:
        if not any(folder.glob("checkpoint-*")):
            raise UserError(f"{folder}: no checkpoint to resume from; start without --resume")
        if saved.read_text(encoding="utf-8") != dump_config(config):
            raise UserError(f"{saved}: the interrupted run had another configuration; resume with the same settings")
    elif _is_first():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        saved.write_text(dump_config(config), encoding="utf-8")
    return folder


def _is_first() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _check_processes(world_size: int) -> None:
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size != wanted:
        raise UserError(f"{wanted} processes were started but the Trainer joined {world_size}; use torchrun")
    if _is_first() and world_size > 1:
        print(f"training on {world_size} processes")


def _parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.train", description="Fine-tune and write an artifact.")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="default: configs/default.yaml")
    parser.add_argument(
        "--data", action="append", metavar="FILE-or-CARD", help="may be repeated; replaces data.sources"
    )
    parser.add_argument("--output", help="artifact directory; replaces output")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="for example optim.epochs=3")
    parser.add_argument("--check", action="store_true", help="check configuration and data, print the counts, stop")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of an interrupted run")
    parser.add_argument("--overwrite", action="store_true", help="replace the artifact that stands at --output")
    return parser.parse_args(arguments)


@command
def main() -> int:
    arguments = _parse()
    labels = load_labels()
    config = load_config(arguments.config, arguments.set)
    if arguments.data:
        config.data.sources = arguments.data
    if arguments.output:
        config.output = arguments.output
    corpus = load_corpus(config.data.sources, labels, config.data)
    if _is_first():
        print_counts(corpus, labels)
    if arguments.check:
        print("configuration and data are sound")
        return 0
    target = train(config, corpus, labels, overwrite=arguments.overwrite, resume=arguments.resume)
    if _is_first():
        from training.evaluate import print_evaluation, read_json

        print_evaluation(read_json(target / "metrics.json")["test"], labels)
        print(f"artifact written to {target}; serve it with: python -m serving --artifact {target}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
