"""The encrypted rounds at the server: each asked for, added, learnt from and checkpointed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mosaic_secure.masking import unmasking_stage
from mosaic_secure.progress import Progress, ProgressCallback
from mosaic_secure.protocol import messages
from mosaic_secure.server.contributions import Contributions
from mosaic_secure.server.counted import counts_in, named_counts, other_than_counts
from mosaic_secure.server.courier import Refused
from mosaic_secure.server.image_learner import ImageLearner
from mosaic_secure.server.inspection import counts_fault
from mosaic_secure.server.masking import Masking
from mosaic_secure.server.prototype_learner import PrototypeLearner
from mosaic_secure.server.rounds import decrypt_round
from privacy.canonical import canonical_json
from privacy.errors import AggregationError
from privacy.secagg.contribution import Expectation

if TYPE_CHECKING:
    from mosaic_secure.plan import EncryptedRound, RunPlan
    from mosaic_secure.protocol.fields import Arrays
    from mosaic_secure.runs.directory import RunDirectory
    from mosaic_secure.server.image_moments import ImageState
    from mosaic_secure.server.prototypes import PrototypeState
    from mosaic_secure.server.roll import Roll

__all__ = ["EncryptedStage"]


class _Learner(Protocol):
    """What learns from the rounds of some releases, one after the other."""

    title: str
    releases: tuple[str, ...]

    def broadcast(self, wanted: EncryptedRound) -> dict[str, np.ndarray]:
        """What clients need to know of earlier rounds for this one."""

    def learn(
        self,
        wanted: EncryptedRound,
        total: np.ndarray,
        contributors: list[str],
        counts: Mapping[str, np.ndarray],
    ) -> None:
        """Take in the sum of `contributors`, int64 [length]; `counts`: noised class counts by client."""

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is known, for a checkpoint."""

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Know what `arrays` hold."""


class EncryptedStage:
    """Runs the encrypted rounds of a plan; a round whose checkpoint is found is not asked for again."""

    def __init__(self, run: RunDirectory, plan: RunPlan, roll: Roll, progress: ProgressCallback) -> None:
        self._run, self._plan, self._roll, self._progress = run, plan, roll, progress
        self._key: messages.AuthorityKey | None = None
        self._masks = Masking(run, plan, roll) if plan.is_masked else None

    def collect(self) -> tuple[PrototypeState | None, ImageState | None, dict[str, np.ndarray]]:
        """Prototype expert and moments of images after all rounds, None where the plan has no rounds for
        them, and the clients' noised class counts, float64 [K].

        Raises:
            AggregationError: a round cannot be added, decrypted or unmasked.
            UserError, BudgetError, LedgerError: too few clients are left.
        """
        plan, run = self._plan, self._run
        prototypes, images = PrototypeLearner(plan), ImageLearner(plan)
        counts: dict[str, np.ndarray] = {}
        for learner in (prototypes, images):
            mine = [wanted for wanted in plan.rounds if wanted.release in learner.releases]
            for done, wanted in enumerate(mine):
                found = run.load_stage(wanted.round_id)
                if found is None:
                    counts = self._round(wanted, learner, counts)
                else:
                    counts = counts_in(found[0])
                    learner.restore(other_than_counts(found[0]))
                self._progress(Progress(learner.title, done + 1, len(mine)))
        return prototypes.state, images.state, counts

    def _round(
        self, wanted: EncryptedRound, learner: _Learner, counts: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """One round, from the request to its checkpoint; returns the clients' counts, as far as known."""
        plan, run = self._plan, self._run
        self._key = self._key or self._open_authority()
        with self._contributions(wanted, self._key.key_id) as contributions:
            brought = self._bring(wanted, self._key, learner, contributions)
            if wanted.round_id == plan.rounds[0].round_id:
                counts = {client: arrays["counts"] for client, arrays in brought.items() if arrays}
            total, contributors = decrypt_round(
                self._roll,
                plan,
                wanted,
                run.run_id,
                contributions,
                lambda valid: self._settle(wanted.round_id, valid, contributions, brought),
            )
            if self._masks is not None:
                total = self._masks.unmask(wanted, total, contributors)
            self._roll.leave_out(wanted.round_id, contributions.faults)
            learner.learn(wanted, total, contributors, counts)
            # In the memory layout of a checkpoint, on which the last bits of products may hang.
            arrays = {name: np.ascontiguousarray(value) for name, value in learner.arrays().items()}
            learner.restore(arrays)
            arrays |= named_counts(counts)
            facts = {
                "contributors": contributors,
                "left_out": self._roll.left_out(wanted.round_id),
                "left_out_unmasking": self._roll.left_out(unmasking_stage(wanted.round_id)),
            }
            run.save_stage(wanted.round_id, arrays, facts)
        return counts

    def _open_authority(self) -> messages.AuthorityKey:
        plan = self._plan
        request = messages.AuthorityOpen(
            run_id=self._run.run_id,
            agreement=plan.agreement,
            rounds_json=canonical_json(plan.round_lengths).decode(),
            min_contributors=plan.config.min_contributors,
            roster_json=canonical_json(self._roll.keys).decode(),
            parameters_json=canonical_json(plan.ckks.to_dict()).decode(),
        )
        answer = self._roll.ask_authority("authority", request, messages.AuthorityKey)
        if isinstance(answer, Refused):
            raise AggregationError(f"key authority: refused to open the run ({answer.code})")
        return answer

    def _contributions(self, wanted: EncryptedRound, key_id: str) -> Contributions:
        plan, run = self._plan, self._run
        expected = Expectation(run.run_id, wanted.round_id, key_id, plan.ckks, wanted.length)
        keys = {client: bytes.fromhex(public) for client, public in self._roll.keys.items()}
        return Contributions(run.scratch(wanted.round_id), expected, keys)

    def _bring(
        self,
        wanted: EncryptedRound,
        key: messages.AuthorityKey,
        learner: _Learner,
        contributions: Contributions,
    ) -> dict[str, Arrays]:
        """Have the contributions here; the noised counts that came beside, by client.

        Where an earlier attempt had settled whose are added, they are taken from the disk, and only clients
        whose contribution is not whole there are asked, who send the same again.
        """
        roll, stage = self._roll, wanted.round_id
        arrays, facts = self._run.load_stage(f"{stage}-set") or ({}, {})
        again = contributions.restore(names := facts.get("names", {}))
        if not names:
            brought = self._ask(wanted, key, learner, contributions, roll.clients)
            roll.need(brought, roll.left_out(stage), stage)
            return brought
        roll.leave_out(stage, facts["left_out"])
        kept = {client: {"counts": counts} for client, counts in counts_in(arrays).items()}
        if again:
            kept = {**self._ask(wanted, key, learner, contributions, again), **kept}
        return kept

    def _ask(
        self,
        wanted: EncryptedRound,
        key: messages.AuthorityKey,
        learner: _Learner,
        contributions: Contributions,
        clients: Sequence[str],
    ) -> dict[str, Arrays]:
        """Have clients contribute; the noised counts that came beside, by client."""
        roll, stage, plan = self._roll, wanted.round_id, self._plan
        first = stage == plan.rounds[0].round_id
        places, broadcast = plan.config.places, learner.broadcast(wanted)
        request = messages.PrototypeRequest(
            run_id=self._run.run_id,
            round_id=stage,
            key_id=key.key_id,
            public_context=key.public_context,
            context_signature=key.signature,
            broadcast=broadcast,
            **({} if self._masks is None else self._masks.certificate),
        )
        counts: dict[str, Arrays] = {}

        def ask(part: Sequence[str]) -> None:  # a function, so that no reply outlives it
            good, bad = roll.answers(stage, {client: request for client in part}, messages.PrototypeReply)
            for client, reply in good.items():
                if fault := counts_fault(reply.counts, plan, places[client], wanted=first):
                    bad[client] = fault
                    continue
                contributions.take(client, reply.contribution)
                counts[client] = reply.counts
            roll.leave_out(stage, bad)

        sent = len(key.public_context) + sum(array.nbytes for array in broadcast.values())
        for part in contributions.in_parts(clients, sent):
            ask(part)
        return counts

    def _settle(
        self,
        round_id: str,
        valid: list[str],
        contributions: Contributions,
        brought: Mapping[str, Arrays],
    ) -> list[str]:
        """The clients whose contributions are added: those of the first attempt, whatever comes later."""
        stage = f"{round_id}-set"
        found = self._run.load_stage(stage)
        if found is None:
            arrays = named_counts({client: of["counts"] for client, of in brought.items() if of})
            left_out = {**self._roll.left_out(round_id), **contributions.faults}
            facts = {"clients": valid, "names": contributions.settle(), "left_out": left_out}
            self._run.save_stage(stage, arrays, facts)
            return valid
        return list(found[1]["clients"])
