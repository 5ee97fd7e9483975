"""The gate: probabilities in and out, experts known by who they are, and learning whom to trust."""

from __future__ import annotations

import pytest
import torch

from mosaic_secure.config import GateConfig
from mosaic_secure.server.gating import pool, starting_scores, train_gate

EXPERTS, CLASSES = 3, 4
PERMUTED = [2, 0, 1]


def answers(count: int = 200, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Expert 0 is right, expert 1 is sure and wrong, expert 2 is right on class 0 alone."""
    stream = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=stream)
    onehot = torch.nn.functional.one_hot(labels, CLASSES).float()
    wrong = onehot.roll(1, 1)
    half = torch.where((labels == 0)[:, None], onehot, wrong)
    logits = torch.stack([2.0 * onehot, 3.0 * wrong, 3.0 * half], dim=1)
    logits = logits + 0.3 * torch.randn(logits.shape, generator=stream)
    return logits.log_softmax(-1), labels


def trained(seed: int = 0, **options):
    eager = {"steps": 100, "batch": 64, "learning_rate": 0.03, "ema_decay": 0.9, "caution": 0.05}
    settings = GateConfig(**({"dim": 8, "heads": 2} | eager | options))
    return train_gate(*answers(), torch.zeros(EXPERTS), settings, seed)


@pytest.fixture(scope="module")
def gate():
    return trained()


def accuracy(log_probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    return float((log_probabilities.argmax(-1) == labels).double().mean())


@torch.no_grad()
def test_trust_and_answers_are_probabilities(gate):
    given, _ = answers(7)
    trust, teacher = gate.trust(given), gate(given)
    assert trust.shape == (7, EXPERTS) and teacher.shape == (7, CLASSES)
    assert (trust >= 0).all()
    assert torch.allclose(trust.sum(-1), torch.ones(7), atol=1e-5)
    assert torch.allclose(teacher.exp().sum(-1), torch.ones(7), atol=1e-5)


@torch.no_grad()
def test_a_trained_gate_trusts_the_expert_that_is_right_and_beats_the_even_pool(gate):
    given, labels = answers(400, seed=1)
    trust = gate.trust(given).mean(0)
    assert trust.argmax() == 0 and trust.argmin() == 1
    assert accuracy(gate(given), labels) > 0.9 > accuracy(pool(given), labels)


@torch.no_grad()
def test_experts_are_known_by_identity_and_not_by_their_answers_alone(gate):
    given, _ = answers(50, seed=1)
    moved = gate.trust(given[:, PERMUTED])
    # A gate without identities would move its trust along with the answers.
    assert float((moved - gate.trust(given)[:, PERMUTED]).abs().max()) > 0.05
    same = given[:, :1].expand(-1, EXPERTS, -1)
    alike = gate.trust(same)  # three experts with one and the same answer
    assert float((alike[:, 0] - alike[:, 1]).min()) > 0.05


def test_the_same_answers_are_trusted_from_one_expert_and_not_from_another():
    """On classes 0 and 1 the first expert is right and the second names the other one; on 2 and 3 it is the
    reverse. No weight of an expert alone, and no look at the answers alone, can tell."""
    labels = torch.arange(200) % 4
    other = torch.tensor([1, 0, 3, 2])[labels]
    low = labels < 2
    said = torch.stack([torch.where(low, labels, other), torch.where(low, other, labels)], dim=1)
    given = (4.0 * torch.nn.functional.one_hot(said, 4).float()).log_softmax(-1)
    settings = GateConfig(
        dim=16, heads=2, steps=150, batch=64, learning_rate=0.02, ema_decay=0.9, caution=0.01
    )
    made = train_gate(given, labels, torch.zeros(2), settings, 0)
    teacher = made(given).detach()
    assert accuracy(teacher[low], labels[low]) == accuracy(teacher[~low], labels[~low]) == 1.0


def test_caution_keeps_the_trust_near_its_start(gate):
    given, _ = answers(50, seed=1)
    careful, eager = (
        float((g.trust(given).detach() - 1 / EXPERTS).abs().max()) for g in (trained(caution=100.0), gate)
    )
    assert careful < eager / 3


@torch.no_grad()
def test_trust_looks_at_the_answers_too(gate):
    given, _ = answers(50, seed=1)
    assert float(gate.trust(given).std(0).max()) > 1e-3


@torch.no_grad()
def test_a_record_is_gated_by_itself(gate):
    given, _ = answers(9)
    assert torch.allclose(gate(given)[4:5], gate(given[4:5]), atol=1e-5)


@torch.no_grad()
def test_an_expert_that_rules_a_class_out_cannot_veto_the_others(gate):
    sure = torch.full((1, EXPERTS, CLASSES), -20.0)
    sure[:, :, 1] = 0.0
    sure[:, 0, 0] = -torch.inf
    for found in (gate(sure), pool(sure)):
        assert torch.isfinite(found).all()
    split = torch.tensor([[[0.0, -torch.inf], [-1e30, 0.0]]])
    assert torch.allclose(pool(split).exp(), torch.full((1, 2), 0.5), atol=1e-5)


def test_the_even_pool_is_the_normalised_geometric_mean():
    given, _ = answers(5)
    wanted = given.exp().prod(1) ** (1 / EXPERTS)
    wanted = wanted / wanted.sum(-1, keepdim=True)
    assert torch.allclose(pool(given).exp(), wanted, atol=1e-5)
    assert torch.allclose(pool(given), pool(given[:, PERMUTED]), atol=1e-5)


def test_a_weighted_pool_follows_its_scores():
    given, _ = answers(5)
    assert torch.allclose(pool(given, torch.zeros(EXPERTS)), pool(given), atol=1e-5)
    assert torch.allclose(pool(given, torch.tensor([50.0, 0.0, 0.0])), given[:, 0], atol=1e-4)


def test_the_start_gives_a_favourite_its_trust_and_the_others_like_parts():
    scores = starting_scores(("a", "b", "favourite", "c"), "favourite", 0.7)
    assert torch.allclose(scores.softmax(0), torch.tensor([0.1, 0.1, 0.7, 0.1]), atol=1e-6)
    assert torch.allclose(starting_scores(("a", "b"), "favourite", 0.7).softmax(0), torch.full((2,), 0.5))
    assert starting_scores(("favourite",), "favourite", 0.7).softmax(0).tolist() == [1.0]


def test_a_seed_fixes_the_gate_and_torchs_own_stream_does_not_touch_it():
    found = []
    for seed, stream in ((3, 1), (3, 2), (4, 1)):
        torch.manual_seed(stream)
        state = torch.random.get_rng_state()
        found.append(trained(seed, steps=5).state_dict())
        assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    assert any(not torch.equal(value, found[2][name]) for name, value in found[0].items())


def test_an_untrained_start_follows_the_prior():
    prior = torch.tensor([2.0, 0.0, -1.0])
    settings = GateConfig(dim=8, heads=2, steps=1, batch=8, learning_rate=1e-9)
    fresh = train_gate(*answers(), prior, settings, 0)
    given, _ = answers(3)
    assert torch.allclose(fresh.trust(given), prior.softmax(0).expand(3, -1), atol=1e-4)


def test_fewer_records_than_a_batch_are_enough():
    few, labels = answers(3)
    made = train_gate(few, labels, torch.zeros(EXPERTS), GateConfig(dim=8, heads=2, steps=3), 0)
    assert torch.isfinite(made(few)).all()


def test_the_gate_is_the_average_of_its_iterates():
    # With an average that hardly moves, even many large steps leave the gate near where it started.
    given, labels = answers()
    settings = GateConfig(dim=8, heads=2, steps=30, learning_rate=0.05, caution=0.0)
    slow, fast = (
        train_gate(given, labels, torch.zeros(EXPERTS), settings.model_copy(update={"ema_decay": decay}), 0)
        for decay in (0.9999, 0.0)
    )
    assert (fast.identity - slow.identity).norm() > 10 * (slow.prior - torch.zeros(EXPERTS)).norm()
