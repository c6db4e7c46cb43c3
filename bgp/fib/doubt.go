package fib

// doubt notes where hops of ours may be hidden at the start. The kernel merges the IPv6 hops of one metric, and the
// route goes by the name of the first; those that an earlier run left behind another's can't be told from his.
func (w *Writer) doubt() {
	c := &w.core
	for prefix := range c.reach.routes.All() {
		if other, ok := c.reach.at(prefix, w.who); ok && prefix.Addr().Is6() && other.mergeable() && len(other.to.legs) > 1 {
			c.doubtful = append(c.doubtful, prefix)
		}
	}
}

// resolveDoubts takes all such hops for ours, now that every source has spoken. Those that are not desired are then
// removed under our name, which the kernel refuses for any that is another's: so we learn whose they are. Until then
// nothing is added.
func (w *Writer) resolveDoubts() {
	c := &w.core
	for _, prefix := range c.doubtful {
		other, ok := c.reach.at(prefix, w.who)
		if !ok || !other.mergeable() {
			continue
		}
		e := w.entryOf(prefix)
		c.reach.deleteRoute(prefix, other, c.groups)
		c.reachDirty = true
		w.setHave(e, c.groups.with(e.have, 0, other.to.legs))
		e.blocked = true
		w.enqueue(e)
	}
	c.doubtful = nil
}
