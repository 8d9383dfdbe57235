"""Sends a request to a server and brings back its reply, over one connection for as long as the server keeps it."""

import http.client
import socket

from compare import Reply

# Longer than any answer takes; a server that hangs shall end the test, not the evening.
ANSWER_S_MAX = 30


class Line:
    """One connection to one server. Not for several threads at once."""

    def __init__(self, address):
        self.address, self.connection = address, None

    def send(self, request):
        if self.connection is None:
            host, port = self.address.rsplit(":", 1)
            self.connection = http.client.HTTPConnection(host, int(port), timeout=ANSWER_S_MAX)
            self.connection.connect()
            self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.connection.putrequest(request.method, request.path, skip_accept_encoding=True)
            for name, value in request.headers.items():
                self.connection.putheader(name, value)
            self.connection.putheader("content-length", str(len(request.body)))
            self.connection.endheaders(request.body)
            answer = self.connection.getresponse()
            body = answer.read()
            headers = {name.lower(): value for name, value in answer.getheaders()}
        except (http.client.HTTPException, OSError) as why:
            self.close()
            # A server that hangs up is a finding about that server.
            return Reply(0, {}, repr(why).encode())
        # Feast hangs up after some of its errors without saying so; asking again on that line would fail.
        if answer.status != 200 or answer.will_close:
            self.close()
        return Reply(answer.status, headers, body)

    def close(self):
        if self.connection:
            self.connection.close()
            self.connection = None
