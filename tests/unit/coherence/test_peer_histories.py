"""What peers show, whatever their strategy, passes the check of who saw what."""

import random
import threading
from contextlib import suppress

import pytest

from agentref.coherence.checking import Guarantee, Verdict, check_history
from agentref.coherence.coordinator import Coordinator
from agentref.coherence.history import History
from agentref.coherence.memory import MemoryTable
from agentref.coherence.strategies import Strategy
from agentref.errors import Conflict, RetriesExhaustedError
from agentref.storage import InMemoryCAS

KEYS = (("counter", "one"), ("counter", "two"))
READS = 300


def work(peer, seed):
    chance = random.Random(seed)
    for _ in range(READS):
        key = chance.choice(KEYS)
        with suppress(Conflict, RetriesExhaustedError):
            match chance.randrange(20):
                case 0:
                    view = peer.read(key)
                    peer.commit(key, (view.value or 0) + 1 if view.exists else 1, base=view)
                case 1:
                    with peer.lease(key, ttl=5):
                        peer.read(key)
                case 2:
                    peer.read_many(KEYS)
                case _:
                    peer.read(key)


@pytest.mark.parametrize("strategy", Strategy.NAMES)
def test_peers_that_race_show_nothing_stale(strategy):
    table, backend = MemoryTable(), InMemoryCAS()
    histories = [History(capacity=100_000) for _ in range(2)]
    coordinators = [Coordinator(table, observers=[history]) for history in histories]
    peers = [coordinators[n % 2].peer(f"agent{n}", backend=backend, strategy=strategy) for n in range(4)]
    threads = [threading.Thread(target=work, args=(peer, n)) for n, peer in enumerate(peers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for peer in peers:
        peer.close()
    report = check_history(*(history.events() for history in histories))
    assert {name: f.faults for name, f in report.guarantees.items() if f.faults} == {}
    assert {finding.verdict for finding in report.guarantees.values()} == {Verdict.CONFIRMED}
    assert report.guarantees[Guarantee.NO_STALE_DELIVERY].checked >= READS
