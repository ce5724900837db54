# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""What the integration tests share: the daemon, its telemetry, testpmd, and what a process holds.

The daemon under test is $UVDPA_APP, or vdpa-app on PATH. Everything lives in a private folder and
under a file prefix of its own; processes are ended by their own handle.
"""

import collections
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import unittest

APP = os.environ.get('UVDPA_APP', 'vdpa-app')
TESTPMD = os.environ.get('UVDPA_TESTPMD', 'dpdk-testpmd')
# With a sanitizer or a busy machine everything takes longer; nothing takes this long when it works.
TIMEOUT = 30.0
# A long run (scripts/check --long) takes the counts that are claimed; otherwise it is the smallest
# count that can fail.
LONG = os.environ.get('UVDPA_TEST_LONG', '0') not in ('', '0')


def processor():
    """The machine's, for a figure that is published."""
    with open('/proc/cpuinfo', encoding='ascii', errors='replace') as info:
        names = [line.split(':', 1)[1].strip() for line in info if line.startswith('model name')]
    return f'{os.cpu_count()} x {names[0] if names else os.uname().machine}'


def count(few, many):
    """How often something is done: few times, or many in a long run."""
    return many if LONG else few


def figure(text):
    """What a test has counted, for the table that a long run writes."""
    print(f'FIGURE: {text}', flush=True)


def load_tests(loader, tests, pattern):
    """For a file whose classes in UVDPA_TEST_EXCEPT are tests of their own (see meson.build)."""
    others = os.environ.get('UVDPA_TEST_EXCEPT', '').split()
    return unittest.TestSuite(
        case for case in tests if not any(type(test).__name__ in others for test in case))


class _RunningClock(threading.Thread):
    TICK = 0.02
    # What a tick takes more, the machine has stood still.
    TICK_MAX = 5 * TICK

    def __init__(self):
        super().__init__(daemon=True)
        self.seconds = 0.0
        self.start()

    def run(self):
        last = time.monotonic()
        while True:
            time.sleep(self.TICK)
            now = time.monotonic()
            self.seconds += min(now - last, self.TICK_MAX)
            last = now


_running = None


def running():
    """Seconds by a clock that stands still when the machine does, as a virtual one whose host is busy: for bounds of
    what others must not hold up."""
    global _running
    if _running is None:
        _running = _RunningClock()
    return _running.seconds


def wait_for(condition, what, timeout=TIMEOUT, interval=0.01):
    """Poll until condition() is true; its value. A condition that takes long to look at leaves the CPU to what is
    waited for as long again."""
    end = time.monotonic() + timeout
    while True:
        looked = time.monotonic()
        value = condition()
        if value:
            return value
        now = time.monotonic()
        if now > end:
            raise AssertionError(f'timed out after {timeout:g} s waiting for {what}')
        time.sleep(min(max(interval, now - looked), 1.0))


def skip_unless(condition, reason):
    """Skip, and say so where the log of a passing test run shows it."""
    if not condition:
        print(f'SKIPPED: {reason}', flush=True)
        raise unittest.SkipTest(reason)


def as_user(uid, gid, function):
    """What function() returns, as JSON has it, in a process of another user without groups; the name
    of the exception that it raises."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            answer = function()
        except BaseException as error:
            answer = type(error).__name__
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with open(read, 'rb') as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer)


def fetched(part):
    """The folder of what scripts/fetch-guest fetched; skips the test where it did not."""
    source = os.environ.get('UVDPA_SOURCE') or os.path.join(os.path.dirname(__file__), '../..')
    done = subprocess.run([os.path.join(source, 'scripts/fetch-guest'), '--check', part],
                          capture_output=True, text=True)
    skip_unless(done.returncode == 0, done.stdout.strip() or done.stderr.strip())
    return done.stdout.strip()


class Reader:
    """Collects a stream line by line, so that a child never blocks on a full pipe."""

    def __init__(self, stream):
        self.lines = []
        self._stream = stream
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        for line in self._stream:
            with self._changed:
                self.lines.append(line.rstrip('\n'))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait(self, pattern, start=0, timeout=TIMEOUT):
        """The match of the first line from start on that pattern is found in, and the next index."""
        regex = re.compile(pattern)
        end = time.monotonic() + timeout
        i = start
        with self._changed:
            while True:
                for i in range(i, len(self.lines)):
                    match = regex.search(self.lines[i])
                    if match:
                        return match, i + 1
                i = len(self.lines)
                left = end - time.monotonic()
                if self._ended or left <= 0:
                    raise AssertionError(f'{pattern!r} not seen in:\n' + '\n'.join(self.lines))
                self._changed.wait(left)

    def join(self):
        self._thread.join(TIMEOUT)
        self._stream.close()

    def text(self):
        return '\n'.join(self.lines)


class Telemetry:
    """A client of DPDK's telemetry socket."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(path)
        self.info = json.loads(self.sock.recv(16384))

    def ask(self, command):
        self.sock.send(command.encode())
        return json.loads(self.sock.recv(16384))[command.split(',')[0]]

    def close(self):
        self.sock.close()


class ControlError(Exception):
    """An error that the control socket answers with."""

    def __init__(self, error):
        super().__init__(error['message'])
        self.code = error['code']
        self.message = error['message']
        self.errno = error['data']['errno']


class Control:
    """A client of a control socket: one request at a time, and events in between."""

    def __init__(self, path, timeout=TIMEOUT):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        try:
            self.sock.connect(path)
        except OSError:
            self.sock.close()
            raise
        self.events = []  # that have come
        self._input = b''
        self._id = 0

    def send(self, text):
        """Bytes or text as they are, without a newline after them."""
        self.sock.sendall(text if isinstance(text, bytes) else text.encode())

    def line(self):
        """The next line, parsed; None at the end of the connection."""
        while b'\n' not in self._input:
            data = self.sock.recv(65536)
            if not data:
                return None
            self._input += data
        text, self._input = self._input.split(b'\n', 1)
        return json.loads(text)

    def request(self, method, params=None):
        """The whole reply to a request."""
        self._id += 1
        request = {'jsonrpc': '2.0', 'id': self._id, 'method': method}
        if params is not None:
            request['params'] = params
        self.send(json.dumps(request) + '\n')
        while True:
            reply = self.line()
            if reply is None:
                raise ConnectionError(f'hung up on {method}')
            if reply.get('method') == 'event':
                self.events.append(reply['params'])
                continue
            # What a peer that is not let in reads has no id.
            assert reply['id'] == self._id or 'error' in reply, reply
            return reply

    def call(self, method, **params):
        """Its result; raises ControlError."""
        reply = self.request(method, params or None)
        if 'error' in reply:
            raise ControlError(reply['error'])
        return reply['result']

    def event(self, **wanted):
        """Wait for an event with these members, and drop those before it."""
        while True:
            while self.events:
                event = self.events.pop(0)
                if wanted.items() <= event.items():
                    return event
            message = self.line()
            if message is None:
                raise ConnectionError(f'hung up, waiting for {wanted}')
            self.events.append(message['params'])

    def add(self, words):
        return self.call('dev.add', words=words)

    def delete(self, name):
        return self.call('dev.del', name=name)

    def set(self, name, words):
        return self.call('dev.set', name=name, words=words)

    def show(self, name):
        return self.call('dev.show', name=name)['dev'][name]

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        self.close()


class Daemon:
    """vdpa-app in a folder of its own. Use it as a context manager."""

    def __init__(self, devices=(), args=(), eal=(), folder=None, user=None,
                 launcher=(), app=None, control=True):
        """devices: words of dev add, where {dir} stands for the folder; launcher: a command that
        executes the daemon, with user for one that makes it an ordinary user's; app: another
        daemon than the one just built; control: with a control socket in the folder."""
        self._own_folder = folder is None
        self.dir = folder or tempfile.mkdtemp(prefix='uvdpa-test.')
        self.prefix = os.path.basename(self.dir)
        self.devices = [words.format(dir=self.dir) for words in devices]
        self._user = user
        command = [*launcher, *(user or []), app or APP, f'--file-prefix={self.prefix}', *eal,
                   '--']
        for words in self.devices:
            command += ['--dev', words]
        self.control_path = os.path.join(self.dir, 'control')
        if control and '--control' not in args:
            command += ['--control', self.control_path]
        self.command = command + list(args)
        self.pass_fds = ()
        self.process = None

    def socket(self, name):
        return os.path.join(self.dir, name + '.sock')

    def runtime_dir(self):
        if self._user or os.getuid() != 0:
            return os.path.join(self.dir, 'dpdk', self.prefix)
        return f'/var/run/dpdk/{self.prefix}'

    def start(self):
        env = dict(os.environ, XDG_RUNTIME_DIR=self.dir)
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, errors='replace', env=env, pass_fds=self.pass_fds)
        self.out = Reader(self.process.stdout)
        self.err = Reader(self.process.stderr)
        try:
            self.out.wait('^ready$')
        except AssertionError as error:
            self.kill()
            raise AssertionError(f'the daemon does not start: {error}\n{self.err.text()}')
        return self

    @property
    def pid(self):
        return self.process.pid

    def telemetry(self):
        return contextlib.closing(
            Telemetry(os.path.join(self.runtime_dir(), 'dpdk_telemetry.v2')))

    def ask(self, command):
        with self.telemetry() as client:
            return client.ask(command)

    def control(self):
        """A client of its control socket; use it as a context manager."""
        return Control(self.control_path)

    def call(self, method, **params):
        """A request on a connection of its own; raises ControlError."""
        with self.control() as client:
            return client.call(method, **params)

    def add(self, words):
        self.call('dev.add', words=words)

    def delete(self, name):
        self.call('dev.del', name=name)

    def set(self, name, words):
        self.call('dev.set', name=name, words=words)

    def refusal(self, method, **params):
        """The message of the error that a request ends in."""
        try:
            result = self.call(method, **params)
        except ControlError as error:
            return error.message
        raise AssertionError(f'{method} {params} was not refused: {result}')

    def show(self, name):
        return self.ask(f'/vdpa/dev/show,{name}')

    def stats(self, name):
        return self.ask(f'/vdpa/dev/stats,{name}')

    def _end(self):
        self.out.join()
        self.err.join()

    def stop(self, signum=signal.SIGTERM):
        """Stop it; the exit code."""
        self.process.send_signal(signum)
        try:
            code = self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            self._end()
            raise AssertionError(f'the daemon does not stop:\n{self.err.text()}')
        self._end()
        return code

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._end()

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, value, traceback):
        code = 0
        if self.process.poll() is None:
            code = self.stop()
        else:
            code = self.process.returncode
            self._end()
        if kind is not None:
            print(self.out.text(), self.err.text(), sep='\n', flush=True)
        self.cleanup()
        if kind is None and code != 0:
            raise AssertionError(f'the daemon ended with {code}:\n{self.err.text()}')

    def cleanup(self):
        if self._own_folder:
            shutil.rmtree(self.dir, ignore_errors=True)
        # One that was killed has left its sockets there; the prefix is this daemon's alone.
        shutil.rmtree(self.runtime_dir(), ignore_errors=True)


class Testpmd:
    """dpdk-testpmd with virtio-user or other ports, driven by its prompt."""

    _count = 0

    def __init__(self, vdevs, queues=1, lcores='-l0,1', memory=('--no-huge', '-m', '256'),
                 args=(), netns=None):
        skip_unless(shutil.which(TESTPMD), f'{TESTPMD} is not installed (package dpdk-dev)')
        Testpmd._count += 1
        prefix = f'uvdpa-pmd.{os.getpid()}.{Testpmd._count}'
        share = '--no-shconf' if '--no-huge' in memory else '--in-memory'
        command = list(netns or [])
        # To a pipe, what it prints would otherwise come only when a buffer is full.
        command += ['stdbuf', '-oL', TESTPMD, lcores, *memory, share, '--no-pci', '--no-telemetry',
                    f'--file-prefix={prefix}', '--log-level=*:warning']
        for vdev in vdevs:
            command += ['--vdev', vdev]
        command += ['--', '-i', '--total-num-mbufs=8192', f'--rxq={queues}', f'--txq={queues}',
                    '--nb-cores=1', '--no-lsc-interrupt', *args]
        self.command = command
        self.prefix = prefix
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors='replace', bufsize=1)
        self.out = Reader(self.process.stdout)
        self._pos = 0
        self._serial = 0
        self.run('show port summary all')

    def run(self, command):
        """Run a command at the prompt; the lines that it printed."""
        self._serial += 1
        # Commands are read one after the other: the answer to one that does not exist says that the
        # one before is done.
        marker = f'done{self._serial}'
        start = self._pos
        try:
            self.process.stdin.write(f'{command}\n{marker}\n')
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        _, at = self.out.wait(rf'\b{marker}\b', start)
        _, self._pos = self.out.wait('Command not found', at)
        return '\n'.join(self.out.lines[start:self._pos])

    def port_stats(self, port=0):
        text = self.run(f'show port stats {port}')
        return {key: int(value) for key, value in
                re.findall(r'([RT]X-(?:packets|missed|bytes|errors|nombuf)):\s+(\d+)', text)}

    def link(self, port=0):
        text = self.run(f'show port info {port}')
        return re.search(r'Link status: (\w+)', text).group(1)

    def forward(self, condition, start='start', timeout=TIMEOUT):
        """Forward until condition() is true, and whether it is: a busy machine may not run any of us
        for a while, so that packets are waited for and not a time."""
        self.run(start)
        try:
            wait_for(condition, 'packets', timeout, interval=0.1)
            return True
        except AssertionError:
            return False
        finally:
            self.run('stop')

    def quit(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write('quit\n')
            self.process.stdin.flush()
        try:
            self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._close()
        return self.process.returncode

    def kill(self):
        self.process.kill()
        self.process.wait()
        self._close()

    def _close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.out.join()
        shutil.rmtree(f'/var/run/dpdk/{self.prefix}', ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        if self.process.poll() is None:
            if kind is None:
                self.quit()
            else:
                self.kill()
        else:
            self._close()
        if kind is not None:
            print(self.out.text(), flush=True)


def virtio_user(path, index=0, queues=1, packed=False, in_order=False, mrg_rxbuf=True,
                queue_size=256, **more):
    """A --vdev argument."""
    words = [f'net_virtio_user{index}', f'path={path}', f'queues={queues}',
             f'queue_size={queue_size}', f'packed_vq={int(packed)}',
             f'in_order={int(in_order)}', f'mrg_rxbuf={int(mrg_rxbuf)}']
    words += [f'{key}={value}' for key, value in more.items()]
    return ','.join(words)


BURSTS = 4  # of 32 packets, which loopback() sends on each queue to begin with


def loopback(test, pmd, queues, read, drops=None, packets=10000):
    """testpmd's packets go round through a device until so many have come back, and each queue had
    its share; then both sides have counted the same. Frames may reach a device before the queue they
    are to come back by is enabled, and are dropped then: in that case there are more of them.

    read(q): the statistics of a queue, as whoever executes it counts them; drops(): the packets that
    the device dropped, None where nobody can tell. Returns testpmd's counters and the statistics.
    """
    def sums():
        stats = [read(q) for q in range(2 * queues)]
        tx, rx = [[q['packets'] for q in stats[1::2]], [q['packets'] for q in stats[0::2]]]
        return sum(tx), sum(rx), all(tx) and all(rx), stats

    for rounds in range(1, 6):
        if pmd.forward(lambda: pmd.port_stats()['RX-packets'] > packets and sums()[2],
                       f'start tx_first {BURSTS}', TIMEOUT / 3):
            break
    else:
        raise AssertionError(f'packets do not go round: {sums()}')
    theirs = pmd.port_stats()

    def arrived():
        sent, delivered = sums()[:2]
        return sent == theirs['TX-packets'] and (drops is None or sent == delivered + drops())

    # What was sent last is still on its way.
    with contextlib.suppress(AssertionError):
        wait_for(arrived, 'the last packets')
    sent, delivered, _, stats = sums()
    dropped = drops and drops()
    print(f'{test.id()}: testpmd sent {theirs["TX-packets"]}, device took {sent}, dropped {dropped}, '
          f'delivered {delivered}, testpmd received {theirs["RX-packets"]}', flush=True)
    # Every packet that testpmd queued reached the device, and left it again.
    test.assertEqual(sent, theirs['TX-packets'])
    if drops is not None:
        test.assertEqual(sent, delivered + dropped)
    # What testpmd has not fetched yet is in flight, and no more than that.
    test.assertGreaterEqual(delivered, theirs['RX-packets'])
    test.assertLessEqual(delivered - theirs['RX-packets'], 32 * BURSTS * queues * rounds)
    return theirs, stats


def drops(stats):
    """Packets that a sim_net device dropped, both ways."""
    return stats['device']['rx_drops'] + stats['device']['tx_drops']


def fds(pid):
    """What the open file descriptors point to, sorted."""
    names = []
    for fd in os.listdir(f'/proc/{pid}/fd'):
        with contextlib.suppress(FileNotFoundError):
            names.append(re.sub(r'\[\d+\]', '', os.readlink(f'/proc/{pid}/fd/{fd}')))
    return sorted(names)


def threads_now(pid):
    """Thread names, sorted."""
    names = []
    for tid in os.listdir(f'/proc/{pid}/task'):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            with open(f'/proc/{pid}/task/{tid}/comm') as f:
                names.append(f.read().strip())
    return sorted(names)


def threads(pid):
    """Thread names, sorted, once the threads for device work, which last as long as it, have ended."""
    deadline = time.monotonic() + 2
    while 'vdpa-work' in (names := threads_now(pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return names


def _status_field(path, field):
    with open(path) as f:
        return int(re.search(rf'^{field}:\s+(\d+)', f.read(), re.M).group(1))


def rss_kib(pid):
    return _status_field(f'/proc/{pid}/status', 'VmRSS')


class Usage:
    """What a process holds: descriptors, threads and mapped memory files by name; all mappings, whose
    number changes with its allocator too; KiB of memory. Not what stands in for memory that has gone,
    which is made once, when it is first needed."""

    def __init__(self, pid):
        with open(f'/proc/{pid}/maps', encoding='utf-8', errors='replace') as f:
            fields = [line.split(None, 5) for line in f]
        files = [f'mapping of {line[5].strip()}' for line in fields
                 if line[-1].startswith(('/memfd:', '/dev/'))]
        held = fds(pid) + [f'thread {name}' for name in threads(pid)] + files
        self.held = collections.Counter(name for name in held if 'vdpa-nothing' not in name
                                        and name != f'/proc/{pid}/fd')
        self.mappings = len(fields)
        self.rss = rss_kib(pid)
        self.virtual = _status_field(f'/proc/{pid}/status', 'VmSize')

    def __eq__(self, other):
        return self.held == other.held

    def left(self, before):
        """What is held now that was not before, and how often."""
        return dict(self.held - before.held)

    def __repr__(self):
        return (f'{self.held.total()} descriptors, threads and memory files, {self.mappings} mappings, '
                f'{self.rss} KiB')


def settled(pid, quiet=0.3):
    """What a process holds once that has stood still for so long: what its last peer left, it closes
    a little later."""
    usage, since = Usage(pid), time.monotonic()
    end = since + TIMEOUT
    while time.monotonic() < min(since + quiet, end):
        time.sleep(0.02)
        now = Usage(pid)
        if now != usage:
            usage, since = now, time.monotonic()
    return usage


def nothing_left(pid, before):
    """Wait until a process holds no more than before; what it holds then. Less is no mistake: it may
    have been closing something."""
    with contextlib.suppress(AssertionError):
        wait_for(lambda: not Usage(pid).left(before), 'it to close')
    usage = Usage(pid)
    left = usage.left(before)
    assert not left, f'left behind: {left}'
    return usage


VOLUNTARY, PREEMPTED = 'voluntary_ctxt_switches', 'nonvoluntary_ctxt_switches'


def thread_switches(pid, kinds=(VOLUNTARY, PREEMPTED)):
    """Context switches of each thread by (id, name)."""
    counts = {}
    for tid in os.listdir(f'/proc/{pid}/task'):
        base = f'/proc/{pid}/task/{tid}'
        # A thread of DPDK's telemetry ends with its client.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            with open(f'{base}/comm') as f:
                name = f.read().strip()
            counts[tid, name] = sum(_status_field(f'{base}/status', kind) for kind in kinds)
    return counts


def context_switches(pid, kinds=(VOLUNTARY, PREEMPTED)):
    """The same by name alone. Those of a thread that ends are no longer in it."""
    counts = {}
    for (_, name), count in thread_switches(pid, kinds).items():
        counts[name] = counts.get(name, 0) + count
    return counts


def wake_ups(pid):
    """By name of a thread: each ends in a switch of its own will, whatever else the machine does."""
    return context_switches(pid, (VOLUNTARY,))


def stand_still(pid):
    """SIGSTOP, and each of its threads has."""
    def stopped(task):
        with open(f'/proc/{pid}/task/{task}/stat', encoding='ascii') as stat:
            return stat.read().rsplit(')', 1)[1].split()[0] == 'T'

    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: all(stopped(task) for task in os.listdir(f'/proc/{pid}/task')), 'the daemon to stand still')


def cpu_seconds(pid):
    with open(f'/proc/{pid}/stat') as f:
        fields = f.read().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def lingering(seconds=6):
    """A TCP socket whose last close() waits so long, and what keeps its peer from reading."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(('127.0.0.1', 0))
        listener.listen()
        ours = socket.create_connection(listener.getsockname())
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        peer, _ = listener.accept()
    ours.setblocking(False)
    try:
        while True:
            ours.send(bytes(1 << 16))
    except BlockingIOError:
        pass
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, seconds))
    return ours, peer
