# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
The far end of a network device of QEMU's: sends every frame back and counts what passed.

Without a hub in between no frame is lost: a full receive ring of the device holds QEMU up, which
holds this up. One queue pair is a pair of datagram sockets, which anybody may have. More take a tap
interface, in a network namespace of its own; so does a device that is stopped amid traffic, which
ends QEMU 7.2 when it waits for a socket just then.
"""

import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading

FRAME_MAX = 65536
IFNAME = "uvdpa0"
HELPER_TIMEOUT = 20  # seconds

# linux/if_tun.h, linux/sockios.h, linux/if_packet.h
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_MULTI_QUEUE, IFF_VNET_HDR = 0x2, 0x1000, 0x100, 0x4000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
ETH_P_ALL = 3
PACKET_OUTGOING = 4
SO_RCVBUFFORCE = 33
RECEIVE_BUFFER = 16 << 20  # bytes; an overrun would lose frames


class Unavailable(Exception):
    """No tap interface can be had here."""


class Reflector:
    """Counts frames and bytes in (from the device) and out (back to it). End it with close()."""

    def __init__(self, sock):
        self.sock = sock
        self.frames_in = self.bytes_in = self.frames_out = self.bytes_out = 0
        self.last = b""
        self.sink = False  # count and keep what comes in
        self.sock.settimeout(0.2)
        self.closing = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _receive(self):
        return self.sock.recv(FRAME_MAX)

    def _run(self):
        while not self.closing:
            try:
                frame = self._receive()
            except TimeoutError:
                continue
            except OSError:
                return
            if not frame:
                continue
            self.frames_in += 1
            self.bytes_in += len(frame)
            self.last = frame
            while not self.closing and not self.sink:
                try:
                    self.sock.send(frame)
                except TimeoutError:
                    continue
                except OSError:  # QEMU has ended
                    return
                self.frames_out += 1
                self.bytes_out += len(frame)
                break

    def counts(self):
        return f"{self.frames_in} {self.bytes_in} {self.frames_out} {self.bytes_out}"

    def close(self):
        self.closing = True
        self.thread.join()
        self.sock.close()


class Datagrams(Reflector):
    """For one queue pair. netdev: what QEMU's -netdev begins with; QEMU is to inherit pass_fds."""

    def __init__(self):
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.pass_fds = [self.theirs.fileno()]
        self.netdev = f"dgram,local.type=fd,local.str={self.pass_fds[0]}"
        super().__init__(ours)

    def close(self):
        super().close()
        self.theirs.close()


class Tap(Reflector):
    """The same for several queue pairs."""

    def __init__(self, queues):
        ours, theirs = socket.socketpair()
        unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user",
                                                                  "--net"]
        try:
            done = subprocess.run([*unshare, sys.executable, "-B", __file__,
                                   str(theirs.fileno()), str(queues)],
                                  pass_fds=[theirs.fileno()], capture_output=True, text=True,
                                  timeout=HELPER_TIMEOUT, check=False)
        except OSError as e:
            raise Unavailable(f"no tap interface: {e}") from None
        finally:
            theirs.close()
        if done.returncode != 0:
            ours.close()
            why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise Unavailable(f"no tap interface: {why}")
        _, fds, _, _ = socket.recv_fds(ours, 1, queues + 1)
        ours.close()
        self.pass_fds = fds[1:]
        self.netdev = "tap,vhost=off,fds=" + ":".join(str(fd) for fd in self.pass_fds)
        super().__init__(socket.socket(fileno=fds[0]))

    def _receive(self):
        frame, address = self.sock.recvfrom(FRAME_MAX)
        # What we send comes by once more.
        return b"" if address[2] == PACKET_OUTGOING else frame

    def close(self):
        super().close()
        for fd in self.pass_fds:
            os.close(fd)


def make_tap(queues):
    """In a fresh network namespace: a packet socket on a tap interface, and the latter's queues."""
    fds = []
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if queues > 1 else 0)
    request = struct.pack("16sH22x", IFNAME.encode(), flags)
    for _ in range(queues):
        fds.append(os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK))
        fcntl.ioctl(fds[-1], TUNSETIFF, request)
    # No address, so that no frame is on it but those of the device.
    with open(f"/proc/sys/net/ipv6/conf/{IFNAME}/disable_ipv6", "w") as f:
        f.write("1")
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except PermissionError:  # not in a user namespace; the default holds what is in flight
        pass
    ifreq = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sH22x", IFNAME.encode(), 0))
    fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack(
        "16sH22x", IFNAME.encode(), struct.unpack_from("H", ifreq, 16)[0] | IFF_UP))
    sock.bind((IFNAME, ETH_P_ALL))
    return [sock.fileno(), *fds], sock


def main():
    channel = socket.socket(fileno=int(sys.argv[1]))
    fds, sock = make_tap(int(sys.argv[2]))
    socket.send_fds(channel, [b"x"], fds)
    sock.close()


if __name__ == "__main__":
    try:
        main()
    except OSError as e:
        sys.exit(str(e))
