"""The prototype stage at the server: encrypted rounds, each of them learnt from and checkpointed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mosaic_secure.progress import Progress, ProgressCallback
from mosaic_secure.protocol import messages
from mosaic_secure.server import prototypes
from mosaic_secure.server.counts import usable_counts
from mosaic_secure.server.courier import Refused
from mosaic_secure.server.rounds import decrypt_round
from privacy.canonical import canonical_json
from privacy.errors import AggregationError

if TYPE_CHECKING:
    from mosaic_secure.plan import EncryptedRound, RunPlan
    from mosaic_secure.runs.directory import RunDirectory
    from mosaic_secure.server.prototypes import PrototypeState
    from mosaic_secure.server.roll import Roll

__all__ = ["PrototypeStage"]


class PrototypeStage:
    """Runs the encrypted rounds of a plan; a round whose checkpoint is found is not asked for again."""

    def __init__(self, run: RunDirectory, plan: RunPlan, roll: Roll, progress: ProgressCallback) -> None:
        self._run, self._plan, self._roll, self._progress = run, plan, roll, progress

    def collect(self) -> tuple[PrototypeState, dict[str, np.ndarray]]:
        """The prototype expert after all rounds, and the clients' noised class counts, float64 [K].

        Raises:
            AggregationError: a round cannot be added or decrypted.
            UserError, BudgetError, LedgerError: too few clients are left.
        """
        plan, run = self._plan, self._run
        state = prototypes.start(plan.code_dim, plan.num_classes)
        counts: dict[str, np.ndarray] = {}
        key: messages.AuthorityKey | None = None
        for done, wanted in enumerate(plan.rounds):
            found = run.load_stage(wanted.round_id)
            if found is None:
                key = key or self._open_authority()
                replies = self._ask(wanted, key, state)
                if done == 0:
                    counts = usable_counts({c: r.counts for c, r in replies.items()}, plan.num_classes)
                total, contributors, faults = decrypt_round(
                    self._roll,
                    plan,
                    wanted,
                    run.run_id,
                    key.key_id,
                    replies,
                    lambda valid, round_id=wanted.round_id: self._settle(round_id, valid),
                )
                self._roll.leave_out(wanted.round_id, faults)
                state = self._learn(state, wanted, total, contributors, counts)
                # In the memory layout of a checkpoint, on which the last bits of products may hang.
                arrays = {name: np.ascontiguousarray(value) for name, value in state.arrays().items()}
                state = prototypes.PrototypeState.from_arrays(arrays)
                arrays |= {f"counts/{c}": n for c, n in counts.items()}
                left_out = self._roll.left_out(wanted.round_id)
                run.save_stage(wanted.round_id, arrays, {"contributors": contributors, "left_out": left_out})
            else:
                arrays = found[0]
                state = prototypes.PrototypeState.from_arrays(arrays)
                counts = {n.removeprefix("counts/"): a for n, a in arrays.items() if n.startswith("counts/")}
            self._progress(Progress("prototypes", done + 1, len(plan.rounds)))
        return state, counts

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

    def _ask(
        self, wanted: EncryptedRound, key: messages.AuthorityKey, state: PrototypeState
    ) -> dict[str, messages.PrototypeReply]:
        request = messages.PrototypeRequest(
            run_id=self._run.run_id,
            round_id=wanted.round_id,
            key_id=key.key_id,
            public_context=key.public_context,
            context_signature=key.signature,
            broadcast=self._broadcast(wanted, state),
        )
        return self._roll.ask(wanted.round_id, request, messages.PrototypeReply)

    def _broadcast(self, wanted: EncryptedRound, state: PrototypeState) -> dict[str, np.ndarray]:
        """What clients need to know of earlier rounds for this one."""
        if wanted.release == "gradient":
            return {"centre": state.centre, "metric": state.metric, "weights": state.scaled_weights}
        return {"centre": state.centre} if wanted.release == "moments" else {}

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
        wanted: EncryptedRound,
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
