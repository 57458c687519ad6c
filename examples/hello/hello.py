import amino
from amino.testing import LocalCluster


class Greeter:
    def __init__(self) -> None:
        self.greeted = 0

    def greet(self, name: str) -> str:
        self.greeted += 1
        return f"Hello, {name}! You are number {self.greeted}."


with LocalCluster(servers=1) as local, local.connect() as cluster:
    greeter = cluster.new(amino.spec(Greeter))
    print(greeter.greet("world"))
    print(greeter.greet("cluster"))
