// Package node is the agent's half of address management: it hands the addresses of its node's blocks to Pods, keeps
// them in a journal, gets blocks from ipamd ahead of need, and mirrors what it does to it.
//
// A Pod's address costs no network round trip: it comes out of a block in memory and is answered once the journal has
// it on disk. ipamd may be away for as long as a free address is left (invariant LocalFirst).
//
// The book (book.go) is all the memory there is, behind one mutex, and no I/O is done under it: an ADD reserves under
// the mutex, lets go, appends to the journal, and the journal's writer confirms in the order of the records by applying
// them to the book, by the same code that recovery uses. So what is in memory is what a restart would find.
//
// The link (link.go) is one session with ipamd at a time: registration, two watches, the mirror and the reports. Claims
// and returns of blocks run beside it and use whatever session there is.
package node
