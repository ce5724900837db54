#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A guest on sim_net: the echo back end, the link, another guest."""

import time

import vmtest
from vmtest import MAC0, MAC1

PINGS = 20


class Net(vmtest.GuestTest):
    def test_ping_the_echo_back_end(self):
        d = self.daemon(f"name net0 mgmtdev sim_net mac {MAC0} backend echo socket %s/net0.sock")
        g = self.guest("net", f"""
            nic=$(nic {MAC0})
            net_up $nic 10.0.0.1/24 fd00::1/64
            ping_all {PINGS} 10.0.0.2 v4
            ping_all {PINGS} fd00::2 v6
            ping -c 5 -i 0.1 -W 2 -s 1400 10.0.0.2 >/dev/null || fail "large IPv4"
            ping6 -c 5 -i 0.1 -W 2 -s 1400 fd00::2 >/dev/null || fail "large IPv6"
        """, self.net("net0", MAC0))
        g.run()
        # Tests ask devices behind the script's end, on a busy host some time later.
        time.sleep(1)
        self.assertEqual(d.ask("/vdpa/dev/show", "net0")["state"], "running")
        # Every echo and its answer, and ARP and neighbour discovery at least once each.
        stats = d.stats("net0")
        self.assertGreaterEqual(stats["tx_packets"], 2 * PINGS + 10 + 2)
        self.assertGreaterEqual(stats["rx_packets"], 2 * PINGS + 10 + 2)
        g.kill()
        d.stop()

    def test_link_down_and_up_reaches_the_guest(self):
        d = self.daemon(f"name net0 mgmtdev sim_net mac {MAC0} backend echo socket %s/net0.sock")
        g = self.guest("net", f"""
            nic=$(nic {MAC0})
            net_up $nic 10.0.0.1/24 fd00::1/64
            carrier=/sys/class/net/$nic/carrier
            wait_for 10 is $carrier 1
            ping_all 3 10.0.0.2 before
            host link down
            wait_for 10 is $carrier 0
            ping -c 1 -W 1 10.0.0.2 >/dev/null 2>&1 && fail "answered without a link"
            host link up
            wait_for 10 is $carrier 1
            ping -c 1 -W 2 10.0.0.2 >/dev/null || true
            ping_all 5 10.0.0.2 after
        """, self.net("net0", MAC0))
        g.run({"link": lambda state: d.set("net0", f"link {state}")})

    def test_two_guests_ping_each_other_over_peer(self):
        self.daemon(f"name net0 mgmtdev sim_net mac {MAC0} backend peer net1 socket %s/net0.sock",
                    f"name net1 mgmtdev sim_net mac {MAC1} backend peer net0 socket %s/net1.sock")
        left = self.guest("left", f"""
            net_up $(nic {MAC0}) 10.0.0.1/24 fd00::1/64
            result up 1
            read -r line
        """, self.net("net0", MAC0))
        right = self.guest("right", f"""
            net_up $(nic {MAC1}) 10.0.0.2/24 fd00::2/64
            host wait-for-left
            # The first packet waits for the neighbour's address.
            ping -c 1 -W 5 10.0.0.1 >/dev/null || true
            ping6 -c 1 -W 5 fd00::1 >/dev/null || true
            ping_all {PINGS} 10.0.0.1 v4
            ping_all {PINGS} fd00::1 v6
        """, self.net("net1", MAC1))

        def wait_for_left():
            left.run(until="up")

        right.run({"wait-for-left": wait_for_left})


if __name__ == "__main__":
    vmtest.main()
