"""Every SQL statement, written once in SQLAlchemy Core: functions of the tables, compiled once per shape."""

from lapse.store.statements.compiled import LazyRows, Row, Rows, Statement, Statements, statements_for

__all__ = ["LazyRows", "Row", "Rows", "Statement", "Statements", "statements_for"]
