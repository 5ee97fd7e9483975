"""The server's side of a run: one stage after the other, each checkpointed, none seeing a record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaic_secure.errors import UserError
from mosaic_secure.progress import Progress, ProgressCallback
from mosaic_secure.protocol import messages
from mosaic_secure.server import prototypes
from mosaic_secure.server.assembly import Releases
from mosaic_secure.server.courier import Courier, Refused
from mosaic_secure.server.local_models import ExpectedModels
from mosaic_secure.server.rounds import decrypt_round
from mosaic_secure.server.synthetic import MomentSampler
from privacy.canonical import canonical_json
from privacy.errors import AggregationError, BudgetError, LedgerError, PrivacyError

if TYPE_CHECKING:
    from mosaic_secure.plan import RunPlan
    from mosaic_secure.runs.directory import RunDirectory
    from mosaic_secure.server.prototypes import PrototypeState

__all__ = ["AUTHORITY", "Coordinator"]

AUTHORITY = "authority"


class Coordinator:
    """Leads a run through enrolment, prototypes and local training, and ends it at the clients.

    Args:
        courier: reaches all parties.
        run: the open run directory; every stage is checkpointed there and skipped when it is found.
        plan: of the run.
        roster: client id -> public key (hex); identity of the authority under "authority".
        progress: is told about stages; nothing in it depends on private data.
    """

    def __init__(
        self,
        courier: Courier,
        run: RunDirectory,
        plan: RunPlan,
        roster: Mapping[str, str],
        progress: ProgressCallback,
    ) -> None:
        self._courier, self._run, self._plan, self._progress = courier, run, plan, progress
        self._authority = bytes.fromhex(roster[AUTHORITY])
        self._roster = {party: key for party, key in roster.items() if party != AUTHORITY}
        self._clients: list[str] = []
        self._left_out: dict[str, dict[str, str]] = {}

    def collect(self) -> Releases:
        """Everything that the clients release, in the order of the plan."""
        self._clients = self._enrol()
        state, counts = self._prototypes() if self._plan.rounds else (None, {})
        classifiers, generators, late = (
            self._local(state) if self._plan.config.classifier.enabled else ({}, {}, {})
        )
        zeros = np.zeros(self._plan.num_classes)
        every = {client: counts.get(client, late.get(client, zeros)) for client in self._clients}
        return Releases(state, every, classifiers, generators)

    @property
    def left_out(self) -> list[tuple[str, str, str]]:
        """(stage, client, code) of every client that a stage went on without, earlier attempts included."""
        stages = ["enrol", *(r.round_id for r in self._plan.rounds)]
        stages += [f"local-{index}" for index in range(self._plan.config.classifier.rounds)]
        out = []
        for stage in stages:
            _, facts = self._run.load_stage(stage) or ({}, {})
            codes = facts.get("left_out", facts.get("refused", {}))
            out += [(stage, client, code) for client, code in codes.items()]
        return out

    def fine_tune(self, weights: Mapping[str, np.ndarray], trained: tuple[str, ...]) -> dict[str, np.ndarray]:
        """The global model's state after the private rounds; `trained` names what clients send back."""
        current = dict(weights)
        rounds = self._plan.config.fine_tune.rounds
        for index in range(rounds):
            stage = f"fine-tune-{index}"
            found = self._run.load_stage(stage)
            if found is None:
                request = messages.FineTuneRequest(run_id=self._run.run_id, round=index, weights=current)
                replies = self._ask(stage, request, messages.FineTuneReply)
                sane = [r.weights for r in replies.values() if _fits(r.weights, trained, current)]
                if not sane:
                    raise PrivacyError(f"{stage}: no client returned usable weights")
                mean = {
                    name: np.mean([w[short] for w in sane], axis=0)
                    for short, name in _names(trained, current)
                }
                self._run.save_stage(stage, mean, {"clients": len(sane)})
                found = (mean, {})
            current.update({name: value.astype(np.float32) for name, value in found[0].items()})
            self._progress(Progress("fine-tuning", index + 1, rounds))
        return current

    def finish(self) -> dict[str, Any]:
        """End the run at every client and at the authority; returns signed ledger excerpts and anchors."""
        found = self._run.load_stage("finish")
        if found is not None:
            return found[1]
        run_id = self._run.run_id
        ended = self._ask("seal", messages.SealRequest(run_id=run_id, final=True), messages.SealReply)
        heads = {
            client: {
                "sequence": reply.ledger_sequence,
                "digest": reply.ledger_digest,
                "signature": reply.ledger_signature.hex(),
            }
            for client, reply in ended.items()
        }
        anchors = self._anchor(heads)
        if self._plan.rounds:
            request = messages.AuthorityClose(run_id=run_id)
            self._courier.ask_one("seal", AUTHORITY, request, messages.AuthorityClosed)
        record = {
            "excerpts": {client: json.loads(reply.excerpt_json) for client, reply in ended.items()},
            "anchors": {client: anchor for client, anchor in anchors.items() if isinstance(anchor, dict)},
        }
        self._run.save_stage("finish", {}, record)
        return record

    def _enrol(self) -> list[str]:
        """Ask every client; those that accept take part. The authority confirms that no ledger went back."""
        found = self._run.load_stage("enrol")
        if found is not None:
            return list(found[1]["clients"])
        config, plan = self._plan.config, self._plan.budget
        request = messages.EnrolRequest(
            run_id=self._run.run_id,
            config_json=canonical_json(config.to_dict()).decode(),
            plan_json=canonical_json(plan.to_dict()).decode(),
            roster_json=canonical_json(self._roster).decode(),
        )
        answers = self._courier.ask(
            "enrol", {client: request for client in self._roster}, messages.EnrolReply
        )
        accepted = {c: r for c, r in answers.items() if not isinstance(r, Refused)}
        refused = {c: r.code for c, r in answers.items() if isinstance(r, Refused)}
        heads = {
            client: {
                "sequence": reply.ledger_sequence,
                "digest": reply.ledger_digest,
                "signature": reply.ledger_signature.hex(),
            }
            for client, reply in accepted.items()
        }
        anchors = self._anchor(heads) if accepted else {}
        refused |= {client: str(anchor) for client, anchor in anchors.items() if not isinstance(anchor, dict)}
        clients = [client for client in self._roster if client in accepted and client not in refused]
        self._need(clients, refused, "enrolment")
        self._run.save_stage("enrol", {}, {"clients": clients, "refused": refused})
        self._progress(
            Progress("enrolment", 1, 1, f"{len(clients)} of {len(self._roster)} clients take part")
        )
        return clients

    def _anchor(self, heads: Mapping[str, Any]) -> dict[str, Any]:
        """Have heads counter-signed, and bring every client its anchor."""
        run_id = self._run.run_id
        request = messages.AnchorRequest(run_id=run_id, heads_json=canonical_json(heads).decode())
        answer = self._courier.ask_one("anchor", AUTHORITY, request, messages.AnchorReply)
        if isinstance(answer, Refused):
            raise LedgerError(f"key authority: did not counter-sign the ledgers ({answer.code})")
        anchors = json.loads(answer.anchors_json)
        carry = {
            client: messages.SealRequest(
                run_id=run_id, final=False, anchor_json=canonical_json(anchor).decode()
            )
            for client, anchor in anchors.items()
            if isinstance(anchor, dict)
        }
        kept = self._courier.ask("anchor", carry, messages.SealReply)
        for client, reply in kept.items():
            if isinstance(reply, Refused):
                anchors[client] = reply.code
        return anchors

    def _prototypes(self) -> tuple[PrototypeState, dict[str, np.ndarray]]:
        plan, run = self._plan, self._run
        state = prototypes.start(plan.code_dim, plan.num_classes)
        counts: dict[str, np.ndarray] = {}
        key: messages.AuthorityKey | None = None
        for done, wanted in enumerate(plan.rounds):
            found = run.load_stage(wanted.round_id)
            if found is None:
                key = key or self._open_authority()
                broadcast = {"centre": state.centre, "weights": state.weights} if done else {}
                request = messages.PrototypeRequest(
                    run_id=run.run_id,
                    round_id=wanted.round_id,
                    key_id=key.key_id,
                    public_context=key.public_context,
                    context_signature=key.signature,
                    broadcast=broadcast,
                )
                replies = self._ask(wanted.round_id, request, messages.PrototypeReply)
                if done == 0:
                    counts = self._checked_counts({c: r.counts for c, r in replies.items()})
                total, contributors, faults = decrypt_round(
                    self._courier,
                    plan,
                    wanted,
                    run.run_id,
                    key.key_id,
                    replies,
                    self._roster,
                    self._authority,
                    lambda valid, round_id=wanted.round_id: self._settle(round_id, valid),
                )
                self._leave_out(wanted.round_id, faults)
                state = self._learn(state, wanted, total, contributors, counts)
                # In the memory layout of a checkpoint, on which the last bits of products may hang.
                arrays = {name: np.ascontiguousarray(value) for name, value in state.arrays().items()}
                state = prototypes.PrototypeState.from_arrays(arrays)
                arrays |= {f"counts/{c}": n for c, n in counts.items()}
                left_out = self._left_out.get(wanted.round_id, {})
                run.save_stage(wanted.round_id, arrays, {"contributors": contributors, "left_out": left_out})
            else:
                arrays = found[0]
                state = prototypes.PrototypeState.from_arrays(arrays)
                counts = {n.removeprefix("counts/"): a for n, a in arrays.items() if n.startswith("counts/")}
            self._progress(Progress("prototypes", done + 1, len(plan.rounds)))
        return state, counts

    def _settle(self, round_id: str, valid: list[str]) -> list[str]:
        """The clients whose contributions are added: those of the first attempt, whatever comes later."""
        stage = f"{round_id}-set"
        found = self._run.load_stage(stage)
        if found is None:
            self._run.save_stage(stage, {}, {"clients": valid})
            return valid
        return list(found[1]["clients"])

    def _learn(
        self,
        state: PrototypeState,
        wanted: Any,
        total: np.ndarray,
        contributors: list[str],
        counts: Mapping[str, np.ndarray],
    ) -> PrototypeState:
        config, decoded = self._plan.config.prototypes, wanted.mechanism.decode(total)
        if wanted.release == "gradient":
            return prototypes.take_gradient(
                state, decoded["gradient"], wanted.round, wanted.mechanism, len(contributors), config
            )
        released = sum((counts[c] for c in contributors if c in counts), np.zeros(self._plan.num_classes))
        if wanted.release == "centre":
            return prototypes.take_centre(state, decoded["code_sum"], float(released.sum()))
        if all(client in counts for client in contributors):
            stds = [m.noise_std("counts", len(contributors)) for m in (wanted.mechanism, self._plan.counts)]
            known = prototypes.best_counts(decoded["counts"], stds[0], released, stds[1])
        else:  # a client whose counts were unusable is in the encrypted sum alone
            known = decoded["counts"]
        return prototypes.take_moments(state, decoded, known, wanted.mechanism, len(contributors), config)

    def _open_authority(self) -> messages.AuthorityKey:
        plan = self._plan
        request = messages.AuthorityOpen(
            run_id=self._run.run_id,
            agreement=plan.agreement,
            rounds_json=canonical_json(plan.round_lengths).decode(),
            min_contributors=plan.config.min_contributors,
            roster_json=canonical_json(self._roster).decode(),
            parameters_json=canonical_json(plan.ckks.to_dict()).decode(),
        )
        answer = self._courier.ask_one("authority", AUTHORITY, request, messages.AuthorityKey)
        if isinstance(answer, Refused):
            raise AggregationError(f"key authority: refused to open the run ({answer.code})")
        return answer

    def _local(
        self, state: PrototypeState | None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
        """Classifiers (averaged in their group between rounds) and generators."""
        plan, config = self._plan, self._plan.config
        broadcast: dict[str, np.ndarray] = {}
        if state is not None and config.prototypes.pixel_weight > 0:
            means, seconds = MomentSampler(plan.encoder(), state).pooled_moments()
            broadcast = {"pixel_means": means, "pixel_seconds": seconds}
        kinds = {client: config.architecture_of(int(client.rsplit("-", 1)[1])) for client in self._clients}
        starts: dict[str, dict[str, np.ndarray]] = {}
        rounds = config.classifier.rounds
        for index in range(rounds):
            stage = f"local-{index}"
            found = self._run.load_stage(stage)
            if found is None:
                requests = {
                    client: messages.LocalTrainingRequest(
                        run_id=self._run.run_id,
                        round=index,
                        broadcast=broadcast if index == rounds - 1 else {},
                        weights=starts.get(kinds[client], {}),
                    )
                    for client in self._clients
                }
                replies = self._ask_each(stage, requests, messages.LocalTrainingReply)
                replies = self._checked_models(stage, replies, kinds, last=index == rounds - 1)
                arrays = {
                    f"{kind}/{client}/{name}": value
                    for client, reply in replies.items()
                    for kind in ("classifier", "generator", "counts")
                    for name, value in getattr(reply, kind).items()
                }
                self._run.save_stage(stage, arrays, {"left_out": self._left_out.get(stage, {})})
            else:
                arrays = found[0]
            classifiers, generators, late = _grouped(arrays, self._clients)
            starts = _averages(classifiers, kinds)
            self._progress(Progress("local training", index + 1, rounds))
        named = {client: (kinds[client], weights) for client, weights in classifiers.items()}
        return named, generators, self._checked_counts(late)

    def _checked_models(
        self,
        stage: str,
        replies: Mapping[str, messages.LocalTrainingReply],
        kinds: Mapping[str, str],
        *,
        last: bool,
    ) -> dict[str, messages.LocalTrainingReply]:
        """Replies whose weights can be used; the others lose their sender this round, by name."""
        expected = ExpectedModels(self._plan)
        good = {c: r for c, r in replies.items() if expected.fits(r, kinds[c], last=last)}
        bad = {client: "malformed" for client in replies if client not in good}
        self._leave_out(stage, bad)
        self._need(good, self._left_out.get(stage, {}), stage)
        return good

    def _checked_counts(self, replies: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        shape = (self._plan.num_classes,)
        return {
            client: np.asarray(arrays["counts"], dtype=np.float64)
            for client, arrays in replies.items()
            if "counts" in arrays and arrays["counts"].shape == shape and np.isfinite(arrays["counts"]).all()
        }

    def _ask(self, stage: str, request: Any, reply: type) -> dict[str, Any]:
        return self._ask_each(stage, {client: request for client in self._clients}, reply)

    def _ask_each(self, stage: str, requests: Mapping[str, Any], reply: type) -> dict[str, Any]:
        answers = self._courier.ask(stage, requests, reply)
        good = {client: answer for client, answer in answers.items() if not isinstance(answer, Refused)}
        bad = {client: answer.code for client, answer in answers.items() if isinstance(answer, Refused)}
        self._leave_out(stage, bad)
        self._need(good, bad, stage)
        return good

    def _leave_out(self, stage: str, codes: Mapping[str, str]) -> None:
        """Remember, and tell, which clients a stage goes on without."""
        for client, code in codes.items():
            self._left_out.setdefault(stage, {})[client] = code
            self._progress(Progress(stage, note=f"goes on without {client}: {code}"))

    def _need(self, good: Any, refused: Mapping[str, str], stage: str) -> None:
        fewest = self._plan.config.min_contributors
        if len(good) >= fewest:
            return
        listed = ", ".join(f"{client}: {code}" for client, code in refused.items())
        text = f"{stage}: {len(good)} clients are left, the plan needs {fewest} ({listed})"
        if set(refused.values()) <= {"budget", "policy"}:
            raise BudgetError(text)
        if "ledger" in refused.values():
            raise LedgerError(text)
        raise UserError(text)


def _names(trained: tuple[str, ...], state: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    """Pairs of a trained part's name and its name in the whole model."""
    return [(n, n if n in state else f"head.{n}") for n in trained]


def _fits(
    weights: Mapping[str, np.ndarray], trained: tuple[str, ...], state: Mapping[str, np.ndarray]
) -> bool:
    return set(weights) == set(trained) and all(
        weights[short].shape == state[name].shape and bool(np.isfinite(weights[short]).all())
        for short, name in _names(trained, state)
    )


def _grouped(arrays: Mapping[str, np.ndarray], clients: list[str]) -> tuple[dict, dict, dict]:
    """Classifiers, generators and counts, each by client in the order of `clients`, then by tensor.

    A checkpoint does not keep the order of its tensors, and the order of clients decides sums and draws.
    """
    kinds: dict[str, dict[str, dict[str, np.ndarray]]] = {"classifier": {}, "generator": {}, "counts": {}}
    found: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for path in sorted(arrays):
        kind, client, name = path.split("/", 2)
        found.setdefault((kind, client), {})[name] = arrays[path]
    for kind, members in kinds.items():
        members.update((client, found[kind, client]) for client in clients if (kind, client) in found)
    return kinds["classifier"], kinds["generator"], kinds["counts"]


def _averages(
    classifiers: Mapping[str, Mapping[str, np.ndarray]], kinds: Mapping[str, str]
) -> dict[str, dict[str, np.ndarray]]:
    """The mean weights of each architecture group."""
    groups: dict[str, list[Mapping[str, np.ndarray]]] = {}
    for client, weights in classifiers.items():
        groups.setdefault(kinds[client], []).append(weights)
    return {
        kind: {name: np.mean([w[name] for w in members], axis=0) for name in members[0]}
        for kind, members in groups.items()
    }
