import amino
from amino.dm import AtLeastOnceRPC, ConsensusRSM
from amino.testing import LocalCluster


class Counter:
    def __init__(self) -> None:
        self.value = 0

    def add(self) -> int:
        self.value += 1
        return self.value


with LocalCluster(servers=3) as local, local.connect() as cluster:
    counter = cluster.new(amino.spec(Counter, name="visits", dms=[AtLeastOnceRPC(), ConsensusRSM()]))
    print([counter.add() for _ in range(3)])

    group = cluster.describe("visits").groups["/"]
    primary = next(replica for replica in group.replicas if replica.id == group.primary)
    local.server(primary.server).kill()  # kill -9, as a machine that loses power

    print([counter.add() for _ in range(3)])
