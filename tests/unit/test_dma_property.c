/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * DMA domains under random changes, beside a model of a few dozen pages that says for each page
 * what must be mapped after a change, and which mappings it may have touched.
 *
 * A sequence is a domain of its own. Its users add, remove, split, merge, move and overlay memory,
 * run and rest, and have memory of their own that moves; each call of the transport fails at some
 * time. The model knows pages, not ranges: what is claimed, by whom, and which mapping a page is
 * in.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "dma_test.h"

#include "vdpa.h"
#include "vdpa_args.h"
#include "vdpa_log.h"

#define PAGES	    96
#define CHUNK	    16 /* pages */
#define USERS	    3
#define FILES	    3
#define OWN	    2
#define CHANGES	    30 /* of a sequence */
#define SEQUENCES   500
#define SEQUENCES_L 100000

/* What lies at a page: 0 for nothing, else a file and by how much its pages are shifted. */
typedef uint32_t ident;
#define SHIFTS	       512
#define IDENT(f, s)    ((ident)(f)*SHIFTS + (ident)((s) + SHIFTS / 2))
#define IDENT_FILE(i)  ((i) / SHIFTS)
#define IDENT_SHIFT(i) ((int)((i) % SHIFTS) - SHIFTS / 2)

/* A user's table: what lies at each page, and where regions begin though the memory goes on. */
struct view {
	ident at[PAGES];
	bool cut[PAGES];
};

struct model_user {
	struct user u;
	struct view has;
	bool running;
};

struct own {
	struct world *w;
	struct vdpa_dma_buf buf;
	struct vdpa_dma_owner owner;
};

/* What a device would reach, by pages. */
struct transport {
	uint32_t entry[PAGES]; /* number of the mapping, 0: none */
	ident at[PAGES];
	uint32_t last_entry;
	uint64_t maps, unmaps;
	/* The n-th call from 1 fails, and all later ones, if `forever`. 0: none. */
	unsigned int fail_map, fail_unmap;
	bool forever, failed;
};

struct world {
	struct transport t;
	struct vdpa_dma_domain *dom;
	struct model_user users[USERS];
	struct own own[OWN];
	uint64_t replaced;
};

/* What has happened: a test that only ever meets refusals shows nothing. */
enum outcome {
	REFUSED,
	CHANGED,
	REPLACED,
	RETAINED,
	TAKEN_BACK,
	RECOVERED,
	MOVED,
	TRIMMED,
	OUTCOMES
};
static const char *const outcome_names[OUTCOMES] = {"refused",	"changed",    "replaced",
						    "retained", "taken back", "recovered",
						    "moved",	"trimmed"};
static unsigned int outcomes[OUTCOMES];

static uint64_t rng_state;
static uint64_t sequence_seed;

static uint32_t
rnd(uint32_t below)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return (uint32_t)((rng_state >> 33) % below);
}

#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (!(cond))                                                                       \
			fail_msg("seed 0x%llx: line %d: %s (last error: %s)",                      \
				 (unsigned long long)sequence_seed, __LINE__, #cond,               \
				 vdpa_error_message());                                            \
	} while (0)

static uint8_t *
file_va(uint32_t file, uint64_t page)
{
	return (uint8_t *)(uintptr_t)(((uint64_t)file << 40) + page * PAGE);
}

static bool
fails(unsigned int *countdown, struct transport *t)
{
	if (*countdown == 0 || --*countdown > 0)
		return false;
	*countdown = t->forever;
	t->failed = true;
	return true;
}

static int
page_map(void *arg, const struct vdpa_dma_mapping *m)
{
	struct transport *t = arg;
	uint64_t first = m->iova / PAGE, n = m->size / PAGE;
	/* The domain's own memory has a file of its own and lies at no file_va(). */
	bool own = m->fd < 0x10000;
	ident id = own ? 0 : IDENT(m->fd - 0x10000, (int)(m->offset / PAGE) - (int)first);

	t->maps++;
	if (fails(&t->fail_map, t))
		return vdpa_error(ENOSPC, "the transport is full");
	CHECK(m->iova % PAGE == 0 && m->size % PAGE == 0 && n > 0 && first + n <= PAGES);
	CHECK(own || m->va == file_va(IDENT_FILE(id), m->offset / PAGE));
	CHECK(own || first / CHUNK == (first + n - 1) / CHUNK);
	t->last_entry++;
	for (uint64_t p = first; p < first + n; p++) {
		CHECK(t->entry[p] == 0);
		t->entry[p] = t->last_entry;
		t->at[p] = id;
	}
	return 0;
}

static int
page_unmap(void *arg, const struct vdpa_dma_mapping *m)
{
	struct transport *t = arg;
	uint64_t first = m->iova / PAGE, end = first + m->size / PAGE;
	uint32_t entry = t->entry[first];

	t->unmaps++;
	if (fails(&t->fail_unmap, t))
		return vdpa_error(EIO, "the transport does not answer");
	/* Exactly one mapping. */
	CHECK(entry != 0 && end <= PAGES);
	CHECK(first == 0 || t->entry[first - 1] != entry);
	CHECK(end == PAGES || t->entry[end] != entry);
	for (uint64_t p = first; p < end; p++) {
		CHECK(t->entry[p] == entry);
		t->entry[p] = 0;
		t->at[p] = 0;
	}
	return 0;
}

static const struct vdpa_dma_ops page_ops = {.map = page_map, .unmap = page_unmap};

/* Tables. */

static struct vdpa_iotlb *
table_of_view(const struct view *v)
{
	struct vdpa_mem_region r[PAGES];
	unsigned int n = 0;

	for (unsigned int p = 0; p < PAGES; p++) {
		if (v->at[p] == 0)
			continue;
		if (p > 0 && v->at[p - 1] == v->at[p] && !v->cut[p]) {
			r[n - 1].size += PAGE;
		} else {
			uint64_t offset = (uint64_t)((int)p + IDENT_SHIFT(v->at[p]));

			r[n] = region(p * PAGE, PAGE, IDENT_FILE(v->at[p]));
			r[n].offset = offset * PAGE;
			r[n].va = file_va(IDENT_FILE(v->at[p]), offset);
			r[n].fd = (int)IDENT_FILE(v->at[p]) + 0x10000;
			n++;
		}
	}
	return n > 0 ? table_of(r, n) : NULL;
}

static void
range(unsigned int *first, unsigned int *last)
{
	unsigned int len = 1 + rnd(rnd(4) == 0 ? 48 : 8);

	*first = rnd(PAGES);
	*last = *first + len - 1 < PAGES ? *first + len - 1 : PAGES - 1;
}

/* Memory of a file for page p whose offset is no less than 0 anywhere. */
static ident
random_ident(void)
{
	return IDENT(1 + rnd(FILES), rnd(3) == 0 ? (int)rnd(4) : 0);
}

static void
move_memory(struct view *v, unsigned int first, unsigned int last)
{
	unsigned int to = rnd(PAGES);
	struct view was = *v;

	for (unsigned int p = first; p <= last; p++)
		v->at[p] = 0;
	for (unsigned int p = first; p <= last && to + p - first < PAGES; p++) {
		ident id = was.at[p];

		if (id != 0)
			v->at[to + p - first] =
				IDENT(IDENT_FILE(id), IDENT_SHIFT(id) + (int)first - (int)to);
	}
}

static void
change_view(const struct world *w, struct view *v)
{
	const struct view *other = &w->users[rnd(USERS)].has;
	unsigned int first, last;
	ident id = random_ident();
	uint32_t what = rnd(8);

	range(&first, &last);
	if (what == 4)
		move_memory(v, first, last);
	for (unsigned int p = first; p <= last; p++) {
		switch (what) {
		case 0: /* add */
			if (v->at[p] == 0)
				v->at[p] = id;
			break;
		case 1: /* remove */
			v->at[p] = 0;
			break;
		case 2: /* split */
			v->cut[p] = rnd(2) == 0;
			break;
		case 3: /* merge */
			v->cut[p] = false;
			break;
		case 4:
			break;
		case 5: /* overlay */
			v->at[p] = id;
			break;
		case 6: /* overlay a little */
			if (p - first < 2)
				v->at[p] = id;
			break;
		default: /* as another user has it */
			v->at[p] = other->at[p];
		}
	}
}

/* The model. */

/* What somebody claims at a page, user u being taken by another view. */
static ident
wanted(const struct world *w, unsigned int u, const struct view *as, unsigned int p)
{
	for (unsigned int i = 0; i < USERS; i++) {
		ident id = i == u ? as->at[p] : w->users[i].has.at[p];

		if (id != 0)
			return id;
	}
	return 0;
}

static bool
is_empty(const struct view *v)
{
	for (unsigned int p = 0; p < PAGES; p++)
		if (v->at[p] != 0)
			return false;
	return true;
}

static bool
is_own(const struct world *w, unsigned int p, unsigned int *owner)
{
	for (unsigned int i = 0; i < OWN; i++) {
		if (w->own[i].buf.va != NULL && w->own[i].buf.iova == p * PAGE) {
			for (*owner = 0; w->users[*owner].u.user != w->own[i].owner.user;)
				++*owner;
			return true;
		}
	}
	return false;
}

/* Another user has other memory, or the user is of another guest. */
static bool
contradicts(const struct world *w, unsigned int u, const struct view *now)
{
	bool others = false, common = false;

	for (unsigned int i = 0; i < USERS; i++) {
		const struct view *v = &w->users[i].has;

		for (unsigned int p = 0; i != u && p < PAGES; p++) {
			others |= v->at[p] != 0;
			common |= v->at[p] != 0 && v->at[p] == now->at[p];
			if (v->at[p] != 0 && now->at[p] != 0 && v->at[p] != now->at[p])
				return true;
		}
	}
	return is_empty(&w->users[u].has) && !is_empty(now) && others && !common;
}

/* What a change does with the driver's own memory. */
enum own_fate { OWN_NONE, OWN_MOVES, OWN_REFUSES };

static enum own_fate
own_fate(const struct world *w, unsigned int u, const struct view *now)
{
	unsigned int hit = 0, holes = 0, owner;

	for (unsigned int p = 0; p < PAGES; p++) {
		bool own = is_own(w, p, &owner);

		if (own && now->at[p] != 0) {
			if (owner != u)
				return OWN_REFUSES;
			hit++;
		}
		holes += w->t.entry[p] == 0 && now->at[p] == 0 &&
			 wanted(w, u, &w->users[u].has, p) == 0;
	}
	/* Each leaves a place where other memory comes. */
	return hit == 0 ? OWN_NONE : holes >= hit ? OWN_MOVES : OWN_REFUSES;
}

/* The mapping of page p has other memory where the new table has some. */
static void
find_conflicts(const struct world *w, const struct view *now, bool conflict[PAGES])
{
	memset(conflict, 0, PAGES * sizeof(bool));
	for (unsigned int p = 0; p < PAGES; p++) {
		if (now->at[p] == 0 || w->t.at[p] == 0 || now->at[p] == w->t.at[p])
			continue;
		for (unsigned int q = 0; q < PAGES; q++)
			conflict[q] |= w->t.entry[q] == w->t.entry[p];
	}
}

/* A mapping in conflict that a device of another user's uses. */
static bool
is_in_use(const struct world *w, unsigned int u, const bool conflict[PAGES])
{
	for (unsigned int i = 0; i < USERS; i++)
		for (unsigned int p = 0; p < PAGES; p++)
			if (i != u && w->users[i].running && conflict[p] &&
			    w->users[i].has.at[p] == w->t.at[p])
				return true;
	return false;
}

/* Whether somebody wants a page of the mapping that page p was in, after the change. */
static bool
stays(const struct world *w, const struct transport *was, unsigned int u, const struct view *as,
      unsigned int p)
{
	for (unsigned int q = 0; q < PAGES; q++)
		if (was->entry[q] == was->entry[p] && wanted(w, u, as, q) == was->at[q])
			return true;
	return false;
}

static unsigned int
count_replaced(const struct world *w, unsigned int u, const struct view *now,
	       const bool conflict[PAGES])
{
	unsigned int n = 0;

	for (unsigned int p = 0; p < PAGES; p++)
		n += conflict[p] && (p == 0 || w->t.entry[p - 1] != w->t.entry[p]) &&
		     stays(w, &w->t, u, now, p);
	return n;
}

static void
check_stats(const struct world *w)
{
	const struct transport *t = &w->t;
	struct vdpa_dma_stats s;
	uint64_t mapped = 0, retained = 0, mappings = 0;
	unsigned int owner;

	for (unsigned int p = 0; p < PAGES; p++) {
		mappings += t->entry[p] != 0 && (p == 0 || t->entry[p - 1] != t->entry[p]);
		mapped += t->entry[p] != 0;
		retained +=
			t->entry[p] != 0 && !is_own(w, p, &owner) && wanted(w, USERS, NULL, p) == 0;
	}
	vdpa_dma_get_stats(w->dom, &s);
	CHECK(s.maps == t->maps && s.unmaps == t->unmaps && s.mappings == mappings);
	CHECK(s.bytes_mapped == mapped * PAGE && s.bytes_retained == retained * PAGE);
	CHECK(s.replaced == w->replaced);
}

/* The driver's own memory was there, and may have moved. */
static bool
was_own(const struct transport *was, unsigned int p)
{
	return was->entry[p] != 0 && was->at[p] == 0;
}

/* A change has succeeded. */
static void
check_changed(const struct world *w, const struct transport *was, unsigned int u,
	      const struct view *old, const struct view *now, const bool conflict[PAGES])
{
	const struct transport *t = &w->t;
	bool fresh[PAGES];
	unsigned int owner;

	for (unsigned int p = 0; p < PAGES; p++) {
		ident want = wanted(w, u, now, p);

		fresh[p] = now->at[p] != 0 && !was_own(was, p) && now->at[p] != old->at[p] &&
			   was->at[p] != now->at[p];
		if (is_own(w, p, &owner) || was_own(was, p))
			continue;
		if (want != 0) {
			CHECK(t->at[p] == want);
			/* What stays is the mapping that it was, never unmapped. */
			if (was->at[p] == want && !conflict[p])
				CHECK(t->entry[p] == was->entry[p]);
		} else if (was->at[p] != 0 && !conflict[p] && stays(w, was, u, now, p)) {
			CHECK(t->entry[p] == was->entry[p]);
		} else {
			CHECK(t->entry[p] == 0);
		}
		/* No more mappings than regions and chunks make. */
		if (p > 0 && fresh[p] && fresh[p - 1] && now->at[p - 1] == now->at[p] &&
		    !now->cut[p] && p % CHUNK != 0)
			CHECK(t->entry[p] == t->entry[p - 1]);
	}
}

/* A change has failed and was taken back. */
static void
check_taken_back(const struct world *w, const struct transport *was, unsigned int u,
		 const struct view *now, const bool conflict[PAGES], bool unmap_failed)
{
	const struct view *old = &w->users[u].has;
	const struct transport *t = &w->t;
	unsigned int owner;

	for (unsigned int p = 0; p < PAGES; p++) {
		ident want = wanted(w, u, old, p);
		/* It had to be unmapped, or was going to be. */
		bool touched = conflict[p] ||
			       (unmap_failed && was->at[p] != 0 && !stays(w, was, u, now, p));

		if (is_own(w, p, &owner) || was_own(was, p))
			continue;
		if (want != 0)
			CHECK(t->at[p] == want);
		if (!touched)
			CHECK(t->entry[p] == was->entry[p]);
		else if (want == 0)
			/* Or with what stays of a mapping that was replaced, since the new table
			 * claimed both. */
			CHECK(t->entry[p] == 0 || t->entry[p] == was->entry[p] ||
			      (conflict[p] && t->at[p] == was->at[p] && t->at[p] == now->at[p] &&
			       stays(w, t, u, old, p)));
	}
}

/* The calls of a change, of which some may be made to fail. */
static int
set_view(struct world *w, unsigned int u, const struct view *now)
{
	struct model_user *mu = &w->users[u];
	struct vdpa_iotlb *tlb = table_of_view(now);
	int rc = vdpa_dma_set(mu->u.user, tlb);

	if (rc == 0 || tlb == NULL) {
		mu->has = *now;
		table_free(mu->u.tlb);
		mu->u.tlb = tlb;
	} else {
		table_free(tlb);
	}
	return rc;
}

/* Nothing of the users' is left when all have left off, whatever happened before. */
static void
recover(struct world *w)
{
	const struct view none = {.at = {0}};
	unsigned int owner;

	w->t.fail_map = w->t.fail_unmap = 0;
	for (unsigned int u = 0; u < USERS; u++)
		CHECK(set_view(w, u, &none) == 0);
	for (unsigned int p = 0; p < PAGES; p++)
		CHECK(w->t.entry[p] == 0 || is_own(w, p, &owner));
	for (unsigned int u = 0; u < USERS; u++)
		CHECK(!vdpa_dma_is_broken(w->users[u].u.user));
}

static void
plan_failures(struct world *w, bool any)
{
	w->t.fail_map = any && rnd(2) == 0 ? 1 + rnd(6) : 0;
	w->t.fail_unmap = any && w->t.fail_map == 0 && rnd(2) == 0 ? 1 + rnd(4) : 0;
	w->t.forever = rnd(8) == 0;
	w->t.failed = false;
}

static void
change(struct world *w)
{
	unsigned int u = rnd(USERS);
	struct view old = w->users[u].has, now = old;
	struct transport was;
	struct vdpa_dma_stats stats;
	bool conflict[PAGES];
	enum own_fate fate;
	unsigned int replaced;
	int rc, expect = 0;

	for (uint32_t n = 1 + rnd(3); n > 0; n--)
		change_view(w, &now);
	if (rnd(10) == 0)
		memset(&now, 0, sizeof(now));
	find_conflicts(w, &now, conflict);
	replaced = count_replaced(w, u, &now, conflict);
	fate = own_fate(w, u, &now);
	if (contradicts(w, u, &now) || fate == OWN_REFUSES || is_in_use(w, u, conflict))
		expect = -EBUSY;
	/* A move is not made to fail: the driver's own failure is not the domain's. */
	plan_failures(w, fate == OWN_NONE);
	was = w->t;
	rc = set_view(w, u, &now);
	vdpa_dma_get_stats(w->dom, &stats);
	if (expect != 0) {
		outcomes[REFUSED]++;
		CHECK(rc == expect);
		CHECK(fate != OWN_NONE || (w->t.maps == was.maps && w->t.unmaps == was.unmaps));
		check_taken_back(w, &was, u, &now, conflict, false);
		for (unsigned int p = 0; fate == OWN_NONE && p < PAGES; p++)
			CHECK(w->t.entry[p] == was.entry[p]);
	} else if (rc == 0) {
		CHECK(!w->t.failed);
		outcomes[CHANGED]++;
		outcomes[REPLACED] += replaced;
		outcomes[MOVED] += fate == OWN_MOVES;
		outcomes[RETAINED] += stats.bytes_retained > 0;
		w->replaced += replaced;
		check_changed(w, &was, u, &old, &now, conflict);
	} else {
		CHECK(w->t.failed && (rc == -EIO || rc == -ENOSPC));
		CHECK(stats.replaced >= w->replaced && stats.replaced <= w->replaced + replaced);
		w->replaced = stats.replaced;
		if (w->t.forever || is_empty(&now)) {
			outcomes[RECOVERED]++;
			recover(w);
		} else {
			outcomes[TAKEN_BACK]++;
			CHECK(!vdpa_dma_is_broken(w->users[u].u.user));
			check_taken_back(w, &was, u, &now, conflict, rc == -EIO);
		}
	}
	w->t.fail_map = w->t.fail_unmap = 0;
	check_stats(w);
}

/* A device starts or stops. What is retained where none runs any more is unmapped. */
static void
run_or_rest(struct world *w)
{
	unsigned int u = rnd(USERS), owner;
	struct model_user *mu = &w->users[u];
	struct transport was = w->t;
	bool used[PAGES] = {false};

	mu->running = !mu->running;
	CHECK(vdpa_dma_set_running(mu->u.user, mu->running) == 0);
	for (unsigned int i = 0; i < USERS; i++)
		for (unsigned int p = 0; p < PAGES; p++)
			for (unsigned int q = 0; w->users[i].running && q < PAGES; q++)
				used[q] |= was.entry[p] != 0 && was.entry[q] == was.entry[p] &&
					   w->users[i].has.at[p] == was.at[p];
	for (unsigned int p = 0; p < PAGES; p++) {
		bool whole = true;

		for (unsigned int q = 0; q < PAGES; q++)
			whole &= was.entry[q] != was.entry[p] || wanted(w, USERS, NULL, q) != 0;
		if (is_own(w, p, &owner) || was.entry[p] == 0 || mu->running || used[p] || whole)
			CHECK(w->t.entry[p] == was.entry[p]);
		else
			CHECK(w->t.at[p] == wanted(w, USERS, NULL, p));
	}
	outcomes[TRIMMED] += w->t.unmaps != was.unmaps;
	check_stats(w);
}

static int
own_move(void *arg)
{
	struct own *own = arg;
	struct vdpa_dma_buf to;
	int rc = vdpa_dma_alloc(own->w->dom, PAGE, &own->owner, &to);

	if (rc < 0)
		return rc;
	vdpa_dma_free(own->w->dom, &own->buf);
	own->buf = to;
	return 0;
}

static void
toggle_own(struct world *w)
{
	struct own *own = &w->own[rnd(OWN)];

	if (own->buf.va != NULL) {
		vdpa_dma_free(w->dom, &own->buf);
	} else {
		own->w = w;
		own->owner = (struct vdpa_dma_owner){
			.user = w->users[rnd(USERS)].u.user, .move = own_move, .arg = own};
		/* There may be no page left. */
		(void)vdpa_dma_alloc(w->dom, PAGE, &own->owner, &own->buf);
	}
	check_stats(w);
}

static void
sequence(void)
{
	static const char *const names[USERS] = {"v0", "v1", "v2"};
	const struct vdpa_dma_range all = {0, PAGES * PAGE - 1};
	const struct vdpa_dma_limits limits = {
		.ranges = &all, .n_ranges = 1, .page_size = PAGE, .chunk_size = CHUNK * PAGE};
	struct world w = {.replaced = 0};

	CHECK(vdpa_dma_domain_create("model", &page_ops, &w.t, &limits, &w.dom) == 0);
	for (unsigned int u = 0; u < USERS; u++)
		w.users[u].u = join(w.dom, names[u]);
	for (unsigned int n = 0; n < CHANGES; n++) {
		uint32_t what = rnd(8);

		if (what == 0)
			run_or_rest(&w);
		else if (what == 1 && rnd(2) == 0)
			toggle_own(&w);
		else
			change(&w);
	}
	for (unsigned int i = 0; i < OWN; i++)
		vdpa_dma_free(w.dom, &w.own[i].buf);
	for (unsigned int u = 0; u < USERS; u++)
		leave(&w.users[u].u);
	for (unsigned int p = 0; p < PAGES; p++)
		CHECK(w.t.entry[p] == 0);
	vdpa_dma_domain_destroy(w.dom);
}

static void
random_changes_agree_with_the_model(void **state)
{
	const char *more = getenv("UVDPA_TEST_LONG"), *seed = getenv("UVDPA_TEST_SEED");
	bool is_long = more != NULL && more[0] != '\0' && strcmp(more, "0") != 0;
	unsigned int n = is_long ? SEQUENCES_L : SEQUENCES;
	uint64_t first = seed != NULL ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL) << 20;

	if (seed != NULL)
		n = 1;
	/* What is asked for fails a million times. */
	rte_log_set_level((uint32_t)vdpa_logtype, RTE_LOG_EMERG);
	for (unsigned int i = 0; i < n; i++) {
		sequence_seed = first + i;
		rng_state = (sequence_seed + 1) * UINT64_C(0x9e3779b97f4a7c15);
		sequence();
	}
	for (unsigned int i = 0; i < OUTCOMES; i++) {
		printf("%s %u times\n", outcome_names[i], outcomes[i]);
		/* A single one that is repeated may have none. */
		assert_true(seed != NULL || outcomes[i] > 0);
	}
	printf("FIGURE: %u sequences of %u random changes of DMA domains, from seed 0x%llx\n", n,
	       CHANGES, (unsigned long long)first);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_changes_agree_with_the_model),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
