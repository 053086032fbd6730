"""The bridge without state, which shows what state costs: `python -m benchmarks.stateless run ...`.

It keeps no watermarks and writes nothing to bridge-state; everything else is the bridge.
"""

from collections.abc import Iterable

from bridge.cli import main
from bridge.kafka.batches import Batches
from bridge.kafka.state import Save, ShardState, Unsaved
from bridge.records import Record


def _save_nothing(_state: ShardState, _sent: Iterable[Record], _unsaved: Unsaved, *, ended: bool) -> Save:
    return Save(0, {}, {}, {}, ended, [])


async def _send_nothing(_batches: Batches, _save: Save) -> None:
    return


if __name__ == "__main__":
    ShardState.save = _save_nothing  # type: ignore[assignment, method-assign]
    Batches.send_state = _send_nothing  # type: ignore[assignment, method-assign]
    main()
