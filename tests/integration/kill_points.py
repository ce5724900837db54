# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A daemon that is killed right before each of its acts in turn (kill_point.c), while a front end and
an operator do something; and what the next one is checked for."""

import collections
import contextlib
import os
import re
import signal
import subprocess
import threading
import time

import harness
import vhost_user_client as vu
from numbered_guest import PROTOCOL
from restarting import KeptBlock, KeptNet, ShadowNet as KeptShadowNet, patient

LIB = os.environ.get('UVDPA_KILL_POINT_LIB', '')
# To look at one: "stop and start: 2. write wire 0x58, message 11", as failures and UVDPA_KILL_VERBOSE say it.
ONLY = os.environ.get('UVDPA_KILL_ONLY', '')
# Acts of a label in one run that it is killed before: a message of both queues, and one that is given again.
MOST = 3
# Tries more for acts that come by chance, and of how many messages, or kinds, such may come once and not again: whether a
# message is read with the one before is such a chance for all of its acts.
AGAIN, BY_CHANCE = 10, 3
ANEW = r'starts anew|does not go on|ends with the process'


def skip_without():
    harness.skip_unless(LIB and 'libasan' not in subprocess.run(
        ['ldd', harness.APP], capture_output=True, text=True, check=False).stdout,
        'no library can be loaded before a daemon with a sanitizer')


class Points:
    """The file by which a daemon is told where to die, and what it has reached since."""

    def __init__(self, folder):
        self.path = f'{folder}/kill-at'
        self.launcher = ['env', f'LD_PRELOAD={LIB}', f'UVDPA_KILL_ARM={self.path}']

    def arm(self, label='nowhere', nth=1):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path + '.log')
        with open(self.path + '.new', 'w', encoding='ascii') as f:
            f.write(f'{nth} {label}\n')
        os.rename(self.path + '.new', self.path)

    def disarm(self, process=None):
        """The labels that were reached. A process that was about to be killed has ended."""
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            if process is not None:
                process.wait(harness.TIMEOUT)
        with contextlib.suppress(FileNotFoundError), open(self.path + '.log', encoding='ascii', errors='replace') as f:
            return f.read().splitlines()
        return []


class Plan:
    """The points of something that is done again and again. What is reached for the first time while a
    point is tried is one more, so a new act is covered by itself. stride: only so many are tried."""

    def __init__(self, stride, offset, before=()):
        """before: points of something else, which are not tried again."""
        self.stride, self.offset, self.before = stride, offset, before
        self.only = None
        self.seen = collections.Counter()
        self.order = []
        self.killed = set()

    def saw(self, labels):
        for label, n in collections.Counter(labels).items():
            self.order += [(label, i + 1) for i in range(self.seen[label], min(n, MOST))
                           if (label, i + 1) not in self.before]
            self.seen[label] = max(self.seen[label], min(n, MOST))

    def __iter__(self):
        if self.only:
            yield self.only
            return
        at = self.offset % max(len(self.order), 1)
        while at < len(self.order):
            yield self.order[at]
            at += self.stride
        # What comes by chance, as a message that waits for room does, is waited for a few times more.
        for _ in range(AGAIN if self.stride == 1 else 0):
            yield from ((label, 1) for label in sorted(self.missed()))

    def missed(self):
        """Labels that were reached and never killed before; with a stride of 1 there is next to none."""
        return set(self.seen) - {label for label, _ in self.killed | set(self.before)}


# A file that a process makes once, when it needs it.
ONCE = '/memfd:vdpa-nothing (deleted)'


def numbers_aside(name):
    return re.sub(r'\d+', '#', name)


class Held:
    """Descriptors of a process by what they are of, and the kernel's account of what it has locked."""

    def __init__(self, pid):
        self.fds = collections.Counter()
        for fd in os.listdir(f'/proc/{pid}/fd'):
            with contextlib.suppress(FileNotFoundError):
                self.fds[numbers_aside(os.readlink(f'/proc/{pid}/fd/{fd}'))] += 1
        del self.fds[ONCE]
        with open(f'/proc/{pid}/status', encoding='ascii') as f:
            self.locked = int(re.search(r'^VmLck:\s+(\d+)', f.read(), re.M).group(1))

    def more(self, before):
        """What is here and was not there."""
        words = [f'{n} {name}' for name, n in (self.fds - before.fds).items()]
        if self.locked > before.locked:
            words.append(f'{self.locked - before.locked} KiB locked')
        return ', '.join(words)


class Steps:
    """
    A host (restarting.py) with one guest, of the device of that name. make_guest() gives one that runs on the host's daemon that lives;
    each act that is done begins and ends with a guest that runs.
    """

    def __init__(self, test, host, name, make_guest, stride=1, offset=0):
        self.test, self.host, self.name, self.make_guest = test, host, name, make_guest
        self.stride, self.offset = stride, offset
        self.points = Points(host.folder)
        host.app.command = [*self.points.launcher, *host.app.command]
        self.on = self.anew = 0
        self.guest = None
        self.killed = {}  # by name, the points
        self.kills = 0  # of all names
        self.died = False
        self.goes_on = ()  # names of those behind which the device starts anew in no case

    def begin(self):
        """The host's first daemon that can be killed."""
        self.host.app.kill()
        self.host.next()
        self.guest = self.make_guest()
        self.verify()
        self.base = self.held()  # of a guest that runs

    def held(self):
        return [Held(pid) for pid in (self.host.app.pid, self.host.keeper.process.pid)]

    def verify(self):
        """It works."""
        guest = self.guest
        guest.check_connection()
        guest.work(0.02)
        guest.settle(20 * harness.TIMEOUT)
        guest.check()
        self.test.assertFalse(guest.has_failed())

    def nothing_leaked(self):
        more = []

        def settled():
            more[:] = [now.more(before) for now, before in zip(self.held(), self.base)]
            return not any(more)

        try:
            harness.wait_for(settled, 'descriptors to be closed')
        except AssertionError:
            raise AssertionError(f'leaked: daemon {more[0]}; keeper {more[1]}') from None

    def says(self, name, label, nth):
        """What comes, where somebody looks on."""
        if os.environ.get('UVDPA_KILL_VERBOSE'):
            print(f'{time.monotonic():.1f} {name}: {nth}. {label}', flush=True)

    def between(self):
        """No daemon lives: what is held then is for those who have more than descriptors."""

    def renew(self):
        """The guest's connection has ended: another guest comes."""
        with contextlib.suppress(OSError):
            self.guest.close()
        self.guest = self.make_guest()

    def lives(self):
        try:
            self.guest.check_connection()
            return True
        except (AssertionError, OSError, vu.Closed):
            return False

    def run(self, what, may_close):
        """Do it once. Whether the daemon was killed."""
        failed = []
        self.died = False  # for what is done: before the next daemon answers

        def do():
            try:
                what(self)
            except BaseException as error:  # of a thread
                failed.append(error)

        thread = threading.Thread(target=do)
        thread.start()
        while thread.is_alive() and self.host.app.process.poll() is None:
            thread.join(0.01)
        if failed:
            # Its sockets are closed before its parent hears of its end.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.host.app.process.wait(2)
        reached = self.points.disarm(self.host.app.process)
        died = self.host.app.process.poll() is not None
        killed = self.host.app.process.returncode == -signal.SIGKILL
        self.died = died
        if died:
            # By our kill, or by an end that was asked for: not by a fault of its own.
            self.test.assertIn(self.host.app.process.returncode, (-signal.SIGKILL, 0), self.host.app.err.text())
            self.host.app.kill()
            self.between()
            self.host.next()
        thread.join()
        if failed and not died:
            raise failed[0]
        if died and (failed or not self.lives()):
            if not may_close and not re.search(ANEW, self.host.app.err.text()):
                raise AssertionError(f'the connection has ended without a word: {failed}\n'
                                     f'{self.host.app.err.text()}')
            self.anew += 1
            self.renew()
        elif died:
            self.on += 1
        return killed, reached

    def at_each(self, name, what, may_close=False, within=()):
        """
        Do what(steps) once for each of its acts, and have the daemon killed there. may_close: that is
        one of the ways in which it ends. within: names of what was done before and is a part of this.
        """
        if ONLY and not ONLY.startswith(f'{name}: '):
            return
        plan, kills = self.plan(name, set().union(*(self.killed.get(w, ()) for w in within))), 0
        self.on = self.anew = 0
        self.points.arm()
        what(self)
        if self.host.app.process.poll() is not None:
            self.host.app.kill()
            plan.saw(self.points.disarm())
            self.host.next()
        plan.saw(self.points.disarm())
        if not self.lives():
            self.renew()
        self.verify()
        self.base = self.held()
        for label, nth in plan:
            try:
                self.says(name, label, nth)
                self.points.arm(label, nth)
                killed, reached = self.run(what, may_close)
                plan.saw(reached)
                if killed:
                    kills += 1
                    plan.killed.add((label, nth))
                if not self.lives():
                    self.renew()
                self.verify()
                self.nothing_leaked()
            except BaseException as error:
                raise AssertionError(f'{name}: killed before the {nth}. {label}: {error!r}\n'
                                     f'{self.host.app.out.text()}\n{self.host.app.err.text()}') from error
        self.end(name, plan, kills)

    def at_each_of_a_start(self, name='take-over', in_a_row=1):
        """
        Of the next daemon's start, the guest's device taken over. in_a_row: so many are killed one after
        the other before one is left to live.
        """
        if ONLY and not ONLY.startswith(f'{name}: '):
            return
        plan, kills, row = self.plan(name), 0, 0
        self.on = self.anew = 0
        self.host.app.kill()
        self.points.arm()
        self.host.next()
        plan.saw(self.points.disarm())
        self.verify()
        self.base = self.held()
        for label, nth in plan:
            try:
                self.says(name, label, nth)
                self.guest.work()
                self.host.app.kill()
                self.between()
                self.points.arm(label, nth)
                try:
                    self.host.app.start()
                    died = False
                except AssertionError:
                    died = True
                # Some acts are behind the line that says that it is ready.
                end = time.monotonic() + 0.3
                while not died and time.monotonic() < end:
                    died = self.host.app.process.poll() is not None
                    time.sleep(0.005)
                plan.saw(self.points.disarm(self.host.app.process))
                died = died or self.host.app.process.poll() is not None
                if died:
                    self.test.assertEqual(self.host.app.process.poll(), -signal.SIGKILL, self.host.app.err.text())
                    kills += 1
                    plan.killed.add((label, nth))
                row += died
                if died and row % in_a_row:
                    continue
                if died:
                    self.host.app.kill()
                    self.between()
                    self.host.next()
                if self.lives():
                    self.on += 1
                else:
                    if not re.search(ANEW, self.host.app.err.text()):
                        raise AssertionError('the connection has ended without a word')
                    self.anew += 1
                    self.renew()
                self.verify()
                self.nothing_leaked()
            except BaseException as error:
                raise AssertionError(f'{name}: killed before the {nth}. {label}: {error!r}\n'
                                     f'{self.host.app.out.text()}\n{self.host.app.err.text()}') from error
        if self.host.app.process.poll() is not None:
            self.host.next()
        self.end(name, plan, kills)

    def plan(self, name, before=()):
        plan = Plan(self.stride, self.offset, before)
        if ONLY:
            nth, label = ONLY[len(name) + 2:].split('. ', 1)
            plan.only = (label, int(nth))
        return plan

    def end(self, name, plan, kills):
        self.killed[name] = plan.killed
        if name in self.goes_on:
            self.test.assertEqual(self.anew, 0, f'{name}: started anew')
        self.kills += kills
        # Of a few acts that were chosen, the daemon may come to none once more.
        if self.stride == 1:
            self.test.assertGreater(kills, 0, name)
        if self.stride == 1 and not ONLY:
            self.test.assertLessEqual(len({label.split(', ')[-1] for label in plan.missed()}), BY_CHANCE,
                                      f'{name}: acts that it was never killed before: {plan.missed()}')
        harness.figure(f'{name}: {kills} kills before {len(plan.killed)} of {len(plan.order)} acts of '
                       f'{len(plan.seen)} kinds; the device went on {self.on} times and started anew {self.anew}'
                       + (f'; by chance came {"; ".join(sorted(plan.missed()))}' if self.stride == 1 and plan.missed() else ''))


# Guests, whose front ends have more messages.


class _Talks:
    EXTRA_AT = 64 << 20  # behind the guest's first memory

    def connect(self, path):
        self.client = patient(path)
        try:
            self.client.ask_u64(vu.GET_FEATURES)
        except (OSError, vu.Closed):
            # One that has had no answer yet ends with the process.
            self.client.close()
            self.client = patient(path)
        self.client.negotiate(self.features, PROTOCOL | vu.P_MEM_SLOTS | vu.P_DEVICE_STATE)
        assert self.client.set_memory(self.memory) == 0
        return self


class Block(_Talks, KeptBlock):
    pass


class Net(_Talks, KeptNet):
    pass


class ShadowNet(_Talks, KeptShadowNet):
    pass


# What is done at each of whose acts the daemon is killed.


def stop_and_start(steps):
    steps.guest.stop()
    steps.guest.check_connection()
    steps.guest.start()


def log_on_and_off(steps):
    steps.guest.log_on()
    steps.guest.work(0.01)
    steps.guest.log_off()


def other_memory(steps):
    """Regions come and go one by one, and by a table."""
    guest = steps.guest
    more = vu.Memory(1 << 20)
    try:
        at = guest.EXTRA_AT
        region = (more.GPA + at, more.size, more.UVA + at, 0)
        assert guest.client.add_mem_reg(region, more.fd) == 0
        guest.work()
        assert guest.client.rem_mem_reg(region) == 0
        table = guest.memory.table([*guest.memory.regions, region])
        assert guest.client.ack(vu.SET_MEM_TABLE, table, [guest.memory.fd, more.fd]) == 0
        guest.work()
        assert guest.client.set_memory(guest.memory) == 0
    finally:
        more.close()


def save_state(steps):
    steps.guest.stop()
    if not steps.guest.client.save_state():
        # Its pipe does not outlive a daemon: the next one answers with an error, and a line.
        assert steps.died and 'SET_DEVICE_STATE_FD failed' in steps.host.app.err.text()
        assert steps.guest.client.save_state()
    steps.guest.start()


def reset(steps):
    steps.guest.stop()
    assert steps.guest.client.ack(vu.RESET_DEVICE) == 0
    steps.guest.start()


def connect_again(steps):
    guest = steps.guest
    guest.stop()
    guest.disconnect()
    guest.connect(steps.host.app.socket(steps.name)).start()


def delete_and_add(steps):
    steps.host.app.delete(steps.name)
    steps.host.app.add(steps.host.words(steps.name).format(dir=steps.host.app.dir))


def terminate(steps):
    """It leaves its devices."""
    steps.host.app.process.send_signal(signal.SIGTERM)
    steps.host.app.process.wait(harness.TIMEOUT)


def interrupt(steps):
    """It ends them."""
    steps.host.app.process.send_signal(signal.SIGINT)
    steps.host.app.process.wait(harness.TIMEOUT)
