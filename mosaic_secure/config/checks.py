"""Contradictions between fields. Each check looks at plan values only, never at records."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mosaic_secure.config.methods import check_method
from mosaic_secure.errors import UserError
from mosaic_secure.models.names import CLASSIFIERS, WAVELET_DIM
from privacy.secagg.quorum import FEWEST_HONEST, fewest_contributors

if TYPE_CHECKING:
    from mosaic_secure.config.run import RunConfig

_SHARE_TOLERANCE = 1e-6


def check(config: RunConfig) -> None:
    """Raise ``UserError`` on the first contradiction; the line names the fields and a way out."""
    check_method(config)
    _check_data(config)
    if not config.is_public:
        _check_private(config)
    _check_partition(config)
    _check_trust(config)
    _check_masks(config)
    _check_parts(config)
    if config.method == "mosaic":
        _check_assembly(config)
    _check_global_model(config)
    _check_architectures(config)
    _check_shares(config)


def _check_data(config: RunConfig) -> None:
    data = config.data
    if data.dataset == "folder":
        if data.clients_from == "own":
            _check_own(config)
        elif data.path is None:
            raise UserError("data.path is missing: data.dataset = 'folder' needs the folder of the images")
        if data.test_path is not None and data.test_fraction > 0:
            raise UserError("data.test_path and data.test_fraction are both set: keep one of them")
    else:
        for name in ("path", "csv", "image_size", "channels", "class_names", "test_path", "test_visibility"):
            if getattr(data, name) is not None:
                raise UserError(
                    f"data.{name} is only for data.dataset = 'folder', not for {data.dataset}: remove it"
                )
        if data.clients_from != "partition":
            raise UserError(
                f"data.clients_from = {data.clients_from!r} is only for data.dataset = 'folder'; "
                f"{data.dataset} has no clients of its own: use 'partition'"
            )
        if data.test_fraction > 0:
            raise UserError(f"data.test_fraction is only for folders, not for {data.dataset}: remove it")
    if data.test_visibility is not None and data.test_path is None:
        raise UserError("data.test_visibility is set but data.test_path is not: give it, or remove both")
    names = data.class_names
    if names is not None and (len(names) < 2 or len(set(names)) < len(names)):
        raise UserError(f"data.class_names = {', '.join(names)}: needs at least 2 names, all different")
    if data.clients_from == "csv" and data.csv is None:
        raise UserError("data.csv is missing: data.clients_from = 'csv' needs a table of files and clients")
    if data.csv is not None and data.clients_from != "csv":
        raise UserError(f"data.csv is set but data.clients_from is {data.clients_from!r}: set it to 'csv'")
    _check_declared(config)


def _check_own(config: RunConfig) -> None:
    """Nobody but a client sees its own folder, so nothing may be looked up in it, or cut from all of them."""
    data = config.data
    if data.path is not None:
        raise UserError(
            "data.path is set but data.clients_from is 'own': each client says on its own machine where its "
            "records lie; remove it"
        )
    for name in ("class_names", "declared_records"):
        if getattr(data, name) is None:
            raise UserError(
                f"data.{name} must be declared with data.clients_from = 'own': nobody but a client sees its "
                "folder"
            )
    for name, off in (("limit", None), ("test_fraction", 0.0)):
        if getattr(data, name) != off:
            raise UserError(
                f"data.{name} cuts one common set of records, and with data.clients_from = 'own' there is "
                "none: remove it"
            )


def _check_declared(config: RunConfig) -> None:
    declared = config.data.declared_records
    if isinstance(declared, dict):
        wanted, given = set(config.client_ids), set(declared)
        if wanted != given:
            off = sorted(wanted ^ given)[0]
            state = "has no number" if off in wanted else "is no client of this run"
            raise UserError(
                f"data.declared_records: {off} {state}; give one number for each of "
                f"{config.client_ids[0]} to {config.client_ids[-1]}"
            )


def _check_private(config: RunConfig) -> None:
    data, privacy = config.data, config.privacy
    required = ["declared_records", "population"]
    if data.dataset == "folder":
        required += ["class_names", "image_size", "channels"]
    missing = [f"data.{name}" for name in required if getattr(data, name) is None]
    if missing:
        raise UserError(
            f"{', '.join(missing)} must be declared for private data, of which a plan reads nothing "
            "(or set data.visibility = 'public' if anybody may see them)"
        )
    if data.test_path is not None and data.test_visibility != "public":
        raise UserError(
            "data.test_path names a private test set: no metric of it may leave its owner; remove it, or set "
            "data.test_visibility = 'public' if anybody may see those records"
        )
    if data.test_fraction > 0:
        raise UserError(
            "data.test_fraction holds out private records, whose metrics may not leave a client: set it to 0"
        )
    if data.limit is not None:
        raise UserError(
            "data.limit is for public data only: which private records it keeps would hang on all of them"
        )
    if privacy.insecure_reproducible_noise:
        raise UserError("privacy.insecure_reproducible_noise = true is for public data only: set it to false")
    if privacy.epsilon > config.max_epsilon_per_run:
        raise UserError(
            f"privacy.epsilon = {privacy.epsilon} is above privacy.max_epsilon_per_run = "
            f"{config.max_epsilon_per_run} for private data: lower epsilon, or raise the cap knowingly"
        )
    declared = data.declared_records
    largest = max(declared.values()) if isinstance(declared, dict) else declared
    if largest is not None and privacy.delta > 1 / largest:
        raise UserError(
            f"privacy.delta = {privacy.delta:g} is above 1/{largest}, one over the records of a client: "
            "it would allow whole records to be published; choose a much smaller one"
        )


def _check_partition(config: RunConfig) -> None:
    data, partition = config.data, config.partition
    if data.clients_from == "partition":
        if partition.kind == "given" and partition.path is None:
            raise UserError(
                "partition.path is missing: partition.kind = 'given' needs a JSON file of positions by "
                "client, or data.clients_from = 'subfolder' or 'csv'"
            )
        if partition.kind != "given" and partition.path is not None:
            raise UserError(f"partition.path is set but partition.kind is {partition.kind!r}: use 'given'")
    elif partition.kind != "given" or partition.path is not None:
        raise UserError(
            f"data.clients_from = {data.clients_from!r} already gives each client its records: set "
            "partition.kind = 'given' and no partition.path"
        )


def _check_trust(config: RunConfig) -> None:
    privacy, clients = config.privacy, config.clients.count
    if privacy.allowed_dropouts > max(0, clients - 2):
        raise UserError(
            f"privacy.allowed_dropouts = {privacy.allowed_dropouts} leaves fewer than 2 of {clients}: "
            f"at most {clients - 2}"
        )
    present = clients - privacy.allowed_dropouts
    if privacy.min_contributors is not None and privacy.min_contributors > present:
        raise UserError(
            f"privacy.min_contributors = {privacy.min_contributors} can never be met by {clients} clients "
            f"with {privacy.allowed_dropouts} allowed dropouts: at most {present}"
        )
    if privacy.trust == "local":
        if privacy.honest_clients is not None:
            raise UserError(
                "privacy.honest_clients is set but privacy.trust is 'local', where each client's own noise "
                "suffices: remove it, or set privacy.trust = 'distributed'"
            )
        return
    honest, colluding = config.honest_clients, privacy.colluding_clients
    if privacy.honest_clients is None and honest < 1:
        raise UserError(
            f"privacy.colluding_clients = {colluding} with {privacy.allowed_dropouts} allowed dropouts "
            f"leaves no honest client among {clients}: at most {present - 1}"
        )
    if honest > clients - 1:
        raise UserError(
            f"privacy.honest_clients = {honest}: at most {clients - 1} of {clients} clients can be "
            "counted on when one may collude"
        )
    if config.min_contributors < honest + colluding:
        raise UserError(
            f"privacy.min_contributors = {config.min_contributors} is below honest_clients + "
            f"colluding_clients = {honest} + {colluding}: raise it, or count on fewer honest clients"
        )


def _check_masks(config: RunConfig) -> None:
    privacy, clients = config.privacy, config.clients.count
    if not privacy.pairwise_masks:
        return
    if not config.has_encrypted_sums:
        raise UserError(
            "privacy.pairwise_masks = true, but this run has no encrypted sums to mask: set it to false"
        )
    if config.honest_in_a_sum < FEWEST_HONEST:
        fewest = fewest_contributors(clients, privacy.colluding_clients)
        way = (
            f"at least {privacy.colluding_clients + FEWEST_HONEST} clients must take part"
            if fewest is None
            else f"{fewest} or more of the {clients} clients must contribute (privacy.min_contributors, "
            "privacy.allowed_dropouts)"
        )
        raise UserError(
            f"privacy.pairwise_masks = true with min_contributors = {config.min_contributors} and "
            f"colluding_clients = {privacy.colluding_clients}: a single client's sum could be opened; {way}"
        )


def _check_parts(config: RunConfig) -> None:
    if config.experts.enabled and not (config.experts.prototype_expert or config.experts.class_experts):
        raise UserError("experts: none is on; switch on experts.prototype_expert or experts.class_experts")
    if config.experts.enabled and config.experts.prototype_expert and not config.prototypes.enabled:
        raise UserError("experts.prototype_expert needs prototypes.enabled: switch both on or both off")
    if config.experts.enabled and config.experts.class_experts and not config.classifier.enabled:
        raise UserError("experts.class_experts needs classifier.enabled: switch both on or both off")
    if config.generator.enabled and not config.classifier.enabled:
        raise UserError(
            "generator.enabled needs classifier.enabled = true, whose DP-trained classifier is in its loss: "
            "switch both on or both off"
        )
    prototypes = config.prototypes
    if (prototypes.rounds > 0) != (prototypes.gradient_share > 0):
        raise UserError(
            f"prototypes.rounds = {prototypes.rounds} but prototypes.gradient_share = "
            f"{prototypes.gradient_share:g}: gradient rounds need a share, and a share needs rounds"
        )
    if prototypes.centre_share + prototypes.gradient_share >= 1:
        raise UserError(
            "prototypes.centre_share + prototypes.gradient_share leave the moments nothing: keep it below 1"
        )
    if prototypes.enabled and prototypes.encoder == "fourier" and prototypes.dim % 2:
        raise UserError(
            f"prototypes.dim = {prototypes.dim}: Fourier features come in pairs of sine and cosine; "
            "use an even number"
        )
    if prototypes.enabled and prototypes.encoder == "wavelets" and prototypes.dim > WAVELET_DIM:
        raise UserError(
            f"prototypes.dim = {prototypes.dim}: the encoder 'wavelets' has at most {WAVELET_DIM} directions"
        )
    sampler = config.sampler
    if sampler.centre_share + sampler.means_share + sampler.moments_share >= 1:
        raise UserError(
            "sampler.centre_share + sampler.means_share + sampler.moments_share leave the moments of each "
            "class nothing: keep it below 1"
        )
    if config.gate.dim % config.gate.heads:
        raise UserError(f"gate.dim = {config.gate.dim}: must be a multiple of gate.heads")
    distill = config.distill
    if distill.enabled and distill.kl + distill.ce + distill.js == 0:
        raise UserError("distill.kl, distill.ce and distill.js are all 0: at least one term must count")
    if config.classifier.steps < config.classifier.rounds:
        raise UserError(
            f"classifier.steps = {config.classifier.steps} is below classifier.rounds = "
            f"{config.classifier.rounds}: each round needs a step"
        )


def _check_architectures(config: RunConfig) -> None:
    named: dict[str, Iterable[str]] = {
        "clients.architectures": config.clients.architectures,
        "classifier.learning_rates": config.classifier.learning_rates,
        "global_model.architecture": [config.global_model.architecture],
    }
    for field, names in named.items():
        for name in names:
            if name not in CLASSIFIERS:
                close = difflib.get_close_matches(name, CLASSIFIERS, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                known = ", ".join(CLASSIFIERS)
                raise UserError(f"{field}: architecture {name!r} is unknown, expected one of {known}{hint}")


def _check_assembly(config: RunConfig) -> None:
    """What the server is to build at the end must be possible before anything is spent."""
    prototypes, distill = config.prototypes, config.distill
    prototype_expert = config.experts.enabled and config.experts.prototype_expert and prototypes.enabled
    if not prototype_expert and not config.classifier.enabled:
        raise UserError(
            "experts: nothing is left to learn from; switch on classifier.enabled, or experts.enabled with "
            "experts.prototype_expert and prototypes.enabled"
        )
    pixels = config.sampler.enabled or (prototypes.enabled and prototypes.pixel_weight > 0)
    if not (distill.sampler and pixels) and not config.generator.enabled:
        raise UserError(
            "distill: there are no synthetic records; switch on generator.enabled, or distill.sampler with "
            "sampler.enabled, or with prototypes.enabled and prototypes.pixel_weight above 0"
        )
    if distill.fresh_student and not distill.enabled:
        raise UserError(
            "distill.fresh_student needs distill.enabled = true: switch both on, or the student off"
        )


def _check_global_model(config: RunConfig) -> None:
    chosen = config.global_model
    decided = {
        "dim": "dim",
        "encoder": "encoder",
        "feature_side": "feature_size",
        "pixel_side": "image_size",
        "pixel_weight": "pixel_weight",
    }
    if chosen.architecture == "prototype_head":
        for option in chosen.options:
            if option in decided or option == "encoder_seed":
                instead = f"prototypes.{decided[option]}" if option in decided else "seed"
                raise UserError(
                    f"global_model.options.{option}: a prototype_head has the encoder of the prototypes; "
                    f"remove it, or set {instead}"
                )


def enabled_parts(config: RunConfig) -> dict[str, bool]:
    """Which of the releases named in ``privacy.shares`` this run makes."""
    return {
        "prototypes": config.prototypes.enabled,
        "sampler": config.sampler.enabled,
        "counts": config.method not in ("local", "central"),
        "classifier": config.classifier.enabled,
        "generator": config.generator.enabled,
        "fine_tune": config.fine_tune.rounds > 0,
    }


def _check_shares(config: RunConfig) -> None:
    shares = config.privacy.shares.model_dump()
    switches = {
        "fine_tune": "fine_tune.rounds is 0",
        "counts": f"nothing is weighed by counts in method {config.method!r}",
    }
    for name, enabled in enabled_parts(config).items():
        if shares[name] > 0 and not enabled:
            reason = switches.get(name, f"{name}.enabled is false")
            raise UserError(
                f"privacy.shares.{name} = {shares[name]:g} but {reason}: give it to the other shares"
            )
        if shares[name] == 0 and enabled:
            raise UserError(f"privacy.shares.{name} = 0 but {name} is on: give it a share, or switch it off")
    total = math.fsum(shares.values())
    if abs(total - 1) > _SHARE_TOLERANCE:
        parts = " + ".join(f"{name} {share:g}" for name, share in shares.items())
        raise UserError(f"privacy.shares sum to {total:g}, not 1: {parts}")
