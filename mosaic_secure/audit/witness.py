"""Plants canaries in a run that is about to begin, and keeps what the server gets to see of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mosaic_secure.audit.mask_watch import MaskWatch
from mosaic_secure.audit.record_canaries import RecordCanaries
from mosaic_secure.audit.sum_canaries import Evidence, SumCanaries, measure
from mosaic_secure.client.planted import plant_codes, plant_records
from mosaic_secure.client.session import ClientHome
from mosaic_secure.data import load_client, load_public_test
from mosaic_secure.engine.inprocess import FIRST_NODE_ID
from mosaic_secure.plan import PROTOTYPE_ROUNDS
from mosaic_secure.protocol.codec import decode
from mosaic_secure.protocol.messages import (
    DecryptReply,
    DecryptRequest,
    LocalTrainingReply,
    PrototypeReply,
    PrototypeRequest,
)

if TYPE_CHECKING:
    from torch import nn

    from mosaic_secure.engine.parties import Federation
    from mosaic_secure.plan import EncryptedRound, RunPlan
    from mosaic_secure.protocol.fields import Message

__all__ = ["CanaryWitness"]


@dataclass
class CanaryWitness:
    """A `Witness` of one rehearsal; it is private to it.

    Args:
        count: canaries of each kind, of whole records at most as many as the public test part has.
        rng: of directions, labels and coins.

    Attributes:
        plan: of the run. codes: canaries among the encoded records. records: canaries that are whole records.
        public_context: as the server was sent it first.
    """

    count: int
    rng: np.random.Generator
    plan: RunPlan = field(init=False)
    codes: SumCanaries = field(init=False)
    records: RecordCanaries = field(init=False)
    public_context: bytes = field(default=b"", init=False)
    _roster: dict[str, str] = field(default_factory=dict, init=False)
    _run_id: str = field(default="", init=False)
    _first: dict[str, Any] = field(default_factory=dict, init=False)
    _contributions: dict[int, bytes] = field(default_factory=dict, init=False)
    _asked: dict[str, dict[str, np.ndarray]] = field(default_factory=dict, init=False)
    _sums: dict[str, tuple[np.ndarray, list[str]]] = field(default_factory=dict, init=False)
    _weights: dict[int, dict[str, np.ndarray]] = field(default_factory=dict, init=False)
    _deciding: str = field(default="", init=False)
    _masks: MaskWatch = field(default_factory=MaskWatch, init=False)

    def begin(self, federation: Federation, run_id: str, plan: RunPlan) -> None:
        """Deal the canaries to the clients in turn."""
        self.plan, self._run_id, self._roster = plan, run_id, federation.roster
        clients = len(federation.clients)
        self.codes = SumCanaries.draw(plan.code_dim, plan.num_classes, self.count, self.rng)
        test = load_public_test(plan.config, plan.config.data.root)
        if test is None:  # pictures of nothing, which are records all the same
            test = (
                self.rng.random((self.count, *plan.image_shape), dtype=np.float32),
                self.rng.integers(0, plan.num_classes, self.count),
            )
        self.records = RecordCanaries.draw(*test, plan.num_classes, clients, self.count, self.rng)
        owners = np.arange(self.count) % clients
        for number, client in enumerate(federation.clients):
            mine = self.codes.included & (owners == number)
            folder = ClientHome(federation.home / client, client).cache(run_id)
            plant_codes(folder, self.codes.codes[mine], self.codes.labels[mine])
            plant_records(folder, *self.records.of(number))

    def observe(self, kind: Literal["request", "reply"], node_id: int, message: bytes) -> None:
        """Keep broadcasts, sums, classifiers and the first round's contributions; everything else passes."""
        from flwr.common.serde import message_from_proto
        from flwr.proto.message_pb2 import Message as MessageProto

        proto = MessageProto.FromString(message)
        wanted: dict[tuple[str, str], Any] = {
            ("request", PrototypeRequest.action): self._on_asked,
            ("request", DecryptRequest.action): self._on_deciding,
            ("reply", DecryptReply.action): self._on_sum,
            ("reply", PrototypeReply.action): self._on_contribution,
            ("reply", LocalTrainingReply.action): self._on_trained,
        }
        for message in MaskWatch.MESSAGES if self.plan.is_masked else ():
            sender = "reply" if message.reply is None else "request"
            wanted[sender, message.action] = partial(self._on_masks, message)
        handle = wanted.get((kind, proto.metadata.message_type))
        if handle is not None:
            received = message_from_proto(proto)
            if not received.has_error():
                handle(received.content, node_id - FIRST_NODE_ID)

    def _on_masks(self, message: type[Message], content: Any, client: int) -> None:
        self._masks.hear(self.plan.config.client_ids[client], decode(message, content))

    def _on_asked(self, content: Any, client: int) -> None:
        request = decode(PrototypeRequest, content)
        self._asked.setdefault(request.round_id, request.broadcast)
        if not self.public_context:
            self.public_context = request.public_context
            self._first = {"round_id": request.round_id, "key_id": request.key_id}

    def _on_contribution(self, content: Any, client: int) -> None:
        if len(self._sums) == 0:  # of the first round alone: they are large
            self._contributions.setdefault(client, decode(PrototypeReply, content).contribution)

    def _on_deciding(self, content: Any, client: int) -> None:
        self._deciding = decode(DecryptRequest, content).round_id

    def _on_sum(self, content: Any, client: int) -> None:
        reply = decode(DecryptReply, content)
        if reply.code == "ok":
            self._sums[self._deciding] = (reply.values["sum"], reply.contributors)

    def _on_trained(self, content: Any, client: int) -> None:
        reply = decode(LocalTrainingReply, content)
        if reply.classifier:
            self._weights[client] = reply.classifier

    def ciphertexts(self) -> list[bytes]:
        """The first ciphertext of each client's contribution to the first round."""
        from privacy.secagg.contribution import Expectation, open_contribution

        expected = Expectation(
            run_id=self._run_id,
            params=self.plan.ckks,
            length=self.plan.round(self._first["round_id"]).length,
            **self._first,
        )
        roster = {party: bytes.fromhex(key) for party, key in self._roster.items()}
        opened = (open_contribution(data, expected, roster) for data in self._contributions.values() if data)
        return [contribution.ciphertexts[0] for contribution in opened]

    def classifiers(self) -> dict[int, nn.Module]:
        """Every client's classifier as it was released last, by the client's position."""
        from mosaic_secure.client.training import initial_classifier, set_weights

        found = {}
        for client, weights in sorted(self._weights.items()):
            architecture = self.plan.config.architecture_of(client)
            model = initial_classifier(
                self.plan.config, architecture, self.plan.image_shape, self.plan.num_classes
            )
            set_weights(model, weights)
            found[client] = model.eval()
        return found

    def measured(self) -> Evidence:
        """What all rounds of the prototypes whose sum came say of the canaries among the codes."""
        evidence = Evidence(self.count)
        codes, labels = self._known_records()
        for wanted in self.plan.rounds:
            if wanted.release not in PROTOTYPE_ROUNDS or wanted.round_id not in self._sums:
                continue
            total, contributors = self._sum(wanted.round_id)
            broadcast = self._asked[wanted.round_id]
            known = _without_noise(wanted, _as_released(wanted, codes, broadcast), labels, broadcast)
            found = measure(
                wanted.mechanism,
                total,
                known,
                _as_released(wanted, self.codes.codes, broadcast),
                self.codes.labels,
                broadcast.get("weights"),
                len(contributors),
            )
            evidence.add(found, _mu(wanted, len(contributors)))
        return evidence

    def _sum(self, round_id: str) -> tuple[np.ndarray, list[str]]:
        """What the server knows after a round: the decrypted sum, without masks, and who is in it."""
        total, contributors = self._sums[round_id]
        if self.plan.is_masked:
            keys = {party: bytes.fromhex(key) for party, key in self._roster.items() if party != "authority"}
            total = self._masks.unmasked(self.plan, self._run_id, keys, round_id, total, contributors)
        return total, contributors

    def _known_records(self) -> tuple[np.ndarray, np.ndarray]:
        """Codes and labels of all records but the canaries among the codes: the auditor knows them, as the
        worst adversary does."""
        from mosaic_secure.models.encoders import encode

        config, encoder = self.plan.config, self.plan.encoder()
        parts = [load_client(config, index, config.data.root) for index in range(config.clients.count)]
        images, labels = self.records.present
        codes = [encode(encoder, part) for part in (*(part.images for part in parts), images)]
        return np.concatenate(codes), np.concatenate([*(part.labels for part in parts), labels])


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
