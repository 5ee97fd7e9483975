"""DP-SGD: what is clipped, noised, sampled and divided is what the plan says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.func import functional_call

from privacy.dpsgd import DPSGDPlan, train_private
from privacy.errors import PrivacyError, UnsafeModelError
from privacy.randomness import NoiseSource

DIM = 6


class Weights(nn.Module):
    """A bare parameter vector: with loss w.x the gradient of a record is the record itself."""

    def __init__(self, dim: int = DIM) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        return x @ self.w


def linear_loss(params, buffers, x):
    return params["w"] @ x


def plan(**changes) -> DPSGDPlan:
    values = {
        "noise_multiplier": 0.0,
        "sample_rate": 1.0,
        "steps": 1,
        "max_grad_norm": 1.0,
        "expected_batch_size": 1.0,
        "learning_rate": 1.0,
    }
    return DPSGDPlan(**(values | changes))


def source(label: str = "test") -> NoiseSource:
    return NoiseSource(bytes(range(32)), label)


def gradient_of_one_step(records, the_plan, label="test", loss=linear_loss, **options) -> torch.Tensor:
    """The update that one step makes, divided by -learning_rate."""
    model = Weights(options.pop("dim", DIM))
    train_private(model, loss, records, the_plan, source(label), **options)
    return -model.w.detach() / the_plan.learning_rate


def directions(count: int, norm: float, seed: int = 0) -> torch.Tensor:
    x = torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))
    return norm * x / x.norm(dim=1, keepdim=True)


def test_each_record_is_clipped_on_its_own():
    long, short = directions(5, 100.0), directions(5, 0.25, seed=1)
    total = gradient_of_one_step((torch.cat([long, short]),), plan())
    assert torch.allclose(total, long.sum(0) / 100 + short.sum(0), atol=1e-5)


def test_one_record_moves_the_sum_by_at_most_the_clip():
    records = directions(40, 1e6)
    for clip in (0.1, 1.0, 7.0):
        with_all = gradient_of_one_step((records,), plan(max_grad_norm=clip))
        without = gradient_of_one_step((records[:-1],), plan(max_grad_norm=clip))
        assert (with_all - without).norm() <= clip * (1 + 1e-4)


@pytest.mark.parametrize("chunk_size", [1, 3, 10, 64])
def test_chunks_change_nothing(chunk_size):
    records = directions(10, 3.0)
    settings = {"sample_rate": 0.6, "steps": 5, "noise_multiplier": 1.3}
    whole = gradient_of_one_step((records,), plan(**settings, chunk_size=1000))
    assert torch.allclose(
        gradient_of_one_step((records,), plan(**settings, chunk_size=chunk_size)), whole, atol=1e-4
    )


def test_the_divisor_is_the_plan_s_constant():
    for count in (1, 5, 50):
        one = directions(1, 0.5).repeat(count, 1)
        total = gradient_of_one_step((one,), plan(expected_batch_size=17.0, chunk_size=4))
        assert torch.allclose(total, count * one[0] / 17.0, atol=1e-5)


@pytest.mark.parametrize(("clip", "divisor"), [(1.0, 1.0), (0.1, 30.0), (5.0, 4.0)])
def test_noise_has_exactly_the_planned_spread(clip, divisor):
    """Chi-square on 40,000 draws, two-sided, false-alarm rate 1e-4 over fixed seeds; 2% off would fail it."""
    dim, sigma = 40_000, 2.5
    the_plan = plan(noise_multiplier=sigma, max_grad_norm=clip, expected_batch_size=divisor, sample_rate=0.5)
    for count in (0, 3):
        records = torch.zeros(count, dim)
        noise = gradient_of_one_step((records,), the_plan, label=f"{clip}-{count}", dim=dim).double()
        statistic = float((noise * divisor / (sigma * clip)).square().sum())
        assert stats.chi2(dim).ppf(5e-5) < statistic < stats.chi2(dim).isf(5e-5)
        assert abs(float(noise.mean())) < 4 * sigma * clip / divisor / math.sqrt(dim)


def test_noise_is_drawn_once_a_step_however_many_chunks():
    records = torch.zeros(64, 2000)
    the_plan = plan(noise_multiplier=1.0, chunk_size=2)
    assert 0.9 < float(gradient_of_one_step((records,), the_plan, dim=2000).std()) < 1.1


def test_steps_draw_fresh_noise():
    """Correlation of 200 pairs within 4.2 standard deviations: false-alarm rate 3e-5 (fixed seed)."""
    seen = []
    model = Weights(200)
    the_plan = plan(noise_multiplier=1.0, steps=3)
    train_private(
        model,
        linear_loss,
        (torch.zeros(0, 200),),
        the_plan,
        source(),
        on_step=lambda step: seen.append(model.w.detach().clone()),
    )
    first, second = -seen[0], seen[0] - seen[1]
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.3


class Known:
    """A source whose draws are known: normals are 1 in the first call, 2 in the next; coins fall in turns."""

    def __init__(self) -> None:
        self.calls = 0

    def child(self, label: str) -> Known:
        return Known()

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        self.calls += 1
        return np.full(shape, self.calls, dtype=np.float32)

    def bernoulli(self, p: float, n: int) -> np.ndarray:
        self.calls += 1
        return np.arange(n) % 2 == self.calls % 2

    def uniform(self, shape: int) -> np.ndarray:
        return np.full(shape, 0.5)


def test_noise_and_sampling_are_the_draws_of_the_source_and_of_nothing_else():
    """Another generator would give other numbers, even one that takes its seed from the source."""
    model = Weights()
    the_plan = plan(noise_multiplier=3.0, max_grad_norm=2.0, sample_rate=0.5, steps=2)
    train_private(model, linear_loss, (torch.eye(DIM),), the_plan, Known())
    each_record_once = torch.ones(DIM)
    assert torch.allclose(-model.w.detach(), each_record_once + 3.0 * 2.0 * (1 + 2))


def test_an_empty_batch_is_a_step_of_noise_alone():
    records = (directions(20, 1.0),)
    steps = []
    model = Weights()
    the_plan = plan(sample_rate=1e-12, noise_multiplier=1.0, steps=4)
    train_private(model, linear_loss, records, the_plan, source(), on_step=steps.append)
    assert steps == [0, 1, 2, 3]
    nobody = gradient_of_one_step((torch.zeros(0, DIM),), the_plan)
    assert torch.equal(-model.w.detach(), nobody)
    assert model.w.detach().abs().min() > 0


def test_sampling_is_poisson_at_the_planned_rate():
    """Counts a step against Binomial(N, q): mean and variance, false-alarm rate 1e-4 each (fixed seed)."""
    number, rate, steps = 200, 0.3, 400
    sizes = []
    last = [0.0]
    model = Weights(1)

    def note(step):
        now = model.w.item()
        sizes.append(round(last[0] - now))
        last[0] = now

    train_private(
        model,
        linear_loss,
        (torch.ones(number, 1),),
        plan(sample_rate=rate, steps=steps, max_grad_norm=2.0),
        source(),
        on_step=note,
    )
    mean, variance = number * rate, number * rate * (1 - rate)
    assert abs(np.mean(sizes) - mean) < 4 * math.sqrt(variance / steps)
    assert (
        stats.chi2(steps - 1).ppf(5e-5)
        < np.var(sizes, ddof=1) * (steps - 1) / variance
        < stats.chi2(steps - 1).isf(5e-5)
    )


def test_each_record_is_drawn_on_its_own():
    """One-hot records show who took part: no fixed-size batches, no shuffled passes.

    Correlations within five standard deviations: false-alarm rate 6e-7 for each (fixed seed).
    """
    number, rate, steps = 30, 0.5, 200
    present, last = [], [torch.zeros(number)]
    model = Weights(number)

    def note(step):
        now = model.w.detach().clone()
        present.append((last[0] - now).round())
        last[0] = now

    train_private(
        model,
        linear_loss,
        (torch.eye(number),),
        plan(sample_rate=rate, steps=steps, max_grad_norm=2.0),
        source(),
        on_step=note,
    )
    table = torch.stack(present)
    assert set(table.unique().tolist()) == {0.0, 1.0}
    correlation = torch.corrcoef(table.T) - torch.eye(number)
    assert correlation.abs().max() < 5 / math.sqrt(steps)
    pairs = number * (number - 1)
    assert abs(float(correlation.sum()) / pairs) < 5 / math.sqrt(steps * pairs / 2)  # sizes vary freely
    followed = torch.corrcoef(torch.stack([table[:-1].flatten(), table[1:].flatten()]))[0, 1]
    assert abs(float(followed)) < 5 / math.sqrt(table[1:].numel())  # nobody waits for the others' turn


def test_views_of_a_record_are_averaged_before_clipping():
    records = directions(4, 10.0)

    def opposite(batch, generator):
        x = batch[0]
        return (torch.stack([x, -x, 0.001 * x], dim=1),)

    total = gradient_of_one_step((records,), plan(), augment=opposite)
    assert torch.allclose(total, records.sum(0) * 0.001 / 3, atol=1e-5)

    many = gradient_of_one_step(
        (records[:1],), plan(), augment=lambda b, g: (b[0][:, None].repeat(1, 50, 1),)
    )
    assert float(many.norm()) == pytest.approx(1.0, abs=1e-4)


def test_views_that_are_extra_rows_are_refused():
    with pytest.raises(PrivacyError, match="one row of views"):
        gradient_of_one_step(
            (directions(4, 1.0),), plan(), augment=lambda b, g: (b[0].repeat(2, 1)[:, None],)
        )


def test_a_loss_over_several_rows_is_refused():
    with pytest.raises(PrivacyError, match="expected a scalar"):
        gradient_of_one_step((directions(4, 1.0),), plan(), loss=lambda p, b, x: p["w"] * x)


def test_rows_must_be_one_a_record():
    from privacy.dpsgd import _StrongNoiseOptimizer

    model = Weights()
    optimizer = _StrongNoiseOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), plan(), source())
    with pytest.raises(PrivacyError, match="one row for each of 3 records"):
        optimizer.accumulate([torch.zeros(6, DIM)], 3, last=True)


@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e30])
def test_a_record_with_an_impossible_gradient_contributes_no_more_than_the_clip(poison):
    records = directions(6, 0.5)
    bad = torch.cat([records, torch.full((1, DIM), poison)])
    total = gradient_of_one_step((bad,), plan())
    assert torch.isfinite(total).all()
    assert (total - records.sum(0)).norm() <= 1.0 + 1e-4


def test_extra_gradient_is_added_unclipped_and_after_the_noise():
    records = (directions(5, 1.0),)
    the_plan = plan(noise_multiplier=1.0, expected_batch_size=3.0)
    extra = torch.arange(DIM) * 100.0
    plain = gradient_of_one_step(records, the_plan)
    with_extra = gradient_of_one_step(records, the_plan, extra_gradient=lambda step: {"w": extra})
    assert torch.allclose(with_extra - plain, extra, atol=1e-3)


def small_net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        return nn.Sequential(nn.Linear(DIM, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3))


def train_small(label="a", **changes) -> list[torch.Tensor]:
    model = small_net()
    x, y = directions(40, 1.0), torch.arange(40) % 3

    def loss(params, buffers, x, y):
        logits = functional_call(model, (params, buffers), (x[None],))
        return nn.functional.cross_entropy(logits, y[None])

    settings = {"noise_multiplier": 0.7, "sample_rate": 0.4, "steps": 6, "learning_rate": 0.3} | changes
    train_private(model, loss, (x, y), plan(**settings, expected_batch_size=16.0), source(label))
    return [value.detach() for value in model.parameters()]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_noise_source_alone_decides_the_result(optimizer):
    state = torch.get_rng_state()
    first = train_small(optimizer=optimizer)
    assert torch.equal(torch.get_rng_state(), state)
    torch.randn(7)
    second, other = train_small(optimizer=optimizer), train_small("b", optimizer=optimizer)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])


def test_matches_plain_gradient_descent_without_noise_and_clipping():
    model = small_net().eval()
    x, y = directions(40, 1.0), torch.arange(40) % 3
    reference = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _ in range(6):
        reference.zero_grad()
        nn.functional.cross_entropy(model(x), y, reduction="sum").div(16).backward()
        reference.step()
    trained = train_small(noise_multiplier=0.0, sample_rate=1.0, max_grad_norm=math.inf, momentum=0.9)
    for mine, expected in zip(trained, model.parameters(), strict=True):
        assert torch.allclose(mine, expected, atol=1e-5)


def test_the_average_of_the_iterates_is_smoother_than_the_last_one():
    model = Weights(500)
    train_private(
        model,
        linear_loss,
        (torch.zeros(0, 500),),
        plan(noise_multiplier=1.0, steps=50, ema_decay=0.95),
        source(),
    )
    last = Weights(500)
    train_private(last, linear_loss, (torch.zeros(0, 500),), plan(noise_multiplier=1.0, steps=50), source())
    assert 0 < model.w.std().item() < last.w.std().item()


def test_a_source_cannot_train_twice():
    noise = source()
    train_private(Weights(), linear_loss, (directions(3, 1.0),), plan(), noise)
    with pytest.raises(PrivacyError):
        train_private(Weights(), linear_loss, (directions(3, 1.0),), plan(), noise)


def test_models_that_mix_records_are_refused_before_anything_is_drawn():
    class NoDraws:
        def child(self, label):
            raise AssertionError("drew from the source")

    model = nn.Sequential(nn.Linear(DIM, 4), nn.BatchNorm1d(4))
    with pytest.raises(UnsafeModelError, match="GroupNorm"):
        train_private(model, linear_loss, (directions(3, 1.0),), plan(), NoDraws())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise_multiplier", -1.0),
        ("noise_multiplier", math.nan),
        ("sample_rate", 0.0),
        ("sample_rate", 1.5),
        ("steps", 0),
        ("max_grad_norm", 0.0),
        ("expected_batch_size", 0.0),
        ("learning_rate", math.inf),
        ("optimizer", "lbfgs"),
        ("momentum", 1.0),
        ("chunk_size", 0),
        ("ema_decay", 1.0),
    ],
)
def test_impossible_plans_name_the_field(field, value):
    with pytest.raises(PrivacyError, match=field):
        plan(**{field: value})


def test_an_infinite_clip_needs_a_plan_without_noise():
    plan(max_grad_norm=math.inf)
    with pytest.raises(PrivacyError, match="max_grad_norm"):
        plan(max_grad_norm=math.inf, noise_multiplier=1.0)


def test_the_accountant_is_told_what_is_run():
    pytest.importorskip("privacy.accounting")
    event = plan(noise_multiplier=1.5, sample_rate=0.25, steps=7).event
    assert (event.noise_multiplier, event.sample_rate, event.steps) == (1.5, 0.25, 7)
