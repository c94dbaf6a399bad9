"""Every statement that runs on distributed tables keeps the rules of Citus, and each rule can be broken."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import insert

from lapse.lifecycle import Sender
from lapse.store.statements.parameters import of_id, of_owner
from lapse.store.tables import OWN_TABLES
from tests.support import citus_rules
from tests.support.citus_rules import RULES, Rule, broken_by, broken_by_tables, statements_of, tables_on

conversations, events, c = OWN_TABLES.conversations, OWN_TABLES.events, OWN_TABLES.c
OF_ID, OF_OWNER = of_id(OWN_TABLES), of_owner(OWN_TABLES)
NOW = sa.func.now()
STATEMENTS = statements_of(tables_on(is_distributed=True))
BY_RULE = {rule.__name__: rule for rule in RULES}


def test_the_statements_of_all_builders_are_found() -> None:
    for name in (
        "conversations.lock_by_id()",
        "messages.open_or_continue(False)",
        "recording.open_of_pairs(one, wait)",
        "recording.insert_receipts(one)",
        "recording.update_conversations(one, True)",
        "counts.transitions()",
        "due.next_deadlines()",
        "purge.delete_batch()",
        "schema.mapping()",
        "sweeps.select_due_ids(expired, True)",
        "sweeps.sweep_batch(armed_longer, True)",
        "sweeps.sweep_batch(idle, False)",
    ):
        assert name in STATEMENTS
    only_on_one = set(statements_of(tables_on(is_distributed=False))) - set(STATEMENTS)
    alone = {f"messages.record_activity({sender})" for sender in Sender}
    assert alone <= only_on_one
    assert all("record_activities" in name or "(many" in name for name in only_on_one - alone)


def test_what_a_builder_returns_is_a_statement_or_a_part_of_one() -> None:
    """Nothing is left out because it is of another kind."""
    kinds = {type(statement) for statement in STATEMENTS.values()}
    assert kinds == {sa.Select, sa.CompoundSelect, postgresql.Insert, sa.Update, sa.Delete, sa.TextualSelect}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_keeps_the_rule(name: str, rule: Rule) -> None:
    assert broken_by(STATEMENTS[name], rule) == []


def test_what_runs_on_one_server_would_be_refused() -> None:
    """The rules tell the difference between the two forms of a sweep."""
    sweep = statements_of(tables_on(is_distributed=False))["sweeps.sweep_batch(idle, False)"]
    assert broken_by(sweep, citus_rules.locks_are_on_one_shard) == ["a lock on conversations without owner_id"]
    assert broken_by(sweep, citus_rules.what_is_written_is_immutable) == ["now() is written"]


def test_every_key_begins_with_the_owner() -> None:
    assert broken_by_tables() == []


# --- the rules can be broken ----------------------------------------------------------------------------------------


def _upsert(**options: Any) -> Any:
    return insert(conversations).values(owner_id=sa.bindparam("o")).on_conflict_do_update(**options)


def _claimed(*, by_owner: bool, **values: Any) -> Any:
    claim = sa.select(c.owner_id, c.conv_id).cte("claimed")
    conditions = [c.owner_id == claim.c.owner_id] if by_owner else []
    return sa.update(conversations).where(*conditions, c.conv_id == claim.c.conv_id).values(**values)


KEY = [c.owner_id, c.conv_id]
BROKEN = [
    ("locks_are_on_one_shard", sa.select(conversations).with_for_update(), "a lock on conversations"),
    ("locks_are_on_one_shard", sa.select(conversations).where(OF_ID).with_for_update(read=True), "a lock"),
    ("locks_are_on_one_shard", sa.select(conversations).where(OF_OWNER | OF_ID).with_for_update(), "a lock"),
    (
        "locks_are_on_one_shard",
        sa.select(sa.select(c.conv_id).with_for_update(skip_locked=True).cte("inner").c.conv_id),
        "a lock",
    ),
    (
        "joins_are_by_owner",
        sa.select(c.channel).join(events, c.conv_id == events.c.conv_id),
        "conversation_events is not joined",
    ),
    ("joins_are_by_owner", sa.select(c.channel, events.c.type).where(c.conv_id == events.c.conv_id), "is not joined"),
    ("joins_are_by_owner", _claimed(by_owner=False, version=1), "claimed is not joined"),
    ("what_is_written_is_immutable", _upsert(index_elements=KEY, set_={"updated_at": NOW}), "now() is written"),
    (
        "what_is_written_is_immutable",
        _upsert(index_elements=KEY, set_={"updated_at": sa.text("now()")}),
        "now() is written",
    ),
    (
        "what_is_written_is_immutable",
        _upsert(index_elements=KEY, set_={"updated_at": sa.literal_column("now()")}),
        "now() is written",
    ),
    (
        "what_is_written_is_immutable",
        _upsert(index_elements=KEY, set_={"version": 1}, where=c.expires_at > NOW),
        "now() is written",
    ),
    ("what_is_written_is_immutable", _claimed(by_owner=True, ended_at=NOW), "now() is written"),
    (
        "what_is_written_is_immutable",
        sa.update(conversations).where(OF_OWNER, c.expires_at < sa.func.clock_timestamp()).values(version=1),
        "clock_timestamp() is written",
    ),
    (
        "what_is_written_is_immutable",
        sa.update(conversations).where(OF_OWNER).values(version=1).returning(NOW),
        "now() is written",
    ),
    (
        "what_is_written_is_immutable",
        _claimed(by_owner=True, updated_at=sa.func.timezone(c.updated_at)),
        "timezone without 'UTC'() is written",
    ),
    (
        "what_is_written_is_immutable",
        _claimed(by_owner=True, channel=sa.cast(c.updated_at, sa.Text)),
        "cast() is written",
    ),
    (
        "what_is_selected_to_insert_is_not_volatile",
        sa.insert(events).from_select(
            ["owner_id", "occurred_at"], sa.select(c.owner_id, sa.func.clock_timestamp().label("at"))
        ),
        "clock_timestamp() is inserted",
    ),
    (
        "an_update_finds_its_shard_and_leaves_it_there",
        sa.update(conversations).where(OF_ID).values(version=1),
        "an update without owner_id",
    ),
    (
        "an_update_finds_its_shard_and_leaves_it_there",
        sa.update(conversations).where(OF_OWNER).values(owner_id=2),
        "owner_id is set",
    ),
    ("an_insert_names_its_owner", insert(conversations).values(conv_id=sa.bindparam("i")), "an insert without"),
    (
        "an_insert_names_its_owner",
        sa.insert(events).from_select(["conv_id"], sa.select(c.conv_id)),
        "an insert without",
    ),
    ("conflicts_are_of_one_shard", _upsert(index_elements=[c.conv_id], set_={"version": 1}), "a conflict without"),
]


@pytest.mark.parametrize(("rule", "statement", "problem"), BROKEN)
def test_a_statement_that_breaks_the_rule_is_found(rule: str, statement: Any, problem: str) -> None:
    (found,) = broken_by(statement, BY_RULE[rule])
    assert problem in found


def test_each_rule_is_shown_to_be_breakable() -> None:
    assert {rule for rule, _, _ in BROKEN} == set(BY_RULE)


def test_a_table_that_cannot_be_distributed_is_found() -> None:
    bad = sa.MetaData()
    owners = sa.Table("owners", bad, sa.Column("id", sa.BigInteger, primary_key=True))
    sa.Table(
        "bad",
        bad,
        sa.Column("conv_id", sa.Uuid, primary_key=True),
        sa.Column("owner_id", sa.BigInteger, sa.ForeignKey(owners.c.id), primary_key=True),
        sa.Column("channel", sa.Text, unique=True),
        sa.Index("uq_bad", "channel", "owner_id", unique=True),
    )
    assert broken_by_tables(bad) == [
        "a key of owners without owner_id",
        "a key of bad without owner_id",
        "a foreign key of bad without owner_id",
    ]
