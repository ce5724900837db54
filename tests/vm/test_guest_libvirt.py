#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Domains of the documents as libvirt's own tools see them, and a guest that libvirt starts from one:
its disk on a socket of the daemon's, its network card on one that QEMU makes.
"""

import os
import shutil
import subprocess
import time
import unittest
import xml.etree.ElementTree as ET

import libvirt_session as libvirt
import vmtest

PINGS = 5
WRITE_MIB = 4
MIB = 1 << 20
PAGES = "guide-libvirt.md", "guide-openstack.md"


class Documents(vmtest.MachineTest):
    def test_domains_are_valid(self):
        n = 0
        for page in PAGES:
            for xml in libvirt.documented(page):
                path = f"{self.folder}/domain{n}.xml"
                with open(path, "w", encoding="utf-8") as f:
                    f.write(xml)
                done = subprocess.run([shutil.which("virt-xml-validate", path=libvirt.PATH), path, "domain"],
                                      capture_output=True, text=True, check=False)
                self.assertEqual(done.returncode, 0, f"{page}: {xml}\n{done.stdout}{done.stderr}")
                n += 1
        self.assertGreaterEqual(n, 4)

    def test_a_wrong_one_is_not(self):
        """That the check checks."""
        path = f"{self.folder}/domain.xml"
        with open(path, "w", encoding="utf-8") as f:
            f.write(libvirt.documented(PAGES[0])[0].replace("type='vhostuser' device", "type='vhost-user' device"))
        done = subprocess.run([shutil.which("virt-xml-validate", path=libvirt.PATH), path, "domain"],
                              capture_output=True, text=True, check=False)
        self.assertNotEqual(done.returncode, 0)


class Started(vmtest.MachineTest):
    def words(self, page):
        """The page's devices, in this test's folder, and given to the user that QEMU runs as."""
        words = libvirt.documented_words(page)
        owner = "group kvm", f"group {libvirt.GROUP if os.geteuid() == 0 else os.getegid()}"
        return [w.replace("/run/uvdpa", self.folder + "/s").replace(*owner) for w in words]

    def domain(self, xml):
        return xml.replace("/run/uvdpa", self.folder + "/s")

    def setUp(self):
        super().setUp()
        os.chmod(self.folder, 0o755)
        os.mkdir(self.folder + "/s", 0o755)

    def test_from_the_guide(self):
        disk, net, served = self.words("guide-libvirt.md")
        first, second, third = map(self.domain, libvirt.documented("guide-libvirt.md"))
        with libvirt.Session(self.folder) as session:
            for page in PAGES:
                for xml in libvirt.documented(page):
                    xml = ET.tostring(libvirt.emulated(libvirt.parse(xml)), encoding="unicode")
                    session.virsh("undefine", session.define(xml))
            d = self.daemon(disk, net)
            self.both_devices(session, d, first, third)
            d.stop()
            d = self.daemon(served)
            self.server(session, d, second)
            # Whoever connects has no socket to remove; the folder goes with the device.
            d.stop()
        self.assertEqual(os.listdir(self.folder + "/s"), [])

    def merged(self, first, other):
        """The first domain with another's override."""
        first, other = libvirt.parse(first), libvirt.parse(other)
        for override in other.findall(f"{{{libvirt.QEMU_NS}}}override"):
            first.append(override)
        return ET.tostring(first, encoding="unicode")

    def both_devices(self, session, d, domain, override):
        g = libvirt.Guest(session, self.merged(domain, override), f"""
            nic=$(nic 52:54:00:00:00:01)
            net_up $nic 10.0.0.1/24 fd00::1/64
            ping_all {PINGS} 10.0.0.2 v4
            disk=$(disk guest1-disk0)
            mkfs.ext4 -q -F /dev/$disk
            mount -t ext4 /dev/$disk /mnt
            sum=$(write_random /mnt/data {WRITE_MIB})
            umount /mnt
            drop_caches
            mount -t ext4 /dev/$disk /mnt
            [ "$(sha256sum </mnt/data)" = "$sum" ] || fail "read back differs"
            umount /mnt
        """)
        g.start()
        results = g.run(120)
        self.assertTrue(results["v4"].startswith(f"{PINGS} "))
        stats = d.stats("guest1-disk0")
        self.assertGreaterEqual(stats["write_bytes"], WRITE_MIB * MIB)
        self.assertGreaterEqual(stats["read_bytes"], WRITE_MIB * MIB)
        self.assertGreaterEqual(d.stats("guest1-net0")["tx_packets"], PINGS)
        self.ended(session, g)

    def server(self, session, d, domain):
        """QEMU makes the socket. Its guest needs no system: that libvirt lets it run is the connection."""
        root = libvirt.emulated(libvirt.parse(domain))
        for override in libvirt.parse(libvirt.documented("guide-libvirt.md")[2]).findall(f"{{{libvirt.QEMU_NS}}}override"):
            root.append(override)
        name = session.define(ET.tostring(root, encoding="unicode"))
        # The daemon comes back to the socket that the second one makes.
        for _ in range(2):
            session.virsh("start", name)
            self.assertEqual(session.virsh("domstate", name).strip(), "running")
            self.assertIn("connected", d.ask("/vdpa/dev/show", "guest2-net0")["frontend_info"])
            session.virsh("destroy", name)
        session.virsh("undefine", name)

    def ended(self, session, g):
        deadline = time.monotonic() + 20
        while g.state() != "shut off":
            self.assertLess(time.monotonic(), deadline, "the guest does not end")
            time.sleep(0.1)
        session.virsh("undefine", g.name)
        self.assertEqual(list(session.qemu_pids()), [])


if __name__ == "__main__":
    vmtest.main(libvirt.missing)
