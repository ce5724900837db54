# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""A control socket that answers as a test wants, to see what a client makes of it: devices of any
number and kind, answers of any form, at any speed. The daemon's own is met in the same tests."""

import json
import os
import socket
import threading
import time


class Refused(Exception):
    """What a method answers instead of a result."""

    def __init__(self, code, message, errno=None):
        super().__init__(message)
        self.error = {'code': code, 'message': message}
        if errno is not None:
            self.error['data'] = {'errno': errno}


def no_device(name):
    return Refused(-32002, f"device '{name}': there is none of that name", 'ENODEV')


class Server:
    """Answers METHOD by methods[METHOD](params), a value or a function; bytes are sent as they are."""

    def __init__(self, folder, methods):
        self.path = os.path.join(folder, 'control.sock')
        self.methods = methods
        self.requests = []
        self.clients = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.clients.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _answer(self, request):
        method, params = request['method'], request.get('params', {})
        self.requests.append((method, params))
        what = self.methods.get(method)
        if what is None:
            raise Refused(-32601, f"method '{method}': there is none of that name")
        return what(params) if callable(what) else what

    def _serve(self, client):
        try:
            for line in client.makefile('rb'):
                request = json.loads(line)
                try:
                    result = self._answer(request)
                except Refused as e:
                    reply = {'jsonrpc': '2.0', 'id': request['id'], 'error': e.error}
                else:
                    reply = {'jsonrpc': '2.0', 'id': request['id'], 'result': result}
                    if isinstance(result, bytes):
                        client.sendall(result)
                        continue
                client.sendall(json.dumps(reply).encode() + b'\n')
        except OSError:
            pass
        finally:
            client.close()

    def notify(self, **params):
        """An event, to every client that is there."""
        line = json.dumps({'jsonrpc': '2.0', 'method': 'event', 'params': params}).encode() + b'\n'
        for client in list(self.clients):
            try:
                client.sendall(line)
            except OSError:
                self.clients.remove(client)

    def wait_request(self, method, seconds=10):
        end = time.monotonic() + seconds
        while not any(m == method for m, _ in list(self.requests)):
            assert time.monotonic() < end, f'nobody has asked for {method}'
            time.sleep(0.01)

    def hang_up(self):
        for client in self.clients:
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.clients = []

    def close(self):
        """It may be closed already."""
        if self.listener.fileno() < 0:
            return
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()
        self.hang_up()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def named(section, objects):
    """A method that shows one of objects by name, or all."""
    def show(params):
        name = params.get('name')
        if name is None:
            return {section: objects}
        if name not in objects:
            raise no_device(name)
        return {section: {name: objects[name]}}
    return show
