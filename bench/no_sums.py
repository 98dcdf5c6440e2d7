"""`pluct` as it would be without analytics: nothing is counted as batches are committed, and no sums are written."""

from typing import Any

from pluct import app
from pluct.cli import main
from pluct.stores import Store

_open_store = app.open_store


def _unwatched(*place: Any, watch: object = None, **more: Any) -> Store:
    return _open_store(*place, **more)


async def _nothing(self: object) -> int:
    return 0


if __name__ == "__main__":
    app.open_store = _unwatched
    app.Analytics.flush = _nothing  # type: ignore[method-assign]
    main()
