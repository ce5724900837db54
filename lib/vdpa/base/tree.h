/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Things that are found by a key of theirs: libc's balanced tree (tsearch(3)), so that finding one
 * of thousands takes a few comparisons. Owns nothing: what is in a tree is the caller's, and so is
 * the lock.
 */

#ifndef VDPA_TREE_H
#define VDPA_TREE_H

#include <errno.h>
#include <search.h>
#include <stddef.h>

/* As of qsort(3), of two things in the tree. */
typedef int (*vdpa_tree_compare)(const void *a, const void *b);

struct vdpa_tree {
	void *root;
	vdpa_tree_compare compare;
};

/* The one whose key is that of `like`, any of them where several have it; NULL: there is none. */
static inline void *
vdpa_tree_find_by(const struct vdpa_tree *tree, const void *like, vdpa_tree_compare compare)
{
	void *node = tfind(like, &tree->root, compare);

	return node != NULL ? *(void **)node : NULL;
}

static inline void *
vdpa_tree_find(const struct vdpa_tree *tree, const void *like)
{
	return vdpa_tree_find_by(tree, like, tree->compare);
}

/* 0; -EEXIST: one with its key is there; -ENOMEM. */
static inline int
vdpa_tree_add(struct vdpa_tree *tree, void *item)
{
	void *node = tsearch(item, &tree->root, tree->compare);

	if (node == NULL)
		return -ENOMEM;
	return *(void **)node == item ? 0 : -EEXIST;
}

/* No-op where none has its key. */
static inline void
vdpa_tree_del(struct vdpa_tree *tree, const void *item)
{
	(void)tdelete(item, &tree->root, tree->compare);
}

#endif /* VDPA_TREE_H */
