# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""A front end maps a device's doorbells and rings them; the daemon sleeps, or is not even there."""

import array
import mmap
import os
import signal
import socket
import struct
import unittest

import harness
import vhost_user_client as vhost
from test_vfio_user import daemon, model

P_HOST_NOTIFIER = 1 << 11
PROTOCOL = (vhost.P_REPLY_ACK | vhost.P_MQ | vhost.P_BACKEND_REQ | vhost.P_SEND_FD |
            P_HOST_NOTIFIER)
HOST_NOTIFIER_MSG = 3
PAGE = mmap.PAGESIZE


class Driver(vhost.NetDriver):
    """A driver whose front end has a back-end channel."""

    bitmap = -1

    def __init__(self, path, protocol=PROTOCOL, ring=vhost.SplitRing):
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.channel.settimeout(harness.TIMEOUT)
        with theirs:
            super().__init__(path, ring, protocol)
            assert self.client.ack(vhost.SET_BACKEND_REQ_FD, bytes(8), [theirs.fileno()]) == 0

    def message(self):
        """The next message on the channel: queue, whether it has a doorbell, size, offset, fd."""
        data, anc, _, _ = self.channel.recvmsg(36, socket.CMSG_SPACE(4))
        request, flags, size, where, length, offset = struct.unpack('<IIIQQQ', data)
        assert (request, flags, size) == (HOST_NOTIFIER_MSG, vhost.VERSION, 24), data
        fds = array.array('i')
        for _, _, value in anc:
            fds.frombytes(value)
        return where & 0xff, not where & vhost.NOFD, length, offset, fds[0] if fds else None

    def is_quiet(self):
        self.channel.setblocking(False)
        try:
            return not self.channel.recv(1)
        except BlockingIOError:
            return True
        finally:
            self.channel.settimeout(harness.TIMEOUT)

    def start_log(self):
        self.bitmap = os.memfd_create('log')
        os.ftruncate(self.bitmap, PAGE)
        self.client.send(vhost.SET_LOG_BASE, struct.pack('<QQ', PAGE, 0), [self.bitmap])
        assert self.client.recv()[0] == vhost.SET_LOG_BASE
        features = vhost.F_VERSION_1 | vhost.F_PROTOCOL | vhost.F_LOG_ALL
        assert self.client.u64(vhost.SET_FEATURES, features) == 0

    def map_doorbells(self, in_order=True):
        """Kick by the pages from now on."""
        self.pages = []
        messages = [self.message() for _ in range(2)]
        if not in_order:
            messages.sort()
        for ring, (queue, given, length, offset, fd) in zip((self.rx, self.tx), messages):
            assert (queue, given, length) == (ring.index, True, PAGE), (queue, given, length)
            page = mmap.mmap(fd, PAGE, offset=offset)
            os.close(fd)
            self.pages.append(page)
            ring.kick = lambda page=page, index=ring.index: page.__setitem__(
                slice(0, 2), struct.pack('<H', index))

    def close(self):
        super().close()
        self.channel.close()
        if self.bitmap >= 0:
            os.close(self.bitmap)


def rings(other):
    queues = other.ask('/model/stats,m0')['queues']
    return [queues[i]['rings_by_memory'] for i in ('0', '1')]


def paths(app):
    queues = app.stats('v0')['queues']
    return [queues[i]['path'] for i in ('0', '1')]


class Doorbell(unittest.TestCase):
    EXCHANGES = 50

    def test_a_write_to_the_page_is_a_kick(self):
        for ring in vhost.SplitRing, vhost.PackedRing:
            with self.subTest(ring.__name__), model() as other, daemon(other.path) as app, \
                    Driver(app.socket('v0'), ring=ring).start() as net:
                self.assertIn('2 doorbells given', app.show('v0')['frontend_info'])
                net.map_doorbells()
                before = app.stats('v0')['device']['kicks_relayed'], rings(other)
                for _ in range(self.EXCHANGES):
                    net.exchange()
                stats = app.stats('v0')
                self.assertEqual(stats['device']['kicks_relayed'], before[0])
                # Kicks and interrupts that pass the daemon by are not known to it, which is not 0.
                for queue in list(stats['queues'].values())[:2]:
                    self.assertEqual((queue['kicks'], queue['interrupts']), ('unknown', 'unknown'))
                # Two writes are one ring where the device looked at the queue, not at the page, in between.
                self.assertGreater(rings(other)[1] - before[1][1], self.EXCHANGES // 2)

    def test_the_daemon_need_not_run(self):
        with model() as other, daemon(other.path) as app, Driver(app.socket('v0')).start() as net:
            net.map_doorbells()
            os.kill(app.pid, signal.SIGSTOP)
            try:
                for _ in range(self.EXCHANGES):
                    net.exchange()
            finally:
                os.kill(app.pid, signal.SIGCONT)

    def test_eventfds_kick_beside_the_page(self):
        with model() as other, daemon(other.path) as app, Driver(app.socket('v0')).start() as net:
            net.exchange()
            self.assertGreater(app.stats('v0')['device']['kicks_relayed'], 0)
            kick = net.tx.kick
            net.map_doorbells()
            net.exchange()
            net.tx.kick = kick
            net.exchange()

    def test_a_stop_takes_the_page_back_and_a_start_gives_it_again(self):
        with model() as other, daemon(other.path) as app, Driver(app.socket('v0')).start() as net:
            net.map_doorbells()
            net.exchange()
            net.stop()
            self.assertEqual([net.message()[:2] for _ in range(2)], [(0, False), (1, False)])
            self.assertNotIn('doorbells', app.show('v0')['frontend_info'])
            net.rx, net.tx = (vhost.SplitRing(net.memory, i) for i in (0, 1))
            net.start()
            net.map_doorbells()
            net.exchange()
            self.assertTrue(net.is_quiet())

    def test_the_page_comes_and_goes_with_the_path_of_the_queue(self):
        """The rings begin where the device cannot: on a shadow, until they come round to their
        beginning; and a migration puts them on one again, while kicks go to the pages."""
        with model() as other, daemon(other.path) as app, \
                Driver(app.socket('v0'), PROTOCOL | vhost.P_LOG) as net:
            for ring in net.rx, net.tx:
                ring.avail = ring.seen = 65500
                for at in ring.driver, ring.device:
                    net.memory.set_u16(at + 2, 65500)
            net.start()
            net.exchange()
            self.assertEqual(paths(app), ['shadow', 'shadow'])
            self.assertTrue(net.is_quiet())
            eventfds = net.rx.kick, net.tx.kick
            harness.wait_for(lambda: net.exchange() or paths(app) == ['direct', 'direct'],
                             'the direct path')
            net.map_doorbells(in_order=False)
            self.assertIn('2 doorbells given', app.show('v0')['frontend_info'])
            net.exchange()
            net.start_log()
            # These kicks are heard by nobody.
            net.exchange()
            self.assertEqual(paths(app), ['shadow', 'shadow'])
            self.assertEqual({net.message()[:2] for _ in range(2)}, {(0, False), (1, False)})
            self.assertNotIn('doorbells', app.show('v0')['frontend_info'])
            net.rx.kick, net.tx.kick = eventfds
            net.exchange()
            self.assertTrue(net.is_quiet())

    def test_a_failure_takes_the_page_back(self):
        with model() as other, daemon(other.path) as app, Driver(app.socket('v0')).start() as net:
            net.map_doorbells()
            other.call('model.fault', name='m0', fault='disconnect')
            self.assertEqual([net.message()[:2] for _ in range(2)], [(0, False), (1, False)])
            harness.wait_for(lambda: app.show('v0')['state'] == 'failed', 'the device to fail')
            # Kicks reach nobody, and harm nobody.
            for ring in net.rx, net.tx:
                ring.kick()

    def test_doorbells_stay_here_unless_asked_for(self):
        for words, protocol in (('no_doorbells', PROTOCOL),
                                ('', PROTOCOL & ~P_HOST_NOTIFIER),
                                ('', PROTOCOL & ~vhost.P_SEND_FD)):
            with self.subTest(words=words, protocol=protocol), model() as other, \
                    daemon(other.path, words=words) as app, \
                    Driver(app.socket('v0'), protocol).start() as net:
                net.exchange()
                self.assertTrue(net.is_quiet())

    def test_pages_of_a_server_bind_nobody(self):
        """They are no more than pages: the next front end is served and given them, whoever it is."""
        for words, rule in ('', 'uid'), ('doorbells uid', 'uid'), ('doorbells once', 'once'):
            with self.subTest(words), model() as other, daemon(other.path, words=words) as app:
                for _ in range(2):
                    with Driver(app.socket('v0')).start() as net:
                        net.map_doorbells()
                        net.exchange()
                        shown = app.show('v0')
                        self.assertEqual(shown['doorbells'], rule)
                        self.assertNotIn('page_holder', shown)

    def test_words_that_contradict_each_other_are_refused(self):
        with harness.Daemon() as app:
            for words, line in (('doorbells once no_doorbells', 'doorbells once contradicts no_doorbells'),
                                ('doorbells twice', "doorbells 'twice': allowed are uid, once")):
                answer = app.refusal('dev.add', words=f'name v0 mgmtdev sim_net socket {app.socket("v0")} {words}')
                self.assertIn(line, answer)

    def test_doorbells_on_one_page_stay_here(self):
        with model('notify shared') as other, daemon(other.path) as app, \
                Driver(app.socket('v0')).start() as net:
            net.exchange()
            self.assertTrue(net.is_quiet())


if __name__ == '__main__':
    unittest.main(verbosity=2)
