"""Worker processes that outlive a run: many runs import libraries and build encoders once."""

from __future__ import annotations

from types import TracebackType

from mosaic_secure.engine.pool import WorkerPool

__all__ = ["WorkerKeeper"]


class WorkerKeeper:
    """Keeps the workers of one run for the next; ends them when its block ends.

    A worker holds nothing of a run but what is the same for all: libraries, and encoders, which are made of
    procedural images. For one thread, and for one run at a time.
    """

    def __init__(self) -> None:
        self._pool: WorkerPool | None = None

    def __enter__(self) -> WorkerKeeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def pool(self, app: str, size: int, threads: int) -> WorkerPool:
        """A started pool of at least `size` workers: the kept one if it fits and is idle, or a new one."""
        kept = self._pool
        fits = kept is not None and (kept.app, kept.threads) == (app, threads) and kept.size >= size
        if kept is None or not fits or not kept.idle:
            self._end()
            kept = WorkerPool(app, size, threads)
            self._pool = kept
            kept.start()
        return kept

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None
