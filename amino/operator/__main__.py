"""``python -m amino.operator``: the same as the command ``amino-operator``."""

from amino.operator import main

if __name__ == "__main__":
    main()
