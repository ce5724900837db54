# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""What it costs to plug 64 MiB into a running guest, by its size: a measurement for scripts/bench.

Beside it what a driver does that maps its whole table anew for each change: the same DMA requests to the
same model, by a bare client, for each region that was there and for each that is there then.
"""

import contextlib
import resource
import statistics
import time

import harness
import vfio_user_client as vfu
from hotplug import DIMM, MIB, Dimm, Guest, Regions, Stream

GIB = 1 << 30
# Bytes and slots, without the one that is plugged.
GUESTS = ((1 * GIB, 15), (4 * GIB, 63), (16 * GIB, 255))
KINDS = ('sim', 'model')
# Changes that are timed: ours, and of whole tables; those under traffic.
ROUNDS, REMAPS, BUSY = 100, 20, 20


@contextlib.contextmanager
def _model(options):
    words = 'name m0 mgmtdev sim_net backend loopback vfio_user {dir}/m0.vfu'
    with harness.Daemon([words], app=options.model) as model:
        yield model


@contextlib.contextmanager
def _device(options, kind):
    """The daemon with a device v0, and the model behind it."""
    with contextlib.ExitStack() as stack:
        model, device = None, 'sim_net backend loopback'
        if kind == 'model':
            model = stack.enter_context(_model(options))
            device = f'vfio-user/{model.dir}/m0.vfu'
        words = f'name v0 mgmtdev {device} socket {{dir}}/v0.sock'
        yield stack.enter_context(harness.Daemon([words], app=options.app)), model


def _timed(call, *args):
    """Microseconds; the call must succeed."""
    start = time.monotonic()
    error = call(*args)
    took = 1e6 * (time.monotonic() - start)
    assert not error, error
    return took


def _requests(model):
    """DMA requests that the model has carried out: maps, unmaps."""
    dma = model.ask('/model/stats,m0')['dma'] if model is not None else None
    return (dma['maps'], dma['unmaps']) if dma else (0, 0)


def _changes(options, kind, size, slots):
    """64 MiB come and go in a guest of that size: first on its own, then while frames pass."""
    dimm = Dimm()
    times = {'plug_us': [], 'unplug_us': []}
    with contextlib.closing(dimm), _device(options, kind) as (app, model), \
            Guest(app.socket('v0'), size, slots) as guest:
        guest.start()
        guest.exchange()
        before = _requests(model)
        for _ in range(ROUNDS):
            times['plug_us'].append(_timed(guest.plug, dimm))
            times['unplug_us'].append(_timed(guest.unplug, dimm))
        requests = [(n - m) / ROUNDS for n, m in zip(_requests(model), before)]
        stream = Stream(guest)
        for _ in range(BUSY):
            guest.plug(dimm)
            stream.pass_frames()
            guest.unplug(dimm)
            stream.pass_frames()
        return {**{name: statistics.median(took) for name, took in times.items()},
                'requests': requests if model is not None else None,
                # All came back: stop() says so, or raises.
                'frames': stream.stop()}


class Remap:
    """A table that is mapped as a whole by a bare vfio-user client. The function is not running, which is
    what drivers of this kind see to."""

    def __init__(self, client, regions):
        self.client, self.regions, self.mapped = client, regions, []

    def change(self):
        """Unmap all, map all."""
        for gpa, size in self.mapped:
            self.client.dma_unmap(gpa, size)
        self.mapped = []
        for fd, (gpa, size, _, offset) in self.regions.all():
            self.client.dma_map(gpa, size, fd, offset)
            self.mapped.append((gpa, size))


def _remap(options, size, slots):
    """The same changes, where each maps the whole table anew; and the one request that was needed."""
    dimm = Dimm()
    plug, unplug, one = [], [], []
    with contextlib.closing(dimm), _model(options) as model, \
            contextlib.closing(Regions(size, slots)) as regions, \
            vfu.Client(f'{model.dir}/m0.vfu') as client:
        table = Remap(client, regions)
        table.change()
        before = _requests(model)
        for _ in range(REMAPS):
            regions.plugged = [dimm]
            plug.append(_timed(table.change))
            regions.plugged = []
            unplug.append(_timed(table.change))
        requests = [(n - m) / REMAPS for n, m in zip(_requests(model), before)]
        gpa, length, _, offset = dimm.region
        for _ in range(REMAPS):
            one.append(_timed(client.dma_map, gpa, length, dimm.fd, offset))
            client.dma_unmap(gpa, length)
        return {'plug_us': statistics.median(plug), 'unplug_us': statistics.median(unplug),
                'one_map_us': statistics.median(one), 'requests': requests}


def _merged(runs):
    """Medians of times, the sum of frames; a number of requests is the same in each run."""
    merged = {key: statistics.median(r[key] for r in runs) for key in runs[0] if key.endswith('_us')}
    assert all(r['requests'] == runs[0]['requests'] for r in runs), runs
    merged['requests'] = runs[0]['requests']
    if 'frames' in runs[0]:
        merged['frames'] = sum(r['frames'] for r in runs)
    return merged


def hotplug(options):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    runs = {(size, name): [] for size, _ in GUESTS for name in (*KINDS, 'remap')}
    for _ in range(options.runs):
        for size, slots in GUESTS:
            for kind in KINDS:
                runs[size, kind].append(_changes(options, kind, size, slots))
            runs[size, 'remap'].append(_remap(options, size, slots))
    return [{'gib': size // GIB, 'slots': slots,
             **{name: _merged(runs[size, name]) for name in (*KINDS, 'remap')}}
            for size, slots in GUESTS]


def print_hotplug(results):
    print(f'{DIMM // MIB} MiB come and go in a guest that runs, microseconds of the message that brings and '
          f'takes it; frames that passed\nmeanwhile, none lost; DMA requests of both changes:')
    print(f'  {"GiB":>3}{"slots":>6}  {"simulated":>12}{"frames":>8}  {"vfio-user":>12}{"frames":>8}'
          f'{"requests":>9}  {"remap of all":>14}{"requests":>9}{"ratio":>6}  one bare map')
    for r in results:
        sim, model, remap = r['sim'], r['model'], r['remap']

        def pair(d, width=6):
            return f'{d["plug_us"]:{width}.0f}{d["unplug_us"]:{width}.0f}'

        ratio = (remap['plug_us'] + remap['unplug_us']) / (model['plug_us'] + model['unplug_us'])
        print(f'  {r["gib"]:3}{r["slots"]:6}  {pair(sim)}{sim["frames"]:8}  {pair(model)}{model["frames"]:8}'
              f'{sum(model["requests"]):9.0f}  {pair(remap, 7)}{sum(remap["requests"]):9.0f}{ratio:6.0f}'
              f'  {remap["one_map_us"]:.0f}')
