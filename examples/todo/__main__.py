"""``python -m todo add|finish|list OWNER [WHAT]``: the command line of the todo application."""

import os
import sys

import amino
from todo.lists import TodoManager


def main(command: str = "", owner: str = "", what: str = "") -> None:
    with amino.connect(os.environ.get("AMINO_ADDRESS", "127.0.0.1:7400")) as cluster:
        manager = cluster.app("todo", TodoManager)
        if command == "add" and what:
            item = manager.of(owner).add(what)
            print(f"{owner}: added {item.number}")
        elif command == "finish" and what.isdigit():
            try:
                print(f"{owner}: finished {manager.of(owner).finish(int(what)).text!r}")
            except KeyError as error:  # raised on the server, caught here
                sys.exit(str(error.args[0]))
        elif command == "list":
            for name in [owner] if owner else manager.owners():
                for item in manager.of(name).items():
                    print(f"{name}: {'x' if item.done else ' '} {item.number} {item.text}")
            print(f"open: {manager.open_items()}")
        else:
            sys.exit("usage: python -m todo add OWNER TEXT | finish OWNER NUMBER | list [OWNER]")


if __name__ == "__main__":
    main(*sys.argv[1:])
