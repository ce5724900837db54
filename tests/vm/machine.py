# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A virtual machine that boots an initramfs of ours, runs one script and says how it ended.

It has two serial ports: the kernel's console, kept in a log, and the script's input and output. On
the latter, lines that start with @@ are for us: `@@exit N`, `@@result NAME VALUE` and
`@@host WORD ARGS...`, a request that the script waits for (see words.sh). The exit code of QEMU
says nothing; that of the script does.
"""

import ctypes
import functools
import mmap
import os
import pathlib
import select
import shutil
import signal
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
QEMU = "qemu-system-x86_64"
BOOT_TIMEOUT = 300  # seconds for boot and script together, unless a test says otherwise


class MachineError(Exception):
    """The machine did not do what it was to do; the text has the end of its logs."""


@functools.cache
def fetched(part):
    """The folder of what scripts/fetch-guest fetched (guest, lab or qemu), None when absent."""
    done = subprocess.run([ROOT / "scripts" / "fetch-guest", "--check", part], capture_output=True,
                          text=True, check=False)
    return pathlib.Path(done.stdout.strip()) if done.returncode == 0 else None


def missing(part):
    """Why no machine with this kernel can run here, None when one can."""
    if shutil.which(QEMU) is None:
        return f"{QEMU} is not installed: run scripts/setup vm"
    if fetched(part) is None:
        return f"no kernel for the {part}: run scripts/setup vm"
    return None


@functools.cache
def tsc_khz():
    """
    What the host's time-stamp counter counts in a millisecond: TCG's guests read it. A kernel that measures it
    by the PIT while the host is busy takes a fraction of it, and time in the machine runs away.
    """
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        # rdtsc; shl $32, %rdx; or %rdx, %rax; ret
        page.write(bytes.fromhex("0f3148c1e2204809d0c3"))
        at = ctypes.c_char.from_buffer(page)
        rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(at))

        def both():
            """The counter and nanoseconds at the same moment: of several tries the one that took least."""
            tries = []
            for _ in range(20):
                before, count, after = time.monotonic_ns(), rdtsc(), time.monotonic_ns()
                tries.append((after - before, count, before))
            return min(tries)[1:]

        counts, ns = both()
        time.sleep(0.05)
        more, later = both()
        del at
    return round((more - counts) * 1e6 / (later - ns))


class Cpio:
    """An archive in the newc format that the kernel unpacks as its first root."""

    def __init__(self):
        self.parts = []
        self.folders = set()

    def _entry(self, name, mode, data=b""):
        name = name.encode() + b"\0"
        fields = (len(self.parts) + 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % f for f in fields) + name
        self.parts.append(head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4))

    def file(self, name, data, mode=0o755):
        name = name.lstrip("/")
        for parent in reversed(pathlib.PurePath(name).parents[:-1]):
            if parent not in self.folders:
                self.folders.add(parent)
                self._entry(str(parent), 0o040755)
        self._entry(name, 0o100000 | mode, data)

    def data(self):
        self._entry("TRAILER!!!", 0)
        return b"".join(self.parts)


def initramfs(part, script, files):
    """
    The first root: init.sh, busybox and modules of the fetched kernel, the script, and files (a
    dictionary of contents by path).
    """
    folder = fetched(part)
    cpio = Cpio()
    cpio.file("init", (HERE / "init.sh").read_bytes())
    cpio.file("script", script.encode())
    cpio.file("bin/busybox", (folder / "busybox").read_bytes())
    for module in sorted((folder / "modules").iterdir()):
        cpio.file(f"modules/{module.name}", module.read_bytes(), 0o644)
    for path, data in files.items():
        cpio.file(path, data)
    return cpio.data()


def words(name):
    """The shell functions of the file, and those that all machines have."""
    return (HERE / "words.sh").read_bytes() + (HERE / name).read_bytes()


class Machine:
    """One QEMU process, or another machine. A with statement ends it whatever happened."""

    def __init__(self, folder, name, part, script, files, arguments, memory, qemu=QEMU,
                 cmdline="", pass_fds=()):
        """
        folder: for its files; part: whose kernel, see fetched(); script, files: see initramfs();
        arguments: QEMU's beside those every machine has; memory: MiB; cmdline: the kernel's;
        pass_fds: file descriptors that QEMU inherits under their numbers.
        """
        self.pass_fds = pass_fds
        self.name = name
        self.results = {}
        self.lines = []
        self.on_line = None  # called with each line of the script's output that is not for us
        self.console = pathlib.Path(folder) / f"{name}.console"
        self.log = pathlib.Path(folder) / f"{name}.log"
        ramdisk = pathlib.Path(folder) / f"{name}.cpio"
        ramdisk.write_bytes(initramfs(part, script, files))
        self.argv = self.command(part, ramdisk, arguments, memory, qemu, cmdline)
        self.proc = None

    def command(self, part, ramdisk, arguments, memory, qemu, cmdline):
        """The program and its arguments."""
        accel = os.environ.get("UVDPA_ACCEL", "tcg")
        return [
            str(qemu), "-nodefaults", "-no-user-config", "-display", "none", "-accel", accel,
            # Neither page tables of five levels nor rep movsb, which TCG does byte by byte.
            "-cpu", "max,la57=off,erms=off,fsrm=off" if accel == "tcg" else "max",
            "-smp", "1", "-m", str(memory),
            "-serial", f"file:{self.console}", "-serial", "stdio", "-monitor", "none",
            "-kernel", str(fetched(part) / "vmlinux"), "-initrd", str(ramdisk),
            "-append", "console=ttyS0 panic=-1 nokaslr quiet loglevel=4 mitigations=off "
                       "tsc=reliable no_timer_check audit=0 8250.nr_uarts=2 "
                       "random.trust_cpu=on net.ifnames=0 " +
                       (f"tsc_early_khz={tsc_khz()} " if accel == "tcg" and
                        os.uname().machine == "x86_64" else "") + cmdline,
            *arguments]

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.kill()

    def start(self):
        self.stderr = open(self.log, "wb")
        # A test that is killed must not leave a machine behind.
        argv = ["setpriv", "--pdeathsig", "KILL", *self.argv]
        # Meson has freed memory filled, to show mistakes of ours: QEMU has its own, and frees much.
        env = {k: v for k, v in os.environ.items() if k != "MALLOC_PERTURB_"}
        self.proc = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=self.stderr, start_new_session=True,
                                     pass_fds=self.pass_fds, env=env)

    @property
    def pid(self):
        return self.proc.pid

    def kill(self, sig=signal.SIGKILL):
        """End QEMU; SIGKILL is what a crash looks like to the back end."""
        if self.proc is None:
            return
        if self.proc.poll() is None:
            self.proc.send_signal(sig)
        self.proc.wait()
        self.proc.stdin.close()
        self.proc.stdout.close()
        self.stderr.close()
        self.proc = None

    def _tail(self):
        console = self.console.read_text(errors="replace") if self.console.exists() else ""
        return (f"--- {self.name}: script ---\n" + "\n".join(self.lines[-40:]) +
                f"\n--- {self.name}: kernel ---\n" + "\n".join(console.splitlines()[-25:]) +
                f"\n--- {self.name}: QEMU ---\n" + self.log.read_text(errors="replace")[-2000:])

    def _line(self, line, handlers):
        """Act on a line of the script's; returns the exit code when it is that."""
        if line.startswith("@@exit "):
            return int(line.split()[1])
        if line.startswith("@@result "):
            _, name, value = (line.split(" ", 2) + [""])[:3]
            self.results[name] = value
        elif line.startswith("@@host "):
            words = line.split()[1:]
            try:
                answer = handlers[words[0]](*words[1:])
            except Exception as e:  # the guest reports it, with where it was
                answer = f"error: {type(e).__name__}: {e}"
            self.proc.stdin.write((str(answer or "ok").splitlines()[0] + "\n").encode())
            self.proc.stdin.flush()
        return None

    def run(self, handlers=None, timeout=BOOT_TIMEOUT, until=None):
        """
        Let the script run to its end, or to a @@result of the name `until`, and return the
        results. The machine stays until kill(): its devices can be asked. handlers: what `host WORD`
        does, by WORD.
        """
        code = self.wait(handlers, timeout, until)
        if code != 0:
            raise MachineError(f"{self.name}: the script failed (code {code})\n{self._tail()}")
        return self.results

    def wait(self, handlers=None, timeout=BOOT_TIMEOUT, until=None):
        """The same, but returns the script's exit code, 0 at `until`."""
        deadline = time.monotonic() + timeout
        out = self.proc.stdout.fileno()
        rest = b""
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise MachineError(f"{self.name}: not done within {timeout} s\n{self._tail()}")
            if not select.select([out], [], [], min(left, 1.0))[0]:
                continue
            data = os.read(out, 65536)
            if not data:
                raise MachineError(f"{self.name}: QEMU ended (code {self.proc.wait()})\n"
                                   f"{self._tail()}")
            *lines, rest = (rest + data).split(b"\n")
            for raw in lines:
                line = raw.decode(errors="replace").rstrip("\r")
                self.lines.append(line)
                if self.on_line is not None and not line.startswith("@@"):
                    self.on_line(line)
                code = self._line(line, handlers or {})
                if code is not None:
                    return code
            if until in self.results:
                return 0
