#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
iproute2's `vdpa`, inside the laboratory, on the kernel's own devices: vdpa_sim's and VDUSE's. What it
prints is what tests/integration/iproute2.json has, with which vdpactl is compared everywhere; and vdpactl
prints the same of our devices where they have the same attributes. What runs there is lab_vdpa.py.

UVDPA_GOLDEN=FILE writes what it prints to that file instead, to record it anew.
"""

import json
import os
import pathlib
import shutil

import lab
import machine
import vmtest

GOLDEN = pathlib.Path(__file__).parent.parent / "integration/iproute2.json"
TIMEOUT = 400  # seconds for boot and test


def text_of(golden):
    """JSON with a run a line, to be read by people too."""
    sets = ",\n".join(f'{{"devices": {json.dumps(s["devices"])}, "runs": [\n' +
                      ",\n".join(json.dumps(run) for run in s["runs"]) + "]}" for s in golden["sets"])
    return (f'{{"version": {json.dumps(golden["version"])}, "kernel": {json.dumps(golden["kernel"])}, '
            f'"sets": [\n{sets}]}}\n')


class Vdpa(vmtest.LabTest):
    def run_part(self, part):
        folder = machine.fetched("vdpa")
        script = lab.python(self.folder, "lab_vdpa", str(folder / "modules"), part) + "\n"
        vdpactl = os.environ.get("UVDPA_VDPACTL", f"{vmtest.BUILD}/app/vdpactl/vdpactl")
        m = self.lab("lab", script, [], env={"UVDPA_VDPACTL": vdpactl})
        m.on_line = lambda line: print(line[:400], flush=True)
        return json.loads(m.run(timeout=TIMEOUT)["runs"])

    def test_golden(self):
        now = self.run_part("golden")
        path = os.environ.get("UVDPA_GOLDEN")
        if path:
            pathlib.Path(path).write_text(text_of(now))
            return
        golden = json.loads(GOLDEN.read_text())
        self.assertEqual(now["version"], golden["version"])
        self.assertEqual(len(now["sets"]), len(golden["sets"]))
        for ours, theirs in zip(now["sets"], golden["sets"]):
            self.assertEqual(ours, theirs,
                             f"with the kernel {now['kernel']}, recorded with {golden['kernel']}")

    def test_alike(self):
        """But for what cannot be alike: names of management devices, and the feature without which
        the kernel's simulators have no driver."""
        runs = self.run_part("alike")
        self.assertGreater(len(runs), 40)
        negotiated = 0
        for one in runs:
            theirs = one["theirs"].replace(" ACCESS_PLATFORM", "").replace(',"ACCESS_PLATFORM"', "")
            for mgmtdev in "vdpasim_net", "vdpasim_blk", "vduse":
                theirs = theirs.replace(mgmtdev, {"vduse": "sim_net"}.get(mgmtdev, mgmtdev[4:]))
            self.assertEqual(one["ours"], theirs, one["args"])
            negotiated += "negotiated_features" in theirs
        self.assertGreater(negotiated, 8)


def missing():
    if shutil.which("vdpa") is None:
        return "no vdpa: run scripts/setup test"
    if lab.missing() is None and machine.fetched("vdpa") is None:
        return "no modules: run scripts/fetch-guest vdpa"
    return lab.missing()


if __name__ == "__main__":
    vmtest.main(missing)
