"""The plan of a chaos run follows from its seed."""

from bridge.simulator import Faults, parse
from tests.chaos.plan import Action, plan


def test_the_same_seed_makes_the_same_plan() -> None:
    assert plan(7, 60) == plan(7, 60)
    assert str(plan(7, 60)) == str(plan(7, 60))
    assert plan(7, 60) != plan(8, 60)


def test_settings_can_be_given_and_leave_the_actions_at_the_exchange_as_they_are() -> None:
    free, given = plan(3, 60), plan(3, 60, delivery="at-least-once", rate=50, replicas=None)
    assert (given.settings.delivery, given.settings.rate) == ("at-least-once", 50)
    assert given.settings.replicas == free.settings.replicas
    assert given.actions == free.actions


def test_there_is_a_shard_for_each_replica() -> None:
    assert all(plan(seed, 1, replicas=2).settings.shards >= 2 for seed in range(20))


def test_actions_are_in_order_and_within_the_time() -> None:
    for seed in range(20):
        times = [action.at for action in plan(seed, 60).actions]
        assert times == sorted(times)
        assert times[-1] < 60 + 15


def test_every_kind_of_action_is_planned() -> None:
    kinds = {action.kind for seed in range(20) for action in plan(seed, 60).actions}
    assert len(kinds) == 13


def test_epochs_of_ids_can_be_told_apart() -> None:
    """Two with the same ids within seconds could not be."""
    for seed in range(20):
        begun: dict[tuple[str, int], float] = {}
        for action in plan(seed, 600).actions:
            if action.kind == "restart ids":
                before = begun.get((action.symbol, action.number))
                assert before is None or action.at - before >= 60
                begun[action.symbol, action.number] = action.at


def test_all_faults_that_are_planned_exist() -> None:
    for seed in range(50):
        made = plan(seed, 60)
        parse(made.settings.faults)
        for action in made.actions:
            if action.kind == "faults":
                assert parse(action.text) != Faults()


def test_a_plan_is_printed_with_one_line_for_each_action() -> None:
    made = plan(7, 60)
    assert len(str(made).splitlines()) == 1 + len(made.actions)
    assert (
        str(Action(1.5, "kill", replica=1, seconds=2.0)) == "    1.50 s  kill          replica=1 seconds=2.0"
    )


def test_kinds_of_actions_and_faults_can_be_left_out() -> None:
    made = plan(7, 600)
    less = made.without("kill", "damaged")
    assert len(less.actions) < len(made.actions)
    assert "kill" not in {action.kind for action in less.actions}
    assert any("damaged=" in action.text.replace("clean_damaged", "") for action in made.actions)
    assert not any("damaged=" in action.text.replace("clean_damaged", "") for action in less.actions)
