"""The command `secp-spu`, and `python -m secp_spu`: Ctrl-C ends it in one line while it still imports."""

import os
import sys


def main() -> None:
    """Run a command; imports what it takes first."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before its import: a failure is told once, in a line of ours
    try:
        from secp_spu.cli import app
    except KeyboardInterrupt:
        print("error: interrupted before anything began", file=sys.stderr)
        sys.exit(1)
    app.main()


if __name__ == "__main__":
    main()
