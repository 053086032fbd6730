"""What is remembered of a Kafka cluster, so that another one, or other topics, are noticed; pure.

It is part of the state of each shard and of its spool. Ids are "" where the broker is too old to report them.
"""

from collections.abc import Iterator

import msgspec

from bridge.records import STATE, Kind

_NAMED = 5  # topics that a detail names, at most


class SeenTopic(msgspec.Struct, frozen=True):
    """A topic as it was seen."""

    id: str
    partitions: int


class Seen(msgspec.Struct, frozen=True):
    """A cluster as it was seen: its id, and its topics by name; bridge-state has no prefix there."""

    cluster: str
    topics: dict[str, SeenTopic]

    def with_earlier(self, earlier: "Seen") -> "Seen":
        """Return the same with the topics and the partitions that only `earlier` has.

        A spool may have records for them, although a topic was not looked at yet or has fewer partitions now.
        """
        topics = {
            name: SeenTopic(one.id, max(one.partitions, earlier.topics[name].partitions))
            if name in earlier.topics
            else one
            for name, one in self.topics.items()
        }
        return Seen(self.cluster, earlier.topics | topics)

    def has_state_of(self, other: "Seen") -> bool:
        """Return whether bridge-state is the same topic in both, as far as the ids say."""
        mine, theirs = self.topics.get(STATE), other.topics.get(STATE)
        return mine is not None and theirs is not None and mine.id == theirs.id


def changes(before: Seen, now: Seen) -> Iterator[tuple[Kind, str]]:
    """Return the events that report how a cluster differs from what was seen before, with their details."""
    both = sorted(before.topics.keys() & now.topics.keys())
    replaced = [name for name in both if _differ(before.topics[name].id, now.topics[name].id)]
    if _differ(before.cluster, now.cluster):
        yield "cluster_changed", f"cluster {before.cluster} is now {now.cluster}"
    elif replaced:
        yield "cluster_changed", f"topics that were created again: {_listed(replaced)}"
    for name in both:
        earlier, later = before.topics[name].partitions, now.topics[name].partitions
        if name != STATE and name not in replaced and later > earlier:
            yield "partitions_grown", f"{name} had {earlier} partitions and has {later}"


def _differ(one: str, other: str) -> bool:
    return bool(one and other) and one != other


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
