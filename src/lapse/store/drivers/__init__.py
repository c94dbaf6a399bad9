"""The drivers' own connections, made ready as lapse needs them; `store.pool` lends them."""

ROWS_OF_A_PAGE = 1_000
"""Rows in memory at once, of a query whose rows are handed over page by page."""
