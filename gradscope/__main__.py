"""``python -m gradscope`` and the command ``gradscope``, which are the same."""

from __future__ import annotations

import sys
import traceback

FAULT = "error: this is a fault of gradscope itself, please report it"


def main() -> int:
    """Run the command line; a fault while it is imported gives 2.

    Python itself would exit with 1 for it, which here means "findings".
    """
    try:
        from gradscope.cli import main as command_line
    except KeyboardInterrupt:
        return 130
    except Exception:
        traceback.print_exc()
        print(FAULT, file=sys.stderr)
        return 2
    return command_line()


if __name__ == "__main__":
    sys.exit(main())
