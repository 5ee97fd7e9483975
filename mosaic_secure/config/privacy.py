"""The privacy section: the bound, who is trusted, and how the budget is split."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mosaic_secure.config.base import Epsilon, Fraction, Section


class SharesConfig(Section):
    """Shares of mu^2 for each release; they sum to 1, and a part that is switched off holds 0."""

    prototypes: Fraction = 0.60
    sampler: Fraction = 0.0
    counts: Fraction = 0.04
    classifier: Fraction = 0.18
    generator: Fraction = 0.18
    fine_tune: Fraction = 0.0


class PrivacyConfig(Section):
    """The (epsilon, delta) of each client's joint release and the assumptions that it rests on.

    Under ``trust = "distributed"`` each client adds 1/``honest_clients`` of the noise variance of a sum;
    ``honest_clients`` counts the protected client itself. The caps become the policy of clients that are
    created by this run; a client that has a policy keeps its own.

    With ``pairwise_masks`` clients agree on masks that cancel in the encrypted sums, so that server and key
    authority together learn sums only, with up to ``colluding_clients`` clients on their side. It costs one
    more exchange in each encrypted round, and some precision.
    """

    epsilon: Epsilon = 4.0
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    trust: Literal["local", "distributed"] = "local"
    honest_clients: Annotated[int, Field(ge=1)] | None = None
    colluding_clients: Annotated[int, Field(ge=1)] = 1
    allowed_dropouts: Annotated[int, Field(ge=0)] = 0
    min_contributors: Annotated[int, Field(ge=2)] | None = None
    pairwise_masks: bool = False
    shares: SharesConfig = SharesConfig()
    insecure_reproducible_noise: bool = False
    max_epsilon_per_run: Epsilon | None = None
    max_epsilon_lifetime: Epsilon | None = None
    max_delta_lifetime: Annotated[float, Field(gt=0, lt=1)] | None = None
