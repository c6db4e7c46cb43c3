// Package record names what the store holds: the keys, and the values in which the store and those who decide
// exchange records, transactions and terms of office. It is pure: it knows neither etcd nor how records are kept.
//
// # Layout
//
// All keys lie below one prefix (default /clearway/v1/). Values are protobuf, in binary, of clearway.v1.
//
//	config/<Kind>/<name>           the resource as applied, without status
//	blocks/<4|6>/<hex>-<bits>      BlockSpec; generation 0 means "the revision of this record"
//	nodes/<name>                   Node: metadata.uid and the status given at registration
//	gone/<name>                    the same of a deleted node that still has orphaned blocks
//	assignments/<node>/<hex>       AssignmentSpec, the copy of a node's journal
//	mirror/<node>                  NodeStatus: boot, machine and journal that the copy was taken of, and its number
//	pools/<name>/sequence          decimal counter, raised by each transaction that claims from the pool
//	quotas/<node>/<quota>          QuotaAllowance, without generation: the revision of this record
//	incarnation                    text: one per life of the store
//	life                           StoreLife: what a restore is recognised by
//	leader                         text: address and instance of the leader, on its lease
//	requests/<key>                 ApplyResponse or DeleteResponse, kept an hour (rule Idempotent)
//	history/<hour>/<hex>/<assigned>-<number>-<node>
//	                               Tenure that ended in the hour since 1970, without what the key says
//	history-since                  decimal unix nanoseconds: from when on the history is whole; absent: none is kept
//	events/<unix nanoseconds>-<n>  EventSpec, kept an hour
//
// Addresses are written in hexadecimal, 8 or 32 digits, so that keys sort as addresses do.
package record
