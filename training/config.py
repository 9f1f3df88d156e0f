"""Run configuration: typed, closed, defaults in the classes. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from training.errors import UserError
from training.perturb import PERTURBATIONS


def _known(name: str) -> str:
    if name not in PERTURBATIONS:
        raise ValueError(f"allowed: {', '.join(PERTURBATIONS)}")
    return name


PerturbationName = Annotated[str, AfterValidator(_known)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)


Settings = TypeVar("Settings", bound=BaseModel)


class CompactShape(_Closed):
    """Size of the encoder that is built when there is no pretrained one to start from."""

    hidden_size: int = Field(256, ge=16)
    layers: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)
    intermediate_size: int = Field(1024, ge=16)
    vocabulary: int = Field(8000, ge=300)


class ModelConfig(_Closed):
    """What is fine-tuned."""

    base: str = "training/encoder"
    """A folder in Hugging Face's format, a model id on the hub, or `random` for an encoder without pretraining."""
    revision: str | None = None
    """Branch, tag or commit on the hub; the commit it resolves to is recorded in the artifact."""
    max_tokens: int = Field(256, ge=16, le=512)
    """Window length in tokens, the two control tokens included."""
    overlap: int = Field(64, ge=0)
    """Tokens that two neighbouring windows of a long text share."""
    dropout: float = Field(0.1, ge=0, lt=1)
    attention_dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout of attention weights; `dropout` when null. Processors have no fast kernel for attention with it."""
    compact: CompactShape = CompactShape()
    """Shape of the encoder that `base: random` builds."""


class OptimConfig(_Closed):
    """How it is fine-tuned."""

    epochs: float = Field(8, gt=0)
    learning_rate: float = Field(3e-4, gt=0)
    head_learning_rate: float | None = Field(None, gt=0)
    """Rate of the classification head; the encoder's when null."""
    embedding_learning_rate: float | None = Field(None, gt=0)
    """Rate of the piece embeddings; the encoder's when null. A rare piece is met in a few steps only."""
    batch_size: int = Field(32, ge=1)
    """Examples per optimiser step, dealt out over all processes and accumulated batches."""
    gpu_batch_size: int | None = Field(128, ge=1)
    """Examples per step where a GPU is there; `batch_size` when null."""
    accumulation: int = Field(4, ge=1)
    """Parts in which a step is computed on a CPU where `packed` is off: short texts with short ones."""
    packed: bool = True
    """On a CPU, compute a step's texts in one row without padding (`training.packed`)."""
    token_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of a training text's pieces that are hidden behind the mask token, drawn anew each time."""
    augment: float = Field(0.0, ge=0, le=1)
    """Share of the training texts written in another way (SMS spelling, look-alike letters, …), drawn every epoch."""
    augment_kinds: list[PerturbationName] = []
    """The ways of writing to draw from, by their name in `training.perturb`; one that stands twice is drawn twice as
    often. All of them when empty."""
    join: float = Field(0.0, ge=0, le=1)
    """Share of the training texts joined with another, labels united, drawn every epoch."""
    join_characters: int = Field(200, ge=1)
    """Length up to which a text is joined to another."""
    teacher: float = Field(0.0, ge=0, le=1)
    """Weight of a linear teacher's probabilities in the targets (`training.teacher`), each text judged unseen."""
    own: float = Field(1.0, gt=0, le=1)
    """Share of the training texts that an epoch holds, drawn anew each time; the rest is what `recombine` adds."""
    recombine: float = Field(0.0, ge=0)
    """Rows added to every epoch for each training text: passages of several texts put together, with the linear
    teacher's probabilities as their targets (`training.recombine`)."""
    teachers: list[str] = []
    """Artifacts of other runs whose scores are averaged with the linear teacher's (`training.panel`)."""
    words: bool = False
    """Whether the linear teacher also reads words, pairs of words and characters, beside pieces and their pairs."""
    probe: bool = False
    """Whether linear probes of the encoder's own states join the teacher, and the head starts from what it says
    (`training.probe`). For an encoder that already knows something of the task."""
    evidence: float = Field(0.0, ge=0)
    """Weight of a second loss: the states before the last layer must tell what each token adds to the linear
    teacher's answer (`training.evidence`). Needs `teacher` or `recombine`."""
    temperature: float = Field(1.0, gt=0)
    """Temperature at which scores are compared with the targets; 2 learns more of a teacher's doubts than 1."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Targets become y(1 - s) + s/2: no label is learnt as certain."""
    average: float = Field(0.0, ge=0, lt=1)
    """Decay of a moving average of the weights, evaluated and kept in their place (0.998 is usual); 0 is none."""
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps over which the rate rises."""
    max_grad_norm: float = Field(1.0, gt=0)
    class_weight: Literal["none", "sqrt_inverse", "inverse"] = "sqrt_inverse"
    """Weight of a label's positives: 1, sqrt(negatives/positives) or negatives/positives; at most the next key."""
    max_class_weight: float = Field(10.0, ge=1)
    patience: int = Field(3, ge=1)
    """Evaluations without a better validation score before it stops."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` is bf16 where the GPU or the processor multiplies in it, and fp32 elsewhere."""


class DataConfig(_Closed):
    """What it learns from."""

    sources: list[str] = ["data_cards/testimonies"]
    """Cards (folders) or files."""
    max_characters: int = Field(20_000, ge=1)
    """Longer texts are reported, not cut."""
    min_positives: int = Field(8, ge=0)
    """A category with fewer positives in the training split cannot be learnt: an error. 0 trains all the same."""
    near_duplicate: float = Field(0.8, gt=0, le=1)
    """Jaccard similarity of character 5-grams from which two texts count as the same across splits."""


class RunConfig(_Closed):
    """A whole run. Every key can be set on the command line: `--set optim.epochs=3`."""

    name: str = Field("vigie-compact", pattern=r"^[a-z0-9][a-z0-9._-]*$")
    output: str = "artifacts/vigie-compact"
    seed: int = Field(1, ge=0)
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    data: DataConfig = DataConfig()


def load_config(path: Path | None = None, settings: Sequence[str] = ()) -> RunConfig:
    """Read a configuration file and apply `key=value` settings on top.

    Args:
        path: a YAML file; without one, the defaults.
        settings: dotted `key=value` pairs, the value read as YAML.

    Raises:
        UserError: a file that cannot be read, an unknown key or a value out of range, by name.
    """
    config = read_settings(RunConfig, path, settings)
    if config.model.overlap >= config.model.max_tokens - 2:
        raise UserError("model.overlap must be smaller than model.max_tokens - 2, so that windows advance")
    if config.optim.probe and not config.optim.recombine:
        raise UserError(
            "optim.probe needs recombined texts to start the head from: set optim.recombine, or probe=false"
        )
    if config.optim.evidence and not (config.optim.teacher or config.optim.recombine):
        raise UserError("optim.evidence needs a linear teacher: set optim.teacher or optim.recombine, or evidence=0")
    return config


def dump_config(config: RunConfig) -> str:
    """The resolved configuration as YAML, ready to be run again with `--config`."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_settings(model: type[Settings], path: Path | None, settings: Sequence[str]) -> Settings:
    """Read any closed configuration: a YAML file (or nothing but defaults), with dotted `key=value` pairs on top.

    Raises:
        UserError: a file that cannot be read, an unknown key or a value out of range, by name.
    """
    tree: Any = {}
    if path is not None:
        try:
            tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except FileNotFoundError:
            raise UserError(f"{path}: no such configuration; the project's own are in configs/") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
        if not isinstance(tree, dict):
            raise UserError(f"{path}: must hold keys and values, not a {type(tree).__name__}")
    for setting in settings:
        _apply(tree, setting)
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        faults = "; ".join(_explain(item, model) for item in error.errors())
        raise UserError(faults if path is None else f"{path}: {faults}") from None


def _apply(tree: dict[str, Any], setting: str) -> None:
    key, separator, value = setting.partition("=")
    if not separator or not key:
        raise UserError(f"--set {setting}: write it as key=value, for example --set seed=3")
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise UserError(f"--set {key}: {parent!r} is a value, not a section")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"--set {key}: the value is not valid YAML") from None


def _explain(item: Any, model: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown key {where!r}; allowed here: {', '.join(_allowed(item['loc'][:-1], model))}"
    return f"{where}: {item['msg']} (got {item['input']!r})"


def _allowed(location: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    """Keys of the section at a place; numbers in the place are positions in a list of sections."""
    for part in location:
        if isinstance(part, str):
            kind = model.model_fields[part].annotation
            for inner in (kind, *get_args(kind)):
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    model = inner
    return list(model.model_fields)
