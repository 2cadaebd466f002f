"""Where the processes of one job meet: an address of this host that its other hosts reach.

Rule: what the site says (PIREPRO_IFACE) comes first and is never guessed around; a socket is bound to one
address, not to all, and its port is the kernel's choice, held from then on, so that nobody else can take it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from pi_repro.errors import StateError

#: Environment variable -> name of the network interface to meet on, or several, of which a host has one.
INTERFACE = "PIREPRO_IFACE"

_SIOCGIFADDR = 0x8915
#: Of the range for documentation: only asks the kernel for its route, nothing is sent.
_FAR = ("192.0.2.1", 9)
_LOOPBACK = "127.0.0.1"


def listen(*, one_host: bool) -> socket.socket:
    """A listening socket on an address that the job's other processes reach.

    Args:
        one_host: all of them are on this host.

    Raises:
        StateError: this host lacks the interface that the site names, or has no address at all.
    """
    tried = candidates(one_host=one_host)
    for address in tried:
        try:
            return socket.create_server((address, 0), backlog=4096)
        except OSError:
            continue  # a name may stand for an address outside of this host
    raise StateError("this host has no address to meet on", given=", ".join(tried))


def candidates(*, one_host: bool) -> list[str]:
    """IPv4 addresses to try, the best first."""
    if os.environ.get(INTERFACE):
        return [_of_site()[1]]
    if one_host:
        return [_LOOPBACK]
    found = [address for address in (_of_name(), _source(_FAR)) if address and not address.startswith("127.")]
    return [*found, _LOOPBACK]


def choose_interfaces(first: str) -> None:
    """Tell gloo, and NCCL where the site says so, which interface leads to the first process.

    Args:
        first: address of the first process's host.

    Raises:
        StateError: this host lacks the interface that the site names.
    """
    if os.environ.get(INTERFACE):
        name, _ = _of_site()  # gloo wants each name that it is given to exist
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
    elif found := interface_of(_source((first, 9))):
        # By itself gloo takes the address of the host's name, which may be unknown or a loopback.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", found)


def interface_of(address: str | None) -> str | None:
    """Name of this host's interface that has an address."""
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if address and address_of(name) == address), None)


def address_of(interface: str) -> str | None:
    """IPv4 address of an interface; None when it does not exist or has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            packed = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
        except OSError:
            return None
    return socket.inet_ntoa(packed[20:24])


def keep_alive(connection: socket.socket) -> None:
    """A host that lost its power closes nothing: ask after it when a minute was silent."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _of_site() -> tuple[str, str]:
    """Name and address of the interface that the site names."""
    names = [name.strip() for name in os.environ[INTERFACE].split(",")]
    found = next(((name, address) for name in names if (address := address_of(name))), None)
    if found is None:
        raise StateError(
            "this host lacks the network interface that the site names",
            where=f"interface, {INTERFACE}",
            given=os.environ[INTERFACE],
            allowed=", ".join(name for _, name in socket.if_nameindex() if address_of(name)),
            todo="name one that all hosts have, or none, in the site's file",
        )
    return found


def _of_name() -> str | None:
    try:
        return str(socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)[0][4][0])
    except OSError:
        return None


def _source(target: tuple[str, int]) -> str | None:
    """This host's address on the way to another."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(target)
        except OSError:
            return None
        return str(probe.getsockname()[0])
