"""What a client answers at each stage. Every release goes through the store that makes it once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mosaic_secure.client.masking import book_of
from mosaic_secure.client.withdrawal import Withdrawn
from mosaic_secure.errors import UserError
from mosaic_secure.plan import IMAGE_ROUNDS
from mosaic_secure.protocol.codec import field_bytes
from mosaic_secure.protocol.messages import (
    EnrolReply,
    EnrolRequest,
    FineTuneReply,
    FineTuneRequest,
    LocalTrainingReply,
    LocalTrainingRequest,
    PrototypeReply,
    PrototypeRequest,
    SealReply,
    SealRequest,
)
from privacy.canonical import canonical_json
from privacy.errors import BudgetError, LedgerError, PolicyError, PrivacyError, ReleaseConflict
from privacy.heads import Anchor

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mosaic_secure.client.own_data import Places
    from mosaic_secure.client.session import ClientHome, Session
    from mosaic_secure.plan import EncryptedRound, RunPlan
    from privacy.randomness import NoiseSource
    from privacy.releases import ReleaseStore

__all__ = ["enrolled", "fine_tuned", "prototypes", "refusal_code", "sealed", "trained"]


def refusal_code(error: Exception) -> str:
    """The one word that travels for a refusal. It is decided by the kind of the error, never its text."""
    if isinstance(error, Withdrawn):
        return Withdrawn.code
    if isinstance(error, PolicyError):
        return "policy"
    if isinstance(error, BudgetError):
        return "budget"
    if isinstance(error, ReleaseConflict):
        return "conflict"
    if isinstance(error, LedgerError):
        return "ledger"
    return "refused"


def enrolled(home: ClientHome, request: EnrolRequest, places: Places) -> EnrolReply:
    """Accept or refuse the plan, and show the head of the ledger; with masks, its public keys of the run."""
    from mosaic_secure.client.session import enrol

    roster = json.loads(request.roster_json)
    plan = enrol(home, request.run_id, request.config_json, request.plan_json, roster, places)
    with home.ledger() as ledger:
        head, ended = ledger.head, ledger.run(request.run_id).sealed
    masks = book_of(home, plan, request.run_id)
    keys, signature = ("", b"") if masks is None or ended else masks.bundle()
    return EnrolReply(
        accepted=True,
        code="ok",
        ledger_sequence=head.sequence,
        ledger_digest=head.digest,
        ledger_signature=head.signature,
        mask_keys_json=keys,
        mask_keys_signature=signature,
    )


def prototypes(session: Session, request: PrototypeRequest) -> PrototypeReply:
    """One encrypted, signed contribution; in the first round the noised class counts beside it.

    Masks are put on what was noised, before it is encrypted: the stored release, which is sent again as it
    is, is the masked one, so that no round has two contributions under two masks.
    """
    from privacy.secagg.contribution import ContributionHeader, seal_contribution
    from privacy.secagg.packing import encrypt_integers
    from privacy.secagg.results import PublicKeyInfo, terms_digest

    plan, home = session.plan, session.home
    wanted = plan.round(request.round_id)
    authority = home.policy.authority_key
    if authority is None:
        raise UserError("authority: this client's policy pins none, and encrypted rounds need one")
    terms = terms_digest(
        home.policy.roster_keys, session.config.min_contributors, plan.round_lengths, plan.agreement
    )
    PublicKeyInfo(
        request.run_id, plan.ckks, terms, request.key_id, request.public_context, request.context_signature
    ).check(authority)
    masks = session.masks if plan.is_masked else None
    if masks is not None:
        masks.check_certificate(request.view_signers, request.view_signatures)
    summed = _images if wanted.release in IMAGE_ROUNDS else _codes
    codes, labels, digest, weights = summed(session, wanted, request.broadcast)
    header = ContributionHeader(
        client=home.party,
        run_id=request.run_id,
        round_id=request.round_id,
        key_id=request.key_id,
        parameters=plan.ckks.identifier,
        length=wanted.length,
    )

    def produce(source: NoiseSource) -> bytes:
        values = wanted.mechanism.release(codes, labels, source, weights)
        if masks is not None:
            values = masks.mask(request.round_id, values)
        return seal_contribution(
            header, encrypt_integers(request.public_context, plan.ckks, values), home.key
        )

    inputs = session.inputs(digest, broadcast=_digest(request.broadcast), key=request.key_id)
    with session.releases() as store:
        if masks is not None:
            masks.check_open(request.round_id, store.is_made(wanted.release, wanted.round))
        planned = plan.budget.release(wanted.release)
        contribution = store.release(wanted.release, wanted.round, inputs, planned.round_event, produce)
        first = request.round_id == plan.rounds[0].round_id
        counts = {"counts": _counts(session, store, labels, digest)} if first else {}
    return PrototypeReply(code="ok", counts=counts, contribution=contribution)


Summed = tuple[np.ndarray, np.ndarray, str, np.ndarray | None]
"""What a mechanism sums: codes [N, dim], labels [N], the records' digest, and weights for gradients."""


def _codes(session: Session, wanted: EncryptedRound, broadcast: Mapping[str, np.ndarray]) -> Summed:
    """For a round of the prototypes. What the server sent is checked here, before anything is charged."""
    from mosaic_secure.models.encoders import centre_codes

    plan = session.plan
    centre, metric, weights = _model(broadcast, plan.code_dim, plan.num_classes)
    if wanted.release == "gradient":
        wanted.mechanism.check_weights(weights)
    codes, labels, digest = session.codes()
    if metric is not None:  # the same in all gradient rounds
        kept = _digest({"centre": centre, "metric": metric})
        codes = session.kept_array(
            f"scaled-{kept}", lambda: centre_codes(codes, centre).astype(np.float32) @ metric
        )
    elif wanted.release != "centre":
        codes = centre_codes(codes, centre)
    return codes, labels, digest, weights


def _images(session: Session, wanted: EncryptedRound, broadcast: Mapping[str, np.ndarray]) -> Summed:
    """For a round of the sampler. What the server sent is checked here, before anything is charged."""
    from mosaic_secure.client.images import check_broadcast, image_codes

    check_broadcast(wanted, broadcast, session.plan)
    data, digest = session.data, session.data_digest
    return image_codes(wanted, broadcast, data.images, data.labels, session.plan), data.labels, digest, None


def trained(session: Session, request: LocalTrainingRequest) -> LocalTrainingReply:
    """The classifier after one round, and in the last round the generator."""
    import torch

    from mosaic_secure.client import training

    config, plan, data = session.config, session.plan, session.data
    if not 0 <= request.round < config.classifier.rounds:
        raise UserError(f"round {request.round}: the plan has {config.classifier.rounds}")
    model = training.initial_classifier(config, session.architecture, plan.image_shape, plan.num_classes)
    if request.weights:
        training.set_weights(model, request.weights)

    def classify(source: NoiseSource) -> bytes:
        training.train_classifier(
            model,
            torch.from_numpy(data.images),
            torch.from_numpy(data.labels),
            plan.dpsgd("classifier", data.declared_records, session.architecture),
            source,
            config.classifier.augmentations,
        )
        return _to_bytes(training.weights_of(model))

    digest = session.data_digest
    last = request.round == config.classifier.rounds - 1
    if last and config.generator.enabled:
        _check_moments(request.broadcast, plan)  # before anything is charged
    with session.releases() as store:
        event = plan.budget.release("classifier").round_event
        inputs = session.inputs(digest, start=_digest(request.weights))
        made = store.release("classifier", request.round, inputs, event, classify)
        weights, generator = _from_bytes(made), {}
        counts = {}
        if last and not plan.rounds and plan.counts is not None:
            counts = {"counts": _counts(session, store, data.labels, digest)}
        if last and config.generator.enabled:
            own = _counts(session, store, data.labels, digest)
            training.set_weights(model, weights)

            def generate(source: NoiseSource) -> bytes:
                made = training.train_local_generator(session, model, request.broadcast, own, source)
                return _to_bytes({name: value.numpy() for name, value in made.state_dict().items()})

            inputs = session.inputs(
                digest,
                classifier=_digest(weights),
                broadcast=_digest(request.broadcast),
                prior=_digest({"n": own}),
            )
            event = plan.budget.release("generator").round_event
            generator = _from_bytes(store.release("generator", 0, inputs, event, generate))
    return LocalTrainingReply(code="ok", classifier=weights, generator=generator, counts=counts)


def fine_tuned(session: Session, request: FineTuneRequest) -> FineTuneReply:
    """The global model after one private round here; in the first, counts that nothing brought before."""
    import torch

    from mosaic_secure.client import training
    from mosaic_secure.models.global_model import build_global_model

    plan, data = session.plan, session.data
    _check_finite(request.weights, "weights")
    model = build_global_model(plan)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in request.weights.items()})

    features = _features(session, model)  # before the ledger is locked, which this looks into

    def produce(source: NoiseSource) -> bytes:
        training.train_classifier(
            model,
            torch.from_numpy(data.images),
            torch.from_numpy(data.labels),
            plan.dpsgd("fine_tune", data.declared_records),
            source,
            session.config.fine_tune.augmentations,
            session.config.fine_tune.proximal,
            features,
        )
        return _to_bytes(training.weights_of(model))

    inputs = session.inputs(session.data_digest, start=_digest(request.weights))
    with session.releases() as store:
        event = plan.budget.release("fine_tune").round_event
        weights = _from_bytes(store.release("fine_tune", request.round, inputs, event, produce))
        counts = {}
        if request.round == 0 and plan.counts is not None and session.config.method != "mosaic":
            counts = {"counts": _counts(session, store, data.labels, session.data_digest)}
    return FineTuneReply(code="ok", weights=weights, counts=counts)


def sealed(session: Session, request: SealRequest) -> SealReply:
    """Keep the anchor; when the run is over, end it here and give the excerpt of the ledger."""
    anchor = json.loads(request.anchor_json)
    with session.home.ledger() as ledger:
        if anchor:
            ledger.store_anchor(Anchor.from_dict(anchor), session.home.policy.authority_key)
    excerpt = "{}"
    if request.final:
        session.home.end(session.run_id)
    with session.home.ledger() as ledger:
        head = ledger.head
        if request.final:
            excerpt = canonical_json(ledger.excerpt(session.run_id)).decode()
    return SealReply(
        code="ok",
        excerpt_json=excerpt,
        ledger_sequence=head.sequence,
        ledger_digest=head.digest,
        ledger_signature=head.signature,
    )


def _features(session: Session, model: nn.Module) -> Tensor | None:
    """What the fixed part of the global model makes of the records, the same in every round; None without."""
    import torch

    from mosaic_secure.client.training import fixed_features
    from mosaic_secure.models.classifiers import trainable_part

    _, trunk = trainable_part(model)
    if trunk is None:
        return None
    fixed = _digest({name: value.numpy() for name, value in trunk.state_dict().items()})

    def make() -> np.ndarray:
        return fixed_features(trunk, torch.from_numpy(session.data.images)).numpy()

    return torch.from_numpy(session.kept_array(f"features-{fixed[:16]}", make))


def _counts(session: Session, store: ReleaseStore, labels: np.ndarray, digest: str) -> np.ndarray:
    """The client's noised class counts, float64 [K]: released once, for server and client alike."""
    mechanism = session.plan.counts

    def produce(source: NoiseSource) -> bytes:
        values = mechanism.release(np.zeros((len(labels), 1)), labels, source)
        return values.astype("<i8").tobytes()

    event = session.plan.budget.release("counts").round_event
    made = store.release("counts", 0, session.inputs(digest), event, produce)
    return mechanism.decode(np.frombuffer(made, dtype="<i8").astype(np.int64))["counts"]


def _model(
    broadcast: Mapping[str, np.ndarray], dim: int, classes: int
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Centre [dim], and where they were sent the metric [dim, dim] and the weights [dim, classes]."""
    _check_finite({name: broadcast[name] for name in broadcast if name != "weights"}, "broadcast")
    centre = np.asarray(broadcast.get("centre", np.zeros(dim)), dtype=np.float64)
    metric, weights = broadcast.get("metric"), broadcast.get("weights")
    if centre.shape != (dim,):
        raise UserError("broadcast: the centre has another length than the codes")
    if metric is not None:
        if np.shape(metric) != (dim, dim):
            raise UserError("broadcast: the metric has another shape than the codes")
        metric = np.asarray(metric, dtype=np.float32)
    if weights is not None:
        if np.shape(weights) != (dim, classes):
            raise UserError("broadcast: the weights have another shape than codes and classes")
        weights = np.asarray(weights, dtype=np.float64)
    return centre, metric, weights


def _check_moments(broadcast: Mapping[str, np.ndarray], plan: RunPlan) -> None:
    """Moments for the generator: [K, P] and [K, P, P], finite, or none at all."""
    if not broadcast:
        return
    classes, pixels = plan.num_classes, plan.pixel_encoder().pixel_dim
    wanted = {"pixel_means": (classes, pixels), "pixel_seconds": (classes, pixels, pixels)}
    if {name: np.shape(array) for name, array in broadcast.items()} != wanted:
        raise UserError(f"broadcast: its arrays must be {wanted}")
    _check_finite(broadcast, "broadcast")


def _check_finite(arrays: Mapping[str, np.ndarray], what: str) -> None:
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError(f"{what}: {name} has a number that is not finite")


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    return hashlib.sha256(field_bytes(dict(arrays))).hexdigest()


def _to_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(value) for name, value in arrays.items()})


def _from_bytes(data: bytes) -> dict[str, np.ndarray]:
    from safetensors.numpy import load

    return load(data)


RECOVERABLE = (UserError, PrivacyError)
"""Errors that become a refusal with a code; anything else is a failure of the client."""
