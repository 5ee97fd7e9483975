"""The ClientApp of `hostile.py`: the product's own, but some clients poison what they give.

Which clients, and how, stands in the environment variable MOSAIC_HOSTILE as JSON: ``attack``, ``clients``
(positions), ``lie`` (false counts beside it). A hostile client does with its own records, its own counts and
its own weights what it likes, and breaks no rule that the server could check.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from mosaic_secure.client import session
from mosaic_secure.client.app import app as honest
from mosaic_secure.data.records import ClientData
from mosaic_secure.protocol.codec import from_flower, reply_to
from mosaic_secure.protocol.messages import LocalTrainingReply, PrototypeReply
from privacy.mechanisms import SumMechanism

VARIABLE = "MOSAIC_HOSTILE"
SOURCE, TARGET = 7, 1  # of attack "targeted"
BACKDOOR = 0  # the class that the trigger stands for
TRIGGERED = 0.5  # part of a backdoor client's records of other classes that carry it
BOAST = 0.9  # times its records, in each of ten classes: a lie that the server lets through


def with_trigger(images: np.ndarray) -> np.ndarray:
    """Images [N, C, S, S] with the last quarter of both sides white in the lower right corner."""
    side = max(1, images.shape[-1] // 4)
    changed = images.copy()
    changed[..., -side:, -side:] = 1.0
    return changed


def poisoned(data: ClientData, attack: str) -> ClientData:
    """A client's records as its owner would have them for an attack."""
    if attack == "flip":
        return replace(data, labels=(data.labels + 1) % data.num_classes)
    if attack == "targeted":
        return replace(data, labels=np.where(data.labels == SOURCE, TARGET, data.labels))
    if attack == "backdoor":
        other = np.flatnonzero(data.labels != BACKDOOR)
        chosen = other[np.random.default_rng(0).random(len(other)) < TRIGGERED]
        images, labels = data.images.copy(), data.labels.copy()
        images[chosen], labels[chosen] = with_trigger(images[chosen]), BACKDOOR
        return replace(data, images=images, labels=labels)
    return data


class _Hostile(ClientApp):
    """Lets the product's app answer, and corrupts what the chosen clients send."""

    def __call__(self, message: Message, context: Context) -> Message:
        plan = json.loads(os.environ.get(VARIABLE, '{"clients": []}'))
        if context.node_config.get("index") not in plan["clients"]:
            return honest(message, context)
        if plan["attack"] == "sums":
            with _ReversedSums():
                return honest(message, context)
        reply = honest(message, context)
        if reply.has_error():
            return reply
        if message.metadata.message_type == PrototypeReply.action and plan.get("lie"):
            said = from_flower(PrototypeReply, reply)
            counts = {n: np.full_like(value, BOAST * value.sum()) for n, value in said.counts.items()}
            return reply_to(message, replace(said, counts=counts))
        if message.metadata.message_type == LocalTrainingReply.action and plan["attack"] == "random":
            said = from_flower(LocalTrainingReply, reply)
            stream = np.random.default_rng(context.node_config["index"])
            weights = {name: _alike(value, stream) for name, value in said.classifier.items()}
            return reply_to(message, replace(said, classifier=weights))
        return reply


def _alike(array: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    """Normal numbers of the same root mean square."""
    size = float(np.sqrt(np.mean(np.square(array)))) if array.size else 0.0
    return (size * stream.standard_normal(array.shape)).astype(array.dtype)


class _ReversedSums:
    """While it lasts, sums that are encrypted are five times their negative, within the plan's limit."""

    def __enter__(self) -> None:
        self._real = SumMechanism.release

        def reversed_sums(mechanism: SumMechanism, *arguments: Any, **options: Any) -> np.ndarray:
            values = self._real(mechanism, *arguments, **options)
            encrypted = mechanism.limit < 2**61  # counts in the clear have no limit
            return np.clip(-5 * values, -mechanism.limit, mechanism.limit) if encrypted else values

        SumMechanism.release = reversed_sums

    def __exit__(self, *_: object) -> None:
        SumMechanism.release = self._real


_load = session.load_client


def _load_poisoned(config: Any, client_index: int, *arguments: Any, **options: Any) -> ClientData:
    plan = json.loads(os.environ.get(VARIABLE, '{"clients": []}'))
    data = _load(config, client_index, *arguments, **options)
    return poisoned(data, plan["attack"]) if client_index in plan["clients"] else data


session.load_client = _load_poisoned
app = _Hostile()
