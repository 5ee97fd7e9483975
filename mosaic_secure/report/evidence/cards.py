"""Two cards of a run: of its model, and of its synthetic records. What for, how made, how protected, how far.

They are made of the configuration, the guarantee, scores on public records and audits that may be shared.
Nothing in them was counted on private records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mosaic_secure.protocol.traffic import told_traffic
from mosaic_secure.report.document import (
    Block,
    Bullets,
    Document,
    Facts,
    Picture,
    Section,
    Table,
)
from mosaic_secure.report.evidence.attacks import attacks_section
from mosaic_secure.report.evidence.contents import METRICS, PackedRun, Score
from mosaic_secure.report.evidence.guarantee import guarantee_box, guarantee_section, run_title
from mosaic_secure.runs.encoding import parse_json

__all__ = ["model_card", "synthetic_card"]

METHODS: Mapping[str, str] = {
    "mosaic": "Mosaic: every client trains a classifier and a generator of its own; the server forms experts "
    "for each class, learns whom to trust where, and distils one global model on synthetic records.",
    "fedavg": "Federated averaging (a baseline): rounds of DP-SGD at the clients, averaged by noised counts.",
    "fedprox": "FedProx (a baseline): federated averaging with a pull towards the global model.",
    "local": "Local training (a baseline): every client trains alone; there is no global model.",
    "dense": "DENSE (a baseline): the server trains a generator against the clients' classifiers and distils "
    "from them.",
    "central": "Central training (a baseline): one client holds all records.",
}
_DEALT: Mapping[str, str] = {
    "dirichlet": "the labels of each class split by Dirichlet({alpha:g}); smaller is more skewed",
    "shards": "sorted by label and cut into {shards_per_client} shards for each client",
    "iid": "shuffled and dealt evenly",
    "given": "as they lie with the clients",
}
_MODEL_NOT_FOR = (
    "Images of another kind, from other devices or other places than those trained on, without a test there.",
    "Decisions about persons without somebody who is answerable for each, or without a test on the persons "
    "concerned.",
    "Finding out who or what was among the training records.",
)
_MODEL_LIMITS = (
    "Noise costs most where records are few: rare classes and small clients are served worse than the "
    "average says.",
    "Not measured here: accuracy for single groups of persons, calibration, and robustness against images "
    "made to deceive.",
    "A client may have sent a bad model on purpose. The guarantee of the others holds; the accuracy may not.",
)
_SYNTHETIC_FOR = (
    "Training or trying classifiers for these very classes, teaching, and building software before real "
    "records may be seen.",
)
_SYNTHETIC_NOT_FOR = (
    "Standing in for real records in a study: what is true of them need not be true of the population.",
    "Counting: how often each class occurs among them was chosen, and tells nothing about the clients.",
    "Rare cases: what few records show is what noise hides first.",
)


def model_card(run: PackedRun) -> Document:
    """The card of the run's model, or of its clients' classifiers where it has no global one."""
    return Document(
        f"Model card: {run_title(run)}",
        _above(run),
        guarantee_box(run),
        (
            Section("What it is", (_model_facts(run),)),
            Section("Intended use", _use(_model_for(run), _MODEL_NOT_FOR)),
            guarantee_section(run),
            Section("How it was trained", _training(run)),
            Section("The data", _data(run)),
            Section("How good it is", _scores(run)),
            Section("What travelled", _traffic(run)),
            attacks_section(run, {"model", "classifier"}),
            Section("Limits", (Bullets((*_MODEL_LIMITS, *run.statement["not_covered"])),)),
        ),
    )


def synthetic_card(run: PackedRun) -> Document:
    """The card of the run's synthetic records."""
    blocks: tuple[Block, ...] = (_synthetic_facts(run),)
    if run.picture is not None:
        alt = "A grid of synthetic images, one row or more for each class"
        blocks += (Picture(run.picture, alt, "Synthetic records of the run."),)
    else:
        blocks += ("They are not shown here: pictures enter a pack for public data only.",)
    fresh = tuple(score for score in run.scores if score.of.startswith("fresh"))
    worth = (
        (
            "A plain network that learnt from these records alone, with the teacher's labels, on public test "
            "records:",
            _score_table(fresh),
        )
        if fresh
        else ("What a network learns from these records alone was not measured in this run.",)
    )
    return Document(
        f"Synthetic-data card: {run_title(run)}",
        _above(run),
        guarantee_box(run),
        (
            Section("What they are", blocks),
            Section("Intended use", _use(_SYNTHETIC_FOR, _SYNTHETIC_NOT_FOR)),
            guarantee_section(run),
            Section("The data that they imitate", _data(run)),
            Section("What they are worth", worth),
            attacks_section(run, {"synthetic"}),
            Section("Limits", (Bullets(run.statement["not_covered"]),)),
        ),
    )


def _above(run: PackedRun) -> str:
    return f"Evidence by mosaic-secure {run.manifest.get('mosaic_secure', '')} · run {run.id}"


def _model_facts(run: PackedRun) -> Facts:
    model = run.model
    pairs = [("Method", METHODS.get(run.config["method"], run.config["method"]))]
    if model is None:
        pairs.append(("Model", "none that is global: each client has a classifier of its own"))
    else:
        channels, high, wide = model["image_shape"]
        names = ", ".join(model["class_names"]) or "numbers"
        pairs += [
            ("Architecture", str(model["architecture"])),
            ("Reads", f"images of {channels} x {high} x {wide} (channels, height, width)"),
            ("Says", f"one of {model['num_classes']} classes: {names}"),
        ]
    weights = run.manifest["files"].get("global_model.safetensors")
    if weights is not None:
        pairs.append(("Weights", f"not in this pack; SHA-256 {weights['sha256']}"))
    return Facts((*pairs, ("Run", run.id), ("Configuration, SHA-256", str(run.manifest["config_hash"]))))


def _model_for(run: PackedRun) -> tuple[str, ...]:
    kind = run.statement["population"]["name"]
    return (
        f"Sorting images of the kind that its clients hold ({kind}) into the classes above, by those who "
        "trained it together and by whom they allow.",
    )


def _use(meant: tuple[str, ...], refused: tuple[str, ...]) -> tuple[Block, ...]:
    return ("Made for:", Bullets(meant), "Not made for:", Bullets(refused))


def _training(run: PackedRun) -> tuple[Block, ...]:
    config = run.config
    stages = [
        name
        for name in ("prototypes", "sampler", "classifier", "generator", "experts", "gate", "distill")
        if config[name]["enabled"]
    ]
    if config["fine_tune"]["rounds"]:
        stages.append(f"{config['fine_tune']['rounds']} rounds of fine-tuning")
    encrypted = run.statement["encryption"]
    versions = ", ".join(f"{name} {number}" for name, number in run.manifest.get("versions", {}).items())
    return (
        Facts(
            (
                ("Stages", ", ".join(stages)),
                (
                    "Clients",
                    f"{config['clients']['count']}, with {', '.join(config['clients']['architectures'])}",
                ),
                (
                    "Encryption of sums",
                    _encryption(encrypted) if encrypted else "none used",
                ),
                ("Seed of all but the noise", str(config["seed"])),
                ("Versions", versions or "not kept"),
            )
        ),
        "Every field of the configuration is in manifest.json.",
    )


def _encryption(stated: Mapping[str, Any]) -> str:
    masks = ", under pairwise masks of the clients" if stated.get("pairwise_masks") else ""
    return f"{stated['scheme']}, {stated['security_bits']} bits{masks}"


def _data(run: PackedRun) -> tuple[Block, ...]:
    """From the configuration alone."""
    data, dealt = run.config["data"], run.config["partition"]
    pairs = [
        ("Data set", "images of the clients' own" if data["dataset"] == "folder" else data["dataset"]),
        ("Visibility", "public" if run.public else "private"),
        ("Population, under which ledgers count", run.statement["population"]["name"]),
        ("Dealt to clients", _DEALT[dealt["kind"]].format(**dealt)),
    ]
    if data["declared_records"] is not None:
        declared = data["declared_records"]
        shown = declared if not isinstance(declared, dict) else ", ".join(map(str, declared.values()))
        pairs.append(("Records of each client, as declared", str(shown)))
    if data["class_names"]:
        pairs.append(("Classes, as declared", ", ".join(data["class_names"])))
    said = (
        "These data are public; anybody may count them."
        if run.public
        else "These data are private. What stands here was declared before training; no count of "
        "records or labels is in this pack."
    )
    return (Facts(tuple(pairs)), said)


def _scores(run: PackedRun) -> tuple[Block, ...]:
    shown = tuple(score for score in run.scores if "/" not in score.of)
    if not shown:
        return ("Not told: there are no public test records, and no number of private ones may leave them.",)
    return (_score_table(shown), "On the public test records. Single experts are in metrics.jsonl.")


def _traffic(run: PackedRun) -> tuple[Block, ...]:
    lines = run.documents[METRICS].splitlines()
    told = told_traffic(parse_json(line, METRICS) for line in lines)
    if not told:
        return ("Not told: the run is of a version that did not count its messages.",)
    rows = [(t.stage, t.rounds, t.messages, t.to_parties, t.to_server) for t in told]
    rows.append(("together", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    return (
        Table(
            ("stage", "rounds", "messages", "bytes to parties", "bytes to server"),
            tuple((stage, *(f"{number:,}" for number in numbers)) for stage, *numbers in rows),
            "Messages between the server and all parties; bytes without what transport adds.",
            numbers=frozenset({1, 2, 3, 4}),
        ),
    )


def _score_table(scores: tuple[Score, ...]) -> Table:
    metrics = list(dict.fromkeys(score.metric for score in scores))
    table: dict[str, dict[str, float]] = {}
    for score in scores:
        table.setdefault(score.of, {})[score.metric] = score.value
    return Table(
        ("model", *metrics),
        tuple(
            (of, *(f"{found[name]:.4f}" if name in found else "-" for name in metrics))
            for of, found in table.items()
        ),
        numbers=frozenset(range(1, len(metrics) + 1)),
    )


def _synthetic_facts(run: PackedRun) -> Facts:
    files = run.manifest["files"]
    sources = [
        said
        for folder, said in (
            ("generators/", "generators, trained by DP-SGD"),
            ("sampler/", "one Gaussian for each class, from encrypted sums with noise"),
        )
        if any(name.startswith(folder) for name in files)
    ]
    pairs = [("Drawn from", "; ".join(sources) or "the released moments of the prototypes")]
    pairs.append(("What they hold", "images and the class that each was drawn for"))
    sample = files.get("synthetic/sample.npz")
    if sample is not None:
        pairs.append(("A sample is kept with the run", f"not in this pack; SHA-256 {sample['sha256']}"))
    pairs.append(("More of them", "mosaic-secure synth RUN draws any number, at no further cost in privacy"))
    return Facts(tuple(pairs))
