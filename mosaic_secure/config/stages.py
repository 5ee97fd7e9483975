"""Sections of the stages of a run, from prototypes to fine-tuning, and of the engine that computes them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from mosaic_secure.config.base import Count, Fraction, Options, Positive, Rate, Section, Weight

Optimizer = Literal["sgd", "adam"]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class BlockWeights(Section):
    """Relative scales of the blocks of the moments release: more weight, less noise there, more elsewhere."""

    counts: Positive = 0.1
    class_sums: Positive = 1.0
    second_moments: Positive = 0.6


class PrototypesConfig(Section):
    """The encrypted sums of encoded records, and the rounds that refine the prototype expert.

    A code is a block of ``dim`` features beside the image pooled to ``image_size`` x ``image_size`` pixels,
    which holds ``pixel_weight`` of the squared norm and from which synthetic images are drawn. Features
    are of the image averaged to ``feature_size`` x ``feature_size`` (none: as it is): an expert that is to
    label images drawn from coarse moments must not look for detail which those lack.
    Encoders are public: random Fourier features, scattering, "wavelets" (scattering and Gabor moduli, on
    directions in which procedural images vary; at most 1024 of images from 16x16), or pixels alone.

    Three kinds of release share the prototypes' part of mu^2: ``centre_share`` of it finds the mean code (0:
    not released), ``gradient_share`` pays for ``rounds`` gradient rounds together, the moments take the rest.
    ``step`` and ``momentum`` drive the preconditioned gradient steps; ``ridge`` multiplies the ridge that the
    noise level implies; ``average``: the last part of the rounds whose iterates are averaged.
    ``whitening``: gradients are taken on codes whose directions of variance v were scaled by
    v^(-whitening / 2), as the released moments tell (0: as they are, 1: all alike), so that weak directions
    drown less in noise; ``radius`` is then their typical norm before they are clipped to 1.
    ``gradient_clip``: clipping norm of one record's gradient, which never exceeds the square root of 2.
    ``caution``: how strongly the noise of a gradient shortens the steps along weak directions.
    ``balance``: for balanced accuracy, this multiple of log(share of the class), from noised counts, is taken
    off the expert's logits (Menon et al. 2021, arXiv 2007.07314, equation 9). 0: for accuracy.
    """

    enabled: bool = True
    encoder: Literal["fourier", "scattering", "wavelets", "pixels"] = "fourier"
    dim: Annotated[int, Field(ge=2, le=8192)] = 256
    image_size: Annotated[int, Field(ge=2, le=64)] = 8
    feature_size: Annotated[int, Field(ge=8, le=64)] | None = None
    pixel_weight: Annotated[float, Field(ge=0, lt=1)] = 0.3
    second_moments: bool = True
    centre_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    gradient_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    rounds: Annotated[int, Field(ge=0, le=1000)] = 0
    weights: BlockWeights = BlockWeights()
    step: Positive = 4.0
    momentum: Momentum = 0.8
    average: Fraction = 0.5
    ridge: Positive = 0.5
    whitening: Annotated[float, Field(ge=0, le=1)] = 0.75
    radius: Positive = 0.8
    gradient_clip: Annotated[float, Field(gt=0, le=1.4143)] = 0.5
    caution: Positive = 8.0
    balance: Annotated[float, Field(ge=0, le=1)] = 0.0


class SamplerConfig(Section):
    """Encrypted sums of pooled pixels, and the class Gaussians from which synthetic images are drawn.

    Images are pooled to ``image_size`` x ``image_size``. Four rounds share the sampler's part of mu^2:
    ``centre_share`` finds the mean image, ``means_share`` the class means, ``moments_share`` the second
    moments about these in all classes together, and second moments of each class, along the at most ``rank``
    strongest directions of the former, take the rest. ``centre_clip``, ``means_clip`` and ``moments_clip``:
    root-mean-square value a pixel to which an image, less the centre or its class mean, is clipped.
    ``count_weight``: of the class counts beside the class sums.

    ``variety``: how far a class's covariance is thought to be from the shared one, as a relative variance.
    ``unclip`` multiplies covariances, of which the clip took a part; ``widen`` multiplies the deviations of
    drawn images. ``sharpen`` and ``grain``: most that is drawn for each image of contrast to its own blur and
    of noise, relative to each pixel.
    """

    enabled: bool = False
    image_size: Annotated[int, Field(ge=2, le=64)] = 14
    rank: Annotated[int, Field(ge=1, le=512)] = 80
    centre_share: Rate = 0.02
    means_share: Rate = 0.13
    moments_share: Rate = 0.45
    centre_clip: Positive = 0.5
    means_clip: Positive = 0.3
    moments_clip: Positive = 0.186
    count_weight: Positive = 0.3
    variety: Positive = 0.15
    unclip: Positive = 1.2
    widen: Positive = 1.2
    sharpen: Weight = 1.5
    grain: Weight = 0.3


class ClassifierConfig(Section):
    """DP-SGD of each client's classifier. ``sample_rate`` and ``steps`` are constants of the plan.

    ``steps`` counts all rounds together; ``rounds`` above 1 average the clients of one architecture.
    ``augmentations``: versions of a record whose gradients are averaged before clipping.
    ``learning_rates`` by architecture come before ``learning_rate``; who gives only the latter means it for
    all of them.
    """

    enabled: bool = True
    sample_rate: Rate = 0.2
    steps: Count = 150
    rounds: Count = 1
    learning_rate: Positive = 0.5
    learning_rates: dict[str, Positive] = {"cnn": 0.2, "cnn_wide": 0.2, "mlp": 0.4, "scatter_head": 2.0}
    optimizer: Optimizer = "sgd"
    momentum: Momentum = 0.9
    max_grad_norm: Positive = 1.0
    augmentations: Count = 1
    ema_decay: Decay = 0.9
    chunk_size: Count = 128

    @model_validator(mode="before")
    @classmethod
    def _one_rate_for_all(cls, values: Any) -> Any:
        if isinstance(values, dict) and "learning_rate" in values and "learning_rates" not in values:
            return {**values, "learning_rates": {}}
        return values


class GeneratorConfig(Section):
    """DP-SGD of each client's generator: its private discriminator, and the weights of its loss terms.

    ``warmup``: updates of the generator towards the released moments before the first private step.
    ``momentum``: of both networks; the first beta where Adam is the optimizer, as it is for the generator.
    """

    enabled: bool = True
    architecture: str = "dcgan"
    latent_dim: Annotated[int, Field(ge=1, le=1024)] = 32
    sample_rate: Rate = 0.2
    steps: Count = 150
    generator_steps: Count = 1
    warmup: Annotated[int, Field(ge=0, le=100_000)] = 150
    batch: Count = 64
    learning_rate: Positive = 5e-3
    discriminator_learning_rate: Positive = 2e-3
    optimizer: Optimizer = "adam"
    momentum: Momentum = 0.5
    max_grad_norm: Positive = 1.0
    adversarial: Weight = 1.0
    diversity: Weight = 0.1
    entropy: Weight = 0.01
    label: Weight = 0.1
    anchor: Weight = 30.0
    ema_decay: Decay = 0.0
    chunk_size: Count = 128


class ExpertsConfig(Section):
    """Which experts the server forms: per class inside an architecture group, and the one from prototypes."""

    enabled: bool = True
    prototype_expert: bool = True
    class_experts: bool = True


class GateConfig(Section):
    """The attention model that says which expert to trust where.

    ``prototype_trust``: where it starts; that expert is the one which no skew of the clients can hurt.
    ``caution``: weight of the divergence from this start in the loss.
    """

    enabled: bool = True
    dim: Count = 32
    heads: Count = 4
    prototype_trust: Annotated[float, Field(gt=0, lt=1)] = 0.95
    caution: Weight = 2.0
    steps: Count = 200
    batch: Count = 256
    learning_rate: Positive = 3e-3
    ema_decay: Decay = 0.99


class DistillConfig(Section):
    """Distillation of the gated teacher into the global model on synthetic records only.

    Synthetic records come from the moments (`sampler`) and from the generators, the latter giving
    ``generator_part`` of them when both do. ``warm_start``: a global model with the prototype expert's
    architecture starts from that expert.

    ``kl``, ``ce`` and ``js`` weigh the terms of the loss. ``confidence``: records on which the teacher is
    less sure are left out. ``synthetic_pool``: synthetic records drawn in all. ``fresh_student``: a plain
    network learns from these records and the teacher's labels alone, and the metrics tell how well.
    """

    enabled: bool = True
    steps: Count = 1000
    batch: Count = 256
    learning_rate: Positive = 2e-3
    optimizer: Optimizer = "adam"
    kl: Weight = 0.8
    ce: Weight = 0.2
    js: Weight = 1.0
    temperature: Positive = 1.0
    ema_student: Decay = 0.0
    confidence: Annotated[float, Field(ge=0, lt=1)] = 0.3
    synthetic_pool: Count = 8192
    sampler: bool = True
    generator_part: Fraction = 0.25
    warm_start: bool = True
    fresh_student: bool = False


class FineTuneConfig(Section):
    """DP-SGD rounds of the clients from the global model; ``rounds = 0`` switches the stage off.

    ``steps`` counts those of one round. ``proximal``: weight of |w - w_global|^2 / 2 in a client's objective
    (FedProx, arXiv 1812.06127, equation 2). ``ema_decay``: of the iterates of one round.
    """

    rounds: Annotated[int, Field(ge=0, le=1000)] = 0
    sample_rate: Rate = 0.2
    steps: Count = 20
    learning_rate: Positive = 0.1
    optimizer: Optimizer = "sgd"
    momentum: Momentum = 0.0
    max_grad_norm: Positive = 1.0
    augmentations: Count = 1
    ema_decay: Decay = 0.0
    proximal: Weight = 0.0
    chunk_size: Count = 128


class DenseConfig(Section):
    """The server's generator of method "dense". Its images train the global model as ``distill`` says.

    ``rounds``: how often the generator is trained further and adds images to the pool; ``distill.steps`` and
    ``distill.synthetic_pool`` are spread over them. ``boundary``: weight of the term that seeks images on
    which ensemble and global model disagree. ``balance``: of the one that spreads the ensemble's answers.
    """

    architecture: str = "dcgan"
    latent_dim: Annotated[int, Field(ge=1, le=1024)] = 64
    rounds: Count = 40
    generator_steps: Count = 20
    batch: Annotated[int, Field(ge=2, le=8192)] = 128
    learning_rate: Positive = 1e-3
    boundary: Weight = 1.0
    balance: Weight = 1.0


class GlobalModelConfig(Section):
    """The architecture that all clients receive in the end, and its options."""

    architecture: str = "prototype_head"
    options: Options = {}


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError("must be 'auto', 'cpu', 'cuda' or 'cuda:N'")
    return value


class EngineConfig(Section):
    """Where the run is computed.

    ``workers``: client processes (0: in the calling one). ``threads``: torch threads of each process.
    ``patience``: seconds that the server waits for the answers to one request; clients that have not answered
    by then are left out of that stage, and an authority that is away is waited for as long. Without, a
    deployed federation waits an hour, and a simulation for ever. "deployed" is what ``--federation`` sets.
    """

    name: Literal["inprocess", "simulation", "deployed"] = "inprocess"
    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    device: Annotated[str, AfterValidator(_device)] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    patience: Annotated[float, Field(gt=0, le=30 * 24 * 3600)] | None = None
