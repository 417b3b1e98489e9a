"""``python -m mailproxy`` is the same program as ``mailproxy``."""

from mailproxy.cli import main

if __name__ == "__main__":
    main()
