"""The command line. Each command is a file; a part (`server`, `node`, `runtime`) never imports what commands need."""


def main() -> None:
    """Entry point of the `sampan` program."""
    import sys

    if sys.argv[1:2] == ["up"] and "--help" not in sys.argv:
        from sampan.cli.launch import begin

        begin(sys.argv[1:])
    from sampan.cli.app import app

    app(prog_name="sampan")
