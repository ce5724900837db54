#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
vdpa-app on PCI functions that others have written: QEMU's virtio devices, over the kernel's
vfio-pci and behind an IOMMU, inside the laboratory. What runs there is lab_vfio.py; this is the far
end.

One boot for each kind of IOMMU, in which all checks run, and one for front ends that attack.
"""

import hashlib
import pathlib

import lab
import reflector
import vmtest

IMAGE_MIB = 16
TIMEOUT = 900  # seconds a boot, with everything in it
FAULT = "virtio_iommu_report_fault"  # an event that QEMU traces into its log
MAC = "52:54:00:00:00:{:02x}"


class Functions(vmtest.LabTest):
    """QEMU's functions, and their far ends."""

    script = "lab_vfio"
    env = {}
    timeout = TIMEOUT
    NEED_TAP = []

    def net(self, slot, pairs, extra="", far=None):
        far = far or (reflector.Datagrams() if pairs == 1 else reflector.Tap(pairs))
        self.addCleanup(far.close)
        self.far_ends[slot] = far
        mq = f",mq=on,vectors={2 * pairs + 2}" if pairs > 1 else ""
        return lab.net(slot, far.netdev, MAC.format(slot), mq + extra)

    def blk(self, slot, extra=""):
        image = pathlib.Path(self.folder) / f"{slot:x}.img"
        with open(image, "wb") as f:
            f.truncate(IMAGE_MIB << 20)
        self.images[slot] = image
        return lab.blk(slot, image, extra)

    def image_sha256(self, slot, offset, length):
        with open(self.images[int(slot, 16)], "rb") as f:
            f.seek(int(offset))
            return hashlib.sha256(f.read(int(length))).hexdigest()

    def clear_image(self, slot):
        with open(self.images[int(slot, 16)], "r+b") as f:
            f.truncate(0)
            f.truncate(IMAGE_MIB << 20)

    def devices(self):
        devices = [
            *self.net(0x10, 1), *self.net(0x11, 1, ",packed=on"),
            *self.net(0x19, 1, ",page-per-vq=on"), *self.blk(0x14), *self.blk(0x15, ",packed=on"),
            # Functions of one slot, which have no access control between them: one group.
            "-device", "virtio-net-pci,addr=0x16.0,multifunction=on" + lab.MODERN,
            "-device", "virtio-net-pci,addr=0x16.1" + lab.MODERN,
            "-device", "virtio-net-pci,addr=0x17,disable-modern=on,romfile="]
        try:
            devices += [*self.net(0x12, 4), *self.net(0x13, 4, ",packed=on"),
                        *self.net(0x18, 1, far=reflector.Tap(1)),
                        *self.net(0x1a, 1, ",packed=on", reflector.Tap(1))]
        except reflector.Unavailable as e:
            print(f"SKIPPED: 4 queue pairs, and conformance of net functions: {e}", flush=True)
            self.without_tap = True
        return devices

    def sink(self, slot, on):
        self.far_ends[slot].sink = on

    @staticmethod
    def faults(machine):
        """How many faults virtio-iommu has reported, and the last of them."""
        lines = [line for line in machine.log.read_text(errors="replace").splitlines()
                 if line.startswith(FAULT)]
        return f"{len(lines)} {lines[-1] if lines else 'none'}"

    def check(self, iommu, tests):
        self.far_ends, self.images, self.without_tap = {}, {}, False
        devices = [*self.devices(), "-trace", FAULT]
        if self.without_tap:
            tests = [t for t in tests if t not in self.NEED_TAP]
            if not tests:
                self.skipTest("no tap interface")
        fds = [fd for far in self.far_ends.values() for fd in far.pass_fds]
        script = lab.python(self.folder, self.script, "-v", *tests)
        machine = self.lab("lab", script, devices, iommu=iommu, pass_fds=fds, env=self.env)
        machine.run({"faults": lambda: self.faults(machine),
                     "counts": lambda slot: self.far_ends[int(slot, 16)].counts(),
                     "zeros": lambda slot: not any(self.far_ends[int(slot, 16)].last),
                     "sink": lambda slot, on: self.sink(int(slot, 16), on == "1"),
                     "image": self.image_sha256, "clear": self.clear_image}, timeout=self.timeout)


class Vfio(Functions):
    NEED_TAP = ["Net.test_split_4_pairs", "Net.test_packed_4_pairs",
                "Conformance.test_net_in_process", "Conformance.test_net_4_pairs_by_socket"]
    # What another kind of IOMMU may answer in another way.
    EACH = ["Net.test_split_1_pair", "Net.test_packed_1_pair",
            "Net.test_memory_that_ends_within_a_page", "Block", "Iommu"]
    # What lies above, and has been the same behind both kinds.
    TRAFFIC = ["Net.test_split_4_pairs", "Net.test_packed_4_pairs",
               "Net.test_every_byte_at_the_ends_of_pages_split",
               "Net.test_every_byte_at_the_ends_of_pages_packed", "Net.test_memory_slots"]
    # What has little to do with the kind of IOMMU; and test-vdpa's frames, of which some have a
    # buffer that begins with the last byte of a page: QEMU's virtio-iommu translates that one
    # wrongly, see doc/testing.md.
    ONCE = ["Conformance.test_net_in_process",
            "Net.test_interrupts_at_every_step_of_the_vector_ladder",
            "Net.test_ifcvf_without_its_block", "Net.test_ifcvf_starts_and_stops_without_its_block",
            "Conformance.test_block_by_socket", "BadInput"]
    # What has been run by socket, or in process, by the other class; and behind Intel's IOMMU.
    LONG_INTEL = ["Conformance.test_block_in_process",
                  "Conformance.test_net_4_pairs_by_socket"] if vmtest.LONG else []
    LONG_VIRTIO = [*TRAFFIC, "Conformance.test_block_by_socket"] if vmtest.LONG else []

    def test_intel_iommu(self):
        self.check("intel", [*self.EACH, *self.TRAFFIC, *self.ONCE, *self.LONG_INTEL])

    def test_attack(self):
        self.check("intel", ["Attack"])

    def test_virtio_iommu(self):
        self.check("virtio", [*self.EACH, "BadInput.test_without_interrupt_remapping", *self.LONG_VIRTIO])

    def test_no_iommu(self):
        self.check("none", ["BadInput.test_without_an_iommu"])


if __name__ == "__main__":
    vmtest.main(lab.missing)
