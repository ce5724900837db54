#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""What the guides for libvirt, Kubernetes and OpenStack print: words that make devices, manifests that
a schema allows, and paths that agree with each other. Domains are tests/vm/test_guest_libvirt.py's."""

import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ET

import harness
import manifest_schema as schema

try:
    import jsonschema
    import yaml
except ImportError:
    # Debian's packages are its own Python's.
    if sys.executable != "/usr/bin/python3" and os.path.exists("/usr/lib/python3/dist-packages/jsonschema"):
        os.execv("/usr/bin/python3", ["/usr/bin/python3", "-B", *sys.argv])
    jsonschema = None

DOC = os.path.join(os.environ["UVDPA_SOURCE"], "doc")
PAGES = "guide-libvirt.md", "guide-kubernetes.md", "guide-openstack.md"


def blocks(page, language):
    with open(os.path.join(DOC, page), encoding="utf-8") as f:
        return re.findall(rf"^```{language}\n(.*?)^```$", f.read(), re.M | re.S)


def words(page):
    return [line for block in blocks(page, "words") for line in block.splitlines()]


class Words(unittest.TestCase):
    def test_make_devices(self):
        """Each line, in a folder of the test's own and with a group that is there."""
        for page in PAGES:
            with tempfile.TemporaryDirectory(prefix="uvdpa-test-", dir="/tmp") as folder, \
                    harness.Daemon(eal=["--no-huge", "-m", "64"]) as daemon:
                self.assertGreater(len(words(page)), 0)
                for line in words(page):
                    line = re.sub(r"group \S+", f"group {os.getegid()}", line)
                    line = re.sub(r"(socket|device_info) (\S+)", rf"\1 {folder}\2", line)
                    for path in re.findall(r"(?:socket|device_info) (\S+)", line):
                        above = os.path.dirname(path)
                        if "folder" in line.split() and path.endswith(".sock"):
                            above = os.path.dirname(above)
                        os.makedirs(above, exist_ok=True)
                    daemon.add(line)

    def test_have_the_paths_that_the_others_have(self):
        """A socket of the words is one of the page's domain or manifest."""
        for page in PAGES:
            with open(os.path.join(DOC, page), encoding="utf-8") as f:
                text = re.sub(r"^```words\n.*?^```$", "", f.read(), flags=re.M | re.S)
            for line in words(page):
                path = re.search(r"socket (\S+)", line).group(1)
                if "/run/uvdpa/" in path and "vmi" not in path:
                    self.assertIn(path, text, page)
                self.assertLessEqual(len(path), 107)


class Manifests(unittest.TestCase):
    def setUp(self):
        harness.skip_unless(jsonschema is not None, "python3-jsonschema or -yaml is not installed: scripts/setup test")

    def documents(self):
        for block in blocks("guide-kubernetes.md", "yaml"):
            yield from yaml.safe_load_all(block)

    def check(self, value, what):
        jsonschema.Draft7Validator.check_schema(what)
        jsonschema.Draft7Validator(what).validate(value)

    def test_are_allowed(self):
        kinds = set()
        for document in self.documents():
            kinds.add(document["kind"])
            self.check(document, schema.MANIFESTS[document["kind"]])
            if document["kind"] == "NetworkAttachmentDefinition":
                self.check(json.loads(document["spec"]["config"]), schema.CNI)
        self.assertEqual(kinds, set(schema.MANIFESTS))
        for block in blocks("guide-kubernetes.md", "json"):
            self.check(json.loads(block), schema.CDI)
        with open(os.path.join(DOC, "guide-kubernetes.md"), encoding="utf-8") as f:
            infos = re.findall(r"^    (\{.*\"vhost-user\".*\})$", f.read(), re.M)
        self.assertEqual(len(infos), 1)
        self.check(json.loads(infos[0]), schema.DEVICE_INFO)

    def test_with_a_misspelt_field_are_not(self):
        """That the check checks: each key of each manifest, changed."""
        n = 0

        def keys(value, path=()):
            if isinstance(value, dict):
                for key in value:
                    yield path, key
                    yield from keys(value[key], path + (key,))
            elif isinstance(value, list):
                for i, item in enumerate(value):
                    yield from keys(item, path + (i,))

        # What the user names: labels, quantities by resource, data, plugins.
        free = {"labels", "annotations", "matchLabels", "nodeSelector", "requests", "limits", "data", "binding"}
        for document in self.documents():
            for path, key in keys(document):
                if path and path[-1] in free:
                    continue
                changed = json.loads(json.dumps(document))
                at = changed
                for step in path:
                    at = at[step]
                at[key + "X"] = at.pop(key)
                with self.assertRaises(jsonschema.ValidationError, msg=(path, key)):
                    self.check(changed, schema.MANIFESTS[document["kind"]])
                n += 1
        self.assertGreater(n, 100)

    def test_volumes_are_mounted_and_the_other_way_round(self):
        for document in self.documents():
            spec = document.get("spec", {})
            spec = spec.get("template", {}).get("spec", spec)
            if "volumes" in spec:
                mounted = {m["name"] for c in spec["containers"] for m in c["volumeMounts"]}
                self.assertEqual(mounted, {v["name"] for v in spec["volumes"]})

    def test_options_are_the_daemon_s(self):
        """Those of the ConfigMap start it, but for where its sockets are."""
        options = [d["data"]["options"] for d in self.documents() if d["kind"] == "ConfigMap"]
        self.assertEqual(len(options), 1)
        run = subprocess.run([harness.APP, "--", "--help"], capture_output=True, text=True, timeout=30, check=False)
        for option in re.findall(r"--\S+", options[0]):
            self.assertIn(option, run.stdout)


class Domains(unittest.TestCase):
    def test_are_xml_with_shared_memory(self):
        n = 0
        for page in PAGES:
            for text in blocks(page, "xml"):
                root = ET.fromstring(text)
                shared = root.find("memoryBacking/access[@mode='shared']") is not None
                shared = shared or root.find("cpu/numa/cell[@memAccess='shared']") is not None
                self.assertTrue(shared, text)
                n += 1
        self.assertGreaterEqual(n, 4)


if __name__ == "__main__":
    unittest.main()
