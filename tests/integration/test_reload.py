# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""A configuration file that is read again: what is different is applied, and nothing else."""

import contextlib
import os
import random
import re
import signal
import tempfile
import threading
import unittest

import harness
import test_control


class Reload(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix='uvdpa-test.')
        self.addCleanup(folder.cleanup)
        self.dir = folder.name
        self.path = os.path.join(self.dir, 'uvdpa.conf')

    def write(self, *lines):
        """In one step, as an editor does."""
        with open(self.path + '.new', 'w', encoding='utf-8') as f:
            f.write('\n'.join(lines) + '\n')
        os.rename(self.path + '.new', self.path)

    @contextlib.contextmanager
    def daemon(self, *lines, args=(), devices=()):
        self.write(*lines)
        with harness.Daemon(devices, args=['--config', self.path, *args]) as daemon:
            self.daemon_ = daemon
            self.at = {'out': 0, 'err': 0}
            yield daemon

    def reload(self, *lines, fails=False, errors=0):
        """Write the file, reload it; the lines about it on stdout and stderr, of these so many."""
        daemon = self.daemon_
        if lines:
            self.write(*lines)
        starts = {'out': len(daemon.out.lines), 'err': len(daemon.err.lines)}
        daemon.process.send_signal(signal.SIGHUP)
        if fails:
            daemon.err.wait('^vdpa-app: reload: .*nothing is changed$', starts['err'])
        else:
            daemon.out.wait(r'^reload: \d+ added, ', starts['out'])
            # The two come by different pipes.
            harness.wait_for(lambda: len(daemon.err.lines) >= starts['err'] + errors, 'errors')
        return daemon.out.lines[starts['out']:] + daemon.err.lines[starts['err']:]

    def names(self):
        return self.daemon_.ask('/vdpa/dev/list')


def net(name, *more):
    return ' '.join([f'name {name} mgmtdev sim_net', *more])


class Devices(Reload):
    def test_the_difference_is_applied(self):
        with self.daemon(net('a'), net('b', 'max_vqp 1'), net('c'), net('d')) as daemon:
            lines = self.reload(net('e'), net('b', 'max_vqp 2'), net('c', 'link down'), net('d'))
            self.assertEqual(lines, ['reload: a: removed', 'reload: e: added', 'reload: b: made anew',
                                     'reload: c: set link down',
                                     'reload: 1 added, 1 removed, 2 changed, 1 kept, 0 failed'])
            # c and d have not been made anew: they come first.
            self.assertEqual(self.names(), ['c', 'd', 'e', 'b'])
            self.assertEqual(daemon.show('c')['link'], 'down')
            self.assertEqual(daemon.show('d')['link'], 'up')
            self.assertEqual(daemon.show('b')['max_vq_pairs'], 2)
            # The default is not written out: link comes back up.
            lines = self.reload(net('c'))
            self.assertIn('reload: c: set link up', lines)
            self.assertEqual(self.names(), ['c'])
            self.assertEqual(daemon.show('c')['link'], 'up')

    def test_the_same_in_other_words_is_the_same(self):
        with self.daemon(net('a', 'max_vqp 2 mac 52:54:00:00:00:0A'),
                         'name b mgmtdev sim_blk backend ram 1M') as daemon:
            lines = self.reload('# a comment', '', 'mgmtdev  sim_blk name b  backend ram 1048576',
                                'name a mgmtdev sim_net link up mac 52:54:00:00:00:0a max_vqp 0x2')
            self.assertEqual(lines, ['reload: 0 added, 0 removed, 0 changed, 2 kept, 0 failed'])
            self.assertEqual(self.names(), ['a', 'b'])
            self.assertEqual(daemon.err.text(), '')

    def test_a_socket_goes_from_one_device_to_another(self):
        with self.daemon(net('a', f'socket {self.dir}/1.sock'), net('b', f'socket {self.dir}/2.sock')):
            lines = self.reload(net('a', f'socket {self.dir}/2.sock'),
                                net('c', f'socket {self.dir}/1.sock'))
            self.assertEqual(lines[-1], 'reload: 1 added, 1 removed, 1 changed, 0 kept, 0 failed')
            self.assertEqual(sorted(os.listdir(self.dir)), ['1.sock', '2.sock', 'uvdpa.conf'])

    def test_a_mistake_changes_nothing(self):
        with self.daemon(net('a')) as daemon:
            lines = self.reload(net('b'), net('c', 'colour red'), 'bogus', fails=True)
            self.assertEqual(len(lines), 3)
            self.assertRegex(lines[0], f"^vdpa-app: reload: {self.path}:2: unknown word 'colour'")
            self.assertRegex(lines[1], f"^vdpa-app: reload: {self.path}:3: unknown word 'bogus'")
            self.assertEqual(lines[2], 'vdpa-app: reload: 2 mistakes: nothing is changed')
            self.assertEqual(self.names(), ['a'])
            os.unlink(self.path)
            self.assertIn('No such file', self.reload(fails=True)[0])
            self.assertEqual(self.names(), ['a'])
            self.assertIn('reload: a: removed', self.reload('# none'))
            self.assertEqual(daemon.stop(), 0)

    def test_one_that_fails_holds_up_no_other(self):
        blk = 'name blk mgmtdev sim_blk backend'
        with self.daemon(net('a'), f'{blk} ram 1M') as daemon:
            lines = self.reload(net('b'), f'{blk} file /nonexistent/image', net('c'), errors=2)
            self.assertIn('vdpa-app: reload: blk: blk: cannot open /nonexistent/image: '
                          'No such file or directory', lines)
            # What it was is better than nothing.
            self.assertIn('vdpa-app: reload: blk: made again as it was before', lines)
            self.assertIn('reload: 2 added, 1 removed, 0 changed, 0 kept, 1 failed', lines)
            self.assertEqual(sorted(self.names()), ['b', 'blk', 'c'])
            self.assertEqual(daemon.show('blk')['capacity'], 1 << 20)
            # The next reload tries again.
            image = os.path.join(self.dir, 'image')
            with open(image, 'wb') as f:
                f.truncate(2 << 20)
            lines = self.reload(net('b'), f'{blk} file {image}', net('c'))
            self.assertIn('reload: blk: made anew', lines)
            self.assertEqual(daemon.show('blk')['capacity'], 2 << 20)

    def test_ten_thousand_lines_of_noise(self):
        with self.daemon(net('a')):
            lines = self.reload(*['#' * 100] * 10000, net('a'), net('b'))
            self.assertIn('reload: 1 added, 0 removed, 0 changed, 1 kept, 0 failed', lines)

    def test_signals_in_a_row_end_with_the_last_file(self):
        with self.daemon(net('a')) as daemon:
            for i in range(50):
                self.write(*[net(f'n{j}') for j in range(i % 7)], net(f'last{i}'))
                daemon.process.send_signal(signal.SIGHUP)
            harness.wait_for(lambda: set(self.names()) == {'last49'}, 'the last file')
            self.assertEqual(daemon.err.text(), '')

    def test_a_stop_during_a_reload(self):
        with self.daemon(net('a')) as daemon:
            self.write(*[net(f'n{i}') for i in range(500)])
            daemon.process.send_signal(signal.SIGHUP)
            self.assertEqual(daemon.stop(), 0)


class ByHand(Reload):
    """What others have made or changed is theirs."""

    def test_what_was_added_is_left_alone(self):
        with self.daemon(net('a'), devices=[net('line')]) as daemon:
            daemon.add(net('mine'))
            lines = self.reload(net('b'))
            self.assertIn('reload: added by hand and left alone: 1: mine', lines)
            self.assertEqual(self.names(), ['line', 'mine', 'b'])
            # A line of the same name is not a licence.
            lines = self.reload(net('b'), net('mine', 'max_vqp 2'), errors=1)
            self.assertIn('vdpa-app: reload: mine: a device of that name has been added by hand, of '
                          'other words: left alone; delete it, or give it the words of the file',
                          lines)
            self.assertEqual(daemon.show('mine')['max_vqs'], 3)
            # One that says what is there takes it over.
            self.reload(net('b'), net('mine'))
            self.assertEqual(self.names(), ['line', 'mine', 'b'])
            self.assertIn('reload: mine: removed', self.reload(net('b')))

    def test_what_was_changed_stays_until_its_line_changes(self):
        with self.daemon(net('a', 'max_vqp 2')) as daemon:
            daemon.set('a', 'link down')
            lines = self.reload(net('a', 'max_vqp 2'))
            self.assertIn('reload: a: has been changed by hand, and its line has not: left alone',
                          lines)
            self.assertEqual(daemon.show('a')['link'], 'down')
            # Its line catches up with it.
            self.assertEqual(self.reload(net('a', 'max_vqp 2 link down'))[:-1], [])
            self.assertIn('reload: a: set link up', self.reload(net('a', 'max_vqp 2 link up')))
            self.assertEqual(daemon.show('a')['link'], 'up')

    def test_a_word_that_its_line_says_for_the_first_time_rules(self):
        with self.daemon(net('a')) as daemon:
            daemon.set('a', 'link down')
            # It is what the line meant before, but somebody has written it now.
            self.assertIn('reload: a: set link up', self.reload(net('a', 'link up')))
            self.assertEqual(daemon.show('a')['link'], 'up')
            daemon.set('a', 'link down')
            self.assertIn('reload: a: has been changed by hand, and its line has not: left alone',
                          self.reload(net('a', 'link up')))

    def test_what_was_deleted_comes_back(self):
        with self.daemon(net('a'), net('b')) as daemon:
            daemon.delete('a')
            daemon.delete('b')
            lines = self.reload(net('a'))
            self.assertEqual(lines, ['reload: a: has been deleted by hand: its line brings it back',
                                     'reload: b: has been deleted by hand before',
                                     'reload: a: added',
                                     'reload: 1 added, 0 removed, 0 changed, 0 kept, 0 failed'])

    def test_what_was_added_anew_is_not_the_files(self):
        with self.daemon(net('a')) as daemon:
            daemon.delete('a')
            daemon.add(net('a', 'max_vqp 2'))
            self.assertIn('reload: a: has been added anew by hand: left alone', self.reload('#'))
            self.assertEqual(self.names(), ['a'])


class Settings(Reload):
    def test_those_that_wait_are_named(self):
        with self.daemon('poll-us 10', 'eal --no-pci', net('a'), args=['--stats', '3600']):
            lines = self.reload('poll-us 20', 'stats 60', 'eal --no-pci --no-telemetry', net('a'),
                                errors=2)
            waits = 'has changed: it takes effect when the daemon is started anew'
            self.assertEqual(sorted(line for line in lines if waits in line),
                             [f'vdpa-app: reload: eal {waits}',
                              f'vdpa-app: reload: poll-us {waits}'])
            # As at the start: nothing waits.
            self.assertEqual(len(self.reload('poll-us 10', 'eal --no-pci', net('a'))), 1)

    def test_the_log_level_does_not(self):
        with self.daemon(net('a')) as daemon:
            self.assertIn('reload: log-level: lib.uvdpa: debug',
                          self.reload('log-level debug', net('a'), net('b', f'socket {self.dir}/b')))
            with harness.socket.socket(harness.socket.AF_UNIX) as peer:
                peer.connect(f'{self.dir}/b')
                daemon.err.wait('b: vhost-user: connected')
            self.assertIn('reload: log-level: lib.uvdpa: notice', self.reload(net('a')))


class Method(Reload):
    """config.check and config.reload, checked by the schemas that the daemon gives."""

    def test_a_reload_answers_with_what_it_did(self):
        with self.daemon('poll-us 10', net('a'), net('b'), net('c'), net('d')) as daemon, \
                daemon.control() as client, daemon.control() as listener:
            listener.call('events.subscribe', events=['config.reloaded'])
            call = test_control.Checked(client).call
            self.write('poll-us 20', net('a'), net('c', 'link down'), net('d', 'max_vqp 2'),
                       net('e', f'socket {self.dir}/none/e.sock'), net('f'))
            result = call('config.reload')
            failed = result.pop('failed')
            self.assertEqual(result, {'added': ['f'], 'removed': ['b'], 'changed': ['c', 'd'],
                                      'kept': 1, 'next_start': ['poll-us']})
            self.assertEqual([entry['name'] for entry in failed], ['e'])
            self.assertIn('none/e.sock', failed[0]['error'])
            event = listener.event(event='config.reloaded')
            self.assertEqual((event['added'], event['kept']), (['f'], 1))

    def test_mistakes_are_an_answer_and_change_nothing(self):
        with self.daemon(net('a')) as daemon:
            self.write('bogus', net('b'), net('c', 'colour red'))
            for _ in range(2):
                with self.assertRaises(harness.ControlError) as caught:
                    daemon.call('config.reload')
                self.assertEqual(caught.exception.errno, 'EINVAL')
                self.assertRegex(caught.exception.message,
                                 f"^{self.path}:1: unknown word 'bogus'.*\\(the first of 2 mistakes\\)$")
            self.assertEqual(self.names(), ['a'])

    def test_without_a_file_there_is_nothing_to_reload(self):
        with harness.Daemon([net('a')]) as daemon:
            self.assertEqual(daemon.refusal('config.reload'),
                             'no configuration file: start with --config FILE')

    def test_a_text_is_checked_and_nothing_of_it_is_done(self):
        with harness.Daemon([net('a')]) as daemon, daemon.control() as client:
            call = test_control.Checked(client).call
            self.assertEqual(call('config.check', text=''), {'mistakes': [], 'more': 0})
            self.assertEqual(call('config.check', text=net('a') + '\npoll-us 3'),
                             {'mistakes': [], 'more': 0})
            # Who only looks has nothing loaded.
            self.assertEqual(call('config.check', text='plugin /nonexistent.so\n'),
                             {'mistakes': [], 'more': 0})
            result = call('config.check', text='\nbogus\n' + net('b', 'max_vqp 0') + '\nstats x\n')
            self.assertEqual([entry['line'] for entry in result['mistakes']], [2, 3, 4])
            self.assertEqual(result['mistakes'][2]['message'],
                             "stats: 'x' is not a number from 1 to 86400")
            self.assertEqual(call('config.check', text='x\n' * 200)['more'], 100)

    def test_random_texts_are_checked(self):
        seed = random.randrange(1 << 32)
        print(f'seed {seed}', flush=True)
        dice = random.Random(seed)
        words = ['name', 'mgmtdev', 'sim_net', 'sim_blk', 'a', 'max_vqp', '2', 'backend', 'ram', '1M',
                 'poll-us', 'eal', '--', '-l', 'log-level', 'debug', 'socket', '"', '"a b"', '#', '\t',
                 '\n', '\r', '\x1b', '\u00e9', 'x' * 200, '0', '-1', '4294967296', 'link', 'up',
                 'uvdpad-map', 'plugin', 'control', 'off', 'name a mgmtdev sim_net\n']
        with harness.Daemon() as daemon, daemon.control() as client:
            for _ in range(harness.count(1000, 100000)):
                text = ' '.join(dice.choices(words, k=dice.randrange(40)))
                result = client.call('config.check', text=text)
                lines = text.count('\n') + 1
                for entry in result['mistakes']:
                    self.assertLessEqual(entry['line'], lines, text)
            self.assertEqual(client.call('dev.list')['names'], [])

    def test_two_at_once_do_not_mix(self):
        with self.daemon(net('a')) as daemon:
            results = []

            def reload_many_times():
                with daemon.control() as client:
                    for _ in range(20):
                        reply = client.request('config.reload')
                        results.append(reply.get('error', {}).get('data', {}).get('errno', 'ok'))

            threads = [threading.Thread(target=reload_many_times) for _ in range(4)]
            for thread in threads:
                thread.start()
            for i in range(20):
                self.write(net('a'), net('b', f'max_vqp {1 + i % 2}'))
            for thread in threads:
                thread.join()
            self.assertLessEqual(set(results), {'ok', 'EBUSY'})
            self.assertIn('ok', results)
            self.reload(net('a'))
            self.assertEqual(self.names(), ['a'])


class Save(Reload):
    def saved(self, daemon):
        """The lines of config.save without the header, which names the time."""
        text = daemon.call('config.save')['text']
        header, _, rest = text.partition('\n')
        self.assertRegex(header, r'^# vdpa-app \S+, \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ: ')
        return text, rest.splitlines()

    def shown(self, daemon):
        devices = daemon.call('dev.show')['dev']
        return {name: {key: value for key, value in dev.items() if key != 'dma'}
                for name, dev in devices.items()}

    def test_a_daemon_on_what_was_saved_has_the_same_devices(self):
        lines = ['# comment', 'poll-us  20', 'eal --vdev "net_null3"  --no-pci', 'log-level "info"',
                 f'mgmtdev sim_blk name blk backend file "{self.dir}/a disk" read-only blk_size 4096 '
                 f'socket "{self.dir}/a blk.sock" mode 0660',
                 net('b', f'mac 52:54:00:00:00:0A mtu 0x5dc max_vqp 2 socket {self.dir}/b.sock'),
                 net('up', 'backend uplink net_null3'), net('gone')]
        with open(f'{self.dir}/a disk', 'wb') as f:
            f.truncate(1 << 20)
        with self.daemon(*lines, devices=[net('line', 'link down')]) as daemon:
            daemon.add('  name hand mgmtdev sim_net   max_vqp 3 ')
            daemon.set('b', 'link down')
            daemon.set('hand', 'link down')
            daemon.set('hand', 'link up')
            daemon.delete('gone')
            text, saved = self.saved(daemon)
            self.assertEqual(saved, [
                'poll-us 20', 'log-level info', 'eal --vdev "net_null3"  --no-pci',
                net('line', 'link down'),
                f'mgmtdev sim_blk name blk backend file "{self.dir}/a disk" read-only blk_size 4096 '
                f'socket "{self.dir}/a blk.sock" mode 0660',
                net('b', f'mac 52:54:00:00:00:0A mtu 0x5dc max_vqp 2 socket {self.dir}/b.sock '
                         'link down'),
                net('up', 'backend uplink net_null3'), net('hand', 'max_vqp 3 link up')])
            shown = self.shown(daemon)
        with self.daemon(text) as daemon:
            self.assertEqual(self.shown(daemon), shown)
            self.assertEqual(list(self.shown(daemon)), list(shown))
            # And it saves what it was given.
            self.assertEqual(self.saved(daemon)[1], saved)
            # What the start said of its devices may come by the other pipe only now.
            self.assertEqual([line for line in self.reload(text) if line.startswith('reload: ')],
                             ['reload: 0 added, 0 removed, 0 changed, 5 kept, 0 failed'])

    def test_what_was_saved_can_be_the_file_from_then_on(self):
        """vdpactl save > uvdpa.conf, vdpactl reload: nothing happens but that all is the file's."""
        with self.daemon(net('a')) as daemon:
            daemon.add(net('hand'))
            daemon.set('a', 'link down')
            text, _ = self.saved(daemon)
            self.assertEqual(self.reload(text),
                             ['reload: 0 added, 0 removed, 0 changed, 2 kept, 0 failed'])
            self.assertIn('reload: hand: removed', self.reload(net('a')))

    def test_settings_of_the_last_file_that_was_accepted(self):
        with self.daemon('poll-us 10', net('a')) as daemon:
            self.reload('poll-us 20', net('a'))
            self.reload('poll-us many', fails=True)
            self.assertEqual(self.saved(daemon)[1], ['poll-us 20', net('a')])

    def test_a_thousand_devices(self):
        with harness.Daemon() as daemon, daemon.control() as client:
            for i in range(1000):
                client.add(f'name blk{i} mgmtdev sim_blk backend ram 1M')
            _, saved = self.saved(daemon)
            self.assertEqual(saved, [f'name blk{i} mgmtdev sim_blk backend ram 1M'
                                     for i in range(1000)])


class Traffic(Reload):
    def test_a_device_that_stays_loses_nothing(self):
        keep = net('net0', f'socket {self.dir}/net0.sock backend loopback')
        rounds = harness.count(20, 500)
        with self.daemon(keep, net('other0')) as daemon, \
                harness.Testpmd([harness.virtio_user(f'{self.dir}/net0.sock')]) as pmd:
            done = threading.Event()
            problems = []

            def reload_again_and_again():
                try:
                    for i in range(rounds):
                        self.reload(net(f'other{i + 1}', f'max_vqp {1 + i % 3}'), keep,
                                    net('steady', 'link down' if i % 2 else 'link up'))
                except AssertionError as error:
                    problems.append(error)
                done.set()

            before = {}

            def going():
                """Packets go round: from here on none may be lost."""
                stats = daemon.stats('net0')
                if not before and stats['device']['rx_packets'] > 0:
                    before['drops'] = harness.drops(stats)
                    threading.Thread(target=reload_again_and_again).start()
                return before and done.is_set()

            # A first round, in which frames may come before the queues that they go back by.
            pmd.forward(lambda: daemon.stats('net0')['device']['rx_packets'] > 100, 'start tx_first 4')
            self.assertTrue(pmd.forward(going, 'start tx_first 4', 10 * harness.TIMEOUT))
            self.assertEqual(problems, [])
            theirs = pmd.port_stats()
            ours = harness.wait_for(
                lambda: (lambda s: s['device']['tx_packets'] + s['device'].get('tx_drops', 0)
                         >= theirs['TX-packets'] and s)(daemon.stats('net0')), 'the last packets')
            harness.figure(f'{rounds} reloads beside a device with traffic: testpmd sent '
                           f'{theirs["TX-packets"]} packets, {harness.drops(ours) - before["drops"]} '
                           'of them lost')
            self.assertEqual(harness.drops(ours), before['drops'])
            self.assertEqual(theirs['TX-packets'], ours['device']['tx_packets'])
            self.assertIn('state', daemon.show('net0'))
            self.assertEqual(len([line for line in daemon.out.lines
                                  if re.match('reload: net0', line)]), 0)


if __name__ == '__main__':
    unittest.main(verbosity=2)
