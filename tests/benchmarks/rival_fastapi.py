"""`transformers.pipeline` behind FastAPI, as its documentation shows it: what many would write first."""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel


class Question(BaseModel):
    """One text."""

    text: str


def create() -> FastAPI:
    """The application; RIVAL_MODEL names the model's folder."""
    from transformers import pipeline

    pipe = pipeline("text-classification", model=os.environ["RIVAL_MODEL"], device="cpu", top_k=None)
    app = FastAPI()

    @app.post("/classify")
    def classify(question: Question) -> list[dict[str, Any]]:
        answers: list[list[dict[str, Any]]] = pipe([question.text], truncation=True)
        return answers[0]

    return app
