// Package journal is an append-only file of numbered records, of which every acknowledged one survives a crash.
//
// One goroutine writes: it takes what has queued up, writes it with one write, makes it durable with one fdatasync,
// applies it to the owner's memory in the order of the records, and answers all. When the file has grown it is replaced
// by a new one that begins with a snapshot of that memory; a crash at any step leaves the old file or the new one.
//
// A record carries the number of the first record of its batch. All records before that one were durable when it was
// written, since a batch is written only after the one before it was made so. That tells a torn tail, which was never
// acknowledged and is cut, from damage in the middle, which is refused.
//
// An fdatasync that failed is never repeated, for the kernel may have dropped the data and report success the next time:
// the journal is poisoned, answers nothing more, and its process has to be started anew.
package journal
