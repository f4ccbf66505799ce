"""What beats, and for how long."""

import threading

from agentref.coherence.heartbeat import Heartbeat


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "beating"]


def test_it_beats_until_it_is_stopped_or_says_so(eventually):
    heart = Heartbeat("beating")
    counts = {"for ever": 0, "thrice": 0, "fails": 0}

    def beat(name, last=None):
        counts[name] += 1
        if name == "fails":
            raise RuntimeError("this once, and the next time")
        return counts[name] != last

    beats = [heart.every(0.01, lambda: beat("for ever")), heart.every(0.01, lambda: beat("thrice", 3))]
    beats.append(heart.every(0.01, lambda: beat("fails")))
    eventually(lambda: counts["for ever"] > 10 and counts["fails"] > 3)
    assert counts["thrice"] == 3
    assert len(threads()) == 1
    for each in beats:
        heart.stop(each)
        heart.stop(each)
    eventually(lambda: not threads())
    stopped = dict(counts)
    again = threading.Event()
    last = heart.every(0.001, lambda: again.set() or True)
    assert again.wait(20)
    assert counts == stopped
    last.stop()  # as a finalizer does: the thread notices at the next beat
    eventually(lambda: not threads())


def test_a_long_one_keeps_no_short_one_waiting_and_no_thread_alive(eventually):
    heart = Heartbeat("beating")
    beaten = threading.Event()
    long = heart.every(3600, lambda: True)
    short = heart.every(0.01, lambda: beaten.set() or True)
    assert beaten.wait(20)
    heart.stop(short)
    heart.stop(long)
    eventually(lambda: not threads())
