# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
What scripts/demo runs once everything is built.

One daemon serves net0 and disk0. net0 begins with the loopback back end, where dpdk-testpmd's
virtio-user drives it. Then pci0, a virtio-pci function in a process of its own (vdpa-model), stands
in for hardware: testpmd drives it through the daemon, which sleeps meanwhile, and test-vdpa runs its
conformance cases on it. Last, net0 is removed and added again with the echo back end, and a guest
uses it together with disk0. Ends with a table; exit code 0 only if every row of it is as it should
be.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import daemon
import guest
import harness  # where daemon has found it

BUILD = os.environ["UVDPA_BUILD"]
MAC = "52:54:00:00:00:01"
NET = f"name net0 mgmtdev sim_net mac {MAC} backend {{}} socket %s/net0.sock"
DISK = "name disk0 mgmtdev sim_blk backend file %s/disk.img serial uvdpa-disk0 socket %s/disk0.sock"
FUNCTION = "name model0 mgmtdev sim_net vfio_user %s/model0.sock"
PCI = "name pci0 mgmtdev vfio-user/{0}/model/model0.sock socket {0}/pci0.sock"
DISK_MIB = 256
WRITE_MIB = 64
PINGS = 20
TRAFFIC_SECONDS = 3
MIB = 1 << 20
STARTED = time.monotonic()


class Failed(Exception):
    """A step did not do what it was to do."""


def say(text):
    print(f"demo: {time.monotonic() - STARTED:5.1f} s  {text}", flush=True)


def lcores():
    """Two lcores for testpmd, on two CPUs where we have them."""
    cpus = sorted(os.sched_getaffinity(0))
    return f"0@{cpus[0]},1@{cpus[min(1, len(cpus) - 1)]}"


def testpmd(folder, name, packed):
    """Bounce packets through a device for some seconds; returns (received, sent, seconds)."""
    argv = ["dpdk-testpmd", "--lcores", lcores(), "--no-huge", "-m", "256", "--no-pci",
            "--file-prefix", "testpmd",
            "--vdev", f"net_virtio_user0,path={folder}/{name}.sock,queues=1,queue_size=1024,"
                      f"packed_vq={int(packed)}",
            "--", "-i", "--total-num-mbufs=8192", "--port-topology=loop"]
    log = pathlib.Path(folder) / "testpmd.log"
    (pathlib.Path(folder) / "testpmd").mkdir(exist_ok=True)
    with open(log, "wb") as out:
        proc = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=out, stderr=out,
                                env=dict(os.environ, RUNTIME_DIRECTORY=f"{folder}/testpmd"))

        def command(text):
            proc.stdin.write((text + "\n").encode())
            proc.stdin.flush()

        def wait_for(text, timeout):
            end = time.monotonic() + timeout
            while text not in log.read_text(errors="replace"):
                if proc.poll() is not None or time.monotonic() > end:
                    raise Failed(f"testpmd: no \"{text}\"\n{log.read_text(errors='replace')[-3000:]}")
                time.sleep(0.02)

        try:
            wait_for("testpmd>", 30)
            command("set fwd io")
            command("start tx_first 8")
            start = time.monotonic()
            time.sleep(TRAFFIC_SECONDS)
            command("stop")
            seconds = time.monotonic() - start
            # Its output comes in blocks, the statistics perhaps not before the end.
            command("quit")
            proc.wait(20)
        except (OSError, subprocess.TimeoutExpired) as e:
            raise Failed(f"testpmd: {e}\n{log.read_text(errors='replace')[-3000:]}") from e
        finally:
            if proc.poll() is None:
                proc.kill()
            proc.wait()
            proc.stdin.close()
    totals = log.read_text(errors="replace").split("Accumulated forward statistics")[1]
    rx = int(re.search(r"RX-packets:\s*(\d+)", totals).group(1))
    tx = int(re.search(r"TX-packets:\s*(\d+)", totals).group(1))
    return rx, tx, seconds


def traffic(d, folder, packed, rows):
    ring = "packed" if packed else "split"
    say(f"dpdk-testpmd drives net0 for {TRAFFIC_SECONDS} s, {ring} ring")
    before = d.stats("net0")
    rx, tx, seconds = testpmd(folder, "net0", packed)
    after = d.stats("net0")
    device_tx = after["tx_packets"] - before["tx_packets"]
    # What is in flight when testpmd stops is at most the two rings: 1024 packets each.
    if rx < 10000 or not 0 <= tx - device_tx <= 2048:
        raise Failed(f"{ring} ring: testpmd sent {tx} and received {rx}, "
                     f"the device counts {device_tx}")
    rows.append((f"testpmd, {ring} ring", f"{rx} packets back, {rx / seconds / 1e6:.2f} Mpps, "
                 f"device counted {device_tx} of {tx} sent", seconds))


def wakeups(pid):
    """How often the threads of uvdpa in a process, all but DPDK's, have been woken."""
    return sum(count for name, count in harness.context_switches(pid, (harness.VOLUNTARY,)).items()
               if name.startswith("vdpa-"))


def function_traffic(model, d, folder, rows):
    say(f"dpdk-testpmd drives pci0 for {TRAFFIC_SECONDS} s: vdpa-app sleeps, vdpa-model executes")
    before = model.stats("model0")["tx_packets"], wakeups(d.pid)
    rx, tx, seconds = testpmd(folder, "pci0", False)
    device_tx = model.stats("model0")["tx_packets"] - before[0]
    woken = wakeups(d.pid) - before[1]
    # Set-up and end wake the daemon; packets do not.
    if rx < 10000 or not 0 <= tx - device_tx <= 2048 or woken > 100:
        raise Failed(f"pci0: testpmd sent {tx} and received {rx}, the function counts {device_tx}, "
                     f"vdpa-app was woken {woken} times")
    rows.append(("testpmd, PCI function", f"{rx} packets back, {rx / seconds / 1e6:.2f} Mpps, "
                 f"{woken} wake-ups of vdpa-app", seconds))


def conformance(folder, rows):
    say("test-vdpa runs its conformance cases on the same function")
    start = time.monotonic()
    argv = [f"{BUILD}/app/test-vdpa/test-vdpa", "conformance", "--dev",
            f"mgmtdev vfio-user/{folder}/model/model0.sock"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=120, check=False,
                          env=dict(os.environ, RUNTIME_DIRECTORY=f"{folder}/testpmd"))
    found = re.search(r"^# (\d+ passed, 0 failed, \d+ skipped)$", done.stdout, re.M)
    if done.returncode != 0 or found is None:
        raise Failed(f"test-vdpa: exit code {done.returncode}\n{done.stdout[-3000:]}"
                     f"{done.stderr[-1000:]}")
    rows.append(("test-vdpa conformance", found.group(1), time.monotonic() - start))


def function(d, folder, rows):
    say("starting vdpa-model: a virtio-pci function in a process of its own, over vfio-user")
    (pathlib.Path(folder) / "model").mkdir()
    # As hardware does, it looks at the rings by itself and asks for no kicks.
    polling = ["--poll-lcores", str(min(os.sched_getaffinity(0)))]
    with daemon.Model(BUILD, f"{folder}/model", [FUNCTION], polling) as model:
        d.add(PCI.format(folder))
        function_traffic(model, d, folder, rows)
        d.delete("pci0")
        conformance(folder, rows)
        model.stop()


SCRIPT = f"""
nic=$(nic {MAC})
disk=$(disk uvdpa-disk0)
host say "guest: $(uname -sr), $nic and $disk found"
net_up $nic 10.0.0.1/24 fd00::1/64
ping_all {PINGS} 10.0.0.2 ipv4
ping_all {PINGS} fd00::2 ipv6
host pinged
exercise_disk $disk {WRITE_MIB}
result kernel "$(uname -r)"
"""


def run_guest(d, folder, rows):
    say("booting a Debian kernel in QEMU with net0 and disk0 over vhost-user")
    marks = {"start": time.monotonic()}
    counts = {}

    def pinged():
        marks["pinged"] = time.monotonic()
        say(f"guest: {PINGS} pings answered over IPv4 and over IPv6; now the disk")

    def trim(_):
        counts["before"] = d.stats("disk0")["discards"]

    def trimmed(_):
        counts["discards"] = d.stats("disk0")["discards"] - counts["before"]

    def boot_say(*words):
        marks["booted"] = time.monotonic()
        say(" ".join(words).strip('"'))

    devices = [*guest.vhost_user_net("net0", f"{folder}/net0.sock", MAC),
               *guest.vhost_user_blk("disk0", f"{folder}/disk0.sock")]
    with guest.Guest(folder, "guest", SCRIPT, devices) as g:
        results = g.run({"say": boot_say, "pinged": pinged, "trim": trim, "trimmed": trimmed})
    end = time.monotonic()
    disk = d.stats("disk0")
    if counts["discards"] == 0 or disk["flushes"] == 0 or disk["io_errors"] != 0:
        raise Failed(f"disk0 counts {disk}")
    if disk["write_bytes"] < WRITE_MIB * MIB or disk["read_bytes"] < 2 * WRITE_MIB * MIB:
        raise Failed(f"disk0 saw less than the guest wrote and read: {disk}")
    rows.append(("guest boots", f"Linux {results['kernel']}", marks["booted"] - marks["start"]))
    for number, name in (4, "ipv4"), (6, "ipv6"):
        count, rtt = results[name].split()
        rows.append((f"guest pings, IPv{number}", f"{count} of {PINGS} answered, 0 lost, "
                     f"average {rtt} ms",
                     (marks["pinged"] - marks["booted"]) / 2))
    written = next(v for k, v in results.items() if k.startswith("written-"))
    verified = next(v for k, v in results.items() if k.startswith("verified-"))
    rows.append(("guest disk, ext4", f"{written} MiB written, {verified} MiB read back and verified, "
                 f"{disk['flushes']} flushes, {counts['discards']} discards",
                 end - marks["pinged"]))


def demo(folder, rows):
    with open(f"{folder}/disk.img", "wb") as image:
        image.truncate(DISK_MIB * MIB)
    say("starting vdpa-app with net0 (loopback) and disk0 (a file)")
    with daemon.Daemon(BUILD, folder, [NET.format("loopback"), DISK]) as d:
        for packed in False, True:
            traffic(d, folder, packed, rows)
        function(d, folder, rows)
        say("net0 is removed and added again with the echo back end, the daemon runs on")
        d.delete("net0")
        d.add(NET.format("echo").replace("%s", folder))
        run_guest(d, folder, rows)
        start = time.monotonic()
        d.stop()
        rows.append(("vdpa-app stops", "exit code 0, sockets removed", time.monotonic() - start))


def main():
    why = guest.missing()
    if why is not None:
        print(f"demo: {why}", file=sys.stderr)
        return 1
    rows = []
    error = None
    # Not below TMPDIR: socket paths have at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="uvdpa-demo.", dir="/tmp") as folder:
        try:
            demo(folder, rows)
        except (Failed, daemon.DaemonError, guest.GuestError) as e:
            error = e
            log = pathlib.Path(folder) / "daemon.log"
            if log.exists():
                print("--- vdpa-app ---\n" + log.read_text(errors="replace")[-3000:])
    print()
    for name, what, seconds in rows:
        print(f"  {name:<22} {what:<78} {seconds:6.1f} s")
    total = time.monotonic() - STARTED
    if error is not None:
        print(f"\ndemo: failed: {error}")
        return 1
    print(f"  {'all of it':<22} {'':<78} {total:6.1f} s\n")
    print("demo: everything worked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
