"""How many clients pairwise masks need, and over how many honest ones a sum then is: whole numbers of a plan.

n clients are on the roster, up to c of them side with server and key authority, and m (`min_contributors`) is
the smallest set of contributors that a client helps to unmask. Every secret is dealt with threshold m.

*Never both secrets.* An honest client gives a share of one of a client's two secrets in a round, a colluder
of both. Two times m shares would take n - c + 2c of them, so 2m > n + c forbids it. By the same count two
views of who has agreed on masks cannot both have m signatures.

*How small an opened sum can be.* What can be opened of a round is the sum over those honest clients whose
mask key nobody can put together. Putting one together takes m - c honest clients that were told of a set
without its owner, and of u clients that agreed on masks each may be told of a set that lacks u - m. So at
most (u - c)(u - m) / (m - c) honest clients can be taken out of a sum, even if every client is told of
another set, and (u - c) minus that many are in it. Where (n - m)^2 < m - c this is m - c: all that a server
which tells everybody the same could reach. Bonawitz et al. (CCS 2017) reach it with one more exchange in each
round.
"""

from __future__ import annotations

__all__ = ["FEWEST_HONEST", "fewest_contributors", "honest_in_a_sum"]

FEWEST_HONEST = 2
"""Honest clients that every sum must have, for masks to be of any use: the sum of one is its contribution."""


def honest_in_a_sum(clients: int, colluding: int, contributors: int) -> int:
    """Fewest honest clients in any sum that server, authority and colluders can open; 0 where masks fail.

    Args:
        clients: n, on the roster. colluding: c, from 0. contributors: m, up to n.
    """
    if 2 * contributors <= clients + colluding:
        return 0
    found = []
    for agreed in range(contributors, clients + 1):
        honest = agreed - colluding
        found.append(honest - honest * (agreed - contributors) // (contributors - colluding))
    return max(0, min(found))


def fewest_contributors(clients: int, colluding: int) -> int | None:
    """The smallest m at which a sum has m - c honest clients, two or more; None if there is none."""
    for contributors in range(colluding + FEWEST_HONEST, clients + 1):
        if (clients - contributors) ** 2 < contributors - colluding:
            return contributors
    return None
