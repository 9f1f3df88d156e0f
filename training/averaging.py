"""A moving average of the weights over the optimiser's steps: evaluated, saved and kept in place of the last ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from training.errors import UserError

UNAVERAGED = "unaveraged.safetensors"
"""Beside the averaged weights of a checkpoint: those that training goes on from."""


class WeightAverage(TrainerCallback):  # type: ignore[misc]
    """Average ← d · average + (1 - d) · weights after every step; swapped in from an epoch's end until it is saved.

    d is `decay`, and (1 + step) / (10 + step) while that is smaller, so that the first weights are soon forgotten.
    Needs evaluation and checkpoints at the end of every epoch.
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._average: dict[str, torch.Tensor] = {}
        self._weights: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: torch.nn.Module, **_: Any) -> None:
        self._average = _copy(model)
        if state.global_step:  # Resumed: what the checkpoint gave the model is the average.
            saved = _folder(args, state) / UNAVERAGED
            if not saved.is_file():
                raise UserError(f"{saved}: missing, so this run cannot be gone on with; start without --resume")
            _set(model, load_file(saved))

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: torch.nn.Module, **_: Any) -> None:
        decay = min(self._decay, (1 + state.global_step) / (10 + state.global_step))
        for name, parameter in model.named_parameters():
            self._average[name].lerp_(parameter.detach(), 1 - decay)

    def on_epoch_end(self, args: Any, state: Any, control: Any, *, model: torch.nn.Module, **_: Any) -> None:
        self._weights = _copy(model)
        _set(model, self._average)

    def on_save(self, args: Any, state: Any, control: Any, *, model: torch.nn.Module, **_: Any) -> None:
        if state.is_world_process_zero:
            part = _folder(args, state) / f"{UNAVERAGED}.part"
            save_file(self._weights, part)
            part.replace(part.with_suffix(""))
        _set(model, self._weights)


def _copy(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def _set(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])


def _folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
