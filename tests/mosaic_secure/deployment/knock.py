"""A stranger at a SuperLink, as a program: ``knock.py HOST:PORT CA.PEM WHAT...``.

Prints a status for each: ``/v1/...``, a path; ``register:NODE.KEY``, a node that would let itself in by that
key; ``come:NODE.KEY``, one that comes with it and, let in, leaves again.
"""

from __future__ import annotations

import http.client
import ssl
import sys
from pathlib import Path


def main() -> None:
    server, ca, *wanted = sys.argv[1:]
    for what in wanted:
        how, _, key = what.partition(":")
        print(what, _node(server, ca, how, Path(key)) if key else _path(server, ca, what))


def _path(server: str, ca: str, path: str) -> int:
    context = ssl.create_default_context(cafile=ca)
    connection = http.client.HTTPSConnection(server, timeout=20, context=context)
    connection.request("POST", path, body=b"", headers={"content-type": "application/x-protobuf"})
    return connection.getresponse().status


def _node(server: str, ca: str, how: str, key: Path) -> int:
    import httpx
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, RegisterNodeFleetRequest
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    own = load_ssh_private_key(key.read_bytes(), password=None)
    public = public_key_to_bytes(own.public_key())
    signed = NodeAuthHttpInterceptor(own, own.public_key())
    version = RuntimeVersionHttpInterceptor(component_name="SuperNode")
    trusted = Path(ca).read_bytes()
    with FleetHttpClient.from_server_address(server, False, trusted, [version, signed]) as client:
        try:
            if how == "register":
                client.RegisterNode(RegisterNodeFleetRequest(public_key=public))
                return 200
            node = client.ActivateNode(ActivateNodeRequest(public_key=public, heartbeat_interval=30)).node_id
            client.DeactivateNode(DeactivateNodeRequest(node_id=node))
        except httpx.HTTPStatusError as error:
            return error.response.status_code
    return 200


if __name__ == "__main__":
    main()
