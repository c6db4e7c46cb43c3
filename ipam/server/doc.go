// Package server is what ipamd does: it decides who owns which block and what configuration holds, and tells the
// agents. It never touches etcd or Kubernetes: a Store keeps its records, and cmd/ipamd joins the two.
//
// # One owner
//
// The state in memory is the store's records, read whole when the term begins. One goroutine of the leader, the
// lane, decides everything that changes it: it takes wishes from a queue, plans them against the state, writes the plan
// of many wishes as one fenced transaction, and only then changes the state and answers. A second lane copies the
// nodes' journals, so that they never wait for claims nor claims for them. Nothing is written while a lock is held.
//
// When nobody can say what became of a transaction, the leader gives up its office and reads everything anew.
//
// # Who hears of it
//
// Each change of owner or node goes into the ownership log, which all agents read from where they stand; each change
// of configuration wakes the streams of the nodes that it concerns. Followers keep their state by watching the store.
package server
