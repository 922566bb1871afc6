"""The command line. Each command is a file; a part (`server`, `node`, `runtime`) never imports what commands need."""


def main() -> None:
    """Entry point of the `sampan` program."""
    from sampan.cli.app import app

    app(prog_name="sampan")
