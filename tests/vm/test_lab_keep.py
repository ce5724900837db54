#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
The store of descriptors of a systemd that is the first process of its machine: what a process that
is killed has put there, the next one finds. The same lives of a daemon as in tests/unit/
test_keep_systemd.c, which plays systemd; here it is asked itself.
"""

import os
import re
import shutil

import lab
import vmtest

# Each life of a daemon, and how it ends; each puts or finds what it should, or ends by 1.
LIVES = {
    "put_some": "killed KILL", "find_some": "exited 0", "drop_one": "exited 0", "find_rest": "exited 0",
    "drop_all": "exited 0", "before_change": "exited 0", "change": "exited 0", "find_changed": "exited 0",
}
# What the last one leaves: four files, and the table of names.
STORED = 5


class Keep(vmtest.LabTest):
    def test_descriptors_outlive_a_service(self):
        tests = os.path.dirname(os.path.abspath(__file__))
        program = os.path.join(vmtest.BUILD, "tests/unit/test_keep_systemd")
        unit = os.path.join(vmtest.BUILD, "examples/vdpa-app/service/uvdpa.service")
        words = " ".join([program, unit, *LIVES])
        lines = []
        m = self.lab("lab", f"bash -eu {tests}/lab_keep.sh {words}", [], systemd=True)
        m.on_line = lambda line: (lines.append(line), print(line, flush=True))
        m.run(timeout=900)
        text = "\n".join(lines)
        ends = dict(re.findall(r"(?m)^(\w+): (\w+ \w+)\r?$", text))
        for life, end in LIVES.items():
            self.assertEqual(ends.get(life), end, text)
        self.assertRegex(text, rf"(?m)^stored: {STORED}\r?$")
        self.assertRegex(text, r"(?m)^stored after stop: 0\r?$")


def missing():
    # lab_service restarts the daemon with its store in every run.
    if not vmtest.LONG:
        return "takes a machine of its own: UVDPA_TEST_LONG=1"
    if shutil.which("/lib/systemd/systemd") is None:
        return "no /lib/systemd/systemd"
    return lab.missing()


if __name__ == "__main__":
    vmtest.main(missing)
