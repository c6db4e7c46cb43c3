// Package store keeps ipamd's records in etcd: a cluster of its own, or an embedded member in a data folder. The
// code above both is the same. No other package imports etcd. What the records are is told in package record.
//
// Every write is one transaction that compares the leader's key (rule Fenced). The leader's key lies on a lease; who
// makes it is in office until it goes.
package store
