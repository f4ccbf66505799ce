"""A process that is killed while it saves leaves a state that loads: its payloads are there before it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentref.adapters.autogen import AutoGenAdapter
from agentref.storage import FilesystemCAS

ROOT = Path(__file__).parents[3]
SAVING = """
import json, os, sys
from agentref.adapters.autogen import AutoGenAdapter
from agentref.storage import FilesystemCAS

adapter = AutoGenAdapter(backend=FilesystemCAS(sys.argv[1]), segment=4, threshold_bytes=512)
history, number = [], 0
while True:
    history.append({"role": "user", "content": f"{number} " * (100 if number % 3 else 10_000)})
    history = adapter.externalize_message_history(history, owner="chat")
    with open(sys.argv[2] + ".new", "w") as file:
        json.dump(history, file)
    os.replace(sys.argv[2] + ".new", sys.argv[2])
    number += 1
    print(number, flush=True)
"""


@pytest.mark.parametrize("saves", [1, 7, 40])
def test_what_a_killed_process_saved_last_loads_and_is_pinned(saves, tmp_path):
    state = tmp_path / "history.json"
    process = subprocess.Popen(
        [sys.executable, "-c", SAVING, tmp_path / "store", state],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        while int(process.stdout.readline()) < saves:
            pass
        time.sleep(0.003 * saves % 0.01)  # somewhere in the midst of the next one
        os.kill(process.pid, signal.SIGKILL)
    with FilesystemCAS(tmp_path / "store") as cas:
        adapter = AutoGenAdapter(backend=cas)
        history = json.loads(state.read_text(encoding="utf-8"))
        messages = adapter.hydrate_message_history(history)
        assert len(messages) >= saves
        assert all(m["content"].startswith(f"{number} ") for number, m in enumerate(messages))
        needed = {ref.hash for ref in adapter.externalizer.refs(history)}
        assert needed <= {pin.hash for pin in cas.iter_pins("chat")}
        again = adapter.externalize_message_history([*adapter.adopt(history), {"content": "on"}])
        assert adapter.hydrate_message_history(again) == [*messages, {"content": "on"}]
        assert cas.verify().ok
