"""Speaks TLS in front of a server that was built without it, as stunnel does; not a test itself.

python tls_terminator.py FOLDER POSTGRES|REDIS PORT forwards to 127.0.0.1:PORT. It takes certificate.pem and key.pem in
FOLDER, and listens on a port of 127.0.0.1 that it writes into FOLDER/port.

A client's connection is one session of the server behind: what ends or garbles the one ends the other. So a driver
does here with its TLS connection what it would do with any.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import sys
import threading


def serve(client: socket.socket, protocol: str, context: ssl.SSLContext, port: int) -> None:
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if protocol == "POSTGRES":
            client.recv(8, socket.MSG_WAITALL)  # SSLRequest, as asked for by sslmode=require
            client.sendall(b"S")
        try:
            with context.wrap_socket(client, server_side=True) as tls:
                forward(tls, server)
        except OSError:  # the client went, or sent what is no TLS: so both connections end
            pass


def forward(tls: ssl.SSLSocket, server: socket.socket) -> None:
    while True:
        readable = [tls] if tls.pending() else select.select([tls, server], [], [])[0]
        for source in readable:
            data = source.recv(1 << 16)
            if not data:
                return
            (server if source is tls else tls).sendall(data)


def main() -> None:
    folder, protocol, port = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.path.join(folder, "certificate.pem"), os.path.join(folder, "key.pem"))
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listening:
        with open(os.path.join(folder, "port.new"), "w") as file:
            file.write(str(listening.getsockname()[1]))
        os.rename(file.name, os.path.join(folder, "port"))
        while True:
            client, _ = listening.accept()
            threading.Thread(target=serve, args=(client, protocol, context, int(port)), daemon=True).start()


if __name__ == "__main__":
    main()
