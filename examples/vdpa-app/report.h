/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What the daemon prints on stdout about its devices.
 */

#ifndef APP_REPORT_H
#define APP_REPORT_H

/* One line for each PCI function of this machine that a driver serves: which, and why it cannot be
 * used; virtual functions under their physical one. */
void app_report_functions(void);

/* One line for each device: what it is and where it waits. */
void app_report_devices(void);

/* One line for each device: the time and its counters. */
void app_report_stats(void);

/* One line of JSON: all statistics of every device, keyed by its name. */
void app_report_json(void);

#endif /* APP_REPORT_H */
