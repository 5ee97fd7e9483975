"""A fresh run with canaries among the records, watched from where the server stands: epsilon from below.

Which canaries are in is drawn by fair coins before anything is trained, and how many will be guessed is fixed
before anything is seen. What is looked at is what the server gets to know of the prototypes: every decrypted
sum, of every round. The classifiers and generators of the clients are not looked at here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from attacks.onerun import (
    ApproximateDP,
    GaussianDP,
    Guesses,
    chance_of_guesses,
    epsilon_lower_bound,
    guess,
)
from mosaic_secure.audit.sum_canaries import Evidence, SumCanaries, measure
from mosaic_secure.client.planted import plant_codes
from mosaic_secure.client.session import ClientHome
from mosaic_secure.data import load_client
from mosaic_secure.engine.local import RunResult, train
from mosaic_secure.errors import UserError
from mosaic_secure.plan import PROTOTYPE_ROUNDS
from mosaic_secure.protocol.codec import decode
from mosaic_secure.protocol.messages import DecryptReply, DecryptRequest, PrototypeRequest

if TYPE_CHECKING:
    from mosaic_secure.config import RunConfig
    from mosaic_secure.engine.parties import Federation
    from mosaic_secure.plan import EncryptedRound, RunPlan
    from mosaic_secure.progress import ProgressCallback

__all__ = ["Rehearsal", "rehearse"]

SURER = 8
"""One canary in so many is guessed in, and as many out, against the planned noise; fixed here, beforehand."""


@dataclass(frozen=True)
class Rehearsal:
    """What the guesses prove.

    Attributes:
        result: of the run itself.
        guesses: made and right, against the claim.
        claim: the epsilon that was tested. delta: of the claim.
        chance: the largest probability of so many right guesses if the claim holds.
        noise_guesses: made and right, fewer and surer ones, against the noise that the plan promises in the
            sums. noise_chance: of those, if the noise is there; None for a run without noise.
        lower_bound: the largest epsilon that the guesses speak against at the confidence asked for.
        confidence: of the lower bound.
        rounds: how many decrypted sums were looked at.
    """

    result: RunResult
    guesses: Guesses
    claim: float
    delta: float
    chance: float
    noise_guesses: Guesses
    noise_chance: float | None
    lower_bound: float
    confidence: float
    rounds: int


def rehearse(
    config: RunConfig,
    *,
    out: Path,
    ledger_dir: Path,
    canaries: int,
    each_side: int,
    claim: float,
    seed: int,
    confidence: float = 0.95,
    progress: ProgressCallback | None = None,
) -> Rehearsal:
    """Make a run of `config` with canaries and count the guesses.

    On public data the run is free where `ledger_dir` is a place of its own. On private data it is a full
    second run: its ledgers are charged, and whether they allow it is theirs to say.

    Args:
        out: the run directory, new or empty.
        canaries: how many, dealt to clients in turn. each_side: guessed in, and as many guessed out.
        claim: the epsilon to test.
        seed: of directions, classes and coins.

    Raises:
        UserError: the method has no prototypes, or the numbers do not fit.
        PrivacyError: as of `train`.
    """
    if config.method != "mosaic" or not config.prototypes.enabled:
        raise UserError("prototypes: the run has none, and these canaries are for their sums")
    if config.engine.name != "inprocess":
        raise UserError(f"engine.name = {config.engine.name!r}: what is watched runs in engine 'inprocess'")
    if not 1 <= each_side <= canaries // 2:
        raise UserError(
            f"guesses: {each_side} on each side; must be from 1 to {canaries // 2}, half of the canaries"
        )
    witness = _Witness(canaries, np.random.default_rng(seed))
    result = train(config, out=out, ledger_dir=ledger_dir, progress=progress, witness=witness)
    seen = witness.measured()
    scores, included = seen.evidence(), witness.placed.included
    guesses, surer = (guess(scores, included, side) for side in (each_side, max(1, canaries // SURER)))
    noise = None if math.isinf(seen.mu) else chance_of_guesses(surer, GaussianDP(seen.mu))
    delta = config.privacy.delta
    return Rehearsal(
        result=result,
        guesses=guesses,
        claim=claim,
        delta=delta,
        chance=chance_of_guesses(guesses, ApproximateDP(claim, delta)),
        noise_guesses=surer,
        noise_chance=noise,
        lower_bound=epsilon_lower_bound(guesses, delta, confidence),
        confidence=confidence,
        rounds=seen.rounds,
    )


@dataclass
class _Witness:
    """Plants the canaries and keeps what the server sees of the sums. Private to one rehearsal."""

    count: int
    rng: np.random.Generator
    plan: RunPlan = field(init=False)
    placed: SumCanaries = field(init=False)
    _asked: dict[str, dict[str, np.ndarray]] = field(default_factory=dict, init=False)
    _sums: dict[str, tuple[np.ndarray, list[str]]] = field(default_factory=dict, init=False)
    _deciding: str = field(default="", init=False)

    def begin(self, federation: Federation, run_id: str, plan: RunPlan) -> None:
        """Deal the canaries to the clients in turn."""
        self.plan = plan
        self.placed = SumCanaries.draw(plan.code_dim, plan.num_classes, self.count, self.rng)
        owners = np.arange(self.count) % len(federation.clients)
        for number, client in enumerate(federation.clients):
            mine = self.placed.included & (owners == number)
            home = ClientHome(federation.home / client, client)
            plant_codes(home.cache(run_id), self.placed.codes[mine], self.placed.labels[mine])

    def observe(self, kind: Literal["request", "reply"], node_id: int, message: bytes) -> None:
        """Keep broadcasts and sums; everything else passes."""
        from flwr.common.serde import message_from_proto
        from flwr.proto.message_pb2 import Message as MessageProto

        proto = MessageProto.FromString(message)
        action = proto.metadata.message_type
        wanted: dict[tuple[str, str], Any] = {
            ("request", PrototypeRequest.action): self._on_asked,
            ("request", DecryptRequest.action): self._on_deciding,
            ("reply", DecryptReply.action): self._on_sum,
        }
        handle = wanted.get((kind, action))
        if handle is not None:
            received = message_from_proto(proto)
            if not received.has_error():
                handle(received.content)

    def _on_asked(self, content: Any) -> None:
        request = decode(PrototypeRequest, content)
        self._asked.setdefault(request.round_id, request.broadcast)

    def _on_deciding(self, content: Any) -> None:
        self._deciding = decode(DecryptRequest, content).round_id

    def _on_sum(self, content: Any) -> None:
        reply = decode(DecryptReply, content)
        if reply.code == "ok":
            self._sums[self._deciding] = (reply.values["sum"], reply.contributors)

    def measured(self) -> Evidence:
        """All rounds of the prototypes whose sum came, together."""
        evidence = Evidence(self.count)
        codes, labels = self._known_records()
        for wanted in self.plan.rounds:
            if wanted.release not in PROTOTYPE_ROUNDS or wanted.round_id not in self._sums:
                continue
            total, contributors = self._sums[wanted.round_id]
            broadcast = self._asked[wanted.round_id]
            known = _without_noise(wanted, _as_released(wanted, codes, broadcast), labels, broadcast)
            found = measure(
                wanted.mechanism,
                total,
                known,
                _as_released(wanted, self.placed.codes, broadcast),
                self.placed.labels,
                broadcast.get("weights"),
                len(contributors),
            )
            evidence.add(found, _mu(wanted, len(contributors)))
        return evidence

    def _known_records(self) -> tuple[np.ndarray, np.ndarray]:
        """Codes and labels of all clients' records: the auditor knows them, as the worst adversary does."""
        from mosaic_secure.models.encoders import encode

        config, encoder = self.plan.config, self.plan.encoder()
        parts = [load_client(config, index, config.data.root) for index in range(config.clients.count)]
        codes = [encode(encoder, part.images) for part in parts]
        return np.concatenate(codes), np.concatenate([part.labels for part in parts])


def _mu(wanted: EncryptedRound, contributors: int) -> float:
    """What one record may change in the sum, in standard deviations of the noise that the plan promises."""
    mechanism = wanted.mechanism
    if mechanism.noise_multiplier == 0:
        return math.inf
    return math.sqrt(mechanism.honest / contributors) / mechanism.noise_multiplier


def _as_released(wanted: EncryptedRound, codes: np.ndarray, broadcast: dict[str, np.ndarray]) -> np.ndarray:
    """Codes as a client has them right before it releases."""
    from mosaic_secure.models.encoders import centre_codes

    if wanted.release == "centre":
        return codes
    centred = centre_codes(codes, broadcast["centre"])
    return centred.astype(np.float32) @ broadcast["metric"] if "metric" in broadcast else centred


def _without_noise(
    wanted: EncryptedRound, codes: np.ndarray, labels: np.ndarray, broadcast: dict[str, np.ndarray]
) -> np.ndarray:
    """What the records alone sum to, [length], on the mechanism's grid."""
    from privacy.randomness import NoiseSource

    silent = replace(wanted.mechanism, noise_multiplier=0.0, limit=2**62)
    nothing = NoiseSource(bytes(32), "no-noise-is-drawn")
    return silent.release(codes, labels, nothing, broadcast.get("weights"))
