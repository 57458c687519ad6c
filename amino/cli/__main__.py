"""``python -m amino.cli``: the same as the command ``amino``."""

from amino.cli import main

if __name__ == "__main__":
    main()
