"""The engine from a terminal."""

import os
from pathlib import Path

import click
from msgspec.structs import replace

from pluct import app, settings


@click.group()
def main() -> None:
    """Sell premium actions for prepaid credits."""


@main.command()
@click.option("--host")
@click.option("--port", type=int)
def serve(host: str | None, port: int | None) -> None:
    """Serve."""
    found = settings.load(os.environ, Path.cwd())
    app.serve(replace(found, host=host or found.host, port=found.port if port is None else port))
