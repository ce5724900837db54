# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A small guest: Debian's cloud kernel and busybox, which uses devices and little else."""

import os
import pathlib
import shutil
import subprocess

import machine
from machine import ROOT  # noqa: F401, tests of guests take it from here

GuestError = machine.MachineError


def missing():
    """Why no guest can run here, None when one can."""
    if mkfs() is None:
        return "mkfs.ext4 is not installed: run scripts/setup vm"
    return machine.missing("guest")


def mkfs():
    return shutil.which("mkfs.ext4", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def libraries(program):
    """The shared objects of a program, as ldd resolves them."""
    out = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for line in out.splitlines():
        for word in line.split():
            if word.startswith("/"):
                yield word


def vhost_user_net(ident, socket, mac, extra=""):
    """QEMU's arguments for a net device; 7.2 without KVM wants vectors=0."""
    return ["-chardev", f"socket,id=c-{ident},path={socket},reconnect=1",
            "-netdev", f"vhost-user,id=n-{ident},chardev=c-{ident}",
            "-device", f"virtio-net-pci,id={ident},netdev=n-{ident},mac={mac},vectors=0,romfile="
                       f"{extra}"]


def vhost_user_blk(ident, socket, extra=",num-queues=1"):
    return ["-chardev", f"socket,id=c-{ident},path={socket},reconnect=1",
            "-device", f"vhost-user-blk-pci,id={ident},chardev=c-{ident}{extra}"]


class Guest(machine.Machine):
    """A guest whose memory back ends can share."""

    def __init__(self, folder, name, script, devices, memory=256, reboot=False, qemu=machine.QEMU,
                 cmdline="", ext4=True):
        """
        folder: for its files; devices: QEMU arguments; memory: MiB; reboot: a reboot starts the
        guest again, rather than ending it; cmdline: the kernel's, beside what all have; ext4: with
        mkfs.ext4.
        """
        files = {"lib.sh": machine.words("guest-lib.sh")}
        if ext4:
            program = mkfs()
            files["usr/sbin/mkfs.ext4"] = pathlib.Path(program).read_bytes()
            files.update((path, pathlib.Path(path).read_bytes()) for path in libraries(program))
        super().__init__(folder, name, "guest", script, files, [
            *([] if reboot else ["-no-reboot"]),
            "-machine", "q35,memory-backend=mem",
            "-object", f"memory-backend-memfd,id=mem,size={memory}M,share=on",
            *devices], memory, qemu, cmdline)
