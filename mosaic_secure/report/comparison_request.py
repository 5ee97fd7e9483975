"""What a comparison is asked for: lists of methods, budgets and seeds, and the runs that follow from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

from mosaic_secure.config import RunConfig
from mosaic_secure.errors import UserError

__all__ = ["REFERENCE", "Cell", "Request", "known_methods"]

REFERENCE = "mosaic"
"""The only method with encrypted sums and presets, and the one that the others are held against."""

_POOLED = "central"
_DECIDES = {
    "fedavg": ("clients.architectures",),
    "fedprox": ("clients.architectures",),
    _POOLED: ("clients.", "partition.", "data.declared_records"),
}
"""Fields that a method decides itself: what is set for all methods is not meant for it."""

_OF_METHOD = "methods."
_CHOSEN = {
    "privacy.epsilon": "--epsilons",
    "privacy.trust": "--trust",
    "method": "--methods",
    "preset": "--methods mosaic:NAME",
    "seed": "--seeds",
    "partition.alpha": "--alphas",
}


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        slug: its name, and that of its directory.
        trust: whose noise protects; ``"local"`` for every method without encrypted sums.
        alpha: of the Dirichlet partition; None where records are dealt in another way.
    """

    slug: str
    method: str
    preset: str | None
    trust: str
    alpha: float | None
    epsilon: float
    seed: int
    config: RunConfig

    @property
    def same_plan(self) -> tuple[object, ...]:
        """What decides its plan within one comparison: all but the seed."""
        return self.method, self.preset, self.trust, self.alpha, self.epsilon


@dataclass(frozen=True)
class Request:
    """Everything that is combined with everything. None stands for what the configuration says.

    Attributes:
        methods: (method, preset or None).
        trusts: of mosaic; other methods are run once, with ``"local"``.
        alphas: of all methods but central, which pools the records however they are dealt.
    """

    methods: tuple[tuple[str, str | None], ...] | None
    epsilons: tuple[float | None, ...]
    seeds: tuple[int, ...]
    trusts: tuple[str | None, ...]
    alphas: tuple[float | None, ...]

    @classmethod
    def parse(
        cls,
        methods: str | None = None,
        epsilons: str | None = None,
        seeds: str | None = None,
        trusts: str | None = None,
        alphas: str | None = None,
    ) -> Request:
        """Read lists as the command line gives them, ``a,b,c``; a repeated entry counts once.

        Raises:
            UserError: an entry that is not what its option takes; the line names both.
        """
        return cls(
            methods=_read("--methods", methods, _method, None),
            epsilons=_read("--epsilons", epsilons, _epsilon, (None,)),
            seeds=_read("--seeds", seeds, _seed, (0,)),
            trusts=_read("--trust", trusts, _trust, (None,)),
            alphas=_read("--alphas", alphas, _alpha, (None,)),
        )

    def cells(
        self, load: Callable[[Mapping[str, Any]], RunConfig], settings: Mapping[str, Any]
    ) -> tuple[Cell, ...]:
        """The runs, in the order in which they are made: all methods at one seed before the next seed.

        Args:
            load: lays dotted fields over the configuration of the comparison.
            settings: fields for all runs; ``methods.NAME.FIELD`` is for that method alone.

        Raises:
            UserError: a field that the comparison sets itself, or what the configuration refuses.
        """
        of_all, of_method = _sorted_settings(settings)
        cells: dict[str, Cell] = {}
        variants = list(self._variants())
        for seed, alpha, epsilon, variant in product(self.seeds, self.alphas, self.epsilons, variants):
            method, preset, trust = variant
            if self._leaves_out(method, cells):
                continue
            own = _DECIDES.get(method, ())
            taken = {name: value for name, value in of_all.items() if not name.startswith(own)}
            taken |= of_method.get(method, {})
            taken |= _fields(seed, None if method == _POOLED else alpha, epsilon, method, preset, trust)
            cell = _cell(load(taken), preset)
            if alpha is not None and cell.alpha is None and method != _POOLED:
                raise UserError(
                    f"--alphas {alpha:g}: partition.kind is {cell.config.partition.kind!r}, which takes no "
                    "alpha; leave --alphas out, or add --set partition.kind=dirichlet"
                )
            cells.setdefault(cell.slug, cell)
        return tuple(cells.values())

    def _variants(self) -> Iterator[tuple[str, str | None, str | None]]:
        every = tuple((name, None) for name in known_methods())
        for method, preset in every if self.methods is None else self.methods:
            for trust in self.trusts if method == REFERENCE else ("local",):
                yield method, preset, trust

    def _leaves_out(self, method: str, before: Mapping[str, Cell]) -> bool:
        """Central may not pool private records, and where nobody named it, it is left out."""
        others = list(before.values())
        return self.methods is None and method == _POOLED and bool(others) and not others[0].config.is_public


def known_methods() -> tuple[str, ...]:
    """The methods that a configuration may name."""
    return tuple(get_args(RunConfig.model_fields["method"].annotation))


def _sorted_settings(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Fields for all methods, and those of each."""
    of_all: dict[str, Any] = {}
    of_method: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        name, dot, field = key.removeprefix(_OF_METHOD).partition(".")
        if not key.startswith(_OF_METHOD):
            field = key
            of_all[field] = value
        elif name in known_methods() and dot:
            of_method.setdefault(name, {})[field] = value
        else:
            raise UserError(f"--set {key}: expected {_OF_METHOD}NAME.FIELD with one of {_known()}")
        if field in _CHOSEN:
            raise UserError(f"--set {key}: a comparison sets this field; use {_CHOSEN[field]}")
    return of_all, of_method


def _known() -> str:
    return ", ".join(known_methods())


def _fields(
    seed: int,
    alpha: float | None,
    epsilon: float | None,
    method: str,
    preset: str | None,
    trust: str | None,
) -> dict[str, Any]:
    fields: dict[str, Any] = {"seed": seed, "method": method}
    named = {
        "partition.alpha": alpha,
        "privacy.epsilon": epsilon,
        "preset": preset,
        "privacy.trust": trust,
    }
    fields |= {name: value for name, value in named.items() if value is not None}
    if method != REFERENCE and "preset" in RunConfig.model_fields:
        fields["preset"] = RunConfig.model_fields["preset"].default  # whatever the file says for mosaic
    if trust == "local":
        fields["privacy.honest_clients"] = None  # of distributed trust; refused under any other
    return fields


def _cell(config: RunConfig, preset: str | None) -> Cell:
    if config.method == REFERENCE:
        preset = preset or getattr(config, "preset", None)
    dealt = config.data.clients_from == "partition" and config.partition.kind == "dirichlet"
    alpha = config.partition.alpha if dealt else None
    epsilon, trust = config.privacy.epsilon, config.privacy.trust
    parts = [config.method, preset, trust if config.method == REFERENCE else None]
    parts += [None if alpha is None else f"alpha{_number(alpha)}", f"eps{_number(epsilon)}"]
    slug = "-".join([part for part in parts if part] + [f"seed{config.seed}"])
    return Cell(slug, config.method, preset, trust, alpha, epsilon, config.seed, config)


def _number(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _read(option: str, text: str | None, read: Callable[[str], Any], otherwise: Any) -> Any:
    if text is None:
        return otherwise
    entries = []
    for part in text.split(","):
        try:
            entries.append(read(part.strip()))
        except ValueError as error:
            raise UserError(f"{option} {text}: {part.strip()!r} {error}") from None
    return tuple(dict.fromkeys(entries))


def _method(text: str) -> tuple[str, str | None]:
    name, colon, preset = text.partition(":")
    if name not in known_methods():
        raise ValueError(f"is no method; choose from {_known()}")
    if colon and (name != REFERENCE or not preset):
        raise ValueError("must be a method, or mosaic:PRESET")
    return name, preset or None


def _epsilon(text: str) -> float:
    value = _float(text, "must be a number above 0, or inf")
    if not value > 0:
        raise ValueError("must be a number above 0, or inf")
    return value


def _alpha(text: str) -> float:
    value = _float(text, "must be a number above 0")
    if not value > 0 or math.isinf(value):
        raise ValueError("must be a number above 0")
    return value


def _float(text: str, wanted: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(wanted) from None


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= 2**32:
        raise ValueError("must be a whole number from 0 to 4294967295")
    return int(text)


def _trust(text: str) -> str:
    if text not in ("local", "distributed"):
        raise ValueError("must be local or distributed")
    return text
