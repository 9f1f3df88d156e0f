"""Third stage of the compact encoder: it is fine-tuned at length, and what it learnt is kept without the head.

    python -m training.specialise --set model.base=ENCODER --output FOLDER [--config FILE] [--data FILE-or-CARD]

What a long run on recombined texts teaches does not fit into the minutes of the default one. So the encoder that ships
has gone through it before, on the training split alone, told by classifiers that an earlier encoder became as well as
by n-grams (`optim.teachers`; students that overtake their teachers: Furlanello et al., ICML 2018).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from training.config import RunConfig, load_config
from training.data import Corpus, load_corpus
from training.errors import UserError, command
from training.fit import first_process
from training.labels import ROOT, Labels, load_labels
from training.tokenizer import FILES, copy_tokenizer

if TYPE_CHECKING:
    from training.model import BaseModel

CONFIG = ROOT / "configs" / "specialise.yaml"


def specialise(config: RunConfig, corpus: Corpus, labels: Labels, output: Path) -> None:
    """Fine-tune `config.model.base` on the training split and write the encoder, in half precision, to `output`.

    The head of masked-language modelling is carried over as it was; `training.pretrain --set train=head` fits it to
    the new states.

    Raises:
        UserError: no encoder with such a head at `model.base`, or something stands at `output`.
    """
    from training.fit import fit, seed_everything
    from training.model import load_base, windows_of

    source = Path(config.model.base)
    if output.exists():
        raise UserError(f"{output}: stands already; choose another --output")
    if missing := [name for name in ("config.json", *FILES) if not (source / name).is_file()]:
        raise UserError(
            f"model.base {config.model.base!r}: no encoder of training.pretrain here ({missing[0]} is missing)"
        )
    seed_everything(config.seed)
    base = load_base(config.model, labels)
    with tempfile.TemporaryDirectory() as checkpoints:
        fit(base, windows_of(config.model, base.tokenizer), config, corpus, labels, Path(checkpoints), resume=False)
    if first_process():
        _write(base, source, output)


def _write(base: BaseModel, source: Path, output: Path) -> None:
    from transformers import CamembertForMaskedLM

    masked = CamembertForMaskedLM.from_pretrained(source)
    masked.base_model.load_state_dict(base.model.base_model.state_dict())
    masked.half().save_pretrained(output)
    copy_tokenizer(source, output)


@command
def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m training.specialise", description="Third stage of the encoder.")
    parser.add_argument("--config", type=Path, default=CONFIG, help="default: configs/specialise.yaml")
    parser.add_argument("--data", action="append", metavar="FILE-or-CARD", help="may be repeated")
    parser.add_argument("--output", type=Path, required=True, help="where the encoder is written")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="for example model.base=FOLDER")
    arguments, labels = parser.parse_args(), load_labels()
    config = load_config(arguments.config, arguments.set)
    config.data.sources = arguments.data or config.data.sources
    specialise(config, load_corpus(config.data.sources, labels, config.data), labels, arguments.output)
    if first_process():
        print(f"encoder written to {arguments.output}; fine-tune it with --set model.base={arguments.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
