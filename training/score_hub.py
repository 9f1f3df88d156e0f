"""Another system's scores: `python -m training.score_hub MODEL --output FILE --data CARD --map toxic=cyberbullying`.

Scores the validation and test texts with any sequence classifier in Hugging Face's format, a folder or an id on the
hub, and writes them as `training.predictions` reads them, for `training.evaluate --predictions`, `training.compare`
and `training.baselines --predictions`. Which output of the model stands for which of our labels, `--map` says.

Detoxify's multilingual checkpoint is on the hub as `unitary/multilingual-toxic-xlm-roberta`. Its outputs are
independent of each other, so give it `--activation sigmoid`. A wrong `--map` is answered with the names of the outputs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from training.cards import SPLITS
from training.config import load_config
from training.data import load_corpus
from training.errors import UserError, command
from training.labels import Labels, load_labels
from training.predictions import check_output, texts_of, write_predictions
from training.readers import FORMATS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Array = NDArray[np.floating[Any]]
ACTIVATIONS = ("auto", "sigmoid", "softmax")
_BATCH = 16
_LONGEST = 512


def load(source: str, revision: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The classifier and its tokenizer, on the GPU where there is one.

    Raises:
        UserError: it cannot be had, or it is an encoder whose classifier would start from random weights.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            source, revision=revision, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{source}: no such classifier here or on the hub: {str(error).splitlines()[0]}") from None
    if info["missing_keys"]:
        raise UserError(f"{source}: holds no trained classifier (its {sorted(info['missing_keys'])[0]} is missing)")
    return model.to("cuda" if torch.cuda.is_available() else "cpu").float().eval(), tokenizer


def probabilities(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, activation: str = "auto"
) -> tuple[Array, int]:
    """Probabilities of shape (texts, outputs), and how many texts were longer than the model reads and were cut.

    Args:
        activation: "auto" is the sigmoid for a single output and where the model says that it is multi-label, else
            the softmax, as in Hugging Face's own pipeline.
    """
    import torch

    if activation == "auto":
        independent = model.config.num_labels == 1 or model.config.problem_type == "multi_label_classification"
        activation = "sigmoid" if independent else "softmax"
    # Positions of RoBERTa and its like start after the padding id.
    room = getattr(model.config, "max_position_embeddings", None) or _LONGEST
    limit = min(tokenizer.model_max_length, room - 2, _LONGEST)
    lengths = [len(ids) for ids in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]
    order = sorted(range(len(texts)), key=lambda index: lengths[index])
    size = _BATCH if tokenizer.pad_token is not None else 1
    scores = np.empty((len(texts), model.config.num_labels))
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        encoded = tokenizer(
            [texts[index] for index in batch], padding=size > 1, truncation=True, max_length=limit, return_tensors="pt"
        )
        with torch.inference_mode():
            logits = model(**encoded.to(model.device)).logits.double()
        found = logits.sigmoid() if activation == "sigmoid" else logits.softmax(-1)
        scores[batch] = found.cpu().numpy()
    return scores, sum(length > limit for length in lengths)


def parse_map(texts: Sequence[str], outputs: Sequence[str], labels: Labels) -> dict[str, list[int]]:
    """label → columns of the model's outputs that stand for it, from `output=label` each.

    Raises:
        UserError: something else, or an output or a label that is not there.
    """
    mapping: dict[str, list[int]] = {}
    for text in texts:
        output, _, label = text.rpartition("=")
        if output not in outputs:
            raise UserError(f"--map {text!r}: must be OUTPUT=LABEL; the model's outputs: {', '.join(outputs)}")
        if label not in labels.ids:
            raise UserError(f"--map {text!r}: unknown label {label!r}; allowed: {', '.join(labels.ids)}")
        mapping.setdefault(label, []).append(outputs.index(output))
    return mapping


def mapped(scores: Array, mapping: Mapping[str, Sequence[int]], labels: Labels) -> Array:
    """From (texts, outputs) to (texts, labels): the highest of a label's outputs, NaN where it has none."""
    columns = [scores[:, mapping[label]].max(axis=1) if label in mapping else None for label in labels.ids]
    return np.stack([np.full(len(scores), np.nan) if column is None else column for column in columns], axis=1)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.score_hub", description="Another system's scores.")
    parser.add_argument("model", metavar="MODEL", help="folder in Hugging Face's format, or a model id on the hub")
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help=" ".join(FORMATS))
    parser.add_argument("--data", action="append", required=True, metavar="FILE-or-CARD", help="may be repeated")
    parser.add_argument("--split", action="append", choices=SPLITS, help="may be repeated; default: validation, test")
    parser.add_argument(
        "--map",
        action="extend",
        nargs="+",
        required=True,
        metavar="OUTPUT=LABEL",
        help="of several, the highest counts",
    )
    parser.add_argument("--activation", choices=ACTIVATIONS, default="auto", help="default: what the model says")
    parser.add_argument(
        "--set", action="append", default=[], metavar="key=value", help="for example data.near_duplicate=1"
    )
    return parser.parse_args()


@command
def main() -> int:
    arguments, labels = _parse(), load_labels()
    check_output("--output", arguments.output, FORMATS)
    corpus = load_corpus(arguments.data, labels, load_config(None, arguments.set).data, trainable=False)
    splits = dict.fromkeys(arguments.split or ("validation", "test"))
    examples = [example for split in splits for example in texts_of(corpus, split)]
    model, tokenizer = load(arguments.model, arguments.revision)
    outputs = [model.config.id2label[column] for column in range(model.config.num_labels)]
    mapping = parse_map(arguments.map, outputs, labels)
    texts = [example.text for example in examples]
    scores, cut = probabilities(model, tokenizer, texts, activation=arguments.activation)
    write_predictions(arguments.output, examples, mapped(scores, mapping, labels), labels)
    print(f"scored {len(examples)} texts of {', '.join(splits)} for {', '.join(mapping)}: {arguments.output}")
    if cut:
        print(f"{cut} of them are longer than the model reads, and were cut")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
