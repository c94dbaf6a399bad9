#!/usr/bin/env bash
# typer 0.29.2 imports pydantic as soon as a command is run, with or without parameters.
#
# Expected: typer reads a text option by itself, as it did for years on top of click.
# Seen with Python 3.11: pydantic comes in as a dependency, and its import is half of what a short command takes. `--help`
# does not import it, so a look at the time of `--help` shows nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check typer==0.29.2

cat > "$folder/command.py" <<'PYTHON'
import sys

import typer


def without() -> None:
    pass


def one(name: str = "world") -> None:
    pass


app = typer.Typer(add_completion=False)
app.command()({"without": without, "one": one}[sys.argv[1]])
app(sys.argv[2:], standalone_mode=False)
print("pydantic" in sys.modules)
PYTHON

run() { "$folder/venv/bin/python" "$folder/command.py" "$@" | tail -1; }
printf '%s\n' "without parameters: $(run without)" "with one, --help: $(run one --help)" "with one: $(run one)"
test "$(run without) $(run one --help) $(run one)" = "True False True"
