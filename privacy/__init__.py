"""What leaves a client, and at which cost in differential privacy.

The library knows nothing of the federation around it. Import what you need from its modules:

- `privacy.accounting`: mechanisms as frozen descriptions, their composition, and the epsilon it costs;
- `privacy.budget`: one (epsilon, delta) split over named releases into noise multipliers;
- `privacy.statement`: the guarantee in words and numbers, mechanism by mechanism and coalition by coalition;
- `privacy.randomness`: cryptographically strong noise and sampling from one secret per release;
- `privacy.identity`, `privacy.policy`, `privacy.ledger`, `privacy.releases`: a client's signing key, its
  caps, its durable record of spending, and releases that are made once and replayed;
- `privacy.mechanisms`, `privacy.dpsgd`, `privacy.validation`: clipping and noise, private training, and
  models that it is safe for;
- `privacy.secagg`: encrypted sums and the key authority;
- `privacy.errors`: what all of them raise.

Importing the package itself loads nothing heavy.
"""

from __future__ import annotations
