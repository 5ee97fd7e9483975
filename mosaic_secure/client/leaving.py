"""Every message that would leave a client in a run, in order, with the size of each of its fields.

The sizes follow from the plan: class slots, round lengths and architectures fix them, and no record does.
They are those of `messages.jsonl`, the canonical bytes of each field. What hangs on the ledger as well (a
sequence number, the excerpt) is given as a bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaic_secure import __version__
from mosaic_secure.client.rules import terms_of
from mosaic_secure.masking import DEALT, VIEW, mask_terms, unmasking_stage
from mosaic_secure.protocol import messages
from mosaic_secure.protocol.codec import field_bytes
from mosaic_secure.protocol.fields import Message, field_specs
from privacy.canonical import canonical_json
from privacy.heads import Head
from privacy.identity import KEY_BYTES, SIGNATURE_BYTES
from privacy.ledger_check import excerpt_body
from privacy.ledger_state import ReleaseRecord, RunState
from privacy.secagg.contribution import ContributionHeader, contribution_bytes
from privacy.secagg.mask_terms import bundle_text
from privacy.secagg.shamir import SHARE_BYTES

if TYPE_CHECKING:
    from mosaic_secure.plan import EncryptedRound, RunPlan
    from privacy.secagg.mask_terms import MaskTerms

__all__ = ["LeavingField", "LeavingMessage", "leaving_messages"]

_DIGEST = "0" * 64
_KEY_ID = "0" * 32


@dataclass(frozen=True)
class LeavingField:
    """One field of a message to the server.

    Attributes:
        name, field_class: as the message declares them. bytes: of its content.
        is_bound: whether `bytes` is the most that it can be, where the plan alone does not fix it.
        release: the release of the plan that it carries, if it carries one.
    """

    name: str
    field_class: str
    bytes: int
    is_bound: bool = False
    release: str | None = None


@dataclass(frozen=True)
class LeavingMessage:
    """One message to the server: the stage that asks for it, its name, what it is, its fields in order."""

    stage: str
    message: str
    about: str
    fields: tuple[LeavingField, ...]

    @property
    def bytes(self) -> int:
        """Of all fields together; the most where one of them is a bound."""
        return sum(item.bytes for item in self.fields)

    @property
    def is_bound(self) -> bool:
        """Whether `bytes` is a bound."""
        return any(item.is_bound for item in self.fields)


def leaving_messages(
    plan: RunPlan, index: int, *, run_id: str, entries: int, population: str
) -> tuple[LeavingMessage, ...]:
    """All messages of client `index` in a run that nothing interrupts, in order.

    Args:
        run_id: or one of equal length. entries: lines of the client's ledger before the run.
        population: of the ledger.
    """
    return tuple(_Messages(plan, index, run_id, entries, population).all())


class _Messages:
    """Makes them, stage by stage, as the server asks."""

    def __init__(self, plan: RunPlan, index: int, run_id: str, entries: int, population: str) -> None:
        self._plan, self._index, self._run_id, self._population = plan, index, run_id, population
        self._party = plan.config.client_ids[index]
        made = sum(release.rounds for release in plan.budget.releases)
        # A line each for opening, healing, enrolling and sealing, two for each release.
        self._last_entry = entries + 2 * made + 4
        self._classifier = cache(self._classifier_bytes)

    def all(self) -> Iterator[LeavingMessage]:
        config = self._plan.config
        yield self._message(
            "hello",
            messages.HelloReply,
            {"role": "client", "party": self._party, "version": __version__, "identity": bytes(KEY_BYTES)},
        )
        yield self._message(
            "enrol", messages.EnrolReply, {"accepted": True, **self._mask_keys(), **self._head()}
        )
        yield self._anchored()
        yield from self._mask_setup()
        for wanted in self._plan.rounds:
            yield self._contribution(wanted)
            yield from self._unmasking(wanted)
        for number in range(config.classifier.rounds if config.classifier.enabled else 0):
            yield self._trained(number, last=number == config.classifier.rounds - 1)
        for number in range(config.fine_tune.rounds):
            counts = number == 0 and self._plan.counts is not None and config.method != "mosaic"
            sizes = {"weights": self._tuned_bytes(), "counts": self._counts() if counts else 0}
            yield self._message(f"fine-tune-{number}", messages.FineTuneReply, {}, sizes, "fine_tune")
        yield self._message(
            "seal", messages.SealReply, self._head(), {"excerpt_json": self._excerpt_bytes()}, "ledger"
        )
        yield self._anchored()

    def _anchored(self) -> LeavingMessage:
        return self._message("anchor", messages.SealReply, {"excerpt_json": "{}", **self._head()})

    @cached_property
    def _masks(self) -> MaskTerms | None:
        """Terms of the masks, as far as sizes follow from them; None without."""
        roster = {client: bytes(KEY_BYTES) for client in self._plan.config.client_ids}
        return mask_terms(self._plan, self._run_id, roster) if self._plan.is_masked else None

    def _mask_keys(self) -> dict[str, Any]:
        if self._masks is None:
            return {"mask_keys_json": "", "mask_keys_signature": b""}
        key = bytes(KEY_BYTES)
        keys = {round_id: key for round_id in self._masks.rounds}
        seeds = {round_id: key.hex() for round_id in self._masks.rounds}
        text = bundle_text(self._masks, self._party, key, keys, seeds)
        return {"mask_keys_json": text, "mask_keys_signature": bytes(SIGNATURE_BYTES)}

    def _mask_setup(self) -> Iterator[LeavingMessage]:
        if self._masks is None:
            return
        clients = list(self._masks.roster)
        boxes = [bytes(self._masks.box_bytes) for _ in clients]
        yield self._message(DEALT, messages.MaskSharesReply, {"receivers": clients, "boxes": boxes})
        yield self._message(VIEW, messages.MaskViewReply, {"signature": bytes(SIGNATURE_BYTES)})

    def _unmasking(self, wanted: EncryptedRound) -> Iterator[LeavingMessage]:
        if self._masks is None:
            return
        shares = [bytes(SHARE_BYTES) for _ in self._masks.roster]
        yield self._message(unmasking_stage(wanted.round_id), messages.UnmaskReply, {"shares": shares})

    def _contribution(self, wanted: EncryptedRound) -> LeavingMessage:
        plan = self._plan
        header = ContributionHeader(
            self._party, self._run_id, wanted.round_id, _KEY_ID, plan.ckks.identifier, wanted.length
        )
        first = wanted.round_id == plan.rounds[0].round_id
        sizes = {
            "counts": self._counts() if first else 0,
            "contribution": contribution_bytes(header, plan.ckks),
        }
        return self._message(wanted.round_id, messages.PrototypeReply, {}, sizes, wanted.release)

    def _trained(self, number: int, *, last: bool) -> LeavingMessage:
        plan, generator = self._plan, self._plan.config.generator
        counts = last and not plan.rounds and plan.counts is not None
        sizes = {
            "classifier": self._classifier(),
            "generator": self._generator_bytes() if last and generator.enabled else 0,
            "counts": self._counts() if counts else 0,
        }
        return self._message(f"local-{number}", messages.LocalTrainingReply, {}, sizes, "classifier")

    def _message(
        self,
        stage: str,
        cls: type[Message],
        values: Mapping[str, Any],
        sizes: Mapping[str, int] | None = None,
        release: str | None = None,
    ) -> LeavingMessage:
        """`values`: of fields that are known; `sizes`: of the others, the code apart, which is "ok"."""
        known = {"code": "ok", **values}
        given = {name: len(field_bytes(value)) for name, value in known.items()} | dict(sizes or {})
        bounds = {"ledger_sequence"} | ({"excerpt_json"} if release == "ledger" else set())
        carried = {"counts": "counts", "generator": "generator", "classifier": "classifier"}
        carried |= {"contribution": str(release), "weights": str(release)}
        fields = tuple(
            LeavingField(
                spec.name,
                spec.field_class,
                given[spec.name],
                spec.name in bounds,
                carried.get(spec.name) if given[spec.name] else None,
            )
            for spec in field_specs(cls)
        )
        return LeavingMessage(stage, cls.__name__, (cls.__doc__ or "").strip().split("\n")[0], fields)

    def _head(self) -> dict[str, Any]:
        return {
            "ledger_sequence": self._last_entry,
            "ledger_digest": _DIGEST,
            "ledger_signature": bytes(SIGNATURE_BYTES),
        }

    def _counts(self) -> int:
        return len(field_bytes({"counts": np.zeros(self._plan.num_classes)}))

    def _classifier_bytes(self) -> int:
        from mosaic_secure.client.training import initial_classifier, weights_of

        plan = self._plan
        name = plan.config.architecture_of(self._index)
        model = initial_classifier(plan.config, name, plan.image_shape, plan.num_classes)
        return len(field_bytes(weights_of(model)))

    def _generator_bytes(self) -> int:
        from mosaic_secure.models.registry import build_generator

        plan, config = self._plan, self._plan.config.generator
        sizes = {"latent_dim": config.latent_dim}
        model = build_generator(config.architecture, plan.image_shape, plan.num_classes, 0, **sizes)
        return len(field_bytes({name: value.numpy() for name, value in model.state_dict().items()}))

    def _tuned_bytes(self) -> int:
        from mosaic_secure.client.training import weights_of
        from mosaic_secure.models.global_model import build_global_model

        return len(field_bytes(weights_of(build_global_model(self._plan))))

    def _excerpt_bytes(self) -> int:
        """The excerpt of a run that made every release of its plan."""
        plan = self._plan
        made = {
            (release.name, number): ReleaseRecord(
                release.name, number, _DIGEST, release.round_event, _DIGEST, _DIGEST
            )
            for release in plan.budget.releases
            for number in range(release.rounds)
        }
        terms = dict(terms_of(plan.config))
        run = RunState(self._run_id, plan.config_hash, "", plan.budget, terms, made, sealed=True)
        owner = {"population": self._population, "party": self._party, "public": _DIGEST}
        head = Head(self._last_entry, _DIGEST, bytes(SIGNATURE_BYTES))
        body = excerpt_body(owner, run, head, anchored=False)  # the longer of the two words
        return len(canonical_json({**body, "signature": bytes(SIGNATURE_BYTES).hex()}))
