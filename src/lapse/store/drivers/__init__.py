"""The drivers' own connections, made ready as lapse needs them; `store.pool` lends them."""
