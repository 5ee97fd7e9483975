"""Private federated learning with the Mosaic method: generators, experts, gating and distillation.

Importing this package is cheap: heavy libraries are loaded by the parts that need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mosaic_secure.runs.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(run: Any) -> Predictor:
    """Load the global model of a run directory, ready to predict.

    Args:
        run: path of a run directory written by ``mosaic-secure train``.

    Returns:
        A predictor with ``predict(images)``, ``predict_proba(images)``, ``class_names`` and ``num_classes``.

    Raises:
        mosaic_secure.errors.UserError: the directory is not a run, or its model is missing or damaged.
    """
    from mosaic_secure.runs import predictor

    return predictor.load(run)
