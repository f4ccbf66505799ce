"""What stands between a client and the server, and can lose an answer."""

import contextlib
import select
import shutil
import socket
import tempfile
import threading

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class Mute:
    """Passes everything on until it sees a text: the answer to that is lost, and with it the connection."""

    def __init__(self, dsn):
        self.directory = tempfile.mkdtemp(prefix="agentref-mute-", dir="/tmp")
        self.server = f"{conninfo_to_dict(dsn)['host']}/.s.PGSQL.5432"
        self.dsn = make_conninfo(dsn, host=self.directory)
        self.text = None
        self.then = None
        self.swallowed = 0
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(f"{self.directory}/.s.PGSQL.5432")
        self.listening.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow(self, *, on, then=None):
        self.text, self.then = on, then

    def close(self):
        self.listening.close()
        shutil.rmtree(self.directory)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client = self.listening.accept()[0]
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client):
        server = socket.socket(socket.AF_UNIX)
        server.connect(self.server)
        losing = False
        with client, server, contextlib.suppress(OSError):
            while True:
                for one in select.select([client, server], [], [])[0]:
                    data = one.recv(1 << 16)
                    if not data:
                        return
                    if one is client:
                        losing = losing or (self.text is not None and self.text in data)
                        server.sendall(data)
                    elif losing:
                        self.text = None
                        self.swallowed += 1
                        if self.then is not None:
                            self.then()
                        return
                    else:
                        client.sendall(data)
